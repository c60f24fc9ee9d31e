"""What lesson 05 shows: an export with known faults, what each step finds in it, and what preparing it brings."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from course_utils import assets, charts, costs
from course_utils.data_prep import deduplication, formats, judging, label_noise, quality, similarity, truth
from course_utils.data_prep.findings import ERROR
from course_utils.errors import CourseError
from course_utils.evaluation import Score, mean, proportion
from course_utils.lessons import source_file
from course_utils.show.tables import Table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from course_utils.data_prep.label_noise import LabelCheck
    from course_utils.data_prep.tasks import Task
    from course_utils.data_prep.truth import DetectionScore, RawExport
    from course_utils.evaluation import Scores
    from course_utils.figures import Figure

COMMONEST = "no model: always the most common pair"
LEFT_EMPTY = {"category": "question", "escalation": "none"}  # the form as it opens
BANDS, ROWS = similarity.PERMUTATIONS // similarity.ROWS_PER_BAND, similarity.ROWS_PER_BAND
# A polite paragraph that says nothing: what is added to a reply to see whether a judge likes length.
PADDING = (
    " Thank you very much for your message and for taking the time to write to us. We value every customer, and we are "
    "always happy to hear from you."
)
PERSONAL = {"NAME": "names", "ADDRESS": "addresses", "PHONE": "phone numbers", "EMAIL": "e-mail addresses",
            "CARD": "card numbers", "IBAN": "bank accounts (IBAN)", "IP": "internet addresses",
            "NATIONAL_ID": "national ids", "BIRTH_DATE": "dates of birth"}  # fmt: skip


def _beginning(row: Mapping[str, Any], longest: int = 110) -> str:
    """A row's message on one line, cut where it is long."""
    text = " ".join(formats.prompt_of(dict(row)).split())
    return text[:longest] + (" …" if len(text) > longest else "")


# -- records ----------------------------------------------------------------------------------------------------------------


def by_seed(run: str, what: str = "both", side: str = "test") -> list[float]:
    """Shares of a recorded run, one per seed."""
    return [seed[side][what][0] for seed in assets.read_record("data-quality")["runs"][run]]


def _percent(values: Sequence[float]) -> str:
    """Mean of several seeds with the lowest and the highest, in words."""
    return f"{100 * np.mean(values):.0f} % ({100 * min(values):.0f} to {100 * max(values):.0f})"


def commonest_pair(references: Sequence[Mapping[str, Any]]) -> Score:
    """How often the most common combination of all fields is right: what a program reaches that reads nothing."""
    pairs = [json.dumps(reference, sort_keys=True) for reference in references]
    commonest = Counter(pairs).most_common(1)[0][0]
    return proportion([pair == commonest for pair in pairs])


def before_and_after() -> Figure:
    """Recorded: both fields right after training on the export as it came and on the prepared rows, beside the baseline."""
    from course_utils.data_prep import load_task

    raw, clean = by_seed("raw"), by_seed("cleaned")
    rows = {
        COMMONEST: 100 * commonest_pair(load_task("support_tickets", ["category", "escalation"]).references()).value,
        "trained on the export as it came": 100 * float(np.mean(raw)),
        "trained on the prepared rows": 100 * float(np.mean(clean)),
    }
    examples = assets.read_record("data-quality")["examples"]
    title = f"The same model, {examples} examples each: preparing the data takes it from "
    title += f"{100 * np.mean(raw):.0f} to {100 * np.mean(clean):.0f} %"
    unit = f"both fields right, % of 100 test messages, mean of {len(raw)} runs"
    return charts.bars(rows, title, unit, decimals=0, highlight=["trained on the prepared rows"])


# -- what is in the export --------------------------------------------------------------------------------------------------


def some_lines(lines: Sequence[bytes], numbers: Sequence[int]) -> Table:
    """Message and answer of some well-formed lines of the export, counted from 1."""
    table = {}
    for number in numbers:
        messages = json.loads(lines[number - 1])["messages"]
        table[str(number)] = {"message": messages[1]["content"], "answer": messages[-1]["content"]}
    return Table(table, "Three lines of the export", "line", "")


def findings(report: Any) -> Table:
    """The most frequent kinds of error of a validation: how many lines have them, which comes first, and the cure."""
    errors = [finding for finding in report.findings if finding.line and finding.severity == ERROR]
    count, table = Counter(finding.code for finding in errors), {}
    for code, lines in count.most_common(6):
        first = next(finding for finding in errors if finding.code == code)
        table[first.message.split(": ", 1)[-1].split(" [")[0]] = {
            "times": lines, "first in line": first.line, "what to do": first.fix
        }  # fmt: skip
    return Table(table, f"The {len(table)} most frequent of {len(count)} kinds of error", "what is wrong, for example", "")


