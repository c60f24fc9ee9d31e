"""Each exercise marks the solution full, the stub zero, and each typical mistake with its own diagnosis."""

from fractions import Fraction

import numpy as np
import pytest
from support import solution_lines

from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES, check, checking, quiz
from course_utils.exercises.definitions import strip_solution
from course_utils.exercises.quizzes import questions
from course_utils.lessons import LESSONS

MISTAKES = [(e.id, m.diagnosis[:30], m) for e in EXERCISES.values() for m in e.mistakes]


@pytest.fixture(autouse=True)
def _no_tries(monkeypatch):
    monkeypatch.setattr(checking, "_tries", checking.Counter())


def function_from(source, name):
    import torch

    space = {"torch": torch}
    exec(source, space)
    return space[name]


@pytest.mark.parametrize("id", EXERCISES)
def test_the_solution_as_it_stands_in_the_notebook_gets_full_marks(id):
    exercise = EXERCISES[id]
    score = check(id, function_from(exercise.source(), exercise.name))
    assert float(score) == exercise.points
    assert score.passed


def test_exact_arithmetic_and_floats_hold_the_same_rows_out():
    """Whether a share is reached may not depend on its form: what Python prints of 5 / 17 is more than 5 of 17 rows."""
    solution = EXERCISES["data-2"].solution
    for seed in range(200):
        for customers, share in EXERCISES["data-2"].cases(np.random.default_rng(seed)):
            rows = solution(customers, share)
            for exact in (Fraction(share), Fraction(repr(share))):
                assert solution(customers, exact) == rows, (len(customers), share)


@pytest.mark.parametrize("id", EXERCISES)
def test_the_stub_gets_zero_and_is_no_wrong_try(id):
    exercise = EXERCISES[id]
    stub = strip_solution(exercise.source())
    assert "# YOUR CODE HERE" in stub
    solved = solution_lines(exercise.source())
    assert solved and not any(line in stub for line in solved)
    for _ in range(3):
        score = check(id, function_from(stub, exercise.name))
        assert float(score) == 0 and not score.hint
        assert "cell above" in score._repr_html_() and "not yet" not in str(score)
    assert "returns None" in check(id, lambda *arguments: None).message


@pytest.mark.parametrize(("id", "name", "mistake"), MISTAKES, ids=[f"{i}-{n}" for i, n, _ in MISTAKES])
def test_every_typical_mistake_is_recognised(id, name, mistake):
    for seed in range(1 if EXERCISES[id].challenge else 5):  # what a challenge runs is not drawn
        score = check(id, mistake.function, seed)
        assert float(score) < EXERCISES[id].points
        assert mistake.diagnosis in score.message


@pytest.mark.parametrize("id", ["qlora-5", "align-1", "align-3", "data-4"])
def test_the_given_function_of_a_bug_hunt_is_wrong_on_every_case(id):
    exercise = EXERCISES[id]
    given = exercise.mistakes[0].function
    cases = list(exercise.cases(np.random.default_rng(0)))
    for arguments in cases[: -1 if id == "data-4" else None]:  # whose last case is there for another mistake
        assert not checking.same(given(*arguments), exercise.solution(*arguments), exercise.tolerance)


def test_every_exercise_knows_several_mistakes_with_different_diagnoses():
    assert len(EXERCISES) >= 4
    for exercise in EXERCISES.values():
        assert len({m.diagnosis for m in exercise.mistakes}) == len(exercise.mistakes) >= 3


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        lambda: 1,
        lambda *a: 1 / 0,
        lambda *a: "no number",
        lambda *a: float("nan"),
        lambda *a: [[1], [2, 3]],
        lambda *a: object(),
        lambda *a: (_ for _ in ()).throw(KeyError("x")),
    ],
)
@pytest.mark.parametrize("id", EXERCISES)
def test_no_answer_makes_the_check_raise(id, answer):
    score = check(id, answer)
    assert float(score) == 0
    assert score.message
    assert score._repr_html_()


