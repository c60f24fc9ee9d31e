"""What lesson 04 shows: pairs and their log-probabilities, shortcuts, answers judged by rules, records, prices.

Three records are read. `preferences` (`benchmarks/preferences.py`) has every method on the balanced pairs with three seeds.
`alignment` has the first edition's methods, PPO among them, on the older pairs: what it says about distance
is used, and how many of those pairs DPO ranked right. `method-prices` has the time and memory of a step.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from course_utils import assets, charts, evaluation, show
from course_utils.errors import CourseError
from course_utils.evidence import house_style
from course_utils.show.answers import Answers
from course_utils.show.tables import Table
from course_utils.style import box, tone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.evaluation import Likelihoods
    from course_utils.figures import Figure
    from course_utils.models import Model

Row = Mapping[str, Any]
MARK = "padding:.05em .3em;white-space:nowrap"  # a sign stays with its rule
START, CONTROL, WITH_SFT = "the desk's replies (SFT)", "SFT on chosen", "DPO + SFT"
LARGE_BETA = "DPO, β = 1"
SMOOTHED = 4  # steps: one step has few pairs, and some pairs are much harder than others


# -- replies and their log-probabilities ------------------------------------------------------------------------------------


def pair_card(row: Row, names: tuple[str, str] = ("chosen", "rejected")) -> Answers:
    """A pair as cards: the message, and the two replies beside each other."""
    return show.answers([row["prompt"][-1]["content"]], {name: [row[name]] for name in names}, longest=400)


def different_cases(rows: Sequence[Row], number: int = 3) -> list[int]:
    """Where the first messages of so many different kinds are: answers to one kind of message look alike."""
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row["case"], index)
    return list(first.values())[:number]


CASES = {
    "danger": "something that burns, smokes or sparks",
    "late": "a parcel that has not come",
    "defect": "something broken or missing",
    "charge": "a wrong bill",
    "login": "an account that does not open",
    "question": "a question about a product",
}
KINDS = {
    "order": "which of two sentences comes first",
    "step": "what the desk promises",
    "tone": "whether the desk apologises",
    "item": "whose order it is about",
}


def kinds_table(rows: Sequence[Row]) -> Table:
    """What the replies of a pair differ in, how often, and an example of each."""
    table = {}
    for kind, meaning in KINDS.items():
        own = [row for row in rows if row["kind"] == kind]
        row = next((r for r in own if r["tone"] == "calm"), own[0])
        shown = {"message": row["prompt"][-1]["content"], "chosen": row["chosen"], "rejected": row["rejected"]}
        table[meaning] = {"pairs, %": round(100 * len(own) / len(rows)), **shown}
    return Table(table, f"{len(rows)} pairs, by what the two replies differ in", "difference", "")


def steps_table(rows: Sequence[Row]) -> Table:
    """The step that each case calls for, in the words of a chosen reply that takes it and nothing else."""
    table = {}
    for case in house_style.STEPS:
        row = next(row for row in rows if row["case"] == case and house_style.judge(row, row["chosen"])["right step"])
        sentences = re.split(r"(?<=[.!?]) ", row["chosen"])
        step = next(sentence for sentence in sentences if house_style.steps_in(sentence) == {case})
        table[CASES[case]] = {"right step": step}
    return Table(table, "What the desk promises, case by case", "the message is about", "")


def gains(before: Sequence[Likelihoods], now: Sequence[Likelihoods]) -> list[tuple[float, float]]:
    """How much each pair's replies have gained in log-probability: (chosen, rejected), in nats."""
    return [(b.chosen - a.chosen, b.rejected - a.rejected) for a, b in zip(before, now, strict=True)]


def ranked(before: Sequence[Likelihoods], now: Sequence[Likelihoods]) -> evaluation.Score:
    """Share of pairs in which the chosen reply gained more: what DPO's implicit reward ranks right."""
    return evaluation.proportion([chosen > rejected for chosen, rejected in gains(before, now)])