def dropped_rows(rows: Sequence[dict], reasons: Sequence[Sequence[quality.Reason]]) -> Table:
    """For each rule one row that it drops, and how many it drops."""

    def cut(text: str) -> str:
        text = " ".join(text.split())  # the end too: what is cut off or in another language is often there
        return text if len(text) <= 90 else f"{text[:45].rstrip()} … {text[-45:].lstrip()}"

    codes = [{reason.code for reason in row_reasons} for row_reasons in reasons]
    count = Counter(reason.code for row_reasons in reasons for reason in row_reasons)
    table = {}
    for code, meaning in quality.RULES.items():
        if code in count:
            index = codes.index({code}) if {code} in codes else next(i for i, own in enumerate(codes) if code in own)
            table[meaning] = {
                "code": code,
                "rows": count[code],
                "what it says of the first": next(r.message for r in reasons[index] if r.code == code),
                "the message": cut(formats.prompt_of(rows[index])),
                "the answer": cut(formats.answer_of(rows[index])),
            }
    return Table(table, "What the rules object to, with a row of each kind", "why a row is dropped", "")


def flow(prepared: Any) -> Figure:
    """Rows that are left after each step."""
    names = {"read": "lines in the export", "validate": "readable, or repaired", "quality": "kept by the rules",
             "deduplicate": "no copies", "contamination": "not in the test set"}  # fmt: skip
    rows = {names[step]: float(count) for step, count in prepared.counts if step in names}
    first, last = prepared.counts[0][1], prepared.counts[-1][1]
    return charts.bars(rows, f"Of {first:,} lines {last:,} are left", "rows", decimals=0, highlight=[list(rows)[-1]])


def ledger(export: RawExport, report: Any, prepared: Any, raw: Any, task: Task, reasons: Sequence) -> Table:
    """The numbers of rows that the lesson uses, and what makes each differ from the one that it comes from.

    `raw` is what `prepare` leaves without rules and without removing copies; `reasons` are those for each well-formed row.
    """
    lines, left_after = prepared.counts[0][1], dict(prepared.counts)
    readable, by_rules, distinct = (left_after[step] for step in ("validate", "quality", "deduplicate"))
    left, well_formed = left_after["contamination"], set(export.rows())
    bad = {finding.line for finding in report.findings if finding.severity == ERROR and finding.line}
    warned = len(set(range(1, lines + 1)) - bad - well_formed)
    labelled = sum(_category(row, task) is not None for row in raw.rows)
    no_reason = sum(not row_reasons for row_reasons in reasons)
    steps = {
        "lines in the export": (lines, ""),
        "lines without an error": (lines - report.bad_rows, f"{report.bad_rows} lines have one"),
        "well-formed rows (sections 2, 3, 5)": (
            len(well_formed), f"{warned} more are blank or have spaces at an edge; {len(well_formed & bad)} with a "
            "byte-order mark counts as a row",
        ),
        "of these, no rule objects (section 9)": (no_reason, f"rules object to {len(well_formed) - no_reason}"),
        "readable, or repaired by `prepare`": (
            readable, f"of the {lines:,} lines, {lines - readable} could not be repaired"
        ),
        "of these, not in the test set: “as it came”": (len(raw.rows), f"{readable - len(raw.rows)} are test messages"),
        "of these, with a category in a record": (labelled, "the others are prose, empty or another form"),
        "of the readable, kept by the rules": (by_rules, f"{readable - by_rules} dropped"),
        "of these, no copies": (distinct, f"{by_rules - distinct} copies"),
        "of these, not in the test set: “prepared”": (left, f"{distinct - left} are test messages"),
    }  # fmt: skip
    table = {name: {"number": number, "difference": why or "–"} for name, (number, why) in steps.items()}
    return Table(table, "Which numbers of rows you will meet, and why they differ", "what is counted", "")


def found_and_missed(scores: Mapping[str, DetectionScore], names: Mapping[str, str], caption: str) -> Table:
    """Recall and precision of each kind, in words."""
    rows = {
        names.get(code, code): {
            "there": score.recall.n,
            "recall": score.recall,
            "precision": score.precision,
        }
        for code, score in scores.items()
    }
    return Table(rows, caption, "kind", "")


RULE_NAMES = {
    "refusal": "refusals", "truncated": "cut off", "answer_format": "wrong form", "language": "another language",
    "low_information": "says nothing", "canned_answer": "one answer to many messages",
    "other_answer": "answers something else", "any": "any of these",
}  # fmt: skip


# -- copies and splits ------------------------------------------------------------------------------------------------------


def meets(jaccard: float, bands: int = BANDS, rows: int = ROWS) -> float:
    """Probability that two texts meet in at least one band of their MinHash signatures."""
    return float(1 - (1 - jaccard**rows) ** bands)


def meeting_curve() -> Figure:
    """How probably two texts meet in a band, by how alike they are: the drawing's ten numbers and the package's."""
    alike = [i / 100 for i in range(101)]
    curves = {
        "5 bands of 2": (alike, [100 * meets(j, 5, 2) for j in alike]),
        f"{BANDS} bands of {ROWS}": (alike, [100 * meets(j) for j in alike]),
    }
    alt_parts = [f"at {j} the package's bands meet in {100 * meets(j):.0f} %, the drawn ones in {100 * meets(j, 5, 2):.0f} %"
            for j in (0.2, 0.4, 0.6)]  # fmt: skip
    return charts.lines(
        curves, "Pairs that are copies meet nearly always, strangers seldom", "Jaccard index of the two texts",
        "probability that they are compared, %", at={"counts as a copy": deduplication.SIMILAR}, alt_parts=alt_parts,
    )  # fmt: skip


