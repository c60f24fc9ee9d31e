"""Whatever is handed in: answers are found, and what cannot be read is listed for a person, never a silent zero."""

import json
import os

import pytest
from grading_fixtures import cells, code, full, hand_in, left_behind, needing, notebook, points, results, rows, run, said

from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.grading import intake

SOLVED = {id: EXERCISES[id].source() for id in full("06")}
TEXT = {id: "\n".join(source.splitlines()[1:]) for id, source in SOLVED.items()}  # without their first line


def graded_id(id):
    return {"nbgrader": {"grade_id": id}}


def as_list(made):
    return [{**cell, "source": cell["source"].splitlines(keepends=True)} for cell in made]


def colab(made):
    """As Colab saves: cell ids in the metadata, nbformat_minor 0."""
    moved = [{**cell, "metadata": {**cell["metadata"], "id": f"x{n}"}} for n, cell in enumerate(as_list(made))]
    more = {"colab": {"provenance": []}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return json.dumps({"nbformat": 4, "nbformat_minor": 0, "metadata": more, "cells": moved})


def changed(made, id, **more):
    """The cells, with that answer's cell changed."""
    return [{**cell, **more} if cell["source"].startswith(f"# EXERCISE: {id}\n") else cell for cell in made]


def without(made, id):
    return [cell for cell in made if not cell["source"].startswith(f"# EXERCISE: {id}\n")]


ALL = cells("06")
STUB = cells("06", stub=True)
EMPTY_CELL = next(cell["source"] for cell in STUB if cell["source"].startswith("# EXERCISE: api-4\n"))
EMPTY = EMPTY_CELL.replace("# EXERCISE: api-4\n", "").replace("# YOUR CODE HERE", "# later").replace("...", "pass")
# name: (bytes of the notebook, question → points other than full ones, note on which question, what it says)
READ = {
    "colab": (colab(ALL), {}, None, ""),
    "source-as-lists": (notebook(as_list(ALL)), {}, None, ""),
    "windows-lines": (notebook([{**c, "source": c["source"].replace("\n", "\r\n")} for c in ALL]), {}, None, ""),
    "byte-order-mark": ("\ufeff" + notebook(ALL), {}, None, ""),
    "checks-deleted": (notebook([c for c in ALL if "CHECK" not in c["source"]]), {}, None, ""),
    "checks-edited": (
        notebook([{**c, "source": "score = 99"} if "CHECK" in c["source"] else c for c in STUB]),
        dict.fromkeys(full("06"), 0.0),
        None,
        "",
    ),
    "checks-markdown": (
        notebook([{**c, "cell_type": "markdown"} if "CHECK" in c["source"] else c for c in ALL]),
        {},
        None,
        "",
    ),
    "checks-skipped": (
        notebook([{**c, "metadata": {"tags": ["skip-execution"]}} for c in STUB]),
        dict.fromkeys(full("06"), 0.0),
        None,
        "",
    ),
    "outputs-forged": (
        notebook([{**c, "outputs": [{"output_type": "execute_result", "data": {"text/plain": "9"}}]} for c in STUB]),
        dict.fromkeys(full("06"), 0.0),
        None,
        "",
    ),
    "metadata-lost": (notebook([{**c, "metadata": {}} for c in ALL]), {}, None, ""),
    "ids-changed": (notebook([{**c, "id": "same"} for c in ALL]), {}, None, ""),
    "marker-lost": (notebook(changed(ALL, "api-3", source=TEXT["api-3"])), {}, "api-3", "metadata"),
    "marker-moved": (notebook(changed(ALL, "api-3", source="\n\n%%time\n" + SOLVED["api-3"])), {}, "api-3", "IPython"),
    "marker-written-otherwise": (
        notebook(changed(ALL, "api-3", source=SOLVED["api-3"].replace("# EXERCISE: api-3", "  #exercise:   API.3"))),
        {},
        None,
        "",
    ),
    "copied-last-wrong": (
        notebook([*ALL, code("# EXERCISE: api-4\ndef requests_until_paid(*a): return 0")]),
        {"api-4": 0.0},
        "api-4",
        "2 cells have this id; the last one counts",
    ),
    "copied-last-right": (
        notebook([code("# EXERCISE: api-4\nwhile True: pass"), *ALL]),
        {},
        "api-4",
        "2 cells have this id; the last one counts",
    ),
    "copied-stub": (
        notebook([*ALL, *(c for c in STUB if c["source"].startswith("# EXERCISE: api-4\n"))]),
        {},
        "api-4",
        "2 cells have this id; the last one that is filled in counts",
    ),
    "copied-stub-with-pass": (
        notebook([*ALL, code("# EXERCISE: api-4\n" + EMPTY)]),
        {},
        "api-4",
        "2 cells have this id; the last one that is filled in counts",
    ),
    "scratch-cell-with-marker": (
        notebook([*ALL, code("# EXERCISE: api-4\nprint(requests_until_paid(1, 2, 3, 4))")]),
        {},
        "api-4",
        "the last one that is filled in counts",
    ),
    "stub-left-answer-below": (
        notebook([*changed(ALL, "api-4", source=EMPTY_CELL), code(TEXT["api-4"])]),
        {},
        "api-4",
        "the answer is in a different cell from the one with this id",
    ),
    "copied-by-metadata": (
        notebook([*ALL, code("def requests_until_paid(*a): return 0", graded_id("api-4"))]),
        {},
        None,
        "",
    ),
    "merged": (
        notebook([*without(without(ALL, "api-1"), "api-4"), code(SOLVED["api-1"] + "\n\n" + SOLVED["api-4"])]),
        {},
        None,
        "",
    ),
    "split-order": (notebook(ALL[::-1]), {}, None, ""),
    "answer-as-markdown": (
        notebook(changed(ALL, "api-4", cell_type="markdown")),
        {},
        "api-4",
        "not a code cell",
    ),
    "strange-cells": (
        notebook([*ALL, 5, None, [], {}, {"cell_type": "code"}, {"source": 7}, {"source": {}, "metadata": 1}, code([1])]),
        {},
        None,
        "",
    ),
    "strange-metadata": (
        notebook([*ALL, code("1", []), code("2", {"nbgrader": 5}), code("3", {"nbgrader": {"grade_id": ["api-4"]}})]),
        {},
        None,
        "",
    ),
    "no-nbformat": (json.dumps({"cells": ALL}), {}, None, ""),
    "unknown-ids": (notebook([*ALL, code("# EXERCISE: api-99\n1"), code("# EXERCISE: ../../x\n1")]), {}, None, ""),
    "Copy of ps1 (3)": (notebook(ALL), {}, None, ""),
    "Ünïcode 名前": (notebook(ALL), {}, None, ""),
    "=cmd|' -x'!A1": (notebook(ALL), {}, None, ""),
    "<script>alert(1)<": (notebook(ALL), {}, None, ""),
    "x" * 200: (notebook(ALL), {}, None, ""),
}  # fmt: skip
# name: (bytes, what needs-a-person.csv says)
UNREADABLE = {
    "broken-json": (notebook(ALL)[:-200], "is not JSON"),
    "empty": ("", "is empty"),
    "binary": (bytes(range(256)) * 100, "not text in UTF-8"),
    "nested": ("[" * 200_000, "nested too deeply"),
    "not-a-notebook": ('{"a": 1}', "is not a notebook"),
    "a-list": ("[]", "is not a notebook"),
    "cells-an-object": ('{"cells": {}}', "is not a notebook"),
    "format-3": ('{"worksheets": [], "nbformat": 3}', "format 3"),
    "wrong-notebook": (notebook(cells("03")), "wrong notebook.*qlora"),
    "no-exercises": (notebook([code("1 + 1")]), "wrong notebook"),
    "huge-answer": (notebook([code("# EXERCISE: api-4\n" + "#" * 5_100_000)]), "characters"),
    "million-lists": ("[" + "[]," * 35_000_000 + "[]]", "memory to read"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intake")
    inbox, out = folder / "inbox", folder / "out"
    hand_in(inbox, "honest", "06")
    for name, (text, *_) in (READ | UNREADABLE).items():
        data = text if isinstance(text, bytes) else text.encode()
        (inbox / f"{name}.ipynb").write_bytes(data)
    (inbox / "linked.ipynb").symlink_to(inbox / "honest.ipynb")
    (inbox / "linked-folder").symlink_to(inbox)
    (inbox / "linked-nowhere.ipynb").symlink_to(inbox / "nothing")
    os.mkfifo(inbox / "pipe.ipynb")
    with open(inbox / "enormous.ipynb", "wb") as file:
        file.truncate(301_000_000)
    (inbox / "essay.docx").write_bytes(b"PK\x03\x04" + bytes([200, 201]))
    (inbox / ".DS_Store").write_bytes(b"x")
    (inbox / "empty-folder").mkdir()
    nested = inbox / "nested-folder" / "ps1"
    hand_in(nested, "ps1", "06")
    hand_in(nested / ".ipynb_checkpoints", "ps1-checkpoint", "06", stub=True)
    (nested / "secret.ipynb").symlink_to(inbox / "broken-json.ipynb")
    (nested / "elsewhere").symlink_to(inbox)
    parts = inbox / "two-files"
    hand_in(parts, "a", "06", {"api-1": "# EXERCISE: api-1\ndef new_messages(polls): return 0"})
    hand_in(parts, "b", "06", {"api-4": "# EXERCISE: api-4\ndef requests_until_paid(*a): return 0"})
    (parts / "c.ipynb").write_text("{")
    run("06", inbox, out)
    return inbox, out


def reasons(graded, learner):
    return "; ".join(row[2] for row in needing(graded[1]) if row[0] == learner)


@pytest.mark.parametrize("name", READ)
def test_answers_are_found(graded, name):
    _, expected, id, note = READ[name]
    learner, out = intake.clean_name(name), graded[1]
    assert points(out, learner) == full("06") | expected
    if id:
        assert note in said(out, learner, id)
    assert not reasons(graded, learner)


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_for_a_person_and_has_no_score(graded, name):
    import re

    found = results(graded[1], name)
    assert found["score"] is None
    assert found["tests"] == []
    assert re.search(UNREADABLE[name][1], reasons(graded, name)), reasons(graded, name)
    _, status, score, _, *marks, _ = next(row for row in rows(graded[1] / "grades.csv") if row[0] == name)
    assert status == "not graded" and {score, *marks} == {""}


@pytest.mark.parametrize(
    ("learner", "reason"),
    [
        ("linked", "is a link"),
        ("linked-folder", "is a link"),
        ("linked-nowhere", "is a link"),
        ("pipe", "is not a file"),
        ("enormous", "301,000,000 bytes"),
        ("essay", "is an archive or an office document"),
        ("empty-folder", "no notebook"),
    ],
)
def test_what_is_no_file_of_its_own_is_for_a_person(graded, learner, reason):
    assert results(graded[1], learner)["score"] is None
    assert reason in reasons(graded, learner)


def test_a_folder_of_ones_own(graded):
    assert points(graded[1], "nested-folder") == full("06")  # not the checkpoint's stubs
    assert results(graded[1], "nested-folder")["extra_data"]["files"] == ["ps1/ps1.ipynb"]
    told = "ps1/elsewhere is a link, which is not followed; likewise 1 more: ps1/secret.ipynb"
    assert told in reasons(graded, "nested-folder")


def test_of_several_notebooks_the_last_counts_and_a_broken_one_is_reported(graded):
    assert points(graded[1], "two-files") == full("06") | {"api-4": 0.0}
    assert "in several notebooks; the answer in b.ipynb counts" in said(graded[1], "two-files", "api-1")
    told = "several notebooks answer api-1, api-4 differently; graded was b.ipynb, the last by name"
    assert told in reasons(graded, "two-files")
    assert "c.ipynb is not JSON" in reasons(graded, "two-files")


def test_an_untouched_copy_takes_nothing_whatever_its_name(tmp_path):
    for learner, names in (("late", ("a", "zz untouched")), ("early", ("z", "00 untouched"))):
        hand_in(tmp_path / "in" / learner, names[0], "06")
        hand_in(tmp_path / "in" / learner, names[1], "06", stub=True)
    half = {id: EMPTY_CELL if id == "api-4" else source for id, source in SOLVED.items()}
    hand_in(tmp_path / "in" / "halves", "a", "06", {"api-1": "# EXERCISE: api-1\n# later", "api-3": "# EXERCISE: api-3\n3"})
    hand_in(tmp_path / "in" / "halves", "b", "06", half)
    done = run("06", tmp_path / "in", tmp_path / "out")
    for learner in ("late", "early", "halves"):
        assert points(tmp_path / "out", learner) == full("06"), learner
    assert done.problems == 0  # the filled-in ones are the same
    assert "the answer in a.ipynb counts" in said(tmp_path / "out", "late", "api-4")


def test_hidden_files_are_nobodys_and_nobody_else_suffers(graded):
    names = {folder.name for folder in (graded[1] / "learners").iterdir()}
    assert not any("DS_Store" in name for name in names)
    assert len(names) == len(READ) + len(UNREADABLE) + 1 + 7 + 2
    assert points(graded[1], "honest") == full("06")
    assert left_behind() == []


def test_a_notebook_that_is_hidden_is_not_passed_over_in_silence(tmp_path):
    hand_in(tmp_path / "in", "honest", "06")
    for name in (".ipynb", "..ipynb", ".hidden.ipynb", ".hid\nden.IPYNB"):
        (tmp_path / "in" / name).write_text(notebook(ALL))
    (tmp_path / "in" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "in" / ".ipynb_checkpoints").mkdir()
    done = run("06", tmp_path / "in", tmp_path / "out")
    told = needing(tmp_path / "out")
    assert done.problems == 4 and {row[0] for row in told} == {""}
    assert [row[1] for row in told] == ["..ipynb", ".hidden.ipynb", ".hid\N{REPLACEMENT CHARACTER}den.IPYNB", ".ipynb"]
    assert all("begins with a dot" in row[2] for row in told)
    assert [folder.name for folder in (tmp_path / "out" / "learners").iterdir()] == ["honest"]


def test_a_deleted_answer_is_noted_and_listed(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "someone.ipynb").write_text(notebook(without(ALL, "api-2")))
    run("06", tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "someone") == full("06") | {"api-2": 0.0}
    assert "no answer cell for api-2" in (tmp_path / "out" / "needs-a-person.csv").read_text()


def test_lessons_not_handed_in_are_one_line_and_a_missing_cell_is_one_of_its_own(tmp_path):
    hand_in(tmp_path / "in" / "someone", "three", "03")
    (tmp_path / "in" / "someone" / "six.ipynb").write_text(notebook(without(ALL, "api-2")))
    hand_in(tmp_path / "in" / "diligent", "two", "02")
    hand_in(tmp_path / "in" / "diligent", "three", "03")
    hand_in(tmp_path / "in" / "diligent", "six", "06")
    done = run("02,03,06", tmp_path / "in", tmp_path / "out")
    absent = ["no answer cell for api-2", "no answer cell for any exercise of 02_lora"]
    assert [(row[0], row[2]) for row in needing(tmp_path / "out")] == [("someone", reason) for reason in absent]
    assert done.problems == 2


def test_a_marker_counts_more_than_the_metadata_of_its_cell(tmp_path):
    (tmp_path / "in").mkdir()
    pasted = [{**cell, "source": SOLVED["api-3"]} if cell["source"] == SOLVED["api-4"] else cell for cell in ALL]
    (tmp_path / "in" / "pasted.ipynb").write_text(notebook(pasted))
    run("06", tmp_path / "in", tmp_path / "out")
    assert results(tmp_path / "out", "pasted")["extra_data"]["outcomes"]["api-4"] == "missing"
    assert points(tmp_path / "out", "pasted")["api-3"] == full("06")["api-3"]


def test_a_notebook_with_200_mb_of_output_is_graded(tmp_path):
    (tmp_path / "in").mkdir()
    big = code("print('x')") | {"outputs": [{"output_type": "stream", "name": "stdout", "text": "y" * 200_000_000}]}
    (tmp_path / "in" / "loud.ipynb").write_text(notebook([*ALL, big]))
    run("06", tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "loud") == full("06")


def test_names_that_clash(tmp_path):
    for name in ("Ann A.ipynb", "ann_a.ipynb", "ann a.txt"):
        (tmp_path / name).write_text(notebook(ALL))
    found = intake.submissions(tmp_path)
    assert [s.learner for s in found] == ["Ann_A", "ann_a-2", "ann_a-3"]
    assert "another submission is called ann_a too" in found[2].notes[0]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("..", "unnamed"),
        ("../../etc", "etc"),
        ("a/b\0c", "a_b_c"),
        ("", "unnamed"),
        ("-x", "x"),
        ("a@b.org", "a@b.org"),
        ("CON. ", "CON"),
    ],
)
def test_clean_names(name, clean):
    assert intake.clean_name(name) == clean


def test_no_inbox(tmp_path):
    with pytest.raises(CourseError, match="cannot read the inbox"):
        run("06", tmp_path / "nothing", tmp_path / "out")


def test_results_inside_the_inbox(tmp_path):
    hand_in(tmp_path, "a", "06")
    with pytest.raises(CourseError, match="would be mistaken for submissions"):
        run("06", tmp_path, tmp_path / "out")