def gain_table(before: tuple[float, float], now: tuple[float, float], beta: float = 0.1) -> Table:
    """One pair by hand: log-probabilities at the start and now, gains, implicit rewards.

    Args:
        before, now: log-probabilities of (chosen, rejected).
        beta: of DPO.
    """
    rows = {
        name: {"reference": a, "now": b, "gain": b - a, f"reward: {beta:g} × gain": beta * (b - a)}
        for name, a, b in zip(("chosen", "rejected"), before, now)
    }
    margin = beta * ((now[0] - before[0]) - (now[1] - before[1]))
    loss = math.log1p(math.exp(-margin))
    return Table(rows, f"Log-probabilities of the two replies. Margin {margin:.2f}, loss {loss:.2f}", "reply", "chosen")


def reading_the_log(log: Sequence[Mapping[str, float]]) -> Figure:
    """TRL's `rewards/chosen` and `rewards/rejected`, step by step, each the mean of the last `SMOOTHED` steps.

    Raises:
        CourseError: there are no such columns.
    """
    rows = _rows_of(log, "rewards/chosen")
    steps = [row["step"] for row in rows]
    chosen, rejected = (_smoothed([row[f"rewards/{name}"] for row in rows]) for name in ("chosen", "rejected"))
    return _rewards_figure(steps, chosen, rejected, f"{len(rows)} steps")


def _rows_of(log: Sequence[Mapping[str, float]], column: str) -> list[Mapping[str, float]]:
    rows = [row for row in log if column in row]
    if not rows:
        raise CourseError(f"the log has no column {column}: is it that of a DPOTrainer?")
    return rows


def _smoothed(values: Sequence[float]) -> list[float]:
    """Each value the mean of itself and up to `SMOOTHED` - 1 before it."""
    return [statistics.mean(values[max(0, i + 1 - SMOOTHED) : i + 1]) for i in range(len(values))]


def _rewards_figure(steps: Sequence[float], chosen: Sequence[float], rejected: Sequence[float], run: str) -> Figure:
    """Both rewards over the steps, with what became of them as the title."""
    margin = chosen[-1] - rejected[-1]
    moved = "both rose" if min(chosen[-1], rejected[-1]) > 0 else "both fell" if max(chosen[-1], rejected[-1]) < 0 else (
        "chosen rose, rejected fell" if margin > 0 else "chosen fell, rejected rose"
    )  # fmt: skip
    title = f"{run}: {moved}, and the margin is {margin:.2f}"
    series = {"chosen": (steps, chosen), "rejected": (steps, rejected)}
    return charts.lines(series, title, "step", f"implicit reward (mean of {SMOOTHED} steps)", alt_parts=[_ends(series)])


def recorded_log() -> Figure:
    """Both rewards of the recorded DPO run, of the first seed that has them."""
    runs = [run["methods"]["DPO"] for run in assets.read_record("preferences")["runs"]]
    curve = next(run["curve"] for run in runs if "curve" in run)
    chosen, rejected = (_smoothed(curve[name]) for name in ("reward_chosen", "reward_rejected"))
    return _rewards_figure(list(range(1, len(chosen) + 1)), chosen, rejected, f"{len(chosen)} steps")


def log_table(log: Sequence[Mapping[str, float]]) -> Table:
    """The columns of a DPO log that one looks at, for the first step and the last `SMOOTHED`, with what they mean."""
    rows = _rows_of(log, "rewards/margins")
    meanings = {
        "loss": "begins at 0.69, or the reference is not the model you train",
        "rewards/accuracies": "share of the pairs in which chosen gained more; 0 at first, when neither has",
        "rewards/margins": "how much more; should grow",
        "rewards/chosen": "β times the gain of chosen; below 0 it has become less likely",
        "rewards/rejected": "β times the gain of rejected; should fall below chosen",
        "logps/chosen": "log-probability of the chosen replies; watch it for a collapse",
    }
    first, last = rows[0], rows[-SMOOTHED:]
    shown = {
        name: {
            "first step": float(first[name]),
            f"mean of the last {SMOOTHED}": statistics.mean(float(row[name]) for row in last),
            "what to look for": meaning,
        }
        for name, meaning in meanings.items()
        if name in first
    }
    return Table(shown, f"The log of {len(rows)} entries", "column", "")


