"""Lesson 05's judge on models that people deploy, beside the rules and the classifier: hand labels and planted wrong labels.

    python benchmarks/laptop_judge.py                           every run that the record does not have yet; two hours
    python benchmarks/laptop_judge.py "0.5B | development"      the runs whose names begin so
    python benchmarks/laptop_judge.py --list                    the runs, and which of them are recorded
    python benchmarks/laptop_judge.py --dry                     one prompt of each form; no model is loaded

A judge reads a row's message and record and says whether to keep the row. Its verdict is the first word of its answer, by
the probabilities of the words that it may give (`judging.next_word`, which is temperature 0). There are two kinds of form:
it is asked "yes or no" with the lesson's rubric, or it is asked for the category, and keeps a row whose category it would
give itself. Both are tried with and without solved examples.

The export's prepared rows are divided by customer. On the part for development, rows without a planted fault and not among
those read by hand, we plant faults of our own; the form is chosen there by the area under the curve, and the limit by kappa.
Examples come from rows of that part too, other ones. All forty wrong labels of the export are in the part that is scored, as
are the fifty rows read by hand. A seed draws other examples; a form that shows none has the same result with every seed.

The hand labels are also given to judges that write: one word, and a mark with a reason in the form that lesson 05 asks an
endpoint for (`judging.RUBRIC`, with the meaning of the categories, which no judge could know otherwise).
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import common  # noqa: F401 - prepares the process
import judging
import wrong_labels
from course_utils import assets, data_prep
from course_utils.data_prep import formats, quality, similarity, truth
from course_utils.generation import generate
from in_schema import generate_in_schema
from laptop_runs import MODELS, Prompt, copy_run, count_tokens, loaded, recorded_run, run_command

import numpy as np
from sklearn.metrics import roc_auc_score

NAME = "laptop-judge"
SIZES = ("0.5B", "135M", "1.5B")
SEEDS = (0, 1, 2)
# Rows of the part for development: those that examples are drawn from, and those that choices are made on.
POOL, CHOICE = 48, 120
# Share of faulty rows among the latter, as among the rows read by hand; and of wrong labels among the faulty ones.
PLANTED, WRONG_LABELS = 0.4, 0.7
READ = (20, 40, 60, 80, 100, 150)  # suspects that a person reads
RESAMPLES = 2000
MARK_TOKENS, REASON_CHARACTERS = 96, 160
LABEL = "category"
CATEGORIES = ("delivery", "billing", "returns", "defect", "account", "question")
MEANINGS = judging.ONE_WORD_RUBRIC.split("mainly about:\n")[1].split("\nIs the category")[0]
CATEGORY_RUBRIC = f"""You sort the messages to a support desk. The category says what the message is mainly about:
{MEANINGS}
Answer with one word: {", ".join(CATEGORIES[:-1])} or {CATEGORIES[-1]}."""
MARK_RUBRIC = f"{judging.RUBRIC}\nThe category in the answer says what the message is mainly about:\n{MEANINGS}"
MARK_SCHEMA = copy.deepcopy(judging.SCHEMA)
MARK_SCHEMA["properties"]["reason"]["maxLength"] = REASON_CHARACTERS
NO_MODEL = "no model | rules and classifier | 0"


@dataclass(frozen=True)
class Form:
    """How a judge is asked.

    Attributes:
        asks_category: whether it is asked for the category; otherwise whether the row is right.
        examples: number of solved examples.
        with_record: whether a judge that is asked for the category sees the record's other fields.
    """

    asks_category: bool
    examples: int = 0
    with_record: bool = False


LESSON_FORM = "rubric"
FORMS = {
    LESSON_FORM: Form(False),
    "rubric, 4 examples": Form(False, 4),
    "rubric, 8 examples": Form(False, 8),
    "category": Form(True),
    "category, 6 examples": Form(True, 6),
    "category, 12 examples": Form(True, 12),
    "category, 12 examples, with the record": Form(True, 12, True),
}


# -- rows -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marked:
    """A row, whether it should be kept, and the row as it was before a fault was planted."""

    row: dict
    good: bool
    right: dict


@dataclass(frozen=True)
class Material:
    """All rows that judges are shown.

    Attributes:
        export, prepared: the export, and what the rules leave of it.
        by_hand, keep: the rows read by hand, and whether the reader would keep each.
        pool, choice: rows of the part for development: for examples, and to choose on.
        scored: indices into the prepared rows of the other part.
        wrong: whether each of these has a wrong label.
    """

    export: truth.RawExport
    prepared: Any
    by_hand: list[dict]
    keep: list[bool]
    pool: list[Marked]
    choice: list[Marked]
    scored: list[int]
    wrong: list[bool]

    @property
    def scored_rows(self) -> list[dict]:
        """The rows of the other part."""
        return [self.prepared.rows[index] for index in self.scored]


def read_by_hand(export: truth.RawExport) -> tuple[list[dict], list[bool], list[int]]:
    """Fifty rows, whether a reader would keep each, and their lines."""
    text = assets.path("data/raw_support_export/read_by_hand.jsonl").read_text(encoding="utf-8")
    marks, rows = [json.loads(line) for line in text.splitlines()], export.rows()
    return [rows[m["line"]] for m in marks], [m["keep"] for m in marks], [m["line"] for m in marks]


def other_judges(export: truth.RawExport, rows: Sequence[dict], lines: Sequence[int]) -> dict[str, list[bool]]:
    """Two judges that are no language models, on the rows of `read_by_hand`: the rules, and a classifier; and both together.

    Args:
        export: with the rows to judge.
        rows, lines: prepared rows for the classifier, and their lines in the export. Rows whose message, as it was in the
            export, is among the rows to judge are left out: the classifier would know their labels by heart.
    """
    by_hand, _, _ = read_by_hand(export)
    known_messages, original = {similarity.normalise(formats.prompt_of(row)) for row in by_hand}, export.rows()
    others = [
        row for row, line in zip(rows, lines, strict=True)
        if similarity.normalise(formats.prompt_of(original.get(line, row))) not in known_messages
    ]  # fmt: skip
    fitted = wrong_labels.classifier().fit(
        [wrong_labels.evidence_in(row, "category") for row in others],
        [wrong_labels.label_of(row, "category") for row in others],
    )
    predicted = fitted.predict([wrong_labels.evidence_in(row, "category") for row in by_hand])
    by_label = [bool(a == wrong_labels.label_of(row, "category")) for a, row in zip(predicted, by_hand)]
    by_rule = [not reasons for reasons in quality.assess([*by_hand, *others], language="en")[: len(by_hand)]]
    return {
        "the rules of section 2": by_rule,
        "the classifier of section 7": by_label,
        "rules and classifier": [a and b for a, b in zip(by_rule, by_label)],
    }


@cache
def load_material() -> Material:
    """Prepare the export as lesson 05 does, and divide its rows; the same each time."""
    export, task = truth.load_raw_export(), data_prep.load_task("support_tickets")
    prepared = data_prep.prepare(
        export.path, drop=quality.RULES, language="en", test=[{"messages": c} for c in task.test], schema=task.schema,
        allow=[truth.OWN_ADDRESS],
    )  # fmt: skip
    by_hand, keep, lines = read_by_hand(export)
    faulty = set(wrong_labels.planted(export, prepared.lines))
    read = {formats.customer_of(row) for row in by_hand}
    owners = wrong_labels.one_owner_each(prepared.owners)
    taken = {
        owner
        for index, owner in enumerate(owners)
        if index in faulty
        or owner in read
        or prepared.lines[index] in lines
        or "other_answer" in export.faults(prepared.lines[index])
    }
    free = sorted(set(owners) - taken)
    random.Random(0).shuffle(free)
    chosen: list[int] = []
    for owner in free:
        if len(chosen) < POOL + CHOICE:
            chosen += [index for index, other in enumerate(owners) if other == owner]
    chosen_owners = {owners[index] for index in chosen}
    scored = [index for index, owner in enumerate(owners) if owner not in chosen_owners]
    rows = [prepared.rows[index] for index in chosen[: POOL + CHOICE]]
    # Half of the pool is faulty: there are as many examples of each verdict.
    pool, choice = plant_faults(rows[:POOL], 0.5, 1), plant_faults(rows[POOL:], PLANTED, 2)
    return Material(export, prepared, by_hand, keep, pool, choice, scored, [index in faulty for index in scored])


def plant_faults(rows: Sequence[dict], share: float, seed: int) -> list[Marked]:
    """Return the rows in their order, a share of them with a wrong category or another message's record as in the export."""
    rng = random.Random(seed)
    faulty = rng.sample(range(len(rows)), round(share * len(rows)))
    labels = [wrong_labels.label_of(row, LABEL) for row in rows]
    changed = {
        index: rng.choice([label for label in CATEGORIES if label != labels[index]])
        for index in faulty[: round(WRONG_LABELS * len(faulty))]
    }
    planted = wrong_labels.repaired(rows, LABEL, changed)
    for index in faulty[len(changed) :]:
        orders = [json.loads(formats.answer_of(row))["order_id"] for row in rows]
        donor = rng.choice([other for other, order in enumerate(orders) if order and order != orders[index]])
        planted[index]["messages"][-1] = dict(rows[donor]["messages"][-1])
    return [Marked(row, index not in faulty, right) for index, (row, right) in enumerate(zip(planted, rows))]


