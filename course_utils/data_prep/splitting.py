"""Split training and validation rows, and check whether the test set is uncontaminated."""

from __future__ import annotations

import copy
import functools
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from course_utils.data_prep import formats
from course_utils.data_prep.findings import shorten
from course_utils.data_prep.reading import json_or_none
from course_utils.data_prep.similarity import Groups, in_processes, normalise, shared_form, similar_pairs, without_form
from course_utils.errors import CourseError

PHRASE_WORDS = 8  # consecutive words that two people hardly ever choose alike; Brown et al. 2020 use 13, on longer texts
MIN_PHRASE_WORDS = 5  # a shorter test text (a label, a name) occurs in other texts by chance
# Three consecutive words belong to the common form of a test set if at least this number and this share of its rows have
# them.
FRAME_ROWS, FRAME_SHARE = 4, 0.02
STOCK_ROWS = 10  # a phrase of so many different training prompts is a formula, not a question that was copied
SIMILAR = 0.5
LABEL_ROWS = 3  # rows that a value has on average if it is a label
SWEEPS = 10
UNLIKE = 0.05  # from this difference, a value's shares of the two parts are told
SIZE_WEIGHT = 0.2  # of groups' sizes in how alike two parts are; a label or a source has 1


@dataclass(frozen=True)
class Parts:
    """A training part and a validation part that is a sample of all rows.

    Attributes:
        train, validation: indices of the rows, in order.
        notes: where the parts could not be made alike, in words.
    """

    train: list[int]
    validation: list[int]
    notes: list[str]


