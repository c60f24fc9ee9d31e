"""Honest submissions: full marks for solutions, nothing for stubs, the notebook's own verdict for wrong answers."""

import pytest
from grading_fixtures import code, full, hand_in, notebook, points, results, run, said

from course_utils.cli import main
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES, check, checking
from course_utils.grading import batch, sandbox
from course_utils.grading.marking import draw_cases
from course_utils.lessons import FURTHER

# Answers that compute what a typical mistake computes, as learners would write them.
WRONG = {
    "lora-2": "def lora_forward(x, W, A, B, alpha):\n    return x @ W.T + alpha * (x @ A.T) @ B.T",
    "lora-3": "def adapter_parameters(shapes, rank):\n    return sum(rank * d_in for _, d_in in shapes)",
    "qlora-4": "def bits_per_weight(block, group=None):\n    return 4.0",
    "align-2": (
        "def conservative_dpo_loss(pc, pr, rc, rr, beta, doubt):\n    from torch.nn.functional import logsigmoid\n"
        "    return -logsigmoid(beta * ((pc - rc) - (pr - rr))).mean()"
    ),
    "data-1": "def jaccard(one, other):\n    return 1 / 0",
    "frame-3": (
        "def break_even(setup, upkeep_a_day, old_cost, new_cost, days):\n    if old_cost <= new_cost: return float('inf')\n"
        "    return (setup / days + upkeep_a_day) / (old_cost - new_cost)"
    ),
    "api-1": (
        "def new_messages(polls):\n    events = {e['id']: e for poll in polls for e in poll}\n"
        "    return [e['message'] for e in events.values() if e['type'] != 'metrics']"
    ),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    inbox, out = folder / "inbox", folder / "out"
    hand_in(inbox, "solved", "all")
    hand_in(inbox, "stubs", "all", stub=True)
    hand_in(inbox, "wrong", "all", {id: f"# EXERCISE: {id}\n{source}" for id, source in WRONG.items()})
    run("all", inbox, out)
    return out


def test_every_solution_has_full_marks(graded):
    assert points(graded, "solved") == full("all")
    assert results(graded, "solved")["score"] == sum(full("all").values())


def test_every_exercise_of_a_lesson_is_graded_and_those_of_further_notebooks_are_not(graded):
    further = {id for id in EXERCISES for lesson in FURTHER.values() if lesson.has(id)}
    assert set(points(graded, "solved")) == set(EXERCISES) - further and further


def test_every_stub_has_nothing_and_no_error(graded):
    assert set(points(graded, "stubs").values()) == {0.0}
    assert set(results(graded, "stubs")["extra_data"]["outcomes"].values()) == {"unsolved"}
    assert not results(graded, "stubs")["extra_data"]["problems"]


@pytest.mark.parametrize("id", WRONG)
def test_a_wrong_answer_gets_what_the_notebook_says(graded, id, monkeypatch):
    """Points and diagnosis, to the word; the check is given the grading's cases, for its own are new each time."""
    exercise = EXERCISES[id]
    asked = draw_cases(exercise, 7)
    monkeypatch.setattr(
        checking.CaseSet, "of", classmethod(lambda cls, wanted, random, **_: asked if wanted is exercise else 1 / 0)
    )
    space = {}
    exec(WRONG[id], space)
    score = check(id, space[exercise.name])
    assert float(score) == points(graded, "wrong")[id] < exercise.points
    text, outcome = said(graded, "wrong", id), results(graded, "wrong")["extra_data"]["outcomes"][id]
    diagnoses = [mistake.diagnosis for mistake in exercise.mistakes if mistake.diagnosis in text]
    if id == "data-1":  # raises at every call: the error is the diagnosis, and a hint at what to compute would be beside it
        assert (outcome, diagnoses, text) == ("error", [], score.message) and "It raised ZeroDivisionError: " in text
    else:
        assert outcome in ("wrong", "partly") and len(diagnoses) == 1
        assert text == f"{score.message}\nHint: {exercise.hint}"


def test_the_other_answers_are_not_touched(graded):
    assert {**points(graded, "wrong"), **dict.fromkeys(WRONG, 0)} == {**full("all"), **dict.fromkeys(WRONG, 0)}


def test_the_class_view_counts_the_misconceptions(graded):
    page = (graded / "class.html").read_text()
    for id in WRONG:
        assert id in page
    assert "alpha; the convention is alpha / r" in page
    assert page.count("<td>1</td>") >= len(WRONG) - 1


def test_an_earlier_answer_is_there_even_if_it_is_wrong(tmp_path):
    answers = {
        "qlora-3": "# EXERCISE: qlora-3\ndef quantize_block(weights, values):\n    return None",
        "qlora-5": "# EXERCISE: qlora-5\ndef relative_error(weights, values, block):\n"
        "    blocks = [quantize_block(part, values) for part in weights.split(block)]\n"
        "    back = [values[codes.long()] * scale for codes, scale in blocks]\n"
        "    return float((weights.new_tensor([v for part in back for v in part]) - weights).norm() / weights.norm())",
    }
    hand_in(tmp_path / "in", "reuses", "03", answers)
    run("03", tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "reuses") == full("03") | {"qlora-3": 0.0}


def test_a_solution_does_not_enter_the_sandbox_of_its_own_question():
    from course_utils.grading.marking import setup_for

    everything = " ".join(e.name for e in EXERCISES.values())
    for section, id in ((section, id) for id, section in batch.exercises_of("all")[1].items()):
        assert f"def {EXERCISES[id].name}(" not in setup_for(section, EXERCISES[id], everything)


def test_results_have_gradescopes_form(graded):
    found = results(graded, "wrong")
    assert set(found) == {"score", "output", "visibility", "execution_time", "tests", "extra_data"}
    for test in found["tests"]:
        assert test["visibility"] == "visible"
        assert test["status"] in ("passed", "failed")
        assert 0 <= test["score"] <= test["max_score"]
    assert found["extra_data"]["isolation"] == "bubblewrap"
    assert round(sum(test["score"] for test in found["tests"]), 2) == found["score"]


@pytest.mark.parametrize("wanted", ["07", "lora", "", ",", "02,xx", "further/04"])
def test_unknown_assignments(wanted):
    with pytest.raises(CourseError):
        batch.exercises_of(wanted)


def test_assignments():
    assert batch.exercises_of("2")[0] == batch.exercises_of("02_lora")[0] == ["02_lora"]
    assert batch.exercises_of("06, 02,02")[0] == ["02_lora", "06_openai_api"]


def test_without_bubblewrap_it_refuses_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    hand_in(tmp_path / "in", "a", "06")
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    assert main(["grade", "06", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "not installed" in said
    assert "apt install bubblewrap" in said
    assert "--trust" in said
    assert not (tmp_path / "out").exists()


def test_trusted_submissions_are_graded_without_it_and_the_results_say_so(tmp_path, monkeypatch):
    hand_in(tmp_path / "in", "a", "06")
    hand_in(tmp_path / "in", "b", "06", {"api-4": "# EXERCISE: api-4\ndef requests_until_paid(*a):\n    while True: pass"})
    hand_in(tmp_path / "in", "c", "06", {"api-4": "# EXERCISE: api-4\nimport os\nos.killpg(0, 9)"})
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    done = run("06", tmp_path / "in", tmp_path / "out", allow_unsandboxed=True)
    assert done.isolation == "none"
    assert points(tmp_path / "out", "a") == full("06")
    for learner in "bc":
        assert points(tmp_path / "out", learner) == full("06") | {"api-4": 0.0}
    assert results(tmp_path / "out", "a")["extra_data"]["isolation"] == "none"
    assert "without a sandbox" in (tmp_path / "out" / "learners" / "a" / "feedback.html").read_text()


def test_where_name_spaces_go_one_level_only_each_question_gets_a_sandbox(tmp_path, monkeypatch):
    command = sandbox.Sandbox._command
    monkeypatch.setattr(
        sandbox.Sandbox,
        "_command",
        lambda *a: [part.replace('"own_namespaces": true', '"own_namespaces": false') for part in command(*a)],
    )
    started = []
    begin = sandbox.Sandbox.__init__
    monkeypatch.setattr(sandbox.Sandbox, "__init__", lambda self, *a: (started.append(1), begin(self, *a))[1])
    hand_in(tmp_path / "in", "a", "06")
    hand_in(tmp_path / "in", "b", "06")
    run("06", tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "a") == points(tmp_path / "out", "b") == full("06")
    assert len(started) == 2 * len(full("06"))


def test_the_command(tmp_path, capsys):
    hand_in(tmp_path / "in", "a", "06")
    assert main(["grade", "06", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1", "--seed", "3"]) == 0
    said = capsys.readouterr()
    assert "1 graded in bubblewrap, 0 unchanged" in said.out
    assert "seed 3" in said.out
    assert "grading: 100%" in said.err
    (tmp_path / "in" / "b.ipynb").write_text(notebook([code("1")]))
    assert main(["grade", "06", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "1 graded in bubblewrap, 1 unchanged" in said
    assert "seed 3" in said
    assert "needs-a-person.csv" in said


def test_nothing_in_the_sandbox_tells_of_the_machine():
    for file in sandbox.INSIDE:
        text = file.read_text()
        assert "course_utils" not in text
        assert "import course" not in text
