"""A grading that is killed goes on; a second one grades only what changed; a sandbox that is killed is replaced."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from grading_fixtures import PAID_ANSWER, cells, full, hand_in, left_behind, needing, notebook, points, results, rows, run
from support import wait_until

from course_utils.cli import main
from course_utils.errors import CourseError
from course_utils.grading import batch

SLOW = f"# EXERCISE: api-4\nimport time\ntime.sleep(0.4)\n{PAID_ANSWER}"
SETS = "# EXERCISE: api-3\ndef best_checkpoint(c):\n    return list({f'{row}' for row in 'abcdefgh'})[0]"  # order by hash


def tree(folder):
    """Name → bytes of everything written, without what tells the time."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != ".lock":
            data = file.read_bytes()
            if file.name == "results.json":
                data = json.dumps({k: v for k, v in json.loads(data).items() if k != "execution_time"}).encode()
            found[str(file.relative_to(folder))] = data
    return found


def an_inbox(inbox, learners=12):
    for number in range(learners):
        answers = {"api-4": SLOW, "api-3": SETS} if number % 2 else {"api-1": f"# EXERCISE: api-1\n{number} / 0"}
        hand_in(inbox, f"learner-{number:02}", "06", answers)
    (inbox / "broken.ipynb").write_text("{")


