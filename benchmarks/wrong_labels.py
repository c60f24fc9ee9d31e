"""Which labels are probably wrong? Rows whose label a classifier would not have given, though it never saw that row.

No rule sees a wrong label: the row is well formed, and the label is one of the allowed ones. But labels agree with their
messages more often than not, so a classifier learns what most rows say, and the few that contradict it stand out. Each row
is judged by a classifier that was trained without it ("out of fold"), or the classifier would know the wrong label by heart;
and without its customer's other rows, which may say the same in nearly the same words, with the same wrong label.

This is the method of confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068; library: cleanlab), in its
simplest form: rank the rows by the probability of their own label. The paper's rule picks rows instead: a row is a suspect
if another label reaches that label's threshold, the mean probability that the classifier gives it on the rows that have it
(the off-diagonal of the paper's confident joint). `LabelCheck.by_published_rule` has those. On the lesson's export the rule
leaves two thirds of the wrong labels where they are, and as many rows from the top of the ranking have more of them; the
ranking finds nearly all, if you read on long enough (37 of 40 in the first sixty rows, 39 in 110). Mistakes that
many rows have in common are another matter: the classifier learns them like anything else, and finds few of them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from course_utils.data_prep import formats, truth
from course_utils.exercises.lesson_05 import classifier

import numpy as np


@dataclass(frozen=True)
class LabelCheck:
    """What a classifier says about the labels of rows that it was not trained on.

    Attributes:
        labels: all labels, sorted.
        given: the label of each row.
        suggested: for each row, the label that the classifier finds likeliest.
        probability: for each row, the probability that the classifier gives to its own label, shape (rows,).
        suspects: rows for which the classifier prefers another label; the least probable label first.
        by_published_rule: the suspects that the rule of confident learning accuses, in the same order.
    """

    labels: tuple[str, ...]
    given: list[str]
    suggested: list[str]
    probability: np.ndarray = field(repr=False)
    suspects: list[int] = field(repr=False)
    by_published_rule: list[int] = field(repr=False)


def label_of(row: dict, name: str) -> str:
    """Return the value of a field of the record in a row's answer."""
    return json.loads(formats.answer_of(row))[name]


def evidence_in(row: dict, name: str) -> str:
    """Return what a classifier may read of a row: the message, and the record without the label itself."""
    rest = {key: value for key, value in json.loads(formats.answer_of(row)).items() if key != name}
    return "\n".join([formats.prompt_of(row), *(f"{key}_{v}" if " " not in str(v) else str(v) for key, v in rest.items())])


def one_owner_each(owners: Sequence) -> list[str]:
    """Return each row's owner as text; a row without one (None) gets an owner of its own."""
    return [f"alone {index}" if owner is None else str(owner) for index, owner in enumerate(owners)]


def folds_of(owners: Sequence[str], labels: Sequence | np.ndarray, folds: int, seed: int) -> list[tuple[Any, Any]]:
    """Divide rows into parts with about the same shares of labels, the rows of one owner always in one part.

    Returns:
        For each part (indices of all other rows, indices of its rows).
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    everybody_once = len(set(owners)) == len(owners)  # then the plain division is as good, and meets the shares better
    parts = (StratifiedKFold if everybody_once else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    return list(parts.split(np.zeros(len(owners)), labels, None if everybody_once else owners))


def check_labels(
    rows: Sequence[dict],
    name: str,
    folds: int = 5,
    seed: int = 0,
    group: Callable[[dict], object] | Sequence | None = None,
) -> LabelCheck:
    """Judge the label of each row by a classifier that was trained on other customers' rows.

    Drop copies first: a copy in another fold would tell the classifier the label that is to be doubted. For the same reason
    the rows of one customer are always in the same fold: people write about one thing twice, in nearly the same words.

    Args:
        rows: chat rows whose answers are JSON records.
        name: the field of the record that is the label.
        folds: number of parts; each part is judged by a classifier that was trained on the others.
        seed: seed of the division into parts.
        group: a row's customer, document, author and so on, as a function or as one value per row, such as
            `Prepared.owners`; None groups a row with no other. By default, the name in the user's message.
    """
    from sklearn.model_selection import cross_val_predict

    given_labels = [label_of(row, name) for row in rows]
    owners = one_owner_each(group if isinstance(group, Sequence) else [(group or formats.customer_of)(row) for row in rows])
    labels, coded = np.unique(given_labels, return_inverse=True)
    texts = [evidence_in(row, name) for row in rows]
    parts = folds_of(owners, coded, folds, seed)
    probabilities = cross_val_predict(classifier(), texts, coded, cv=parts, method="predict_proba")
    own = probabilities[np.arange(len(coded)), coded]
    likeliest = probabilities.argmax(1)
    thresholds = np.array([own[coded == code].mean() for code in range(len(labels))])
    reached = np.where(probabilities >= thresholds, probabilities, 0)
    accused = (reached.max(1) > 0) & (reached.argmax(1) != coded)
    order = np.argsort(own, kind="stable")
    return LabelCheck(
        labels=tuple(map(str, labels)),
        given=given_labels,
        suggested=[str(labels[code]) for code in likeliest],
        probability=own,
        suspects=[int(i) for i in order if likeliest[i] != coded[i]],
        by_published_rule=[int(i) for i in order if accused[i]],
    )


def repaired(rows: Sequence[dict], name: str, decisions: Mapping[int, str | None]) -> list[dict]:
    """Return copies of the rows with the labels that somebody has decided on.

    Args:
        rows: chat rows whose answers are JSON records.
        name: the field of the record that is the label.
        decisions: index of a row → its right label, or None to leave the row out; other rows stay as they are.
    """
    repaired_rows = []
    for index, row in enumerate(rows):
        decision = decisions.get(index, "")
        if decision is None:
            continue
        new = copy.deepcopy(dict(row))
        if decision:
            answer = next(m for m in reversed(new["messages"]) if m["role"] == "assistant")
            record = json.loads(formats.answer_of(row))
            answer["content"] = json.dumps(record | {name: decision}, ensure_ascii=False)
        repaired_rows.append(new)
    return repaired_rows


def planted(export: truth.RawExport, lines: Sequence[int]) -> list[int]:
    """Return, as indices into `lines`, which of the rows of these lines have a label that was exchanged on purpose."""
    return [index for index, line in enumerate(lines) if "wrong_label" in export.faults(line)]