# -- answers ----------------------------------------------------------------------------------------------------------------


def answers(model: Model, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_new_tokens: int = 64) -> list[str]:
    """Answers at temperature 0 to the messages of some pairs."""
    from course_utils.generation import generate

    return generate(model, tokenizer, [row["prompt"] for row in rows], max_new_tokens=max_new_tokens)


def judged_cards(rows: Sequence[Row], answers: Mapping[str, Sequence[str]]) -> Answers:
    """Answers as cards, with a mark for each rule of the house style.

    Args:
        rows: of the balanced pairs.
        answers: model → its answers.
    """
    messages = [row["prompt"][-1]["content"] for row in rows]
    return _Judged(messages, {name: list(replies) for name, replies in answers.items()}, list(rows))


class _Judged(Answers):
    """Answers whose text is shown above the marks of the rules."""

    def __init__(self, messages: list[str], models: dict[str, list[str]], rows: list[Row]) -> None:
        super().__init__(messages, models, None, json.loads, 400)
        self._rows = rows

    def fields(self, name: str, index: int) -> list[tuple[str, Any, bool]]:
        """The rules, each with whether it was kept."""
        verdict = house_style.judge(self._rows[index], self.models[name][index])
        return [(rule, is_kept, is_kept) for rule, is_kept in verdict.items()]

    def _card(self, name: str, index: int) -> str:
        fields = self.fields(name, index)
        marks = " ".join(
            f'<span style="{tone("good" if is_kept else "bad")};{MARK}">{sign} {escape(rule)}</span>'
            for rule, _, is_kept in fields
            for sign in ("✓" if is_kept else "✗")
        )
        text = f'<span style="white-space:pre-wrap">{escape(self._cut(self.models[name][index]))}</span>'
        whole = all(is_kept for _, _, is_kept in fields)
        return box(f"<b>{escape(name)}</b><br>{text}<br>{marks}", "good" if whole else "bad", f"{name}: answer")


