"""The tables of grade books: whose row is whose, what Canvas's numbers mean, and marks that an instructor gives."""

import csv
import json

import pytest
from grading_fixtures import full, hand_in, needing, results, rows, run

from course_utils.cli import main
from course_utils.errors import CourseError
from course_utils.grading.csv_files import read_number
from course_utils.grading.roster import Roster

POINTS = round(sum(full("06").values()))
HEADER = "Student;ID;SIS User ID;SIS Login ID;Section;Homework (77);Essay (78)\n"


def export(folder, possible, fields=("",), separator=","):
    """Canvas's export of a class in which everybody has handed in the right answers; the fields are Homework's."""
    lines = [HEADER, f"    Points Possible;;;;;{possible};10\n"]
    for number, field in enumerate(fields):
        hand_in(folder / "in", f"abe{number}_{700 + number}_9{number}_hw", "06")
        lines.append(f"Abe {number};{700 + number};{1000 + number};abe{number};One;{field};8\n")
    cells = csv.reader(lines, delimiter=";")
    with open(folder / "canvas.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(cells)
    return folder / "canvas.csv"


def marks(folder, separator=","):
    run("06", folder / "in", folder / "out", canvas=folder / "canvas.csv", column="Homework")
    return [row[5] for row in rows(folder / "out" / "canvas.csv", separator)[2:]]


@pytest.mark.parametrize(
    ("text", "point", "number"),
    [
        ("12.5", ".", 12.5), ("12,5", ".", 12.5), ("12.5", ",", 12.5), ("1,000", ".", 1000), ("1,000", ",", 1.0),
        ("1.000", ",", 1000), ("1,000.00", ".", 1000), ("1.000,50", ",", 1000.5), ("1,000.50", ",", 1000.5),
        ("1 000", ",", 1000), ("1’000.5", ".", 1000.5),
        ("0", ".", 0), ("", ".", None), ("ten", ".", None), ("-3", ".", None),
        ("1,00,0", ".", None),
    ],
)  # fmt: skip
def test_numbers_as_platforms_write_them(text, point, number):
    assert read_number(text, point) == number


@pytest.mark.parametrize(
    ("possible", "separator", "mark"),
    [("12,5", ",", "12.5"), ("1,000.00", ",", "1000"), ("12,5", ";", "12,5"), ("1.000", ";", "1000")],
)  # fmt: skip
def test_marks_are_scaled_to_points_in_any_notation_and_the_file_keeps_its_own(possible, separator, mark, tmp_path):
    export(tmp_path, possible, ("",), separator)
    assert marks(tmp_path, separator) == [mark]
    given, filled = rows(tmp_path / "canvas.csv", separator), rows(tmp_path / "out" / "canvas.csv", separator)
    assert [row[:5] + row[6:] for row in filled] == [row[:5] + row[6:] for row in given]


@pytest.mark.parametrize("possible", ["", "0", "0.00", "(read only)"])
def test_points_to_which_nothing_can_be_scaled_stop_before_the_grading(possible, tmp_path):
    export(tmp_path, possible)
    with pytest.raises(CourseError, match="Points Possible for 'Homework .77.' is .*export again"):
        marks(tmp_path)
    assert not (tmp_path / "out").exists()


def test_who_is_excused_stays_so_and_a_person_is_told(tmp_path):
    export(tmp_path, POINTS, ("EX", "3", ""))
    assert marks(tmp_path) == ["EX", str(POINTS), str(POINTS)]
    (line,) = needing(tmp_path / "out")
    assert line[0].startswith("abe0") and f"'EX', which was kept; the mark would be {POINTS}" in line[2] and line[3] == "row"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("Ada van den Berg", {0}),
        ("Ada van den Berg_02_lora", {0}),
        ("berg_02_Ben_van_den_Berg", {1}),
        ("van den Berg", {0, 1}),
        ("02 van den Berg", {0, 1}),  # without a first name it may be either's
    ],
)
def test_a_last_name_of_several_words_leads_to_no_namesake(name, row):
    table = [["First name", "Last name", "Email"], ["Ada", "van den Berg", "a@x.org"], ["Ben", "van den Berg", "b@x.org"]]
    assert Roster(table).candidates(name.replace(" ", "_")) == row