# -- prompts --------------------------------------------------------------------------------------------------------------


def shown(form: Form, row: dict) -> str:
    """Return what a judge sees of a row: its message and its record, or without the category that it is asked for."""
    message, answer = formats.prompt_of(row), formats.answer_of(row)
    if not form.asks_category:
        return f"Message: {message}\n\nRecord: {answer}"
    if not form.with_record:
        return f"Message: {message}"
    rest = {name: value for name, value in json.loads(answer).items() if name != LABEL}
    return f"Message: {message}\n\nRest of the record: {json.dumps(rest, ensure_ascii=False)}"


def draw_examples(form: Form, seed: int) -> list[tuple[dict, str]]:
    """Return (row, verdict) of a seed's examples: as many of each verdict as there are, in random order."""
    rng = random.Random(seed)
    by_verdict: dict[str, list[dict]] = {}
    for marked in load_material().pool:
        verdict = wrong_labels.label_of(marked.right, LABEL) if form.asks_category else ("yes" if marked.good else "no")
        by_verdict.setdefault(verdict, []).append(marked.right if form.asks_category else marked.row)
    for rows in by_verdict.values():
        rng.shuffle(rows)
    most = max(map(len, by_verdict.values()))
    in_turn = [(rows[n], verdict) for n in range(most) for verdict, rows in sorted(by_verdict.items()) if n < len(rows)]
    examples = in_turn[: form.examples]
    rng.shuffle(examples)
    return examples


