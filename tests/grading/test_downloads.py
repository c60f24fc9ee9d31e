"""What Canvas and Moodle let an instructor download: all files of a learner are one submission, and its row is theirs."""

import csv

import pytest
from grading_fixtures import full, hand_in, points, results, run

from course_utils.exercises import EXERCISES
from course_utils.grading import intake

POINTS = {section: round(sum(full(section).values())) for section in ("03", "06")}
CANVAS = f"""Student,ID,SIS User ID,SIS Login ID,Section,Homework (77)
    Points Possible,,,,,{sum(POINTS.values())}
"Kim, Min",701,1001,kmin,One,
"Kim, Mín",702,1002,kmin2,One,
"Kimmin, A",703,1003,akimmin,One,
"Alm, Anna",704,1004,aalm,One,
"""


def wrong(section):
    return {id: f"# EXERCISE: {id}\ndef {EXERCISES[id].name}(*a): return 0" for id in full(section)}


def rows(file):
    with open(file, newline="") as handle:
        return list(csv.reader(handle))


def marks(folder, section):
    """Canvas ID → mark in Canvas's export; and learner → what a person is told."""
    (folder / "canvas.csv").write_text(CANVAS)
    run(section, folder / "in", folder / "out", canvas=folder / "canvas.csv")
    told = {row[0]: row[2] for row in rows(folder / "out" / "needs-a-person.csv")[1:]}
    return {row[1]: row[5] for row in rows(folder / "out" / "canvas.csv")[2:]}, told


def test_files_of_one_learner_are_one_submission(tmp_path):
    hand_in(tmp_path / "in", "almanna_704_91_lesson 3", "03")
    hand_in(tmp_path / "in", "almanna_LATE_704_92_lesson 6", "06")
    (tmp_path / "in" / "almanna_704_93_report.pdf").write_bytes(b"%PDF")
    found, told = marks(tmp_path, "03,06")
    assert found["704"] == str(sum(POINTS.values())) and not told
    assert points(tmp_path / "out", "almanna_704") == full("03,06")
    assert sorted(results(tmp_path / "out", "almanna_704")["extra_data"]["files"]) == [
        "almanna_704_91_lesson 3.ipynb",
        "almanna_LATE_704_92_lesson 6.ipynb",
    ]
    assert run("03,06", tmp_path / "in", tmp_path / "out").unchanged == 1
    hand_in(tmp_path / "in", "almanna_LATE_704_92_lesson 6", "06", wrong("06"))
    assert run("03,06", tmp_path / "in", tmp_path / "out").new == 1  # a change of the second file counts too


def test_a_learner_who_sent_no_notebook_among_several_files_is_for_a_person(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("almanna_704_91_a.docx", "almanna_704_92_b.docx"):
        (tmp_path / "in" / name).write_bytes(b"PK\x03\x04")
    found, told = marks(tmp_path, "06")
    assert found["704"] == "" and "likewise 1 more: almanna_704_92_b.docx" in told["almanna_704"]


def test_learners_of_nearly_the_same_name_are_told_apart_by_number(tmp_path):
    hand_in(tmp_path / "in", "kimmin_701_91_hw", "06")
    hand_in(tmp_path / "in", "kimmin_LATE_702_92_hw", "06", wrong("06"))
    found, told = marks(tmp_path, "06")
    assert float(found["701"]) == sum(POINTS.values()) and found["702"] == "0" and found["703"] == ""
    assert not [reason for reason in told.values() if "Canvas" in reason]


def test_a_row_that_somebody_else_wants_by_name_stays_empty(tmp_path):
    hand_in(tmp_path / "in", "almanna_704_91_hw", "06")
    hand_in(tmp_path / "in", "Anna Alm", "06", wrong("06"))
    found, told = marks(tmp_path, "06")
    assert found["704"] == ""
    assert "the row of Alm, Anna is as likely that of Anna_Alm" in told["almanna_704_91_hw"]
    assert "the row of Alm, Anna is as likely that of almanna_704_91_hw" in told["Anna_Alm"]


def test_a_number_that_the_export_does_not_have_takes_no_row_by_its_name(tmp_path):
    hand_in(tmp_path / "in", "almanna_999_91_hw", "06")  # her namesake in another section
    found, told = marks(tmp_path, "06")
    assert found["704"] == ""
    assert told["almanna_999_91_hw"].endswith("nobody has its number 999; its name leads to Alm, Anna")


def test_moodles_files_and_folders_of_one_learner_are_one_submission(tmp_path):
    hand_in(tmp_path / "in" / "Anna Alm_31_assignsubmission_file", "three", "03")
    (tmp_path / "in" / "Anna Alm_31_assignsubmission_onlinetext").mkdir()
    (tmp_path / "in" / "Anna Alm_31_assignsubmission_onlinetext" / "onlinetext.html").write_text("see my file")
    hand_in(tmp_path / "in", "Min Kim_32_assignsubmission_file_1_2_three", "03")
    hand_in(tmp_path / "in", "Min Kim_32_assignsubmission_file_six", "06")
    (tmp_path / "roster.csv").write_text("Name,Email,ID number\nMin Kim,k@x.org,1001\nAnna Alm,a@x.org,1002\n")
    run("03,06", tmp_path / "in", tmp_path / "out", roster=tmp_path / "roster.csv")
    moodle = {row[0]: row[3] for row in rows(tmp_path / "out" / "moodle.csv")[1:]}
    assert moodle == {"a@x.org": str(POINTS["03"]), "k@x.org": str(sum(POINTS.values()))}


@pytest.mark.parametrize(
    "names",
    [
        ("a_1_2_x.ipynb", "a_2_2_x.ipynb"),  # two of one name
        ("a_1_2_x.ipynb", "b_1_2_x.ipynb"),
        ("06_homework_a.ipynb", "06_homework_b.ipynb"),
        ("lesson_6_a.ipynb", "lesson_6_b.ipynb"),
        ("hw_2026_11_anna.ipynb", "hw_2026_11_bob.ipynb"),  # an instructor's own names: no file has a number of its own
        ("hw_1_2_x.ipynb", "hw_1_3_y.ipynb", "anna.ipynb", "bob.ipynb", "cem.ipynb"),  # most are not Canvas's
    ],
)
def test_other_files_stay_apart(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    assert sorted(submission.learner for submission in intake.submissions(tmp_path)) == sorted(name[:-6] for name in names)