def split(
    rows: Sequence[dict],
    validation: float = 0.1,
    group: Sequence | None = None,
    seed: int = 0,
    label: Sequence | None = None,
    source: Sequence | None = None,
    workers: int = 1,
) -> Parts:
    """Hold out a sample of the rows that is like all rows, while rows that belong together stay on one side.

    What stays together is a customer's rows, rows with the same prompt, and near-copies. Rows that were made from one
    template are different rows: the words that many prompts have in common count for nothing. The two parts are alike in
    their labels, sources, instructions and sizes of groups, as far as the groups allow (iterative stratification after
    Sechidis, Tsoumakas and Vlahavas 2011, for groups instead of rows).

    Args:
        rows: chat rows.
        validation: share of the rows for validation, from 0 to 1; met as closely as the groups allow.
        group: each row's customer, document, author and so on; rows with the same value stay together, and None groups a row
            with no other.
        seed: seed of the shuffle.
        label: each row's label; without it, answers that recur, or the fields of JSON answers whose values recur.
        source: where each row is from, if both parts should have the same shares of it.
        workers: number of processes that compare prompts.

    Raises:
        CourseError: there are fewer than two rows, the share is not between 0 and 1, or all rows are of one group.
    """
    if not 0 < validation < 1:
        raise CourseError(f"validation must be a share between 0 and 1, not {validation}")
    if len(rows) < 2:
        raise CourseError(f"{len(rows)} rows can't be split: at least two are needed")
    notes: list[str] = []
    prompts = [formats.prompt_of(row) for row in rows]
    groups = Groups(len(rows))
    groups.join_equal(group or ())
    if len(groups.members()) < 2:
        message = "all rows have the same group, so none can be held out"
        raise CourseError(f"{message}: name another one (group=…, --group COLUMN), or none (group=None, --group none)")
    by_owner = copy.deepcopy(groups)
    groups.join_equal([normalise(prompt) or prompt for prompt in prompts])
    if len(groups.members()) < 2:
        groups = by_owner
        notes.append("all rows have the same prompt, which is therefore in both parts")
    elif torn := _join_near(groups, prompts, max(2, round(validation * len(rows)) // 2), workers):
        pair = " and ".join(shorten(prompts[i]) for i in torn[0])
        message = f"{len(torn):,} pairs of similar prompts may be in both parts, because they would make too large a group"
        notes.append(f"{message}, for example {pair}")
    strata = _strata(rows, label)
    if source is not None:
        strata["source"] = source
    together = groups.members()
    held_out = _hold_out(together, strata, validation, seed)
    notes += _unlike(strata, held_out, len(rows), validation)
    return Parts([i for i in range(len(rows)) if i not in held_out], sorted(held_out), notes)


def _join_near(groups: Groups, prompts: Sequence[str], largest: int, workers: int) -> list[tuple[int, int]]:
    """Join near-copies, the most similar first, and return the pairs that would have made a group too large.

    Chains of similar texts end in one group of everything, and then nothing could be held out.
    """
    own_words = functools.partial(without_form, form=shared_form(prompts))
    pairs = similar_pairs(list(in_processes(own_words, prompts, workers)), SIMILAR, workers=workers)
    sizes = Counter(groups.find(i) for i in range(len(prompts)))
    torn = []
    for i, j, _ in sorted(pairs, key=lambda pair: -pair[2]):
        one, other = groups.find(i), groups.find(j)
        if one == other:
            continue
        size = sizes[one] + sizes[other]
        if size > largest:
            torn.append((i, j))
            continue
        groups.join(one, other)
        sizes[groups.find(one)] = size
    return torn


def _strata(rows: Sequence[dict], label: Sequence | None) -> dict[str, Sequence]:
    """What two parts of the rows should be alike in: name → the value of each row, None for no value."""
    strata: dict[str, Sequence] = {}
    if label is not None:
        strata["label"] = label
    else:
        strata |= _recurring([formats.answer_of(row) for row in rows])
    instructions = [next((str(m.get("content")) for m in row["messages"] if m["role"] == "system"), None) for row in rows]
    if len(set(instructions)) > 1:
        strata["instruction"] = instructions
    return strata


def _recurring(answers: Sequence[str]) -> dict[str, list]:
    """Labels in the answers: the answers themselves, or fields of the records in them, if their values recur."""
    records = [json_or_none(answer) for answer in answers]
    if sum(isinstance(record, dict) for record in records) > 0.5 * len(answers):
        names = {name: None for record in records if isinstance(record, dict) for name in record}
        columns = {name: [record.get(name) if isinstance(record, dict) else None for record in records] for name in names}
    else:
        columns = {"answer": list(answers)}
    recurring = {}
    for name, values in columns.items():
        kept = [value if isinstance(value, str | bool | int) else None for value in values]
        present = [value for value in kept if value is not None]
        if present and 1 < len(set(present)) <= len(present) / LABEL_ROWS:
            recurring[name] = kept
    return recurring


def _hold_out(together: list[list[int]], strata: Mapping[str, Sequence], share: float, seed: int) -> set[int]:
    """Choose groups so that the held-out part has the same share of each value, by moving what brings it closer."""
    order = list(together)
    random.Random(seed).shuffle(order)
    totals = Counter((name, value) for name, values in strata.items() for value in values if value is not None)
    totals += Counter(("size", len(members).bit_length()) for members in order for _ in members)
    totals["rows", None] = sum(map(len, order))
    # A value whose share is less than half a row says nothing about which row should be held out.
    targets = {cell: share * n for cell, n in totals.items() if share * n >= 0.5 or cell[0] == "rows"}
    targets["rows", None] = target = max(1, round(share * totals["rows", None]))
    cells = []
    for members in order:
        own = Counter((name, values[i]) for name, values in strata.items() for i in members)
        own |= {("size", len(members).bit_length()): len(members), ("rows", None): len(members)}
        cells.append([(cell, n) for cell, n in own.items() if cell in targets])
    counts: Counter = Counter()
    held_out = [False] * len(order)

    def cost(index: int) -> float:
        """By how much the squared distances from the targets grow, in units of the targets, if a group changes sides."""
        sign = -1 if held_out[index] else 1
        return sum(
            (SIZE_WEIGHT if cell[0] == "size" else 1) * n * (sign * 2 * (counts[cell] - targets[cell]) + n) / targets[cell]
            for cell, n in cells[index]
        )

    def move(index: int) -> None:
        held_out[index] = not held_out[index]
        for cell, n in cells[index]:
            counts[cell] += n if held_out[index] else -n

    for _ in range(SWEEPS):
        before = list(held_out)
        for index in range(len(order)):
            if cost(index) < -1e-9:
                move(index)
        if held_out == before:
            break
    while gap := target - counts["rows", None]:
        fitting = [i for i, members in enumerate(order) if held_out[i] == (gap < 0) and len(members) <= abs(gap)]
        if not fitting:
            break
        move(min(fitting, key=cost))
    if counts["rows", None] == 0:
        move(min(range(len(order)), key=lambda index: len(order[index])))
    return {i for index, members in enumerate(order) if held_out[index] for i in members}


def _unlike(strata: Mapping[str, Sequence], held_out: set[int], rows: int, share: float) -> list[str]:
    """Say where the held-out part is not like all rows."""
    notes = []
    if abs(len(held_out) / rows - share) > max(0.25 * share, 1 / rows):
        notes.append(f"validation has {len(held_out) / rows:.0%} of the rows, not {share:.0%}: the groups are too large")
    for name, values in strata.items():
        counts = Counter(value for value in values if value is not None)
        held = Counter(values[i] for i in held_out if values[i] is not None)
        # Of a rare one, none can be expected; a label is told even then, because its score can't be measured.
        least = 1 / share if name == "instruction" else 1 if name == "label" else 2
        missing = [(value, n) for value, n in counts.most_common() if value not in held and n >= least]
        if missing:
            few = ", ".join(f"{str(value)[:40]} ({n:,} row{'s' * (n > 1)})" for value, n in missing[:3])
            more = ", …" if missing[3:] else ""
            notes.append(f"{len(missing):,} of {len(counts):,} values of {name} have no row in validation: {few}{more}")
        trained = counts - held
        shares = {v: (trained[v] / max(1, trained.total()), held[v] / max(1, held.total())) for v in counts}
        apart = max(UNLIKE, 2 / max(1, held.total()))  # two rows more or less are chance
        unlike = sorted((v for v, (a, b) in shares.items() if abs(a - b) > apart), key=lambda v: -counts[v])
        if unlike and held and name != "instruction":
            few = ", ".join(f"{str(v)[:40]} {shares[v][0]:.0%} and {shares[v][1]:.0%}" for v in unlike[:3])
            more = ", …" if unlike[3:] else ""
            notes.append(f"{name}: shares differ, of the training rows and of validation: {few}{more}")
    return notes


@dataclass(frozen=True)
class Hit:
    """A test row that occurs in the training set.

    Attributes:
        test, train: indices of the test row and of the training row.
        kind: "near-duplicate" if their prompts are nearly the same, or "phrase" if both conversations contain the same run
            of words.
        evidence: the Jaccard index, or the phrase.
    """

    test: int
    train: int
    kind: str
    evidence: str


def contamination(train: Sequence[dict], test: Sequence[dict]) -> list[Hit]:
    """Find test rows that occur in the training set; each pair of rows gives at most one hit.

    A test row is found if its prompt is nearly the same as a training prompt, or if the two conversations have a phrase of
    eight words in common, answers included; so a test question inside a training answer is found too. A test text of five
    to seven words counts as one phrase. Phrases that many test rows have (an instruction, the form of the answers), or that
    many training rows with different prompts have (a closing formula, a disclaimer), are no evidence, and are ignored.

    Args:
        train, test: chat rows; a test row need not have an answer.
    """
    hits: dict[tuple[int, int], Hit] = {}
    prompts = [formats.prompt_of(row) for row in (*train, *test)]
    form = shared_form(prompts)
    for i, j, index in similar_pairs([without_form(prompt, form) for prompt in prompts], SIMILAR):
        if i < len(train) <= j:
            hits[j - len(train), i] = Hit(j - len(train), i, "near-duplicate", f"Jaccard index {index:.2f}")
    test_rows_with = _distinctive_phrases([_texts_of(row) for row in test])
    lengths = sorted({len(phrase.split()) for phrase in test_rows_with})
    found: dict[str, list[int]] = {}  # phrase → the training rows that have it
    for index, row in enumerate(train):
        for phrase in (phrase for n in lengths for text in _texts_of(row) for phrase in _phrases(text, n)):
            if phrase in test_rows_with:
                found.setdefault(phrase, []).append(index)
    for phrase, indices in found.items():
        if len({normalise(prompts[index]) for index in indices}) >= STOCK_ROWS:
            continue
        for index, test_index in itertools.product(indices, test_rows_with[phrase]):
            hits.setdefault((test_index, index), Hit(test_index, index, "phrase", phrase))
    return [hits[key] for key in sorted(hits)]


def _texts_of(row: dict) -> list[str]:
    """The prompt, and the texts of the answer; not the keys of a record, which are the same in every row."""
    return [formats.prompt_of(row), *formats.written_in(formats.answer_of(row))]


def _distinctive_phrases(tests: list[list[str]]) -> dict[str, list[int]]:
    """Phrase → the test rows that have it; without phrases that mostly belong to the common form of the test set."""
    rows: dict[str, dict[int, None]] = {}
    triples: dict[str, set[str]] = {}
    for index, texts in enumerate(tests):
        whole = " ".join(normalise(text) for text in texts)
        for text in texts:
            for triple in _phrases(text, 3):
                triples.setdefault(triple, set()).add(whole)
            length = min(PHRASE_WORDS, len(normalise(text).split()))
            for phrase in _phrases(text, length) if length >= MIN_PHRASE_WORDS else ():
                rows.setdefault(phrase, {})[index] = None
    frame = {
        triple for triple, whole_texts in triples.items() if len(whole_texts) >= max(FRAME_ROWS, FRAME_SHARE * len(tests))
    }

    def is_distinctive(phrase: str) -> bool:
        framed = [triple in frame for triple in _phrases(phrase, 3)]
        return sum(framed) < 0.5 * len(framed)

    return {phrase: list(owners) for phrase, owners in rows.items() if is_distinctive(phrase)}


def _phrases(text: str, n: int) -> Iterator[str]:
    """Each run of n words of a text."""
    words = normalise(text).split()
    return (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