@pytest.mark.parametrize("id", EXERCISES)
def test_what_is_always_the_same_earns_nothing_even_where_it_is_right(id):
    import numpy as np

    exercise = EXERCISES[id]
    for seed in range(10):
        asked = checking.CaseSet.of(exercise, np.random.default_rng(seed))
        for value in [*asked.expected, True, False, 0]:
            points, message, _ = checking.judge(exercise, asked, [value] * len(asked.cases))
            assert points == 0
            assert message


def test_an_answer_that_changes_its_inputs_harms_only_itself():
    def hostile(x, W, A, B, alpha):
        W.zero_()
        return W

    assert float(check("lora-2", hostile)) == 0
    assert float(check("lora-2", EXERCISES["lora-2"].solution)) == 4


def test_the_hint_comes_with_the_third_wrong_try_and_goes_with_the_right_one():
    wrong = EXERCISES["lora-2"].mistakes[0].function
    hints = [check("lora-2", wrong).hint for _ in range(3)]
    assert hints == ["", "", EXERCISES["lora-2"].hint]
    assert check("lora-2", EXERCISES["lora-2"].solution).hint == ""
    assert check("lora-2", wrong).hint == ""


def test_messages_state_verdict_in_words_not_colour_alone():
    good, bad = check("lora-2", EXERCISES["lora-2"].solution), check("lora-2", None)
    assert "passed" in str(good)
    assert "not yet" in str(bad)
    assert "passed" in good._repr_html_()


def test_an_error_is_shown_with_the_line_that_raised_it():
    def wrong(x, W, A, B, alpha):
        return W.nothing

    message = check("lora-2", wrong).message
    assert "It raised AttributeError" in message and "`return W.nothing`" in message


def test_a_notebooks_check_draws_as_many_cases_each_time():
    said = {check("lora-3", lambda shapes, rank: 0.5).message.split(" cases")[0] for _ in range(12)}
    assert said == {"0 of 3"}


def test_unknown_exercise():
    with pytest.raises(CourseError, match="unknown exercise 'lora-99'"):
        check("lora-99", None)


@pytest.mark.parametrize("section", LESSONS)
def test_quizzes_have_one_right_choice_and_explain_every_one(section):
    shown = quiz(section)._repr_html_()
    for number, question in enumerate(questions(section), 1):
        assert sum(right for _, right, _ in question.choices) == 1, question.text
        for letter, (_, right, why) in zip("abcdefgh", question.choices):
            assert len(why) > 25
            said = quiz(section).answer(number, letter)
            assert said == f"{'Right' if right else 'Not this one'}. {why}"
    assert shown.count("<details") == sum(len(q.choices) for q in questions(section))
    assert "widget" not in shown


@pytest.mark.parametrize("section", LESSONS)
def test_right_choices_are_told_neither_by_their_letter_nor_by_their_length(section):
    lengths = [[len(text) for text, _, _ in question.choices] for question in questions(section)]
    places = [[right for _, right, _ in question.choices].index(True) for question in questions(section)]
    assert max(map(places.count, places)) <= len(places) / 2
    for extreme in (max, min):
        told = sum(own[place] == extreme(own) for own, place in zip(lengths, places))
        assert told <= 2 * len(places) / 3, (extreme.__name__, told)


@pytest.mark.parametrize(("question", "choice"), [(0, "a"), (99, "a"), (1, "z"), (1, "")])
def test_a_choice_that_is_not_there(question, choice):
    with pytest.raises(CourseError):
        quiz("02").answer(question, choice)


@pytest.mark.parametrize("answer", [EXERCISES["lora-3"].solution, None, EXERCISES["lora-3"].mistakes[0].function])
def test_a_check_cell_shows_a_bare_number_which_is_what_nbgrader_reads(answer):
    from IPython.core.formatters import PlainTextFormatter

    score = check("lora-3", answer)
    assert float(PlainTextFormatter()(score)) == float(score)  # any other text would be full marks there
