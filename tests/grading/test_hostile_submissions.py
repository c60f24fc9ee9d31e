"""No submission costs another one its mark, whatever its names and sizes, at the first grading or at the next."""

import os
import resource
import socket
import unicodedata
import zipfile

import pytest
from grading_fixtures import cells, code, full, hand_in, left_behind, needing, notebook, points, rows, run

from course_utils.grading import intake, reading, results, tables
from course_utils.grading.canvas import Export
from course_utils.grading.intake import Answers
from course_utils.grading.marking import Mark

ALL = notebook(cells("06"))


def deep(folder, levels, name="d" * 250):
    """Folders in one another whose path is longer than the system opens; made step by step."""
    folder.mkdir()
    where = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=where)
        inner = os.open(name, os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = inner
    with os.fdopen(os.open("deep.ipynb", os.O_CREAT | os.O_WRONLY, dir_fd=where), "w") as file:
        file.write(ALL)
    os.close(where)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    inbox, out = folder / "in", folder / "out"
    for learner in ("aaa-first", "zzz-last"):
        hand_in(inbox, learner, "06")
    raw = os.fsencode(inbox)
    for name in (b"caf\xe9.ipynb", b"\xff\xfe.ipynb", b"new\nline\x1b[31m.ipynb", "bidi\u202egnp.ipynb".encode()):
        with open(raw + b"/" + name, "w") as file:
            file.write(ALL)
    (inbox / ("\U00020000" * 60 + ".ipynb")).write_text(ALL)  # 240 bytes, and more with a number after it
    (inbox / "names").mkdir()
    for name in (b"\xe9.ipynb", b"a\nb;=1+1;.ipynb", b"\x1b]0;x\x07.ipynb", "＝1+1.ipynb".encode(), b"x.IPYNB"):
        with open(raw + b"/names/" + name, "w") as file:
            file.write(ALL)
    deep(inbox / "deep-names", 17)
    deep(inbox / "deep", 40, "d")
    (inbox / "sparse").mkdir()
    for number in range(24):
        with open(inbox / "sparse" / f"{number:02}.ipynb", "wb") as file:
            file.truncate(299_000_000)
    (inbox / "crowd").mkdir()
    for number in range(reading.MOST_ENTRIES + 10):
        (inbox / "crowd" / f"{number}.txt").touch()
    strange = inbox / "strange"
    (strange / "folder.ipynb").mkdir(parents=True)
    (strange / "round").symlink_to(strange)
    (strange / "self.ipynb").symlink_to("self.ipynb")
    os.mkfifo(strange / "pipe.ipynb")
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(strange)
        made.bind("socket.ipynb")
        os.chdir(here)
    for name in ("good.ipynb", "Good.ipynb", "CON.ipynb"):
        (strange / name).write_text(ALL)
    (inbox / "int.ipynb").write_text('{"cells": [], "x": ' + "9" * 100_000 + "}")
    (inbox / "million.ipynb").write_text(
        '{"cells": [' + '{"source":"#EXERCISE:x"},' * 1_000_000 + '{"source":"x"}]}'
    )  # 25 MB, read apart
    (inbox / "surrogate.ipynb").write_text(notebook([*cells("06"), code("# EXERCISE: api-4\n'\ud800'")]))
    with zipfile.ZipFile(inbox / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.ipynb", bytes(10**7))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run("06", inbox, out)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    again = run("06", inbox, out)
    return inbox, out, grown, again


def test_everybody_else_is_graded_and_nothing_twice(graded):
    _, out, _, again = graded
    for learner in ("aaa-first", "zzz-last", "caf", "new_line_31m", "bidi_gnp", "names", "strange"):
        assert points(out, learner) == full("06"), learner
    assert again.new == 0
    assert left_behind() == []


def test_a_folder_of_huge_files_costs_little_memory(graded):
    assert graded[2] < 500_000, "kB"


@pytest.mark.parametrize(
    ("learner", "reason"),
    [
        ("sparse", "may have at most 300,000,000 bytes in all"),
        ("deep", "deeper than 12 folders"),
        ("deep-names", "deeper than 12 folders"),
        ("crowd", "more than 20,000 files"),
        ("strange", "pipe.ipynb is not a file; likewise 1 more: socket.ipynb"),
        ("strange", "round is a link, which is not followed; likewise 1 more: self.ipynb"),
        ("int", "is not JSON"),
        ("bomb", "is an archive"),
        ("million", "answer cells of more than"),
    ],
)
def test_what_was_not_read_is_for_a_person(graded, learner, reason):
    assert any(row[0] == learner and reason in row[2] for row in needing(graded[1])), needing(graded[1])


def test_what_strangers_wrote_is_harmless_in_everything_that_is_written(graded):
    for file in graded[1].rglob("*.*"):
        text = file.read_text(encoding="utf-8-sig")
        assert all(c.isprintable() or c == "\n" for c in text), file
        for separator in ",;\t|" if file.suffix == ".csv" else "":
            for field in (field for row in rows(file, separator) for field in row):
                begins = unicodedata.normalize("NFKC", field).lstrip(' "')[:1]
                assert begins not in ("=", "+", "@"), (file, field)


def test_a_flood_of_files_that_cannot_be_read_is_one_row_a_reason(tmp_path):
    for number in range(reading.MOST_FILES + 5):
        (tmp_path / "in" / "flood").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "flood" / f"{number:03}.ipynb").write_text("{" * (number % 7) + "x" * (number % 3 + 1))
    hand_in(tmp_path / "in" / "flood", "000", "06")
    hand_in(tmp_path / "in" / "flood", "001", "06")
    run("06", tmp_path / "in", tmp_path / "out")
    broken, too_many = (reason for _, _, reason, _ in needing(tmp_path / "out"))
    assert "002.ipynb is not JSON" in broken and "likewise 97 more: 003.ipynb, 004.ipynb, 005.ipynb, …" in broken
    assert "more than 100 notebooks" in too_many


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    hand_in(tmp_path / "in" / "somebody", "a", "06")
    hand_in(tmp_path / "in" / "somebody" / "closed", "b", "06", {"api-4": "# EXERCISE: api-4\n1 / 0"})
    real = os.scandir

    def scandir(place):
        if os.path.basename(place) == "closed":
            raise PermissionError(13, "Permission denied", place)
        return real(place)

    monkeypatch.setattr(reading.os, "scandir", scandir)
    run("06", tmp_path / "in", tmp_path / "out")
    assert points(tmp_path / "out", "somebody") == full("06")
    assert any("closed/ is a folder that cannot be read" in row[2] for row in needing(tmp_path / "out"))


CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,06 OpenAI API (77)
    Points Possible,,,,,29
"Alm, Anna",11,1001,anna@x.org,S,
"Bé, Bela",12,1002,bela@x.org,S,
"Chen, Cleo",13,1003,cleo@x.org,S,
"Dorn, Dora",14,1004,dora@x.org,S,
"Doe, Jane",15,1005,jdoe,S,
Twin,16,1006,twin,S,
José,17,1007,jose,S,
"Roe, Bo",18,1008,bo,S,
"""
ROSTER = """Name,Email address,ID number,Login
Anna Alm,anna@x.org,1001,
Bela Bé,bela@x.org,1002,
Cleo Chen,cleo@x.org,1003,
Dora Dorn,dora@x.org,1004,
"Doe, Jane",jane@example.org,1005,jdoe
"""


def tabled(folder, *names):
    """Learners, marks in Canvas's export, who has no row in it, and who has none in the roster; all were marked with 0."""
    for name in names:
        (folder / "in" / name).mkdir(parents=True)
    (folder / "canvas.csv").write_text(CANVAS)
    (folder / "roster.csv").write_text(ROSTER)
    marks = {id: Mark(0.0, "Wrong.", "wrong") for id in full("06")}
    graded = [
        results.compose(submission, Answers(), marks, ["06_openai_api"], "none", "key", 0.0)
        for submission in intake.submissions(folder / "in")
    ]
    told = []
    export = Export(folder / "canvas.csv", ["06_openai_api"])
    for option, place in (("canvas", "Canvas's export"), ("roster", "the roster")):
        table = export if option == "canvas" else folder / "roster.csv"
        tables.write_all(folder, list(marks), graded, **{option: table})
        told.append({row[0]: row[2] for row in needing(folder) if row[2].startswith(f"in {place}:")})
        if option == "canvas":
            filled = [row[5] for row in rows(folder / "canvas.csv")[2:]]
    return {result["extra_data"]["learner"] for result in graded}, filled, *told


def test_a_name_that_fits_two_submissions_takes_nobodys_row(tmp_path):
    names = ("Twin", "twin", "jos\u00e9", "jose\u0301", "jdoe", "15", "bo")
    learners, filled, told, _ = tabled(tmp_path, *names)
    # 15 is jdoe's number in Canvas. That one of two is spelled as Canvas spells twin proves nothing.
    assert filled == [*[""] * 7, "0"] and told.keys() == learners - {"bo"}


@pytest.mark.parametrize(
    ("own", "like"),
    [
        ("jdoe", "JDoe"),
        ("jdoe", "jd\u00f6e"),
        ("jdoe", "jdoe_second_try"),
        ("jane@example.org", "Jane@Example.org"),
        ("doejane_1005_99_lesson", "jdoe_again"),
        ("Doe_Jane_1005_assignsubmission_file", "doejane"),
        ("jdoe", "1005"),
        ("jdoe_hw6", "1005"),
        ("jdoe", "doejane_1005_99_lesson"),
        ("Bela Bé", "1002"),  # of the two, Canvas's export has only the number
        ("Anna Alm", "anna@x.org"),
        ("chencleo_13_222_hw", "1003"),  # as Canvas names downloads, with its own number
        ("dorndora_14_223_hw", "Dorn, Dora"),
        ("anna alm", "Anna Alm"),
        ("Bela Be", "Bela Bé"),
        ("Cleo Chen", "Cléo Chen"),
    ],
)
def test_a_row_that_two_submissions_want_is_nobodys(own, like, tmp_path):
    learners, filled, in_canvas, in_roster = tabled(tmp_path, own, like)
    assert set(filled) == {""} and in_canvas.keys() == in_roster.keys() == learners
    assert all("nobody has it" in reason for reason in in_roster.values()), in_roster
    assert not (tmp_path / "moodle.csv").exists()  # it would have no row


def test_a_result_is_not_kept_when_a_twin_arrives(tmp_path):
    hand_in(tmp_path / "in", "ann", "06")
    run("06", tmp_path / "in", tmp_path / "out")
    hand_in(tmp_path / "in", "Ann", "06")
    assert run("06", tmp_path / "in", tmp_path / "out").new == 2
    assert {row[0] for row in needing(tmp_path / "out")} == {"ann-2", "Ann"}


def test_a_number_makes_no_name_into_anothers(tmp_path):
    for name in ("Ann", "ann", "ann-2"):
        (tmp_path / f"{name}.ipynb").write_text(ALL)
    found = {s.paths[0].stem: (s.learner, s.clash) for s in intake.submissions(tmp_path)}
    assert found == {"Ann": ("Ann", True), "ann": ("ann-3", True), "ann-2": ("ann-2", False)}