def answers_table(rows: Sequence[Row], answers: Mapping[str, Sequence[str]], start: str) -> Table:
    """Shares of the rules kept, and how often each model beats the first by rules.

    Args:
        rows: of the balanced pairs.
        answers: model → its answers.
        start: the model that the others are compared with.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, replies in answers.items():
        rule_shares = house_style.shares(rows, replies)
        against = None if name == start else house_style.win_rate(rows, replies, answers[start])
        table[name] = {rule: rule_shares[rule] for rule in (*house_style.RULES[:4], "all rules")}
        table[name] |= {f"better than “{start}”": against}
    return Table(table, f"Answers at temperature 0 to {len(rows)} test messages, ties count half", "model", "")


# -- shortcuts --------------------------------------------------------------------------------------------------------------


def shortcut_table(sets: Mapping[str, Any], recorded_on: str = "") -> Table:
    """How many test pairs the simplest models rank right, for each set of pairs.

    Args:
        sets: name → `Preferences`.
        recorded_on: the set of the recorded methods, which are shown below; "" leaves them out.
    """
    from course_utils.data_prep.shortcuts import overlap, shortcut_scores

    columns = {name: shortcut_scores(pairs.train, pairs.test) for name, pairs in sets.items()}
    for name, pairs in sets.items():
        shared = [overlap(row) for row in pairs.test]
        ranks = [0.5 if s == 0 else float(s > 0) for s in shared]
        columns[name]["words shared with the message"] = evaluation.mean(ranks)
    rules = list(next(iter(columns.values())))
    rows: dict[str, dict[str, Any]] = {rule: {name: column[rule] for name, column in columns.items()} for rule in rules}
    for method in (CONTROL, "DPO", WITH_SFT) if recorded_on else ():
        rows[f"a trained model: {method}, recorded"] = {recorded_on: evaluation.over_seeds(per_seed(method, "right"))}
    older = [name for name in sets if name != recorded_on]
    if recorded_on and older:  # what the first edition recorded on its own pairs, the others
        rows["a trained model: DPO, recorded"][older[0]] = _first_edition_ranks()
    return Table(rows, "Test pairs ranked right by models that hardly read, ties count half", "what it looks at", "")


def _first_edition_ranks() -> str:
    """Share of the older test pairs that DPO ranked right: the mean over the seeds of the first record."""
    record = assets.read_record("alignment")
    shares = [100 * run["ranks test pairs"]["implicit reward of DPO"][0] for run in record["runs"]]
    return f"{statistics.mean(shares):.0f} % (recorded {record['date']})"


# -- GRPO -------------------------------------------------------------------------------------------------------------------


def group_table(rewards: Sequence[float]) -> Table:
    """One group of answers by hand: reward, distance from the group's mean, advantage."""
    mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
    rows = {
        f"answer {number}": {
            "reward": float(reward),
            "minus the mean": reward - mean,
            "advantage": (reward - mean) / (deviation + 1e-4),
        }
        for number, reward in enumerate(rewards, 1)
    }
    return Table(rows, f"Mean {mean:.2f}, standard deviation {deviation:.2f}", "of one group", "")


def collapse_table(before: Sequence[str], after: Sequence[str], valid: Callable[[str], bool], right: Sequence[str]) -> Table:
    """What a check that asks for valid JSON only has made of a model's answers.

    Args:
        before, after: sampled answers to the same messages.
        valid: the check.
        right: the right category of each message.
    """
    rows = {}
    for name, replies in (("before", before), ("after GRPO", after)):
        correct = [_category(answer) == category for answer, category in zip(replies, right, strict=True)]
        judged = [one for one, answer in zip(correct, replies, strict=True) if valid(answer)]
        rows[name] = {
            "valid JSON": evaluation.proportion([valid(answer) for answer in replies]),
            "category right": evaluation.proportion(correct),
            "right among the valid": evaluation.proportion(judged) if judged else None,
            "different answers": len(set(replies)),
            "share of the most frequent one": evaluation.proportion([answer == _commonest(replies) for answer in replies]),
        }
    caption = f"{len(after)} sampled answers. The most frequent one after training: {_commonest(after).strip()[:60]}"
    return Table(rows, caption, "answers", "")


def _commonest(replies: Sequence[str]) -> str:
    return max(sorted(set(replies)), key=list(replies).count)


def _category(answer: str) -> str | None:
    try:
        record = json.loads(answer)
    except ValueError:
        return None
    return record.get("category") if isinstance(record, dict) else None


# -- the record of all methods ----------------------------------------------------------------------------------------------


def per_seed(method: str, measure: str) -> list[list[Any]]:
    """Return a measure of a method for each seed that has it: one value per message or pair."""
    methods = [run["methods"].get(method, {}) for run in assets.read_record("preferences")["runs"]]
    return [one[measure] for one in methods if measure in one]


def _with_range(rows: Sequence[Sequence[float]], scale: float = 100, unit: str = " %", digits: int = 0) -> str:
    """Mean over seeds and, in brackets, the lowest and highest seed."""
    means = [scale * statistics.mean(row) for row in rows]
    if len(means) == 1:
        return f"{means[0]:.{digits}f}{unit}"
    return f"{statistics.mean(means):.{digits}f}{unit} ({min(means):.{digits}f}-{max(means):.{digits}f})"


