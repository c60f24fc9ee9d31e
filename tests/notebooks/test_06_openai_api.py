"""Lesson 06: its cells run with a tiny model, figures in prose are computed."""

import ast
import json
import re
import statistics
from datetime import date

import pytest

from course_utils import assets, claims, costs
from course_utils.data_prep import load_task
from course_utils.evidence import lesson_06
from course_utils.exercises import lesson_06 as exercises
from course_utils.openai_server import HOSTS

SOURCE = assets.path("notebooks/source/06_openai_api.py").read_text(encoding="utf-8")


def cells():
    """The source as a notebook's cells, exercises as their answers' cells are."""
    found = []
    for part in re.split(r"^# %%", SOURCE, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        metadata: dict = {"tags": ["install"]} if "# INSTALL" in body else {}
        if "# EXERCISE:" in body:
            metadata = {"nbgrader": {"solution": True}}
        markdown = "[markdown]" in head
        text = "\n".join(re.sub(r"^# ?", "", line) for line in body.splitlines()) if markdown else body.strip("\n")
        found.append({"cell_type": "markdown" if markdown else "code", "source": text, "metadata": metadata, "outputs": []})
    return found


CODE = [cell["source"] for cell in cells() if cell["cell_type"] == "code" and not cell["metadata"]]


# -- figures in prose -------------------------------------------------------------------------------------------------------


def sizes():
    rows = lesson_06.short_rows(task().train, 50)
    return lesson_06.prompt_sizes(task().test, rows[:8]), lesson_06.mean_answer(rows)


def task():
    return load_task("support_tickets", list(lesson_06.FIELDS))


def turns(price):
    prompts, answer = sizes()
    return lesson_06.turning_points(prompts[lesson_06.TUNED_PROMPT], answer, price)


def thousand(name, price):
    prompts, answer = sizes()
    return lesson_06.cost_of_thousand(prompts[name], answer, price)


def more_tokens():
    """How much more the small model's tokenizer counts than the host's, in all messages of the task."""
    from course_utils import models

    tokenizer = models.load_tokenizer(tier="cpu")
    messages = [c[1]["content"] for c in (*task().train, *task().validation, *task().test)]
    ours = sum(len(tokenizer(text)["input_ids"]) for text in messages) / len(messages)
    return ours / lesson_06.counting()["kinds"]["message"]["mean"] - 1


BENCHMARK = assets.path("benchmarks/hosted.py").read_text(encoding="utf-8")


def share(model, what):
    """Mean of the recorded jobs of the first figure."""
    return sum(run["scores"][model][what][0] for run in lesson_06.lifecycle()) / len(lesson_06.lifecycle())


TUNED, LUNA = costs.PRICES["gpt-4.1-mini"], costs.FRONTIER["gpt-6-luna"]


def hours(requests):
    """Dollars for the hours of a month, for each thousand of its requests."""
    return lesson_06.HOSTING_HOUR * lesson_06.HOURS_A_MONTH / requests * 1e3


def pays_for_the_hour(prompt):
    """Requests a month at which the tuned model, kept ready by the hour, costs what the untuned one does with a prompt."""
    saved = thousand(prompt, lesson_06.UNTUNED) - thousand(lesson_06.TUNED_PROMPT, lesson_06.UNTUNED)
    return 1e3 * lesson_06.HOSTING_HOUR * lesson_06.HOURS_A_MONTH / saved


def preferred(name):
    """The recorded models of a name, one for each run."""
    record = json.loads(assets.benchmark_results("host-preferences").read_text(encoding="utf-8"))
    return [run["models"][name] for run in record["runs"]]


def none_said(name):
    """Per cent of a recorded model's answers that say "none"."""
    return statistics.mean(100 * model["escalations"].count("none") / len(model["escalations"]) for model in preferred(name))


def both_right(name):
    """Share of a recorded model's answers with both fields right."""
    return statistics.mean(model["scores"]["both"][0] for model in preferred(name))


def escalation_right(name):
    return statistics.mean(model["scores"]["escalation"][0] for model in preferred(name))


SENTENCES = {
    'the four words are "Triage this customer message."': lambda: len(task().train[0][0]["content"].split()) == 4,
    "from January 2027 no new jobs at all": lambda: "no new jobs for anyone from 2027-01-06" in HOSTS["openai"].dates,
    "OpenAI has answered since May 2026": lambda: "since 2026-05" in HOSTS["openai"].dates,
    "section 10 lists the differences for four": lambda: len(HOSTS) == 5,  # with this machine's
    "The service keeps the last three": lambda: __import__(
        "course_utils.openai_server.worker", fromlist=["KEPT_CHECKPOINTS"]
    ).KEPT_CHECKPOINTS == 3,
    "at OpenAI twice as much for the small models": lambda: (
        (TUNED.input, TUNED.output) == (2 * lesson_06.UNTUNED.input, 2 * lesson_06.UNTUNED.output)
    ),
    "a million tokens cost 0.80 dollars to read and 3.20 to write": lambda: (TUNED.input, TUNED.output) == (0.80, 3.20),
    "60 · 0.80 = 48 | 14 · 3.20 = 45 | 93 dollars": lambda: (
        [round(60 * TUNED.input), round(14 * TUNED.output), round(60 * TUNED.input + 14 * TUNED.output)] == [48, 45, 93]
    ),
    "160 · 0.40 = 64 | 14 · 1.60 = 22 | 86 dollars": lambda: (
        [round(160 * lesson_06.UNTUNED.input), round(14 * lesson_06.UNTUNED.output)] == [64, 22]
    ),
    "Where $0.40 \\cdot P + 22 = 93$: at about 180 tokens": lambda: 170 < (93 - 22) / lesson_06.UNTUNED.input < 185,
    "crosses it at about 180 tokens": lambda: turns(lesson_06.UNTUNED)[0] in range(174, 187),
    "so instructions alone are cheaper, and instructions with eight examples are more than twice as expensive": lambda: (
        thousand("instructions", lesson_06.UNTUNED)
        < thousand(lesson_06.TUNED_PROMPT, TUNED)
        < thousand("instructions and 8 examples", lesson_06.UNTUNED) / 2
    ),
    "Its line stays below the tuned one up to almost 900 tokens, and again from a little over 1,024 on": lambda: (
        850 < turns(LUNA)[0] < 900 and turns(LUNA)[1] == LUNA.cache_from == 1024
    ),
    "costs a tenth or a quarter of its price": lambda: (
        [round(p.cached_input / p.input, 2) for p in (LUNA, lesson_06.UNTUNED)] == [0.1, 0.25]
    ),
    "We take fifty short messages": lambda: "lesson_06.short_rows(task.train, 50)" in SOURCE,
    "Fifty rows cost cents": lambda: max(
        costs.training_cost(round(sum(map(lesson_06.row_tokens, lesson_06.short_rows(task().train, 50)))), 3, name)
        for name in costs.PRICES
    ) < 0.25,
    "as long as its prompt has fewer than about 180 tokens": lambda: turns(lesson_06.UNTUNED)[0] in range(174, 187),
    "a small model of today stays cheaper than that for much longer": lambda: (
        turns(LUNA)[0] > 4 * turns(lesson_06.UNTUNED)[0]
    ),
    "Those are three recorded jobs on this service": lambda: len(lesson_06.lifecycle()) == 3,
    "\"Tuned\" ones have learned 240 rows": lambda: "EXAMPLES, VALIDATION, PAIRS" in BENCHMARK
        and "= 240, 40, 60, 12, 10" in BENCHMARK and len(task().test) == 100,
    "Three jobs train: in sections 1, 4 and 6": lambda: [
        len(re.findall(r"^[^#\n]*(?<!def )wait\(", part, re.MULTILINE))
        for part in re.split(r"^# ## \d+ ·", SOURCE, flags=re.MULTILINE)[1:]
    ] == [1, 0, 0, 1, 1, 1, 0, 0, 0, 0],  # that of section 5 fails
    "that of our small model counts a tenth more in the words of these messages": lambda: 0.08 < more_tokens() < 0.14,
    "$0.7 \\cdot 0 + 0.3 \\cdot 1 = 0.3$": lambda: '"0.7 * category + 0.3 * escalation"' in SOURCE,
    "The recorded jobs had sixty pairs": lambda: "PAIRS, FEW, MANY = 240, 40, 60, 12, 10" in BENCHMARK,
    "that is 12.41 dollars for each thousand, more than two hundred times what their tokens cost": lambda: (
        round(hours(100_000), 2) == 12.41 and hours(100_000) > 200 * thousand(lesson_06.TUNED_PROMPT, lesson_06.UNTUNED)
    ),
    "from seven to eight million requests a month on if it replaces eight examples": lambda: (
        7.2e6 < pays_for_the_hour("instructions and 8 examples") < 8.4e6
    ),
    "from about thirty million on if it replaces instructions alone": lambda: (
        28e6 < pays_for_the_hour("instructions") < 33e6
    ),
    "its sixty pairs all punish one and the same record": lambda: len(
        {row["non_preferred_output"][0]["content"] for row in lesson_06.pairs(task().train, 60)}
    ) == 1,
    "Five thousand rows of 500 tokens, three epochs, at the highest of these prices would be 188 dollars": lambda: (
        round(5000 * 500 * 3 * max(price.training or 0 for price in costs.PRICES.values()) / 1e6) == 188
    ),
    "After each of the first three jobs the model is much worse": lambda: both_right(lesson_06.TUNED) - 0.2 > max(
        both_right(name) for name in (lesson_06.ONE_RECORD, lesson_06.OWN_MISTAKES, lesson_06.BOTH_WAYS)
    ),
    "after the first job the model hardly ever says it": lambda: none_said(lesson_06.ONE_RECORD) < 10,
    "that saved most of the escalations, and a third of the right records is lost all the same": lambda: (
        escalation_right(lesson_06.BOTH_WAYS) > 0.7 * escalation_right(lesson_06.TUNED)
        and 0.28 < 1 - both_right(lesson_06.BOTH_WAYS) / both_right(lesson_06.TUNED) < 0.4
    ),
    "with records of five fields": lambda: len(load_task("support_tickets").schema["properties"]) == 5,
    "The model is nearly what it was before": lambda: all(
        abs(both_right(lesson_06.with_small_steps(name)) - both_right(lesson_06.TUNED)) < 0.1
        for name in lesson_06.TRIED_WITH_SMALL_STEPS
    ),
    "the small steps did no good either": lambda: all(
        both_right(lesson_06.with_small_steps(name)) < both_right(lesson_06.TUNED) + 0.03
        for name in lesson_06.TRIED_WITH_SMALL_STEPS
    ),
    '"none" is the right escalation for most messages': lambda: (
        [record["escalation"] for record in task().references()].count("none") > len(task().test) / 2
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def prose():
    text = re.sub(r"\{\{term:(?:[^}|]*\|)?([^}]*)\}\}", r"\1", SOURCE)
    return re.sub(r"\s+", " ", re.sub(r"^# ?", "", text, flags=re.MULTILINE)).replace("*", "")


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_is_computed_bears_the_sentence(sentence, prose):
    assert sentence in prose
    assert SENTENCES[sentence]()


def test_the_formula_of_the_turning_point_is_the_functions():
    prompts, answer = sizes()
    short, untuned = prompts[lesson_06.TUNED_PROMPT], lesson_06.UNTUNED
    exact = (short * TUNED.input + answer * (TUNED.output - untuned.output)) / untuned.input
    assert turns(untuned)[0] == int(exact) + 1


# -- form -------------------------------------------------------------------------------------------------------------------


def test_at_most_ten_sections_and_an_upload_early():
    sections = re.findall(r"^# ## (\d+) ·", SOURCE, re.MULTILINE)
    assert sections == [str(number) for number in range(1, len(sections) + 1)] and len(sections) <= 10
    first = next(n for n, code in enumerate(CODE) if "files.create" in code)
    assert first <= 4


def test_nothing_of_the_workshop_is_seen():
    for word in ("assert ", "noqa", "fmt:", "memory.release", "OWN_CPU"):
        assert word not in SOURCE, word


def test_each_call_of_the_api_is_there():
    for call in (
        "files.create", "files.content", "jobs.create", "jobs.retrieve", "list_events", "jobs.list", "jobs.cancel",
        "jobs.pause", "jobs.resume", "checkpoints.list", "chat.completions.create", "models.list", "graders.run",
        "response_format", "tool_choice", '"weight"', '"dpo"', '"reinforcement"', "adapter_folder",
    ):  # fmt: skip
        assert call in SOURCE, call


def test_no_answer_takes_the_place_of_a_name_of_the_lesson():
    defined = set()
    for node in ast.walk(ast.parse("\n".join(CODE))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                defined |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
    assert not defined & {exercise.name for exercise in exercises.EXERCISES}


def test_every_claim_is_judged_in_the_lesson():
    assert set(re.findall(r"evidence\.card\(\"(\w+)\"", SOURCE)) == {id for id in claims.CLAIMS if id.startswith("O")}


# -- the cells --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.soak("`make test-notebooks` runs the same cells on the real model")
def test_the_cells_run_from_top_to_bottom(tiny_model, tmp_path, monkeypatch, capsys):
    """With random weights, so what the model answers is noise; every call, table, figure and card is made."""
    from course_utils import models, openai_server

    real = openai_server.local_server
    monkeypatch.setattr(openai_server, "local_server", lambda *a, **o: real(*a, **({"model": tiny_model} | o)))
    loaded = models.load(tiny_model)
    monkeypatch.setattr(models, "load", lambda *a, **o: loaded)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "_checked", {})
    space: dict = {}
    try:
        for code in CODE:
            tree = ast.parse(code)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "lesson 06", "exec"), space)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), "lesson 06", "eval"), space)
                assert value is None or repr(value)
                if hasattr(value, "_repr_html_"):
                    assert value._repr_html_()
    finally:
        if "server" in space:
            space["server"].stop()
    printed = capsys.readouterr().out
    assert space["failed"].error.code == "invalid_n_examples" and "training_not_available" in printed
    assert lesson_06.metrics(space["pair_events"])[0]["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert space["preferred"].model == space["job"].fine_tuned_model
    assert "the same to the letter: 8 of 8" in printed
    assert "eq: method_not_available" in printed and "equals: invalid_value" in printed
    assert "reward 1.0" in printed and "reward 0.3" in printed
    assert [space["job"].status, space["greedy"].status] == ["succeeded"] * 2 and len(space["losses"]) == 6
    assert {claim.id for claim in claims.table()} == {"O1", "O2", "O3"}
    assert lesson_06.days_left(HOSTS["openai"], date(2027, 1, 1)) == 13
