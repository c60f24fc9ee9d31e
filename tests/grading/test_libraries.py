"""An answer that a library gives earns nothing, in the check as in grading; tools that do no exercise are there for all."""

import importlib.util
import re
import sys

import pytest
from grading_fixtures import PAID_ANSWER, SHORT, in_the_notebook, with_marker

from course_utils.exercises import EXERCISES, check
from course_utils.exercises.libraries import foreign
from course_utils.grading import batch
from course_utils.grading.intake import LearnerAnswer
from course_utils.grading.marking import Attempt, Marker
from course_utils.grading.sandbox import require

ANSWER = "def jaccard(one, other):"
ESTIMATE = """
def signed(text, made):
    words = text.lower().split()
    made.update_batch([" ".join(pair).encode() for pair in zip(words, words[1:])])
    return made
"""
CALL = "signed(one, {made}()).jaccard(signed(other, {made}()))"
# (what stands above the answer, the answer); each is done by a library that the course itself needs
LIBRARY = {
    "by name": ("", f"import datasketch\n{ESTIMATE}\n{ANSWER}\n    return {CALL.format(made='datasketch.MinHash')}"),
    "from": ("", f"from datasketch import MinHash as Own\n{ESTIMATE}\n{ANSWER}\n    return {CALL.format(made='Own')}"),
    "inside": ("", f"{ESTIMATE}\n{ANSWER}\n    from datasketch import MinHash\n    return {CALL.format(made='MinHash')}"),
    "by a helper in another cell": (
        f"from datasketch import MinHash\n{ESTIMATE}\ndef helper(one, other):\n    return {CALL.format(made='MinHash')}",
        f"{ANSWER}\n    return helper(one, other)",
    ),
    "in a class": (
        "",
        f"from datasketch import MinHash\n{ESTIMATE}\nclass Own:\n    def __call__(self, one, other):\n"
        f"        return {CALL.format(made='MinHash')}\njaccard = Own()",
    ),
}
HIDDEN = {
    "dunder": f"{ESTIMATE}\n{ANSWER}\n    m = __import__('data' + 'sketch')\n    return {CALL.format(made='m.MinHash')}",
    "importlib": (
        f"import importlib\n{ESTIMATE}\n{ANSWER}\n    m = importlib.import_module('data' + 'sketch')\n"
        f"    return {CALL.format(made='m.MinHash')}"
    ),
}


@pytest.mark.parametrize("how", LIBRARY)
def test_a_library_that_does_the_exercise_earns_nothing_in_check_and_grading(how, marker):
    above, answer = LIBRARY[how]
    score = in_the_notebook("data-1", above, answer)
    assert float(score) == 0 and "uses datasketch. An exercise is done by hand" in score.message
    mark = marker._mark("data-1", LearnerAnswer(with_marker("data-1", answer), (above,)))
    assert (mark.points, mark.outcome) == (0.0, "error"), mark.message
    assert "datasketch" in mark.message


def test_what_a_librarys_decorator_makes_of_an_answer_is_refused_in_both(marker):
    answer = """
import tempfile
from joblib import Memory
stored = Memory(tempfile.mkdtemp(), verbose=0)

@stored.cache
"""
    answer += PAID_ANSWER
    score = in_the_notebook("api-4", answer)
    assert float(score) == 0 and "uses joblib. An exercise is done by hand" in score.message
    mark = marker._mark("api-4", LearnerAnswer(with_marker("api-4", answer)))
    assert (mark.points, mark.outcome) == (0.0, "error")
    assert "uses joblib. An exercise is done by hand" in mark.message


@pytest.mark.parametrize("how", HIDDEN)
def test_a_hidden_import_finds_nothing_in_grading(how, marker):
    mark = marker._mark("data-1", LearnerAnswer(with_marker("data-1", HIDDEN[how])))
    assert mark.points == 0.0
    assert re.search("ModuleNotFoundError.*answers may use Python's standard library and numpy", mark.message), mark.message


