"""Scores for structured answers, each with a confidence interval.

An answer is valid only if the whole of it is one JSON object that satisfies the task's schema: a triage system that has to
dig a record out of prose, or guess what "urgency: asap" means, has not been given the format it needs.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from course_utils.errors import CourseError

CONFIDENCE = 0.95
RESAMPLES = 2000  # of a bootstrap
Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Score:
    """A mean over examples, with its 95 % confidence interval.

    Attributes:
        value: the mean.
        low, high: the bounds of the interval.
        n: number of examples.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Scores:
    """The result of `evaluate`.

    Attributes:
        valid: share of answers in the right format.
        exact: field → share of answers in which this field equals the reference's. In an invalid answer every field counts
            as wrong.
        enumerations: share of answers in which all enumeration fields are right.
        f1: field of free text → mean token F1 against the reference.
        records: the parsed answers; None in place of an invalid one.
    """

    valid: Score
    exact: dict[str, Score]
    enumerations: Score
    f1: dict[str, Score]
    records: list[dict[str, Any] | None]

    def rows(self) -> list[tuple[str, Score]]:
        """Return the name and the score of everything that was measured."""
        return [
            ("valid format", self.valid),
            ("all enumeration fields right", self.enumerations),
            *((f"{field}: exact match", score) for field, score in self.exact.items()),
            *((f"{field}: token F1", score) for field, score in self.f1.items()),
        ]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {score}" for name, score in self.rows())


def evaluate(
    outputs: Sequence[str],
    references: Sequence[Mapping[str, Any]],
    schema: Mapping[str, Any],
) -> Scores:
    """Score answers against reference records.

    Args:
        outputs: the model's answers, as text.
        references: the correct record for each answer.
        schema: JSON Schema of a record; properties with "enum" are the enumeration fields, other strings are free text.

    Raises:
        CourseError: the lists are empty, or they differ in length.
    """
    if len(outputs) != len(references):
        raise CourseError(f"{len(outputs)} answers for {len(references)} references: give one reference for each answer")
    if not outputs:
        raise CourseError("there is nothing to score: the list of answers is empty")
    records = [parse_record(output, schema) for output in outputs]
    fields = list(schema["properties"])
    enumerations = [field for field in fields if "enum" in schema["properties"][field]]
    texts = [field for field in fields if field not in enumerations and "pattern" not in schema["properties"][field]]
    pairs = list(zip(records, references))

    def right(field: str) -> list[bool]:
        return [record is not None and record[field] == reference[field] for record, reference in pairs]

    exact = {field: right(field) for field in fields}
    all_enumerations = [all(values) for values in zip(*(exact[field] for field in enumerations))]
    f1 = {f: [token_f1(r[f], ref[f]) if r is not None else 0.0 for r, ref in pairs] for f in texts}
    return Scores(
        valid=proportion([record is not None for record in records]),
        exact={field: proportion(values) for field, values in exact.items()},
        enumerations=proportion(all_enumerations),
        f1={field: mean(values) for field, values in f1.items()},
        records=records,
    )


def parse_record(output: str, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record in an answer, or None unless the whole answer is JSON that satisfies the JSON Schema."""
    import jsonschema

    try:
        record: dict[str, Any] = json.loads(output.strip())
        jsonschema.validate(record, schema)
    except (ValueError, RecursionError, jsonschema.ValidationError):
        return None
    return record


def token_f1(answer: str | None, reference: str | None) -> float:
    """Return the word overlap of two texts, from 0 to 1 (F1 as in SQuAD); None matches only None."""
    if answer is None or reference is None:
        return float(answer == reference)
    answer_words, reference_words = Counter(_words(answer)), Counter(_words(reference))
    common = sum((answer_words & reference_words).values())
    if not common:
        return float(answer_words == reference_words)
    precision, recall = common / sum(answer_words.values()), common / sum(reference_words.values())
    return 2 * precision * recall / (precision + recall)


def proportion(values: Sequence[float]) -> Score:
    """Return the share of true values, with its Wilson interval.

    The interval stays between 0 and 1, and is correct even where none or all of the values are true. Source: E. B. Wilson,
    Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    return _wilson(sum(map(bool, values)) / len(values), len(values))


def _wilson(p: float, n: int) -> Score:
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    # min and max: at 0 of n and n of n, rounding would put the share itself outside the interval by 1e-17.
    return Score(p, min(max(0.0, centre - half), p), max(min(1.0, centre + half), p), n)


def paired_difference(values: Sequence[bool], reference: Sequence[bool]) -> Score:
    """Return how much more often one system is right than another on the same questions, with Tango's score interval.

    It has a width also where both are right on the same questions, because others of the kind could part them. Source:
    T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design, 1998.

    Args:
        values, reference: for each question whether the system, and the one it is compared with, is right.

    Raises:
        CourseError: there is no question, or the lists differ in length.
    """
    n = len(values)
    if not n or n != len(reference):
        raise CourseError(f"{n} answers cannot be paired with {len(reference)}: both must answer the same questions")
    gained, lost = sum(a > b for a, b in zip(values, reference)), sum(a < b for a, b in zip(values, reference))

    def statistic(difference: float) -> float:
        linear = -gained - lost + (2 * n - gained + lost) * difference
        square = max(0.0, linear**2 + 8 * n * lost * difference * (1 - difference))
        variance = n * ((math.sqrt(square) - linear) / (2 * n) + difference * (1 - difference))
        return (gained - lost - n * difference) / math.sqrt(max(variance, 1e-12))

    def bound(z: float) -> float:
        low, high = -1.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if statistic(middle) > z else (low, middle)
        return high

    return Score((gained - lost) / n, bound(Z), bound(-Z), n)


def mean(values: Sequence[float]) -> Score:
    """Return the mean of some values, one per example, with its percentile bootstrap interval."""
    import numpy as np

    data = np.asarray(values, dtype=float)
    resampled = np.random.default_rng(0).integers(0, len(data), (RESAMPLES, len(data)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(data[resampled].mean(axis=1), [tail, 100 - tail])
    return Score(float(data.mean()), float(low), float(high), len(data))


def over_seeds(rows: Sequence[Sequence[float]]) -> Score:
    """Return the mean over several seeds on the same questions, with an interval for other questions of the same kind.

    The seeds of one question are not independent draws: they are averaged before anything is resampled. The variation
    between seeds is in `rows`, not in the interval.

    Args:
        rows: for each seed, one value per question, the questions in the same order.

    Raises:
        CourseError: there are no values.
    """
    if not rows or not rows[0]:
        raise CourseError("there is nothing to average: no seed has a value")
    averages = [sum(question) / len(rows) for question in zip(*rows, strict=True)]
    total, n = sum(averages), len(averages)
    # With few right or few wrong, resampling says too little. Wilson's interval, as if each question had been asked once,
    # can only be too wide.
    if set(averages) <= {0, 1} or min(total, n - total) < 5:
        return _wilson(total / n, n)
    return mean(averages)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