def prompts(name: str, rows: Sequence[dict], seed: int = 0) -> list[Prompt]:
    """Return a form's prompts for some rows."""
    form = FORMS[name]
    beginning = [{"role": "system", "content": CATEGORY_RUBRIC if form.asks_category else judging.ONE_WORD_RUBRIC}]
    for row, verdict in draw_examples(form, seed):
        beginning += [{"role": "user", "content": shown(form, row)}, {"role": "assistant", "content": verdict}]
    return [[*beginning, {"role": "user", "content": shown(form, row)}] for row in rows]


def mark_prompts(rows: Sequence[dict]) -> list[Prompt]:
    """Return the prompts that ask for a mark and its reason."""
    user = [f"Message:\n{formats.prompt_of(row)}\n\nAnswer:\n{formats.answer_of(row)}" for row in rows]
    return [[{"role": "system", "content": MARK_RUBRIC}, {"role": "user", "content": text}] for text in user]


# -- verdicts -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdicts:
    """What a judge says about some rows.

    Attributes:
        scores: for each row, the probability of "yes", or that of the row's own category; 1 is best.
        keeps: whether the judge would keep each row: "yes" is likelier than "no", or no other category is likelier.
        measured: tokens of a prompt and seconds a row.
    """

    scores: list[float]
    keeps: list[bool]
    measured: dict[str, float]