def test_no_other_library_lies_where_an_answer_could_read_it(marker):
    """By its path either, in the course's environment or in that of the interpreter."""
    folders = [re.sub(r"/bm25s/.*", "", importlib.util.find_spec("bm25s").origin), "/usr/lib/python3/dist-packages"]
    look = f"""
import os, sys
every = [f for folder in {[*folders, sys.base_prefix]} for f, _, _ in os.walk(folder)]
found = [f for f in every if os.path.basename(f) in {{'bm25s', 'pip'}}]
def requests_until_paid(*a):
    return str(found)
"""
    mark = marker._mark("api-4", LearnerAnswer(with_marker("api-4", look)))
    assert "got a str '[]'" in mark.message, mark.message


@pytest.mark.parametrize(
    "answer",
    [
        "import scipy.stats, pandas, sklearn\ndef adapter_parameters(shapes, rank):\n"
        "    return rank * sum(map(sum, shapes))",
        "import networkx as nx\nimport sympy\ndef adapter_parameters(shapes, rank):\n"
        "    return int(sympy.Integer(rank) * sum(nx.Graph() is not None and sum(shape) for shape in shapes))",
        "def adapter_parameters(shapes, rank):\n    try:\n        import tqdm\n    except ImportError:\n        pass\n"
        "    return rank * sum(map(sum, shapes))",
    ],
)
def test_what_does_no_exercise_is_free_for_all(answer, marker):
    assert in_the_notebook("lora-3", answer).passed
    mark = marker._mark("lora-3", LearnerAnswer(with_marker("lora-3", answer)))
    assert mark.points == 2, mark.message


def test_every_solution_and_mistake_is_free_of_libraries():
    for exercise in EXERCISES.values():
        for function in (exercise.solution, *(mistake.function for mistake in exercise.mistakes)):
            assert foreign(function) == ""


def test_a_librarys_own_function_is_no_answer():
    import stdnum.luhn

    assert foreign(stdnum.luhn.is_valid) == "stdnum"
    score = check("lora-3", stdnum.luhn.is_valid)
    assert float(score) == 0 and "uses stdnum" in score.message


# (what another cell holds, the answer, what it imports)
COLD_STARTS = {
    "in the cell": ("", f"import pandas, scipy.stats\n{PAID_ANSWER}", "scipy.stats"),
    "in a helper's cell": (
        "import torch\ndef helper(value):\n    return torch.tensor(value, dtype=torch.float64)",
        PAID_ANSWER.replace("training /", "helper(training) /"),
        "torch",
    ),
    "nothing": ("import torch", PAID_ANSWER, ""),
}


@pytest.mark.parametrize("how", COLD_STARTS)
def test_an_answers_time_is_not_spent_on_loading_libraries(how, monkeypatch):
    """What the sandbox has not loaded before is loaded in the answer's time, and takes seconds on a busy machine."""
    above, answer, loads = COLD_STARTS[how]
    preloaded, run = [], Attempt.run

    def running(self, box, *rest):
        ran = run(self, box, *rest)
        preloaded.append(box.preloaded)
        return ran

    monkeypatch.setattr(Attempt, "run", running)
    made = Marker(batch.exercises_of("all")[1], 11, require(False), SHORT)
    try:
        mark = made._mark("api-4", LearnerAnswer(with_marker("api-4", answer), (above,)))
        assert mark.points == 3, mark.message
        assert (loads in preloaded[0]) if loads else preloaded == [()]
    finally:
        made.close()


NAMED = {
    "return text.split()": "",
    "return str.split(text)": "",
    "return text.device": "",
    "return text.index('a')": "",
    "return re.search('a', text)": "",
    "return [t.split() for t in text]": "",
    "return split(text)": "sklearn",
    "return (lambda t: split(t))(text)": "sklearn",
    "class Inner:\n        made = split\n    return Inner": "sklearn",
}


@pytest.mark.parametrize("body", NAMED)
def test_the_notebooks_name_is_found_wherever_the_answer_reads_it_and_an_attribute_is_another(body):
    """Lesson 05 defines `split` with scikit-learn: an answer that writes `text.split()` was refused."""
    import sklearn.model_selection

    space = dict.fromkeys(("split", "device", "index", "search"), sklearn.model_selection.train_test_split)
    space["re"] = re
    exec(f"def answer(text):\n    {body}", space)
    assert foreign(space["answer"]) == NAMED[body]