def clusters(rows: Sequence[dict], deduplicated: Any) -> Table:
    """The first cluster that has a near-copy: which member stays, and why the others go."""
    cluster = next(c for c in deduplicated.clusters if "near" in c.kinds.values())
    table = {}
    for member in cluster.members:
        kind = "stays" if member == cluster.kept else f"{cluster.kinds[member]} copy, goes"
        table[str(member)] = {"what becomes of it": kind, "message": _beginning(rows[member])}
    return Table(table, "One cluster of copies", "row", "")


def torn_apart(rows: Sequence[dict], train: Sequence[int], held_out: Sequence[int]) -> Score:
    """Share of the held-out rows that have a near-copy or their own customer among the training rows."""
    close = {(i, j) for i, j, _ in similarity.similar_pairs([formats.prompt_of(row) for row in rows], 0.5)}
    customers = [formats.customer_of(row) for row in rows]
    inside = {customers[i] for i in train} - {None}
    return proportion([customers[j] in inside or any((min(i, j), max(i, j)) in close for i in train) for j in held_out])


def two_splits(rows: Sequence[dict]) -> Table:
    """A split by chance beside one that keeps together what belongs together."""
    from course_utils import data_prep

    shuffled = np.random.default_rng(0).permutation(len(rows))
    cut = len(rows) // 10
    splits = {
        "by chance, row by row": (shuffled[cut:].tolist(), shuffled[:cut].tolist()),
        "by customer, with near-copies": data_prep.split(rows, 0.1, group=formats.customer_of, seed=0),
    }
    table = {}
    for name, (train, held_out) in splits.items():
        torn = torn_apart(rows, train, held_out)
        table[name] = {"training rows": len(train), "validation rows": len(held_out),
                       "of these known from training": round(torn.value * torn.n)}  # fmt: skip
    return Table(table, "Validation rows whose customer or near-copy is also in training", "split", "")


def a_leak(rows: Sequence[dict], task: Task, leaked: Sequence[int]) -> Table:
    """A small classifier with and without some test messages among its training rows: shares of right categories."""
    pairs = [(formats.prompt_of(row), label_noise.label_of(row, "category")) for row in rows]
    extra = [(task.test[i][1]["content"], task.references()[i]["category"]) for i in leaked]
    others = [i for i in range(len(task.test)) if i not in set(leaked)]
    table = {}
    for name, learned in {"without the leak": pairs, "with the leak": pairs + extra}.items():
        right = _classified(learned, task)
        table[name] = {
            f"the {len(leaked)} that leaked": proportion([right[i] for i in leaked]),
            f"the other {len(others)}": proportion([right[i] for i in others]),
            f"all {len(right)}, as reported": proportion(right),
        }
    return Table(table, "Categories right", "training set", "")


# -- what the model sees ----------------------------------------------------------------------------------------------------