def _measured(method: str, measures: Mapping[str, str]) -> dict[str, Any]:
    """Column → range over the seeds, for column → measure; shares in per cent."""
    return {column: _with_range(per_seed(method, measure)) for column, measure in measures.items()}


def _distance(method: str) -> dict[str, Any]:
    """How far the answers have moved from the start."""
    return {"KL, nats per answer": _with_range(per_seed(method, "kl"), 1, "", 1)}


def _recorded_on() -> str:
    """Day, pairs, messages and seeds of the record."""
    record = assets.read_record("preferences")
    plan = record["plan"]
    return (
        f"Recorded {record['date']}, {plan['pairs']} pairs, {plan['test']} test messages; mean of {len(record['runs'])} "
        "seeds (lowest-highest)"
    )


METHODS = (START, CONTROL, "DPO", LARGE_BETA, WITH_SFT, "ORPO", "KTO", "IPO", "SimPO", "GRPO")
COMPARED = (START, CONTROL, "DPO", LARGE_BETA, WITH_SFT)
SHOWN_RULES = (*house_style.RULES[:4], "all rules")


def methods_table() -> Table:
    """Every method on the balanced pairs: pairs ranked, answers, win rate over the control, distance."""
    rows: dict[str, dict[str, Any]] = {}
    wins = {f"beats “{CONTROL}”": "wins over control", "the same, by the second judge": "wins by judge"}
    for name in METHODS:
        promised = [_favourite(texts) for texts in per_seed(name, "texts")]
        rows[name] = {
            "seeds": len(promised),
            **_measured(name, {"pairs right": "right", "step first": "step first", "right step": "right step"}),
            "promises its favourite step": _with_range(promised),
            **_measured(name, {"all rules kept": "all rules"}),
            **(dict.fromkeys(wins) if name in (START, CONTROL) else _measured(name, wins)),
            **_distance(name),
        }
    return Table(rows, _recorded_on(), "method", "DPO")


def kinds_learned(names: Sequence[str] = (CONTROL, "DPO", WITH_SFT)) -> Table:
    """Which of the test pairs each method ranks right, by what their replies differ in; a row for the second judge."""
    runs = assets.read_record("preferences")["runs"]
    ranks = {name: per_seed(name, "right") for name in names}
    ranks["a reward model"] = [run["judge"]["ranks test pairs"] for run in runs]
    kinds = [row["kind"] for row in _tested()]
    shown = {}
    for kind, meaning in KINDS.items():
        own = [i for i, one in enumerate(kinds) if one == kind]
        shown[meaning] = {"test pairs": len(own)} | {
            name: _with_range([[row[i] for i in own] for row in rows]) for name, rows in ranks.items()
        }
    caption = f"Test pairs ranked right, by what the two replies differ in; mean of {len(runs)} seeds (lowest-highest)"
    return Table(shown, caption, "difference", "")


def compared() -> Table:
    """The rules of the house style that the answers of a few methods keep, and how far each went."""
    rows = {name: _measured(name, {rule: rule for rule in SHOWN_RULES}) | _distance(name) for name in COMPARED}
    return Table(rows, f"Answers that keep each rule. {_recorded_on()}", "model", "DPO")


def compared_figure() -> Figure:
    """What `compared` says of the rules, drawn: the mean over the seeds, and the lowest and highest seed."""
    rows: dict[str, dict[str, evaluation.Score]] = {rule: {} for rule in SHOWN_RULES}
    for rule, row in rows.items():
        for name in COMPARED:
            means = [statistics.mean(seed) for seed in per_seed(name, rule)]
            row[name] = evaluation.Score(statistics.mean(means), min(means), max(means), len(means))
    return charts.shares(rows, "DPO wins one rule and loses others", "its lowest and highest seed")


