"""The exercises and the quiz of lesson 06's second edition, until they take the place of the first edition's."""

import re
from collections import Counter

import numpy as np
import pytest

from course_utils import assets
from course_utils.exercises import checking, lesson_06
from course_utils.exercises.comparing import key
from course_utils.exercises.definitions import solution_lines, strip_solution

NEXT = {exercise.id: exercise for exercise in lesson_06.NEXT}
MISTAKES = [(id, mistake) for id, exercise in NEXT.items() for mistake in exercise.mistakes]
CHALLENGE = NEXT["api-8"]
ORDINARY = {id: exercise for id, exercise in NEXT.items() if not exercise.challenge}
SOURCE = assets.path("notebooks/source/next/06_openai_api.py").read_text(encoding="utf-8")


def test_they_are_numbered_in_the_order_of_the_page():
    assert re.findall(r"^# EXERCISE: (\S+)", SOURCE, re.M) == list(NEXT) == [f"api-{n}" for n in range(1, 9)]


@pytest.mark.parametrize("id", NEXT)
def test_the_solution_gets_full_marks(id):
    for _ in range(5):
        points, message = checking._mark(NEXT[id], NEXT[id].solution)
        assert points == NEXT[id].points, message


@pytest.mark.parametrize(("id", "mistake"), MISTAKES, ids=[f"{id}-{n}" for n, (id, _) in enumerate(MISTAKES)])
def test_every_typical_mistake_is_recognised(id, mistake):
    for _ in range(1 if NEXT[id].challenge else 5):
        points, message = checking._mark(NEXT[id], mistake.function)
        assert points < NEXT[id].points and mistake.diagnosis in message


@pytest.mark.parametrize("id", NEXT)
def test_the_stub_runs_and_the_hint_shows_no_line_of_the_solution(id):
    space = {}
    stub = strip_solution(NEXT[id].source())
    exec(stub, space)
    assert NEXT[id].name in space and checking._mark(NEXT[id], space[NEXT[id].name])[0] == 0
    solved = [line for line in solution_lines(NEXT[id].source()) if len(line) >= 12]
    shown = stub + NEXT[id].hint + NEXT[id].statement
    assert solved and [line for line in solved if line in shown] == []


def drawn(exercise, seed):
    return checking.CaseSet.of(exercise, np.random.default_rng(seed))


@pytest.mark.parametrize("id", ORDINARY)
def test_constants_and_the_answers_of_another_draw_earn_nothing(id):
    exercise = NEXT[id]
    known = [drawn(exercise, seed).expected for seed in range(40)]
    every = [value for values in known for value in values]
    common = Counter(map(key, every)).most_common(3)
    best = [next(value for value in every if key(value) == text) for text, _ in common]
    by_call = [
        next(v for v in values if key(v) == Counter(map(key, values)).most_common(1)[0][0])
        for values in ([draw[n] for draw in known if n < len(draw)] for n in range(max(map(len, known))))
    ]
    for seed in range(500, 505):
        asked = drawn(exercise, seed)
        for constant in best:
            assert checking.judge(exercise, asked, [constant] * len(asked.cases))[0] == 0
        for other in (by_call, known[seed - 500], [*known[seed - 490], *known[seed - 480]]):
            outputs = [*other, *[object()] * len(asked.cases)][: len(asked.cases)]
            assert checking.judge(exercise, asked, outputs)[0] == 0


def test_the_given_function_of_the_bug_hunt_is_wrong_on_every_case():
    statement = re.search(r"```python\n(.*?)```", NEXT["api-5"].statement, re.S)[1]
    space = {}
    exec(statement, space)
    for (logs,) in NEXT["api-5"].cases(np.random.default_rng(0)):
        given = space["preference_rows"](logs)
        assert given == lesson_06._as_found(logs) != lesson_06.preference_rows(logs)