def judge(size: str, name: str, rows: Sequence[dict], seed: int = 0) -> Verdicts:
    """Let a model judge some rows in one form."""
    model, tokenizer = loaded(size)
    asked = prompts(name, rows, seed)
    started = time.process_time()
    if FORMS[name].asks_category:
        table = judging.next_word(model, tokenizer, asked, CATEGORIES)
        own = [CATEGORIES.index(wrong_labels.label_of(row, LABEL)) for row in rows]
        scores = [probabilities[label] for probabilities, label in zip(table, own)]
        keeps = [score == max(probabilities) for score, probabilities in zip(scores, table)]
    else:
        scores = [yes for yes, _ in judging.next_word(model, tokenizer, asked, ("yes", "no"))]
        keeps = [score > 0.5 for score in scores]
    seconds = (time.process_time() - started) / len(rows)
    measured = {**count_tokens(tokenizer, asked), "seconds_a_row": round(seconds, 2)}
    return Verdicts([round(score, 5) for score in scores], keeps, measured)


def kappas(keeps: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa of verdicts and labels along the last axis; 0 where both always say the same one thing."""
    agree = (keeps == good).mean(-1)
    yes, right = keeps.mean(-1), good.mean(-1)
    chance = yes * right + (1 - yes) * (1 - right)
    return np.where(chance < 1, (agree - chance) / np.where(chance < 1, 1 - chance, 1), 0.0)


def agreement(keeps: Sequence[bool] | np.ndarray, good: Sequence[bool]) -> dict[str, Any]:
    """Return how far verdicts agree with labels.

    Returns:
        "kappa" with its 95 % interval (rows drawn anew, percentiles), "caught" and "false_alarms" (faulty and good rows that
        are rejected), and "keeps" (0 or 1 for each row).
    """
    kept, right = np.array(keeps, dtype=bool), np.array(good, dtype=bool)
    drawn = np.random.default_rng(0).integers(0, len(kept), (RESAMPLES, len(kept)))
    low, high = np.percentile(kappas(kept[drawn], right[drawn]), (2.5, 97.5))
    return {
        "kappa": [round(float(value), 3) for value in (kappas(kept, right), low, high)],
        "caught": int((~kept & ~right).sum()), "false_alarms": int((~kept & right).sum()),
        "keeps": kept.astype(int).tolist(),
    }  # fmt: skip


def in_words(found: Mapping[str, Any]) -> str:
    """Return an agreement as text."""
    value, low, high = found["kappa"]
    return f"kappa {value:.2f} ({low:.2f} to {high:.2f}), caught {found['caught']}, false alarms {found['false_alarms']}"


def best_limit(scores: Sequence[float], good: Sequence[bool]) -> float:
    """Return the score below which rows are rejected so that kappa is highest; of several, the lowest."""
    values = sorted(set(scores))
    limits = [values[0], *((a + b) / 2 for a, b in zip(values, values[1:]))]  # the first one rejects nothing
    return max(limits, key=lambda limit: float(kappas(np.array(scores) >= limit, np.array(good))))


def found_in_first(order: Sequence[int], wrong: Sequence[bool]) -> dict[int, int]:
    """Return rows read → wrong labels among them, if they are read in an order."""
    return {number: sum(wrong[index] for index in order[:number]) for number in READ}


# -- what is measured -----------------------------------------------------------------------------------------------------


def without_model() -> dict:
    """Return what the rules and the classifier of lesson 05 find, on the same rows."""
    material = load_material()
    judges = other_judges(material.export, material.prepared.rows, material.prepared.lines)
    by_hand = {name: agreement(keeps, material.keep) for name, keeps in judges.items()}
    check = wrong_labels.check_labels(material.prepared.rows, LABEL, group=material.prepared.owners)
    probability = [float(check.probability[index]) for index in material.scored]
    order = np.argsort(probability, kind="stable").tolist()
    accusers = {"another label is likelier": check.suspects, "published rule": check.by_published_rule}
    accused = {name: [index in set(suspects) for index in material.scored] for name, suspects in accusers.items()}
    planted = {
        "area": round(float(roc_auc_score(material.wrong, [-value for value in probability])), 3),
        "found_in_first": found_in_first(order, material.wrong),
        "at_its_limit": {
            name: {
                "found": sum(a and w for a, w in zip(values, material.wrong)),
                "false_alarms": sum(a and not w for a, w in zip(values, material.wrong)),
            }
            for name, values in accused.items()
        },
        "probability": [round(value, 5) for value in probability],
    }
    words = "; ".join(f"{name}: {in_words(found)}" for name, found in by_hand.items())
    return {"by_hand": by_hand, "planted": planted, "summary": f"{words}; found {planted['found_in_first']}"}


def develop(size: str, name: str) -> dict:
    """Return how good a form is on the rows for development, and the limit that suits it."""
    choice = load_material().choice
    good = [marked.good for marked in choice]
    verdicts = judge(size, name, [marked.row for marked in choice])
    area, limit = float(roc_auc_score(good, verdicts.scores)), best_limit(verdicts.scores, good)
    at_limit = agreement([score >= limit for score in verdicts.scores], good)
    own = agreement(verdicts.keeps, good)
    return {
        "area": round(area, 3), "limit": limit, "own_limit": own, "best_limit": at_limit, "scores": verdicts.scores,
        "good": [int(value) for value in good], **verdicts.measured,
        "summary": f"area {area:.2f}; as it says: {in_words(own)}; at its best limit: {in_words(at_limit)}",
    }  # fmt: skip


def best_form(size: str, names: Sequence[str] = tuple(FORMS)) -> str:
    """Return the form with the largest area under the curve on the rows for development; of several, the shorter prompt."""
    tried = {name: recorded_run(NAME, f"{size} | development, {name} | 0") for name in names}
    return max(names, key=lambda name: (tried[name]["area"], -tried[name]["prompt_tokens"]))


def best_yes_or_no(size: str) -> str:
    """Return the best form that asks for yes or no."""
    return best_form(size, [name for name, form in FORMS.items() if not form.asks_category])


def chosen_limit(size: str, name: str) -> float:
    """Return the limit that was chosen for a form."""
    return recorded_run(NAME, f"{size} | development, {name} | 0")["limit"]


def judge_by_hand(size: str, name: str | None, seed: int) -> dict:
    """Return how far a model agrees with the reader in a form, alone and with the rules; `name` None takes the best form."""
    best = name is None
    name = name or best_form(size)
    if best and seed and not FORMS[name].examples:
        return copy_run(NAME, f"{size} | hand labels, best form | 0")
    material, limit = load_material(), chosen_limit(size, name)
    verdicts = judge(size, name, material.by_hand, seed)
    by_rule = recorded_run(NAME, NO_MODEL)["by_hand"]["the rules of section 2"]["keeps"]
    at_limit = [score >= limit for score in verdicts.scores]
    found = {
        "as it says": agreement(verdicts.keeps, material.keep),
        "at the chosen limit": agreement(at_limit, material.keep),
        "as it says, and the rules": agreement([k and bool(r) for k, r in zip(verdicts.keeps, by_rule)], material.keep),
        "at the chosen limit, and the rules": agreement([k and bool(r) for k, r in zip(at_limit, by_rule)], material.keep),
    }
    area = float(roc_auc_score(material.keep, verdicts.scores))
    words = "; ".join(f"{what}: {in_words(values)}" for what, values in found.items())
    return {
        "form": name, "limit": limit, "area": round(area, 3), "agreement": found, "scores": verdicts.scores,
        **verdicts.measured, "summary": f"{name}, area {area:.2f}; {words}",
    }  # fmt: skip


def judge_planted(size: str, name: str | None, seed: int) -> dict:
    """Return how many of the wrong labels a model finds in a form, alone and with the classifier's help."""
    best = name is None
    name = name or best_form(size)
    if best and seed and not FORMS[name].examples:
        return copy_run(NAME, f"{size} | planted, best form | 0")
    material, limit = load_material(), chosen_limit(size, name)
    verdicts = judge(size, name, material.scored_rows, seed)
    rejected = {
        "as it says": [not keep for keep in verdicts.keeps],
        "at the chosen limit": [score < limit for score in verdicts.scores],
    }
    order = np.argsort(verdicts.scores, kind="stable")
    classifier = np.argsort(recorded_run(NAME, NO_MODEL)["planted"]["probability"], kind="stable")
    together = np.argsort(np.argsort(order) + np.argsort(classifier), kind="stable")  # by the sum of both ranks
    counted: dict[str, Any] = {}
    for what, values in rejected.items():
        counted[what] = {
            "found": sum(r and w for r, w in zip(values, material.wrong)),
            "false_alarms": sum(r and not w for r, w in zip(values, material.wrong)),
            # as a second reader of the classifier's first suspects
            "of_first_60_suspects": [
                sum(values[i] and material.wrong[i] for i in classifier[:60]),
                sum(values[i] and not material.wrong[i] for i in classifier[:60]),
            ],
        }
    area = float(roc_auc_score(material.wrong, [-score for score in verdicts.scores]))
    found = {"alone": found_in_first(order, material.wrong), "with the classifier": found_in_first(together, material.wrong)}
    return {
        "form": name, "limit": limit, "area": round(area, 3), "found_in_first": found, "rejected": counted,
        "scores": verdicts.scores, **verdicts.measured,
        "summary": f"{name}, area {area:.2f}, of {sum(material.wrong)} among {len(material.wrong)}: {found}, {counted}",
    }  # fmt: skip


def judge_in_writing(size: str) -> dict:
    """Return how far a written yes or no agrees with the reader, and with the probabilities of the two words."""
    material, name = load_material(), best_yes_or_no(size)
    model, tokenizer = loaded(size)
    started = time.process_time()
    written = generate(model, tokenizer, prompts(name, material.by_hand), max_new_tokens=4)
    seconds = (time.process_time() - started) / len(written)
    read = [read_verdict(text) for text in written]
    by_probability = judge(size, name, material.by_hand).keeps
    found = agreement([verdict is True for verdict in read], material.keep)  # what can't be read isn't accepted
    same = sum(a is b for a, b in zip(read, by_probability))
    unreadable = read.count(None)
    return {
        "form": name, "agreement": found, "unreadable": unreadable, "same_by_probability": same, "answers": written,
        "seconds_a_row": round(seconds, 2),
        "summary": f"{name}: {in_words(found)}; {unreadable} unreadable, {same} of {len(read)} as by probability",
    }  # fmt: skip


def read_verdict(text: str) -> bool | None:
    """Return whether an answer's first word is "yes"; None if it is neither "yes" nor "no"."""
    words = text.lower().split()
    return {"yes": True, "no": False}.get(words[0].strip('.,:;!"*') if words else "")


def judge_with_marks(size: str) -> dict:
    """Return how far marks with reasons agree with the reader; the lowest mark to keep is chosen on the other rows."""
    material = load_material()
    good = [marked.good for marked in material.choice]
    developed, by_hand = give_marks(size, [marked.row for marked in material.choice]), give_marks(size, material.by_hand)
    from_mark = max((4, 5, 3, 2), key=lambda mark: float(kappas(accept(developed[0], mark), np.array(good))))
    marks = [verdict.mark for verdict in by_hand[0]]
    found = {f"from {mark}": agreement(accept(by_hand[0], mark), material.keep) for mark in sorted({4, from_mark})}
    words = "; ".join(f"{what}: {in_words(values)}" for what, values in found.items())
    return {
        "from_mark": from_mark, "agreement": found, "marks": marks, "seconds_a_row": by_hand[1],
        "reasons": [verdict.reason for verdict in by_hand[0][:10]],
        "marks_of_development": [verdict.mark for verdict in developed[0]], "summary": words,
    }  # fmt: skip


def give_marks(size: str, rows: Sequence[dict]) -> tuple[list[judging.Verdict], float]:
    """Return a model's marks and reasons, written in the form of `judging.SCHEMA`, and the seconds that a row took."""
    started = time.process_time()
    written = generate_in_schema(*loaded(size), mark_prompts(rows), MARK_SCHEMA, MARK_TOKENS)
    return [read_mark(text) for text in written], round((time.process_time() - started) / len(rows), 2)


def read_mark(text: str) -> judging.Verdict:
    """Return the verdict in an answer; its mark is None if the answer is cut off."""
    try:
        verdict = judging.json_in(text)
        return judging.Verdict(int(verdict["mark"]), str(verdict["reason"]))
    except (ValueError, KeyError, TypeError):
        return judging.Verdict(None, text)


def accept(verdicts: Sequence[judging.Verdict], from_mark: int) -> np.ndarray:
    """Return which rows have at least a mark, shape (rows,)."""
    return np.array([verdict.mark is not None and verdict.mark >= from_mark for verdict in verdicts])


# -- runs -----------------------------------------------------------------------------------------------------------------


def jobs() -> dict[str, Callable[[], dict]]:
    """Return name of a run → what measures it, in the order in which the answers are wanted."""
    table: dict[str, Callable[[], dict]] = {NO_MODEL: without_model}
    for size in SIZES:
        for name in FORMS:
            table[f"{size} | development, {name} | 0"] = partial(develop, size, name)
        table[f"{size} | hand labels, {LESSON_FORM} | 0"] = partial(judge_by_hand, size, LESSON_FORM, 0)
        for seed in SEEDS:
            table[f"{size} | hand labels, best form | {seed}"] = partial(judge_by_hand, size, None, seed)
            table[f"{size} | planted, best form | {seed}"] = partial(judge_planted, size, None, seed)
        table[f"{size} | hand labels, written yes or no | 0"] = partial(judge_in_writing, size)
        table[f"{size} | hand labels, marks with reasons | 0"] = partial(judge_with_marks, size)
    return table


def plan() -> dict:
    """Return what holds for all runs, with the lines and the labels that the lists of the runs are about."""
    material = load_material()
    return {
        "models": {size: MODELS[size] for size in SIZES}, "seeds": SEEDS, "rubric": judging.ONE_WORD_RUBRIC,
        "category rubric": CATEGORY_RUBRIC, "mark rubric": MARK_RUBRIC, "rows read by hand": len(material.keep),
        "keep": [int(value) for value in material.keep], "rows for examples": POOL, "rows to choose on": CHOICE,
        "scored lines": [material.prepared.lines[index] for index in material.scored],
        "scored wrong": [int(value) for value in material.wrong],
    }  # fmt: skip


def shown_prompts() -> dict[str, Prompt]:
    """Return each form → its prompt for one row read by hand."""
    row = load_material().by_hand[2:3]
    return {name: prompts(name, row)[0] for name in FORMS} | {"marks with reasons": mark_prompts(row)[0]}


if __name__ == "__main__":
    run_command(NAME, str(__doc__), jobs(), plan, shown_prompts)