def test_moodles_tables_in_another_language_give_numbers(tmp_path):
    hand_in(tmp_path / "in", "Anna Alm_31_assignsubmission_file_hw", "06")
    table = "ID;Vollständiger Name;ID-Nummer\nTeilnehmer/in31;Anna Alm;1002\nTeilnehmer/in32;Anna Alm;1003\n"
    (tmp_path / "class.csv").write_text(table)
    run("06", tmp_path / "in", tmp_path / "out", roster=tmp_path / "class.csv")
    assert [row[1] for row in rows(tmp_path / "out" / "moodle.csv")[1:]] == ["1002"]


def test_lines_on_submissions_are_told_from_lines_on_rows(tmp_path, capsys):
    export(tmp_path, POINTS)
    for name in ("a@x.org", "b@x.org"):
        hand_in(tmp_path / "in", name, "06")
    (tmp_path / "in" / "c.ipynb").write_text("{")
    arguments = ["grade", "06", tmp_path / "in", "--out", tmp_path / "out", "--canvas", tmp_path / "canvas.csv"]
    assert main([*map(str, arguments), "--column", "Homework"]) == 1
    assert "1 on submissions, 3 on marks that are not in the table: " in capsys.readouterr().out
    assert [row[3] for row in rows(tmp_path / "out" / "needs-a-person.csv")] == ["about", "submission", "row", "row", "row"]


def overrule(folder, text):
    (folder / "overruled.csv").write_text(text)
    return run("06", folder / "in", folder / "out", overrule=folder / "overruled.csv")


def test_overruled_marks_are_in_every_file_until_the_line_is_gone(tmp_path):
    hand_in(tmp_path / "in", "ada", "06", {"api-4": "# EXERCISE: api-4\ndef requests_until_paid(*a): return 0"})
    hand_in(tmp_path / "in", "ben", "06")
    run("06", tmp_path / "in", tmp_path / "out")
    found = results(tmp_path / "out", "ada")["score"]
    done = overrule(tmp_path, "learner,exercise,points,reason\nada,api-4,2.5,right but for one case\n")
    assert (done.new, done.unchanged) == (1, 1)
    assert results(tmp_path / "out", "ada")["score"] == found + 2.5
    assert rows(tmp_path / "out" / "grades.csv")[1][2] == f"{found + 2.5:g}"
    page = (tmp_path / "out" / "learners" / "ada" / "feedback.html").read_text()
    assert "Marked by your instructor: right but for one case" in page
    assert overrule(tmp_path, "learner,exercise,points\nada,api-4,2.5\n").new == 1  # another reason: none
    assert run("06", tmp_path / "in", tmp_path / "out").new == 1
    assert results(tmp_path / "out", "ada")["score"] == found


def test_an_answer_that_nobody_could_grade_gets_a_persons_mark(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_text("{")
    some = "learner,exercise,points\nada,api-1,3\n"
    assert overrule(tmp_path, some).problems and results(tmp_path / "out", "ada")["score"] is None
    every = "learner,exercise,points\n" + "".join(f"ada,{id},1\n" for id in full("06"))
    assert not overrule(tmp_path, every).problems
    assert results(tmp_path / "out", "ada")["score"] == len(full("06"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("who,exercise,points\n", "needs the columns learner, exercise, points, and has who"),
        ("learner,exercise,points\nada,api-4,1\nbob,api-4,1\n", "row 3: nobody in the inbox is called 'bob'"),
        ("learner,exercise,points\nada,lora-1,1\n", "row 2: the assignment has no exercise 'lora-1'"),
        ("learner,exercise,points\nada,api-4,3.5\n", "row 2: points have to be from 0 to 3"),
        ("learner,exercise,points\nada,api-4,\n", "row 2: points have to be from 0 to 3"),
        ("learner,exercise,points\nada,api-4,1\nada,api-4,2\n", "row 3: ada has two lines for api-4"),
    ],
)
def test_a_list_of_overruled_marks_that_does_not_fit_is_refused_before_the_grading(text, why, tmp_path):
    hand_in(tmp_path / "in", "ada", "06")
    with pytest.raises(CourseError, match=why):
        overrule(tmp_path, text)
    assert not (tmp_path / "out").exists()


def test_another_seed_does_not_regrade_everybody_unasked(tmp_path):
    hand_in(tmp_path / "in", "ada", "06")
    run("06", tmp_path / "in", tmp_path / "out", seed=1)
    before = json.dumps(results(tmp_path / "out", "ada"))
    with pytest.raises(CourseError, match="was graded with --seed 1; with 2 everybody would be graded again"):
        run("06", tmp_path / "in", tmp_path / "out", seed=2)
    assert json.dumps(results(tmp_path / "out", "ada")) == before
    assert run("06", tmp_path / "in", tmp_path / "out", seed=1).new == 0