def course(*arguments, **options):
    command = [sys.executable, "-m", "course_utils.cli", "grade", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_after_sigkill_the_same_results_as_uninterrupted(tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    an_inbox(inbox, learners=7)
    for kill_at in (2, 4):
        grading = course("06", inbox, "--out", out, "--seed", "11", "--jobs", "2")
        wait_until(lambda at=kill_at: len(list(out.glob("learners/*/results.json"))) >= at)
        grading.send_signal(signal.SIGKILL)
        grading.communicate()
        wait_until(lambda: left_behind() == [])
        assert not (out / "grades.csv").exists()
    done = len(list(out.glob("learners/*/results.json")))
    assert 4 <= done < 8
    grading = course("06", inbox, "--out", out, "--jobs", "2")
    said, _ = grading.communicate()
    assert grading.returncode == 1  # the broken one
    assert f"{8 - done} graded in bubblewrap, {done} unchanged" in said
    assert main(["grade", "06", str(inbox), "--out", str(tmp_path / "at once"), "--seed", "11", "--jobs", "1"]) == 1
    assert tree(out) == tree(tmp_path / "at once")


def test_grading_again_changes_only_what_changed(tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    for learner in ("a", "b", "c"):
        hand_in(inbox, learner, "06")
    run("06", inbox, out)

    def stamps():
        return {
            str(f.relative_to(out)): (f.stat().st_mtime_ns, f.stat().st_ino) for f in out.rglob("*.*") if f.name != ".lock"
        }

    before = stamps()
    assert run("06", inbox, out).unchanged == 3
    assert stamps() == before
    hand_in(inbox, "b", "06", {"api-4": "# EXERCISE: api-4\ndef requests_until_paid(*a): return 0"})
    hand_in(inbox, "d", "06")
    done = run("06", inbox, out)
    assert (done.new, done.unchanged) == (2, 2)
    changed = {name for name, stamp in stamps().items() if before.get(name) != stamp}
    assert {name for name in changed if name.startswith("learners")} == {
        "learners/b/results.json",
        "learners/b/feedback.html",
        "learners/d/results.json",
        "learners/d/feedback.html",
    }
    assert changed >= {"grades.csv", "class.html"}
    assert "grading.json" not in changed
    assert points(out, "b") == full("06") | {"api-4": 0.0}


def test_results_of_who_is_not_in_the_inbox_are_removed_and_nothing_else(tmp_path):
    inbox, learners = tmp_path / "in", tmp_path / "out" / "learners"
    for learner in ("a", "b", "c", "gone"):
        hand_in(inbox, learner, "06", {id: f"# EXERCISE: {id}\n1" for id in full("06")})
    run("06", inbox, tmp_path / "out")
    for learner in ("b", "c", "gone"):
        (inbox / f"{learner}.ipynb").unlink()
    (learners / "c" / "notes.txt").write_text("my own notes")
    (learners / "mine").mkdir()
    (learners / "mine" / "results.json").write_text("{}")
    (learners / "linked").symlink_to(tmp_path / "in")
    hand_in(inbox, "B", "06", {id: f"# EXERCISE: {id}\n1" for id in full("06")})
    assert run("06", inbox, tmp_path / "out").new == 1
    found = sorted(str(file.relative_to(learners)) for file in learners.glob("*/*") if file.parent.name != "linked")
    pages = [f"{learner}/{name}" for learner in "Ba" for name in ("feedback.html", "results.json")]
    assert found == sorted([*pages, "c/notes.txt", "mine/results.json"])
    assert sorted(folder.name for folder in learners.iterdir()) == ["B", "a", "c", "linked", "mine"]


def test_a_half_written_result_is_graded_again(tmp_path):
    hand_in(tmp_path / "in", "a", "06", stub=True)
    run("06", tmp_path / "in", tmp_path / "out")
    file = tmp_path / "out" / "learners" / "a" / "results.json"
    whole = tree(tmp_path / "out")
    for damage in ("", "{", "[]", '{"extra_data": {}}'):
        file.write_text(damage)
        assert run("06", tmp_path / "in", tmp_path / "out").new == 1
        assert tree(tmp_path / "out") == whole
    (file.parent / "feedback.html").unlink()
    assert run("06", tmp_path / "in", tmp_path / "out").new == 1


@pytest.mark.parametrize("change", [{"limits": None}, "other exercises"])
def test_other_limits_or_changed_exercises_grade_everything_again(tmp_path, change, monkeypatch):
    hand_in(tmp_path / "in", "a", "06", stub=True)
    run("06", tmp_path / "in", tmp_path / "out")
    if change == "other exercises":
        monkeypatch.setattr(batch, "grading_fingerprint", lambda: "other")
        change = {}
    assert run("06", tmp_path / "in", tmp_path / "out", **change).new == 1


def test_the_seed_is_new_for_each_folder_and_kept_in_it(tmp_path):
    hand_in(tmp_path / "in", "a", "06", stub=True)
    first = run("06", tmp_path / "in", tmp_path / "one", seed=None)
    assert run("06", tmp_path / "in", tmp_path / "one", seed=None).seed == first.seed
    assert run("06", tmp_path / "in", tmp_path / "one", seed=None).unchanged == 1
    assert run("06", tmp_path / "in", tmp_path / "two", seed=None).seed != first.seed


def test_results_of_another_assignment_are_not_overwritten(tmp_path):
    hand_in(tmp_path / "in", "a", "06", stub=True)
    run("06", tmp_path / "in", tmp_path / "out")
    with pytest.raises(CourseError, match="holds the results of 06_openai_api"):
        run("05", tmp_path / "in", tmp_path / "out")


def test_two_gradings_of_one_folder(tmp_path):
    from filelock import FileLock

    hand_in(tmp_path / "in", "a", "06", stub=True)
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(CourseError, match="another grading run is using"):
        run("06", tmp_path / "in", tmp_path / "out")


def test_a_sandbox_that_is_killed_is_replaced_and_nobody_pays(tmp_path):
    for learner in "abcd":
        hand_in(tmp_path / "in", learner, "06", {"api-4": SLOW})
    grading = threading.Thread(target=run, args=("06", tmp_path / "in", tmp_path / "out"))
    grading.start()
    killed = 0
    for _ in range(2):
        wait_until(left_behind)
        for pid in left_behind():
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:  # ended by the death of one before it
                pass
        time.sleep(0.5)
    grading.join(120)
    assert killed >= 2 and not grading.is_alive()
    for learner in "abcd":
        found = results(tmp_path / "out", learner)
        assert points(tmp_path / "out", learner) == full("06") or "not graded" in found["extra_data"]["outcomes"].values()
        if "not graded" in found["extra_data"]["outcomes"].values():
            assert found["extra_data"]["key"] == ""
            assert found["extra_data"]["problems"]
    run("06", tmp_path / "in", tmp_path / "out")
    assert all(points(tmp_path / "out", learner) == full("06") for learner in "abcd")
    assert left_behind() == []


def test_an_empty_inbox(tmp_path):
    (tmp_path / "in").mkdir()
    done = run("06", tmp_path / "in", tmp_path / "out")
    assert (done.new, done.unchanged, done.problems) == (0, 0, 0)
    assert "0 of 0 submissions" in (tmp_path / "out" / "class.html").read_text()


ROSTER = """Name,Email address,ID number,Login
"Doe, Jane",jane@example.org,1001,jdoe
"Roe, Richard",richard@example.org,1002,rroe
"Poe, Edgar",edgar@example.org,1003,epoe
"""
CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,02 LoRA (55),06 OpenAI API (56),Final Score
    Points Possible,,,,,14,16,(read only)
"Doe, Jane",701,1001,jdoe,One,3,,88
"Roe, Richard",702,1002,rroe,"One, or Two",=1+1,,77
"Poe, Edgar",703,1003,epoe,One,,9,66
"""


@pytest.fixture
def classroom(tmp_path):
    hand_in(tmp_path / "in", "jdoe", "06")
    hand_in(
        tmp_path / "in",
        "roerichard_702_99_06_openai_api",
        "06",
        {"api-4": "# EXERCISE: api-4\ndef requests_until_paid(*a): return 0"},
    )
    (tmp_path / "in" / "epoe.ipynb").write_text("{")
    (tmp_path / "in" / "somebody.ipynb").write_text(notebook(cells("06")))
    (tmp_path / "roster.csv").write_text(ROSTER)
    (tmp_path / "canvas.csv").write_text(CANVAS)
    return tmp_path


def test_canvas_and_moodle(classroom):
    out = classroom / "out"
    run("06", classroom / "in", out, canvas=classroom / "canvas.csv")
    assert ("somebody", "in Canvas's export: leads to no row") in {(row[0], row[2]) for row in needing(out)}
    given, filled = rows(classroom / "canvas.csv"), rows(out / "canvas.csv")
    assert run("06", classroom / "in", out, roster=classroom / "roster.csv").new == 0
    assert not (out / "canvas.csv").exists()  # its marks may be older than those of the next call
    points = round(sum(full("06").values()))
    less = f"{round(16 * (points - 3) / points, 2):g}"  # an answer of three points is wrong, on Canvas's scale
    assert [row[6] for row in filled] == ["06 OpenAI API (56)", "16", "16", less, "9"]  # Poe's stays
    assert [row[:6] + row[7:] for row in filled] == [row[:6] + row[7:] for row in given]
    moodle = {row[0]: row for row in rows(out / "moodle.csv")}
    assert moodle["jane@example.org"][1:4] == ["1001", "jdoe", str(points)]
    assert moodle["richard@example.org"][3] == str(points - 3)
    assert len(moodle) == 3  # no row without a user or a mark: see `tables._moodle`
    reasons = {(row[0], row[2]) for row in needing(out)}
    assert ("somebody", "in the roster: leads to no row") in reasons
    assert any(learner == "epoe" and "not JSON" in reason for learner, reason in reasons)


def empty_rows(out):
    """What the tables say of jdoe, which must be nothing: Canvas's field, all fields of grades.csv."""
    canvas = next(row[6] for row in rows(out / "canvas.csv") if row[0] == "Doe, Jane")
    _, state, score, _, *marks, _ = next(row for row in rows(out / "grades.csv") if row[0] == "jdoe")
    return [canvas, score, *marks], state


def test_what_could_not_be_graded_has_no_mark_anywhere_until_it_is(classroom, monkeypatch):
    from course_utils.exercises import checking

    judge = checking.judge
    tables = {"canvas": classroom / "canvas.csv"}
    out = classroom / "out"
    for learner in ("roerichard_702_99_06_openai_api", "epoe", "somebody"):
        (classroom / "in" / f"{learner}.ipynb").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(
            checking, "judge", lambda exercise, *rest: judge(exercise, *rest) if exercise.id != "api-3" else 1 / 0
        )
        run("06", classroom / "in", out, **tables)
    fields, state = empty_rows(out)
    assert set(fields) == {""} and state == "not graded"
    found = results(out, "jdoe")
    assert found["score"] is None and {test["score"] for test in found["tests"]} == {None}  # or Gradescope adds them up
    page = (out / "learners" / "jdoe" / "feedback.html").read_text()
    assert "could not be graded, for a reason that is not yours; your instructor has been told" in page
    assert "ZeroDivision" not in page
    assert page.count("(passed)") == len(full("06")) - 1 and "not yet" not in page
    (row,) = needing(out)
    assert row[2].startswith("api-3 could not be graded: ZeroDivisionError")
    assert row[2].endswith("is empty in every table: call again, and do not import before")
    assert "0 of 1 submissions graded" in (out / "class.html").read_text()
    assert run("06", classroom / "in", out, **tables).new == 1  # though nothing has changed
    fields, state = empty_rows(out)
    assert "" not in fields and fields[0] == "16" and state == "graded"
    assert needing(out) == []


def test_a_submission_on_which_the_grader_itself_fails_tells_the_learner_no_error(classroom, monkeypatch):
    from course_utils.grading import intake

    with monkeypatch.context() as patched:
        patched.setattr(intake, "answers", lambda *_: {}["internal"])
        run("06", classroom / "in", classroom / "out")
    page = (classroom / "out" / "learners" / "jdoe" / "feedback.html").read_text()
    assert "KeyError" not in page and "for a reason that is not yours" in page
    assert results(classroom / "out", "jdoe")["score"] is None
    told = [row[2] for row in needing(classroom / "out") if row[0] == "jdoe"]
    assert "KeyError" in told[0] and "do not import before" in told[0]
    assert run("06", classroom / "in", classroom / "out").new == 4


@pytest.mark.parametrize(("section", "needed"), [("02", True), ("06", False)])
def test_what_marks_need_is_imported_before_threads_mark(tmp_path, section, needed):
    hand_in(tmp_path / "in", "a", section)
    program = f"""
import sys
from course_utils.grading import batch, marking
def mark(self, answers):
    print("torch" in sys.modules)
    return {{}}
marking.Marker.mark = mark
batch.grade({section!r}, {str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(needed)]


def test_a_canvas_file_without_the_column(classroom):
    (classroom / "canvas.csv").write_text(CANVAS.replace("06 OpenAI API (56)", "Essay (56)"))
    with pytest.raises(CourseError, match="name one with --column: 02 LoRA, Essay"):
        run("06", classroom / "in", classroom / "out", canvas=classroom / "canvas.csv")
    assert not (classroom / "out").exists()  # said before the grading, not after it
    run("06", classroom / "in", classroom / "out", canvas=classroom / "canvas.csv", column="Essay")
    assert rows(classroom / "out" / "canvas.csv")[2][6] == "16"


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"roster": "nothing.csv"}, "cannot read"),
        ({"canvas": "nothing.csv"}, "cannot read"),
        ({"canvas": "roster.csv"}, "no columns Student and ID"),
        ({"canvas": "canvas.csv", "roster": "roster.csv"}, "name one, then grade again with the other"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_before_the_grading(classroom, tables, why):
    with pytest.raises(CourseError, match=why):
        run("06", classroom / "in", classroom / "out", **{option: classroom / name for option, name in tables.items()})
    assert not (classroom / "out").exists()


def test_formulas_in_tables_are_text():
    from course_utils.grading.tables import as_csv

    assert as_csv([["=1+1", "@x", "+cmd", "-5", "-x", "fine", 3]]) == "'=1+1,'@x,'+cmd,-5,'-x,fine,3\n"