def token_lengths(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of each row, with the chat template."""
    return [len(tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]) for row in rows]


def cut_by_limit(lengths: Sequence[int], default: int = 1024) -> Figure:
    """How many rows lose the end of their answer, by the most tokens that a trainer keeps."""
    limits = sorted({*range(48, 257, 4), 512, default, 2 * default})
    cut = {limit: sum(length > limit for length in lengths) for limit in limits}
    share = [100 * cut[limit] / len(lengths) for limit in limits]
    alt_parts = [f"a limit of {limit} cuts {cut[limit]} of {len(lengths)} rows" for limit in (96, 128, 192, 256)]
    return charts.lines(
        {"rows that are cut": (limits, share)}, "A limit that is too small takes the end of the answer, without a word",
        "max_length: tokens that the trainer keeps of a row", "rows that lose the end of their answer, %",
        at={f"TRL keeps {default:,}": default}, log_x=(64, 128, 256, 512, 1024, 2048), alt_parts=alt_parts,
    )  # fmt: skip


def cost_table(tokens: int, epochs: int = 2) -> Table:
    """What training on so many tokens costs, at hosts and in time on two CPU cores."""
    models = ("gpt-4.1-mini", "qwen3-8b")
    rows = {f"hosted, {model}": {"cost": f"${costs.training_cost(tokens, epochs, model):.2f}"} for model in models}
    rows["this course's model, two slow cores, 175 tokens/s"] = {"cost": f"{tokens * epochs / 175 / 60:.0f} minutes"}
    caption = f"{tokens:,} tokens, {epochs} epochs (prices of {costs.PRICES['qwen3-8b'].date} and earlier)"
    return Table(rows, caption, "where", "")


def balance(rows: Sequence[dict]) -> Table:
    """How often each value of the labels occurs, and what the most common one alone would score."""
    table = {}
    for name in ("category", "escalation"):
        count = Counter(label_noise.label_of(row, name) for row in rows)
        most, rare = count.most_common()[0], count.most_common()[-1]
        table[name] = {
            "values": len(count),
            "most common": f"{most[0]}, {100 * most[1] / len(rows):.0f} %",
            "rarest": f"{rare[0]}, {100 * rare[1] / len(rows):.0f} %",
            "rows of the rarest": rare[1],
        }
    return Table(table, "Balance of the labels", "field", "")


def ten_rows(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """The first nine rows, and the longest of all among them: what a look at "the first ten" usually misses."""
    longest = int(np.argmax(token_lengths(rows, tokenizer)))
    nine = [row for index, row in enumerate(rows[:10]) if index != longest][:9]
    return [*nine[:6], rows[longest], *nine[6:]]


def masks(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Table:
    """What is left of each row under a limit, and what of it the label mask lets the model learn."""
    from course_utils.training.objectives import encode_completion, encode_prompt

    table = {}
    for number, row in enumerate(rows, 1):
        chat = [{key: message[key] for key in ("role", "content")} for message in row["messages"]]
        prompt = encode_prompt(tokenizer, chat[:-1], 10**9, "row")
        # Cut as by trainers that keep the beginning of a row: the answer is lost first.
        learned = encode_completion(tokenizer, prompt, chat, 10**9, "row")[: max(0, max_length - len(prompt))]
        table[str(number)] = {
            "tokens read": min(len(prompt), max_length),
            "tokens learned": len(learned),
            "learning begins with": tokenizer.decode(learned[:5]) or "–",
            "and ends with": tokenizer.decode(learned[-1:]) or "–",
        }
    return Table(table, f"The label mask of ten rows, cut at {max_length} tokens", "row", "")


def row_without_end(rows: Sequence[dict], tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Number, from 1, of the one row that loses the end of its answer under a limit."""
    cut = [number for number, length in enumerate(token_lengths(rows, tokenizer), 1) if length > max_length]
    if len(cut) != 1:
        raise CourseError(f"{len(cut)} of the rows are longer than {max_length} tokens: {cut}; choose a limit that cuts one")
    return cut[0]


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows by number, put together so that no sequence has more than `size` tokens: the longest first, each where it fits.

    This is "best fit decreasing", the default of TRL's `packing=True`.
    """
    bins: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [b for b, (used, _) in enumerate(bins) if used + lengths[index] <= size]
        if fitting:
            best = max(fitting, key=lambda b: bins[b][0])
            used, members = bins[best]
            bins[best] = (used + lengths[index], [*members, index])
        else:
            bins.append((lengths[index], [index]))
    return [members for _, members in bins]


def packing_table(lengths: Sequence[int]) -> Table:
    """Tokens that a GPU computes for nothing: padded to the longest of a batch, sorted by length, and packed."""

    def padded(lengths: Sequence[int]) -> int:
        batches = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
        return sum(len(b) * max(b) for b in batches)

    size, batch, real = 512, 8, sum(lengths)
    rows = {
        f"batches of {batch}, padded to the longest": padded(lengths),
        "the same, rows of similar length together": padded(sorted(lengths)),
        f"packed into sequences of {size}": size * len(pack(lengths, size)),
    }
    table = {name: {"tokens computed": n, "of them padding, %": round(100 * (n - real) / n)} for name, n in rows.items()}
    return Table(table, f"{len(lengths)} rows with {real:,} tokens", "how", "")


# -- wrong labels -----------------------------------------------------------------------------------------------------------


def suspects(rows: Sequence[dict], check: LabelCheck) -> Table:
    """The rows whose own label is least probable."""
    table = {}
    for index in check.suspects[:6]:
        table[str(index)] = {
            "message": _beginning(rows[index]),
            "its label": check.given[index],
            "probability, %": round(100 * float(check.probability[index]), 1),
            "the classifier would say": check.suggested[index],
        }
    return Table(table, "The most suspicious labels", "row", "")


def suspects_curve(export: RawExport, lines: Sequence[int], check: LabelCheck) -> Figure:
    """Wrong labels found by how many suspects are read, beside reading at random; and what the published rule accuses."""
    wrong = set(truth.wrong_labels(export, lines))
    rows_read = range(len(check.suspects) + 1)
    wrong_found = [0, *np.cumsum([index in wrong for index in check.suspects]).tolist()]
    by_rule = len(wrong & set(check.by_published_rule))
    alt_parts = [f"{wrong_found[n]} of {len(wrong)} after {n} rows" for n in (20, 40, 60) if n < len(wrong_found)]
    alt_parts += [
        f"{wrong_found[-1]} after all {rows_read[-1]}",
        f"the paper's rule accuses {len(check.by_published_rule)}, {by_rule} rightly",
    ]
    return charts.lines(
        {
            "from the top of our list": (list(rows_read), [float(n) for n in wrong_found]),
            "rows read at random": (list(rows_read), [n * len(wrong) / len(lines) for n in rows_read]),
        },
        f"Sixty rows read, {wrong_found[min(60, len(wrong_found) - 1)]} of {len(wrong)} wrong labels found",
        "rows that somebody reads", "wrong labels found",
        marks={"the paper's rule": (float(len(check.by_published_rule)), float(by_rule))}, alt_parts=alt_parts,
    )  # fmt: skip


NEIGHBOURS = ("returns", "billing")  # a customer who sends something back wants money: people confuse the two


def with_mistakes(right: Sequence[str], number: int, seed: int, swap: tuple[str, str] | None = None) -> list[str]:
    """Return a copy of right labels in which a number of them are wrong.

    `swap` is (label, the neighbour that is given instead), as by somebody who has misunderstood it; None changes any label
    into any other.
    """
    rng, labels = np.random.default_rng(seed), list(right)
    names = sorted(set(right))
    candidates = [index for index, label in enumerate(right) if swap is None or label == swap[0]]
    for index in rng.choice(candidates, size=min(number, len(candidates)), replace=False):
        labels[index] = swap[1] if swap else str(rng.choice([name for name in names if name != right[index]]))
    return labels


def kinds_of_mistakes(export: RawExport, lines: Sequence[int], rows: Sequence[dict], owners: Sequence) -> Table:
    """Wrong labels of two kinds, put into labels that are all right: how many are among the first that somebody reads."""
    from course_utils import data_prep

    truly = truth.right_categories(export, lines)
    right = [truly.get(index, label_noise.label_of(row, "category")) for index, row in enumerate(rows)]
    label, neighbour = NEIGHBOURS
    there, rows_read = right.count(label), 60
    kinds: dict[str, tuple[int, tuple[str, str] | None]] = {"40 labels, each replaced by any other": (40, None)}
    for number in (20, 40, there):
        who = "everybody" if number == there else f"one annotator, {number} of {there} rows"
        kinds[f"“{label}” filed as “{neighbour}”: {who}"] = (number, NEIGHBOURS)
    table = {}
    for name, (number, swap) in kinds.items():
        hits = []
        for seed in range(2 if number < there else 1):
            labels = with_mistakes(right, number, seed, swap)
            wrong = {index for index, label_given in enumerate(labels) if label_given != right[index]}
            changed = data_prep.repaired(rows, "category", dict(enumerate(labels)))
            check = data_prep.check_labels(changed, "category", group=owners)
            hits.append(len(wrong & set(np.argsort(check.probability, kind="stable")[:rows_read].tolist())))
        found = {f"found in the first {rows_read}": round(float(np.mean(hits)))}
        table[name] = {"wrong": number, **found, "at random": round(rows_read * number / len(rows))}
    return Table(table, f"Two kinds of wrong labels, {rows_read} rows read", "the mistake", "")


def decisions(export: RawExport, lines: Sequence[int], chosen: Sequence[int]) -> dict[int, str | None]:
    """What a careful person says to the suspects: the right label where it is wrong; the others stay as they are."""
    right = truth.right_categories(export, lines)
    return {index: right[index] for index in chosen if index in right}


def repair_table(sets: Mapping[str, Sequence[dict]], task: Task) -> Table:
    """Categories that a small classifier gets right on the test set after training on each set of rows."""
    table: dict[str, dict[str, Any]] = {}
    for name, rows in sets.items():
        pairs = [(formats.prompt_of(row), c) for row in rows if (c := _category(row, task))]
        table[name] = {"rows": len(pairs), "categories right": proportion(_classified(pairs, task))}
    commonest = commonest_pair([{"category": reference["category"]} for reference in task.references()])
    table["no training: always the most common"] = {"rows": None, "categories right": commonest}
    return Table(table, "A small classifier on the test messages", "trained on", "")


def _classified(pairs: Sequence[tuple[str, str]], task: Task) -> list[bool]:
    """For each test message, whether a small classifier that has learned (message, category) pairs finds its category."""
    fitted = label_noise.classifier().fit([message for message, _ in pairs], [label for _, label in pairs])
    predicted = fitted.predict([chat[1]["content"] for chat in task.test])
    return [bool(label == right["category"]) for label, right in zip(predicted, task.references())]


def _category(row: Mapping[str, Any], task: Task) -> str | None:
    """The category in an answer that is a record; None for other answers, from which a classifier can't learn."""
    try:
        category = json.loads(formats.answer_of(dict(row)))["category"]
    except (ValueError, KeyError, TypeError):
        return None
    return category if category in task.schema["properties"]["category"]["enum"] else None


def recorded_repair() -> Table:
    """What repairing the labels brings the language model, recorded (`benchmarks/label_noise.py`)."""
    record, column = assets.read_record("label-noise"), "categories right, mean of the runs (lowest to highest)"
    rows = {
        name.replace(" | ", ", "): {column: _percent([run["scores"]["category"][0] for run in runs])}
        for name, runs in record["runs"].items()
    }
    caption = f"Recorded {record['date']}: {record['examples']} examples, {len(record['seeds'])} runs"
    return Table(rows, caption, "labels", "")


# -- judges -----------------------------------------------------------------------------------------------------------------


def read_by_hand(export: RawExport) -> tuple[list[dict], list[bool], list[int]]:
    """Fifty rows, whether a reader would keep each, and their lines."""
    text = assets.path("data/raw_support_export/read_by_hand.jsonl").read_text(encoding="utf-8")
    marks, rows = [json.loads(line) for line in text.splitlines()], export.rows()
    return [rows[m["line"]] for m in marks], [m["keep"] for m in marks], [m["line"] for m in marks]


def other_judges(export: RawExport, rows: Sequence[dict], lines: Sequence[int]) -> dict[str, list[bool]]:
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
    fitted = label_noise.classifier().fit(
        [label_noise.evidence_in(row, "category") for row in others],
        [label_noise.label_of(row, "category") for row in others],
    )
    predicted = fitted.predict([label_noise.evidence_in(row, "category") for row in by_hand])
    by_label = [bool(a == label_noise.label_of(row, "category")) for a, row in zip(predicted, by_hand)]
    by_rule = [not reasons for reasons in quality.assess([*by_hand, *others], language="en")[: len(by_hand)]]
    return {
        "the rules of section 2": by_rule,
        "the classifier of section 7": by_label,
        "rules and classifier": [a and b for a, b in zip(by_rule, by_label)],
    }


def judges_table(good: Sequence[bool], judges: Mapping[str, Sequence[bool]]) -> Table:
    """How far each judge agrees with the reader; the first row keeps everything."""
    table = {}
    for name, says_keep in {"keep everything": [True] * len(good), **judges}.items():
        agreement = judging.agreement_with_labels([judging.Verdict(5 if keep else 1, "") for keep in says_keep], good)
        table[name] = {
            "agrees, %": round(100 * agreement["agreement"]),
            "kappa": round(agreement["kappa"], 2),
            "bad rows rejected": f"{round(agreement['caught'] * list(good).count(False))} of {list(good).count(False)}",
            "good rows kept": f"{round(agreement['spared'] * list(good).count(True))} of {list(good).count(True)}",
        }
    return Table(table, f"{len(good)} rows that one reader has marked", "judge", "")


def pairs(kind: str, number: int = 8) -> list[judging.Pair]:
    """Pairs from the preference data: "padded" adds an empty paragraph to a good reply; other kinds are the data's own."""
    from course_utils.data_prep import load_preferences

    rows = [r for r in load_preferences().validation if kind == "padded" or r["kind"] == kind][:number]
    worse = [row["chosen"] + PADDING if kind == "padded" else row["rejected"] for row in rows]
    return [judging.Pair(row["prompt"][-1]["content"], row["chosen"], w) for row, w in zip(rows, worse)]


def bias_table(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Table:
    """Pairs of replies in both orders: what a judge on this machine goes by."""
    table = {}
    for name, kind in {"worse: facts wrong": "wrong", "worse: the same reply, padded": "padded"}.items():
        bias_shares = judging.biases(judging.compare_here(pairs(kind, 6), model, tokenizer))
        table[name] = {what: f"{100 * share:.0f} %" for what, share in bias_shares.items()}
    fair = {"takes the better reply": "100 %", "takes what is shown first": "50 %", "same reply in both orders": "100 %"}
    return Table(table | {"a perfect judge": fair}, "6 pairs of each kind, each shown in both orders", "pairs", "")


# -- synthesis --------------------------------------------------------------------------------------------------------------


def recorded_writer() -> tuple[Any, Callable[[Sequence[Mapping[str, Any]]], str | None], Path]:
    """A plan for synthetic examples, what a strong model answered to it (for `openai_server.Replay`), and a new ledger."""
    import tempfile

    from course_utils.data_prep import load_task
    from course_utils.data_prep.endpoint import Price
    from course_utils.data_prep.synthesis import Plan

    text = (assets.path("data/synthetic_tickets") / "recorded.jsonl").read_text(encoding="utf-8")
    recorded = [json.loads(line) for line in text.splitlines()]
    topics = tuple(dict.fromkeys(entry["topic"] for entry in recorded))
    record_schema = load_task("support_tickets").schema
    example = {"type": "object", "required": ["message", "record"],
               "properties": {"message": {"type": "string"}, "record": record_schema}}  # fmt: skip
    schema = {"type": "object", "required": ["examples"],
              "properties": {"examples": {"type": "array", "minItems": 8, "items": example}}}  # fmt: skip
    request = "Topic: {topic}. Write 8 different customer messages and the triage record of each, as JSON."
    plan = Plan(topics, request, schema, requests_per_topic=4, model="recorded", price=Price(2.0, 8.0), max_tokens=1500)
    waiting = {t: [json.dumps({"examples": e["examples"]}) for e in recorded if e["topic"] == t] for t in topics}

    def answer(messages: Sequence[Mapping[str, Any]]) -> str | None:
        topic = messages[-1]["content"].removeprefix("Topic: ").split(".")[0]
        return waiting[topic].pop(0) if waiting.get(topic) else None

    return plan, answer, Path(tempfile.mkdtemp()) / "ledger.jsonl"


def kinship_table(synthetic: Sequence[dict], task: Task) -> Table:
    """Word triples that the synthetic training rows know already, of three sets of messages."""
    from course_utils import data_prep

    test, elsewhere = ([{"messages": c} for c in chats] for chats in (task.test, task.validation))
    own = data_prep.kinship(synthetic[80:], synthetic[:80], elsewhere)
    real = data_prep.kinship(synthetic[80:], test, elsewhere)
    rows = {
        "80 synthetic rows held out": {"known triples of words, %": 100 * own.test, "one writer?": own.suspicious},
        "test messages, written apart": {"known triples of words, %": 100 * real.test, "one writer?": real.suspicious},
    }
    return Table(rows, "How much of each set the synthetic training rows have said already", "messages", "")


# -- your own export, in one script ----------------------------------------------------------------------------------------

SCRIPT_NOTES = {
    "TEXT": "TEXT, LABEL and WHO: the columns of your export.",
    "LABELS": "All labels that are right.",
    "RENAME": 'Other spellings of them, such as {"Bill": "billing"}.',
    "ASKED": "The system message of every row.",
    "ALLOW": "What looks like personal data and is none, such as a product with a person's name.",
    "NUMBERS": 'Numbers of your own to take out, such as {r"\\bTB-\\d{5}\\b": "[ORDER]"}.',
    "NOBODY": "What stands in WHO where nobody knows the customer.",
    "SEED": "Another number deals the customers and the folds anew.",
    "STOP": "Shares of the rows: at most so many unusable, contradicting and of one customer;\n"
    "# at least so many with personal data, in the smallest part; kappa between a classifier and the labels.",
}


def spreadsheet(file: str | Path, rows: Sequence[dict], reasons: Sequence[Sequence[quality.Reason]]) -> Path:
    """Write the rows that no rule objects to as a table of message, category and customer, as a help desk exports it.

    Two messages are empty and three categories unknown, so that the first step has something to say.
    """
    import pandas as pd

    columns: dict[str, list[str | None]] = {"message": [], "category": [], "customer": []}
    for row, row_reasons in zip(rows, reasons, strict=True):
        if not row_reasons:
            columns["message"].append(formats.prompt_of(row))
            columns["category"].append(label_noise.label_of(row, "category"))
            columns["customer"].append(formats.customer_of(row))
    table = pd.DataFrame(columns)
    table.loc[[10, 20], "message"] = " "
    table.loc[[30, 40, 50], "category"] = "Delivery"
    table.to_csv(file, index=False)
    return Path(file)


def gone_wrong(steps: Sequence[Callable[[Any], tuple[Any, str]]], file: str | Path) -> Table:
    """What the script's steps report of exports that are broken in five ordinary ways.

    The steps are `usable`, `without_copies`, `redact`, `split` and `doubtful`; each takes a table of rows and returns one
    with its report. The file is the healthy export, whose first 400 rows are spoiled here.
    """
    import pandas as pd

    usable, without_copies, redact, split, doubtful = steps
    healthy = usable(pd.read_csv(file, dtype=str).head(400))[0].query("why == ''").reset_index(drop=True)
    moved = healthy.assign(category=healthy["category"].to_numpy()[np.arange(len(healthy)) - 1])
    apart, _ = split(healthy)
    broken = {
        "usable": (
            usable, healthy.assign(category=healthy["category"].str.upper()), "labels in capitals",
            "compare the names with those of your list, and rename",
        ),
        "without_copies": (
            without_copies, pd.concat([healthy, moved], ignore_index=True), "a wrong join: each message is there twice",
            "read three pairs of “copies”; join the tables by the ticket's number",
        ),
        "redact": (
            redact, healthy.assign(message=healthy["category"]), "TEXT names the wrong column",
            "nothing found in hundreds of messages is bad news; read ten",
        ),
        "split": (
            split, healthy.assign(person="web form"), "every row has the same customer",
            "take another column for WHO: an e-mail address, a ticket, a document",
        ),
        "doubtful": (
            doubtful, apart.assign(category=apart["category"].to_numpy()[np.arange(len(apart)) - 1]),
            "one column was sorted or moved without the others", "stop: these labels are not those of these messages",
        ),
    }  # fmt: skip
    table = {}
    for name, (step, rows, what, cure) in broken.items():
        try:
            report = step(rows)[1]
        except ValueError as error:
            report = f"stops: {str(error).splitlines()[0][:160]}"
        table[name] = {"what is wrong with the export": what, "what the step says": report, "what to do": cure}
    return Table(table, "The same steps on broken exports", "step", "")


def version_of(files: Iterable[str | Path]) -> str:
    """Name of the data in these files, by their content, and today's date."""
    content = hashlib.sha256()
    for file in sorted(map(Path, files)):
        content.update(file.read_bytes())
    return f"{content.hexdigest()[:12]} of {date.today()}"


def take_away(file: str | Path, settings: Mapping[str, Any], functions: Sequence[Callable[..., Any]]) -> str:
    """Write functions of the notebook as one script that runs without it, and say so."""
    import inspect

    return _write_script(file, settings, [inspect.getsource(function) for function in functions])


def clean_script(file: str | Path) -> str:
    """Write the script as section 9 of the lesson defines it, without running the lesson, and say so.

    Raises:
        CourseError: the file exists.
    """
    import ast

    if Path(file).exists():
        raise CourseError(f"{file} exists; choose another name with --out")
    text = source_file("05_dataset_prep").read_text(encoding="utf-8")
    cells = re.split(
        r"^# %%(.*)\n", text[text.index("# ## 9 ·") : text.index("print(lesson_05.take_away")], flags=re.MULTILINE
    )
    settings, functions = dict[str, Any](), list[str]()
    for kind, cell in zip(cells[1::2], cells[2::2]):
        for node in () if kind.strip() else ast.parse(cell).body:
            code = ast.get_source_segment(cell, node) or ""
            if isinstance(node, ast.FunctionDef):
                functions.append(code)
            elif isinstance(node, ast.Assign):
                target = node.targets[0]
                names = [ast.unparse(name) for name in getattr(target, "elts", [target])]
                if all(map(str.isupper, names)):  # the settings; whatever else is assigned there runs the script
                    value = ast.literal_eval(node.value)
                    settings |= zip(names, value if len(names) > 1 else [value])
    return _write_script(file, settings, functions)


def _write_script(file: str | Path, settings: Mapping[str, Any], functions: Iterable[str]) -> str:
    notes = {name: f"# {note}\n" for name, note in SCRIPT_NOTES.items()}
    parts = ["\n".join(f"{notes.get(name, '')}{name} = {value!r}" for name, value in settings.items())]
    parts += [function.strip() for function in functions]
    text = (assets.PACKAGE / "evidence" / "clean_export.txt").read_text(encoding="utf-8")
    text = text.replace("{functions}", "\n\n\n".join(parts))
    Path(file).write_text(text, encoding="utf-8")
    return f"{file}: {len(text.splitlines())} lines. In a terminal: python {file} YOUR_FILE.csv"


# -- was it worth it --------------------------------------------------------------------------------------------------------


def comparison(scores: Mapping[str, Scores], task: Task) -> Table:
    """Test scores of several runs beside a program that always gives the most common pair.

    "Escalations caught" counts test messages that must jump the queue and whose reason the model named rightly; a model that
    always says "none" is right for most messages and catches no one.
    """
    references = task.references()
    urgent = [i for i, reference in enumerate(references) if reference["escalation"] != "none"]
    table: dict[str, dict[str, Any]] = {}
    for name, run_scores in scores.items():
        records = [record or {} for record in run_scores.records]
        table[name] = {
            "valid": run_scores.valid,
            "both fields right": proportion([a == b for a, b in zip(records, references)]),
            "escalations caught": proportion([records[i].get("escalation") == references[i]["escalation"] for i in urgent]),
            "left at “question, none”": proportion([record == LEFT_EMPTY for record in records]),
        }
    table[COMMONEST] = {
        "valid": proportion([True] * len(references)),
        "both fields right": commonest_pair(references),
        "escalations caught": proportion([False] * len(urgent)),
        "left at “question, none”": None,
    }
    return Table(table, f"{len(references)} test messages, {len(urgent)} of which must be escalated", "trained on", "")


def gain(before: Scores, after: Scores, references: Sequence[Mapping[str, Any]]) -> Score:
    """Both fields right after minus before, message by message, with the interval of the difference."""
    right = [[float(r == expected) for r, expected in zip(s.records, references)] for s in (before, after)]
    return mean([b - a for a, b in zip(*right)])


def recorded_table() -> Table:
    """The recorded runs of `benchmarks/data_quality.py`, beside the baseline."""
    from course_utils.data_prep import load_task

    results = assets.read_record("data-quality")
    columns = {"both fields right": "both", "category": "category", "escalation": "escalation"}
    rows: dict[str, dict[str, Any]] = {}
    for name, (run, size, side) in {
        "the export as it came": ("raw", "raw", "test"),
        "the prepared rows": ("cleaned", "cleaned", "test"),
        "a hundred curated rows": ("a hundred good", "hundred", "test"),
        "rows labelled by keywords": ("mediocre", "mediocre", "test"),
        "sixty prepared rows, again and again": ("cleaned, 60 rows repeated", "duplicated", "test"),
        "synthetic rows": ("synthetic", "synthetic", "test"),
        "synthetic rows, asked about their own kind": ("synthetic", "synthetic", "its own test"),
    }.items():
        shares = {title: _percent(by_seed(run, field, side)) for title, field in columns.items()}
        rows[name] = {"rows to draw from": results["rows"][size]} | shares
    references = load_task("support_tickets", ["category", "escalation"]).references()
    alone = {field: commonest_pair([{field: r[field]} for r in references]) for field in ("category", "escalation")}
    baseline = {"both fields right": commonest_pair(references), **alone}
    rows[COMMONEST] = {"rows to draw from": None} | {title: f"{100 * s.value:.0f} %" for title, s in baseline.items()}
    caption = (
        f"Recorded {results['date']}: {len(results['seeds'])} runs, {results['examples']} examples each, 100 test messages. "
        "Mean (lowest to highest)"
    )
    return Table(rows, caption, "trained on", "")