def ranked_and_lost() -> Answers:
    """Recorded: a pair that DPO ranks right, and an answer of DPO's to its message that leaves out the order number."""
    run, order, test = assets.read_record("preferences")["runs"][0]["methods"], "order is the customer's", _tested()
    lost = [
        i
        for i, row in enumerate(test)
        if row["kind"] == "order" and run["DPO"]["right"][i] and run[START][order][i] and not run["DPO"][order][i]
    ]
    index = max(lost, key=lambda i: run[WITH_SFT][order][i])
    written = {name: [run[name]["texts"][index]] for name in (START, "DPO", WITH_SFT)}
    return judged_cards([test[index]], {"the pair's chosen reply": [test[index]["chosen"]], **written})


def _tested() -> list[Row]:
    """The test pairs whose messages the recorded runs have answered."""
    from course_utils.data_prep import load_preferences

    return list(load_preferences("balanced").test[: len(per_seed(START, "texts")[0])])


def _favourite(answers: Sequence[str]) -> list[float]:
    """For each answer, whether it promises what is promised most often, whatever the message was."""
    promised = [frozenset(house_style.steps_in(text)) for text in answers]
    most = max(sorted(set(promised) - {frozenset()}, key=sorted), key=promised.count, default=None)
    return [float(one == most) for one in promised]


def against_control(names: Sequence[str] = ("DPO", LARGE_BETA, WITH_SFT)) -> Table:
    """How often the answers of a few methods beat those of SFT on the chosen replies, by the rules and by a reward model."""
    record = assets.read_record("preferences")
    measures = {"by the rules": "wins over control", "by a reward model": "wins by judge"}
    rows = {
        name: {column: evaluation.over_seeds(per_seed(name, measure)) for column, measure in measures.items()}
        for name in names
    }
    caption = (
        "Messages in which the answer is better than that of SFT on chosen, ties count half; "
        f"recorded {record['date']}, {len(record['runs'])} seeds, 95 % intervals"
    )
    return Table(rows, caption, "model", "")


def failures_table() -> Table:
    """What the recorded failures look like, beside healthy DPO."""
    column = "answers with the step first"
    rows: dict[str, dict[str, Any]] = {"the start": {column: _with_range(per_seed(START, "step first"))}}
    for name in ("DPO", "DPO, rate too high", "DPO, contradictory pairs"):
        runs = [run["methods"][name] for run in assets.read_record("preferences")["runs"] if name in run["methods"]]
        rows[name] = {
            "learning rate": f"{runs[0]['rate']:g}",
            "last loss": statistics.mean(run["last loss"] for run in runs),
            "training pairs right, %": round(100 * statistics.mean(run["last accuracy"] for run in runs)),
            **_measured(name, {column: "step first"}),
            **_distance(name),
        }
    return Table(rows, "Healthy and broken runs", "run", "DPO")


def before_and_after() -> Answers:
    """The first screen: a recorded answer before and after DPO, at temperature 0, about danger if one was put right."""
    run = assets.read_record("preferences")["runs"][0]["methods"]
    test, before, after = _tested(), run[START]["texts"], run["DPO"]["texts"]
    fixed = [i for i, row in enumerate(test) if house_style.score(row, before[i]) < 1 == house_style.score(row, after[i])]
    index = next((i for i in fixed if test[i]["case"] == "danger"), fixed[0])
    return judged_cards([test[index]], {"before": [before[index]], "after DPO": [after[index]]})


# -- costs ------------------------------------------------------------------------------------------------------------------


# Models whose weights are in memory: full fine-tuning, LoRA.
HELD = {"SFT": (1, 1), "DPO": (2, 1), "DPO, prompt shared": (2, 1), "ORPO": (1, 1), "PPO": (4, 2)}


