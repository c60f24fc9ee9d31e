"""What Canvas and Moodle let an instructor download: all files of a learner are one submission, and its row is theirs."""

import pytest
from grading_fixtures import full, hand_in, needing, points, results, rows, run

from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.grading import intake, tables

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


def marks(folder, section):
    """Canvas ID → mark in Canvas's export; and learner → what a person is told."""
    (folder / "canvas.csv").write_text(CANVAS)
    run(section, folder / "in", folder / "out", canvas=folder / "canvas.csv")
    told = {row[0]: row[2] for row in needing(folder / "out")}
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


@pytest.mark.parametrize("others", [1, 5])
def test_a_late_file_belongs_to_its_learner_whatever_else_is_in_the_inbox(others, tmp_path):
    names = [
        "almanna_704_91_three.ipynb",
        "almanna_LATE_704_92_six.ipynb",
        *(f"{i}@example.org.ipynb" for i in range(others)),
    ]
    for name in names:
        (tmp_path / name).write_text("{}")
    almanna, *rest = sorted(intake.submissions(tmp_path), key=lambda found: -len(found.paths))
    assert (almanna.learner, almanna.platform_id, len(almanna.paths)) == ("almanna_704", "Canvas 704", 2)
    assert sorted(found.learner for found in rest) == [f"{i}@example.org" for i in range(others)]


def test_an_address_without_an_ending_keeps_its_host(tmp_path):
    (tmp_path / "ada@example.org").symlink_to(tmp_path)
    (tmp_path / "ben@host.ipynb").write_text("{}")
    (tmp_path / "cem@example.org.zip").write_text("")
    assert [found.learner for found in intake.submissions(tmp_path)] == ["ada@example.org", "ben@host", "cem@example.org"]


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


HEADER = "First name,Last name,Email address,ID number"
MOODLE_TABLE = f"""{HEADER}
Anna,Müller,a@x.org,2
Anna Maria,Müller,c@x.org,3
Björn,Müller,b@x.org,1
Kim,Lee,k@x.org,4
Lee,Kim,l@x.org,5
"""


def in_roster(folder, text, name):
    """The e-mail addresses of the rows that a submission's name leads to."""
    (folder / "roster.csv").write_text(text)
    people = tables.read_roster(folder / "roster.csv")
    return {people.first(index, people.email) for index in people.candidates(intake.clean_name(name))}


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("Björn Müller_4002_assignsubmission_file", "b@x.org"),
        ("Bjorn_Muller", "b@x.org"),
        ("müllerannamaria_7013_1_hw", "c@x.org"),
        ("Anna Müller_4003_assignsubmission_file", "a@x.org"),
        ("k@x.org", "k@x.org"),
        ("Kim Lee", None),  # there's also a Lee Kim
        ("Kim Nobody_4002_assignsubmission_file", None),
        ("anna stranger", None),
        ("Anna", "a@x.org"),
        ("müller_hw", None),
    ],
)
def test_first_and_last_names_in_two_columns_are_one_name(name, address, tmp_path):
    for text in (MOODLE_TABLE, MOODLE_TABLE.replace(HEADER, "Etunimi,Sukunimi,Posti,Nro")):
        found = in_roster(tmp_path, text, name)
        assert found == {address} if address else len(found) != 1, text


def test_a_table_in_another_language_has_its_addresses_recognised_and_its_separator(tmp_path):
    text = MOODLE_TABLE.replace(HEADER, "Vorname,Nachname,E-Mail-Adresse,ID-Nummer")
    assert in_roster(tmp_path, text.replace(",", ";"), "b@x.org") == {"b@x.org"}
    with pytest.raises(CourseError, match=r"no column with e-mail addresses or ID numbers.*Vorname, Nachname, Punkte"):
        in_roster(tmp_path, "Vorname,Nachname,Punkte\nAnna,Alm,\n", "Anna Alm")


def test_moodles_participant_number_decides(tmp_path):
    hand_in(tmp_path / "in", "Min Kim_32_assignsubmission_file_x", "06")
    (tmp_path / "roster.csv").write_text(
        "Identifier,Full name,Email address\nParticipant 31,Min Kim,a@x.org\nParticipant 32,Min Kim,b@x.org\n"
    )
    run("06", tmp_path / "in", tmp_path / "out", roster=tmp_path / "roster.csv")
    assert [row[0] for row in rows(tmp_path / "out" / "moodle.csv")[1:]] == ["b@x.org"]


def test_one_shared_number_does_not_make_a_canvas_download_into_something_else(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / "in" / f"learner{number:02}_{700 + number}_{min(number, 18)}_hw.ipynb").write_text("{}")
    assert {s.platform_id for s in intake.submissions(tmp_path / "in")} == {f"Canvas {700 + n}" for n in range(20)}


def test_a_learner_whose_number_is_known_later_is_found_by_it(tmp_path):
    for name in ("kimmin_701_1_a", "kimmin_702_2_a", "almanna_LATE_704_2_a"):  # two have one number: not Canvas's names
        hand_in(tmp_path / "in", name, "06")
    found, told = marks(tmp_path, "06")
    assert found["701"] == "" and told
    (tmp_path / "in" / "almanna_LATE_704_2_a.ipynb").rename(tmp_path / "in" / "almanna_LATE_704_3_a.ipynb")
    found, told = marks(tmp_path, "06")
    assert float(found["701"]) == sum(POINTS.values()) and not told  # on the scale of the column


def test_what_is_missing_beside_a_file_that_cannot_be_read_is_no_zero(tmp_path):
    hand_in(tmp_path / "in" / "ann", "03", "03")
    (tmp_path / "in" / "ann" / "06.ipynb").write_text('{"cells": [')
    run("03,06", tmp_path / "in", tmp_path / "out")
    found = results(tmp_path / "out", "ann")
    assert found["score"] is None and "because of the file that cannot be read" in found["output"]
    run("03", tmp_path / "in", tmp_path / "out-03")  # nothing is missing, so that it counts
    assert results(tmp_path / "out-03", "ann")["score"] == sum(full("03").values())


@pytest.mark.parametrize("later", ["hw (1)", "hw-1", "hw (10)"])
def test_of_two_downloads_the_later_one_counts(later, tmp_path):
    hand_in(tmp_path / "in" / "ann", "hw", "06", wrong("06"))
    hand_in(tmp_path / "in" / "ann", "hw (2)" if later == "hw (10)" else "hw", "06", wrong("06"))
    hand_in(tmp_path / "in" / "ann", later, "06")
    run("06", tmp_path / "in", tmp_path / "out")
    assert results(tmp_path / "out", "ann")["score"] == sum(full("06").values())
