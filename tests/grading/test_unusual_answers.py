"""Honest work earns its marks, however it is written: in the notebook's check and in grading alike."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from grading_fixtures import SHORT, code, notebook, run, said
from unusual_answers import FORMS, form, solved

from course_utils.exercises import EXERCISES, check, checking
from course_utils.exercises.comparing import settled
from course_utils.grading import batch, intake, reading
from course_utils.grading.coding import decode, encode
from course_utils.grading.marker import Marker
from course_utils.grading.marking import LearnerAnswer
from course_utils.grading.sandbox import require

SECTIONS = batch.exercises_of("all")[1]


@pytest.fixture(scope="module")
def marker():
    made = Marker(SECTIONS, 11, require(False), SHORT)
    yield made
    made.close()


def graded(marker, written):
    """The mark of a form, by way of its notebook."""
    text = notebook([code(source) for source in written.cells])
    found = intake.answers([reading.File("a.ipynb", b"", reading.cells_of(text.encode()))], list(EXERCISES))
    answer = LearnerAnswer(found.cells[written.id], *found.around[written.id])
    return marker._mark(written.id, answer)


def in_the_notebook(written):
    """What the check cell says after the cells were run by IPython, which is what runs them in a notebook."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.enable_gui = lambda gui=None: None  # %matplotlib asks for it
    shell.user_ns |= {"torch": torch, "check": check}
    for source in [*written.before, written.answer, *written.later]:
        shell.run_cell(source, store_history=False)
    return check(written.id, shell.user_ns.get(EXERCISES[written.id].name))


def test_there_are_many_forms_of_many_exercises_of_all_lessons():
    ids = {written.id for written in FORMS.values()}
    assert len(FORMS) >= 60 and len(ids) >= 15
    assert {SECTIONS[id] for id in ids} == set(SECTIONS.values())


@pytest.mark.parametrize("name", FORMS)
def test_full_marks_in_grading(marker, name):
    written = FORMS[name]
    mark = graded(marker, written)
    assert mark.points == EXERCISES[written.id].points, (mark.message, mark.notes)


@pytest.mark.parametrize("name", FORMS)
def test_full_marks_in_the_notebook(name, capsys):
    written = FORMS[name]
    score = in_the_notebook(written)
    assert score.passed, score.message


@pytest.mark.parametrize(
    "work", ["import time\ntime.sleep(60)", "for step in range(10**12):\n    loss = step", "while True: pass"]
)
def test_a_slow_experiment_below_the_answer_costs_nothing(marker, work):
    mark = graded(marker, form("lora-3", f"{solved('lora-3')}\n{work}"))
    assert mark.points == EXERCISES["lora-3"].points, mark.message


def test_a_slow_cell_elsewhere_is_not_run(marker):
    slow = "import time\ntime.sleep(60)\nscale = 1\nfor step in range(10**12):\n    loss = step"
    mark = graded(
        marker, form("lora-3", "def adapter_parameters(s, rank):\n    return scale * rank * sum(map(sum, s))", slow)
    )
    assert mark.points == EXERCISES["lora-3"].points, mark.message


def several(function, value):
    return type(value)(map(function, value)) if isinstance(value, (list, tuple)) else function(value)


def stored(value, as_):
    """Numbers, bools and texts in another form; what has no such form stays."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len({isinstance(part, (str, type(None))) for part in value}) > 1:
        return value  # of several kinds, which an array does not hold
    try:
        return as_(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def record(value):
    made = dataclasses.make_dataclass("Record", [f"part{n}" for n in range(len(value))])
    return made(*value)


AS = {
    "as it is": lambda v: v,
    "array": lambda v: np.asarray(v) if not hasattr(v, "detach") else v.numpy(),
    "tensor": torch.as_tensor,
    "float32": lambda v: torch.as_tensor(v).to(torch.float32) if torch.as_tensor(v).is_floating_point() else v,
    "half": lambda v: torch.as_tensor(v).to(torch.float16),
    "scalars": lambda v: several(lambda part: np.asarray(part)[()], v),
    "tuple": lambda v: tuple(v) if isinstance(v, list) else v,
    "list": lambda v: v.tolist() if hasattr(v, "tolist") else list(v) if isinstance(v, tuple) else v,
    "generator": lambda v: (part for part in v) if isinstance(v, (list, tuple)) else v,
    "record": lambda v: record(v) if isinstance(v, tuple) else v,
    "text": str,
    "object": lambda v: object(),
    "set": lambda v: set(v) if isinstance(v, list) else v,
    "bytes": lambda v: str(v).encode(),
    "complex": lambda v: np.asarray(v) + 1j if not isinstance(v, (str, list, tuple)) else v,
}
ALWAYS = {"as it is", "array", "tensor", "float32", "scalars", "tuple", "list", "generator", "record"}


@pytest.mark.parametrize("id", [id for id, exercise in EXERCISES.items() if not exercise.challenge])
def test_check_and_grading_say_the_same_of_every_form(id):
    """A value judged as it is in the kernel, and after its way out of the sandbox: the same points and the same words."""
    exercise = EXERCISES[id]
    asked = checking.CaseSet.of(exercise, np.random.default_rng(3))
    for name, as_ in AS.items():
        for values in (asked.expected, *[wrong for wrong in asked.mistake_outputs if wrong is not None][:3]):
            here = [settled(stored(value, as_)) for value in values]
            there = [decode(json.loads(json.dumps(encode(stored(value, as_))))) for value in values]
            verdicts = [checking.judge(exercise, asked, outputs) for outputs in (here, there)]
            assert verdicts[0] == verdicts[1], name
            if values is asked.expected and name in ALWAYS:
                assert verdicts[0][0] == exercise.points, (name, verdicts[0][1])


@pytest.mark.parametrize(
    ("id", "returned", "words"),
    [
        ("data-3", "1", "Expected a bool, got a number 1"),
        ("data-3", "'True'", "Expected a bool, got a str 'True'"),
        ("lora-3", "str(rank)", "Expected a number, got a str"),
        ("lora-6", "header", "Expected a list of"),
        ("lora-6", "[str(id) for id in ids]", r"At \[0\]: expected a number"),
        (
            "lora-2",
            "(x @ W.T + alpha / len(A) * x @ A.T @ B.T).half()",
            r"At \[0\]\[.\]: expected -?\d+\.\d{8,}.*\(float16\)",
        ),
        ("api-7", "__import__('numpy').float16(train_tokens * epochs * price / 1e6)", r"got \d+\.\d+ \(float16\)"),
        ("frame-2", "(k for k in [k])", "Expected a number, got a generator"),
    ],
)
def test_the_message_names_the_difference(id, returned, words):
    import inspect
    import re

    exercise = EXERCISES[id]
    source = f"def {exercise.name}{inspect.signature(exercise.solution)}:\n    return {returned}"
    space = {"torch": torch}
    exec(source, space)
    score = check(id, space[exercise.name])
    assert not score.passed
    assert re.search(words, score.message), score.message


def test_a_missing_name_is_explained(tmp_path):
    inbox = tmp_path / "in"
    inbox.mkdir()
    cell = "# EXERCISE: lora-3\ndef adapter_parameters(shapes, rank):\n    return nowhere(shapes, rank)"
    (inbox / "a.ipynb").write_text(notebook([code(cell)]))
    run("02", inbox, tmp_path / "out")
    text = said(tmp_path / "out", "a", "lora-3")
    assert "NameError" in text and "no cell of the notebook defines it" in text