def costs_table() -> Table:
    """Time, memory and models of each method beside SFT's."""
    record = assets.read_record("method-prices")
    rows = {}
    for name, (full, lora) in HELD.items():
        row = record["over SFT"][name]
        time, token, memory = row["an example"], row["a token"], row["memory added, MB"]
        rows[name] = {
            "time per example": "1" if name == "SFT" else f"{time[0]:.1f} ({time[1]:.1f}-{time[2]:.1f})",
            "time per token": "1" if name == "SFT" else f"{token[0]:.1f} ({token[1]:.1f}-{token[2]:.1f})",
            "memory of a step, MB": round(memory[0]),
            "models held: full": full,
            "models held: LoRA": lora,
        }
    caption = (
        f"SFT = 1. Recorded {record['date']}, steps of {record['examples']} examples, mean of {record['rounds']} rounds "
        "(95 % interval)"
    )
    return Table(rows, caption, "method", "")


# -- a policy small enough to see -------------------------------------------------------------------------------------------


def contradiction(steps: int = 6, beta: float = 0.1, rate: float = 20.0) -> Table:
    """DPO on one pair and its reverse in turns, on a policy of two replies: is each right just before it is trained on?

    Args:
        steps: of gradient descent, one pair each.
        beta: of DPO.
        rate: learning rate.
    """
    import torch

    from course_utils.training.objectives import dpo_loss

    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    reference = logits.detach().log_softmax(0)
    rows = {}
    for step in range(1, steps + 1):
        order = [0, 1] if step % 2 else [1, 0]
        ratios = (logits.log_softmax(0) - reference)[order]
        loss = dpo_loss(ratios[None], beta)[0]
        margin = beta * float((ratios[0] - ratios[1]).detach())
        rows[str(step)] = {
            "pair": "A better than B" if step % 2 else "B better than A",
            "margin before the step": margin,
            "counted as right": "undecided" if margin == 0 else bool(margin > 0),
            "loss": float(loss.detach()),
        }
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= rate * gradient
    return Table(rows, "Two annotators who disagree, in turns", "step", "")


def both_fall() -> Figure:
    """A pair of similar replies: both log-probabilities fall while the margin grows (a shared weight ties the two)."""
    import torch

    from course_utils.training.objectives import dpo_loss

    # Replies as sums of features: chosen and rejected share most of theirs, as replies to one message do.
    features = torch.tensor([[1.0, 0.3, 0.0], [1.0, 0.0, 0.5], [-1.0, 0.2, -0.8]], dtype=torch.float64)
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reference = (features @ weights).log_softmax(0).detach()
    path = []
    for _ in range(40):
        ratios = (features @ weights).log_softmax(0) - reference
        path.append(ratios.tolist())
        loss = dpo_loss(ratios[None, :2], 0.5).mean()
        (gradient,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= 4.0 * gradient
    steps = list(range(len(path)))
    series = {name: (steps, [row[i] for row in path]) for i, name in enumerate(("chosen", "rejected", "a third reply"))}
    fell = path[-1][0] < 0
    title = "The chosen reply became less likely, too" if fell else "The chosen reply became likelier"
    return charts.lines(series, title, "step", "gain over the reference (nats)", alt_parts=[_ends(series)])


def _ends(series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    return ", ".join(f"{name} ends at {y[-1]:.2f}" for name, (_, y) in series.items())


def first_losses(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> Table:
    """DPO's first loss with the right reference, and with the one that switching the adapter off gives.

    Args:
        model: with an adapter that was trained before, as by SFT.
        tokenizer: its tokenizer.
        rows: pairs.
    """
    from torch import tensor

    from course_utils.training.objectives import dpo_loss

    own = evaluation.likelihoods(model, tokenizer, rows)
    with model.disable_adapter():
        base = evaluation.likelihoods(model, tokenizer, rows)
    losses = {
        name: {"loss at step 0": float(dpo_loss(tensor(gains(reference, own)), 0.1).mean())}
        for name, reference in (("the model that you train", own), ("the base, before SFT", base))
    }
    return Table(losses, "The same model, the same pairs", "reference", "the model that you train")