def test_the_bug_hunts_rows_are_what_a_host_takes(tmp_path):
    import json

    from course_utils.data_prep.validation import validate

    rows = [row for seed in range(4) for (logs,) in NEXT["api-5"].cases(np.random.default_rng(seed))
            for row in lesson_06.preference_rows(logs)]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [str(f) for f in validate(file, "preference", "openai").findings if f.severity == "error"] == []


def test_weights_are_what_a_host_takes(tmp_path):
    import json

    from course_utils.data_prep.validation import validate

    cases = [case for seed in range(3) for case in NEXT["api-2"].cases(np.random.default_rng(seed))]
    rows = [{"messages": found} for found in (lesson_06.with_weights(*case) for case in cases) if found]
    rows = [row for row in rows if row["messages"][-1]["role"] == "assistant"]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert len(rows) >= 10
    assert [str(f) for f in validate(file, "chat", "openai").findings if f.severity == "error"] == []


def test_the_grader_of_the_exercise_would_be_taken():
    from course_utils.openai_server import graders

    source = "\n".join(line for line in NEXT["api-6"].source().splitlines() if "SOLUTION" not in line)
    graders.check_grader(graders.Python(type="python", name="record", source=source))


def test_the_challenge_has_room_to_spare_and_the_obvious_plans_miss():
    rows, prices = [list(row) for row in lesson_06._dollar_rows()], lesson_06._dollar_prices()
    assert lesson_06._run_dollar(lesson_06.twelve_jobs(rows, prices)) < lesson_06.CHALLENGE_BAR - 0.01
    model = lesson_06._last_model(prices)
    most = 5  # passes over everything that a dollar buys
    assert lesson_06._run_dollar((model, most, list(range(len(rows))))) > 0.5
    with pytest.raises(ValueError, match="you have"):
        lesson_06._run_dollar((model, most + 1, list(range(len(rows)))))
    assert len(rows) == 700 and {price["no new jobs from"] for price in prices.values()} == {"2027-01-06", None}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "Return three things"),
        (("gpt-9", 1, []), "The model must be one of"),
        (("gpt-4o-mini", 1, [0]), "takes no new jobs from 2027-01-06"),
        (("qwen3-8b", 0, [0]), "Epochs are a whole number"),
        (("qwen3-8b", True, [0]), "Epochs are a whole number"),
        (("qwen3-8b", 1, "rows"), "The rows are a list"),
        (("qwen3-8b", 1, [10**6]), "Row numbers go from 0"),
        (("qwen3-8b", 1, [0] * 20), "occurs twice"),
        (("qwen3-8b", 1, [0]), "at least 10 rows"),
        (("qwen3-8b", 50, list(range(700))), "Twelve such jobs cost"),
    ],
)
def test_plans_outside_the_rules_are_told_what_is_wrong(value, said):
    points, message = checking._mark(CHALLENGE, lambda rows, prices: value)
    assert points == 0 and said in message


def test_what_is_marked_is_not_among_the_rows():
    from course_utils.data_prep import load_task

    task = load_task("support_tickets", ["category", "escalation"])
    asked = [c[1]["content"] for c in (*task.validation, *task.test, *task.train[400:])]
    assert len(asked) == 608 and not {message for message, _, _ in lesson_06._dollar_rows()} & set(asked)


def test_the_quiz():
    letters, longest, shortest = [], 0, 0
    for question in lesson_06.NEXT_QUIZ:
        right = [place for place, (_, is_right, _) in enumerate(question.choices) if is_right]
        assert len(right) == 1 and all(len(why) > 25 for _, _, why in question.choices)
        letters.append(right[0])
        sizes = [len(text) for text, _, _ in question.choices]
        longest += sizes[right[0]] == max(sizes)
        shortest += sizes[right[0]] == min(sizes)
    number = len(lesson_06.NEXT_QUIZ)
    assert max(Counter(letters).values()) <= number / 2 and len(set(letters)) >= 3
    assert longest <= number / 2 and shortest <= number / 2
