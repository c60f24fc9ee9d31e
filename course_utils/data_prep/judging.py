"""A model as judge of training rows, and whether to believe it.

A judge reads what rules can't: whether a label is right, whether an answer helps. It also has tastes of its own (long
answers, the first of two; Zheng et al. 2023), so before its marks decide anything they are held against labels of one's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_utils.data_prep import formats
from course_utils.data_prep.endpoint import ask, json_in
from course_utils.data_prep.quality import agreement
from course_utils.errors import CourseError

if TYPE_CHECKING:
    import openai

RUBRIC = """You check training data. Read the message and the answer, and give a mark:
5 the answer is right in every part; 4 right but for a trifle; 3 one part is wrong or doubtful;
2 several parts are wrong; 1 the answer does not belong to the message, or says nothing.
Answer with JSON: {"reason": "<one sentence>", "mark": <1 to 5>}."""
SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "mark": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["reason", "mark"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Verdict:
    """A mark from 1 to 5 and the judge's reason; mark None where the judge gave none that could be read."""

    mark: int | None
    reason: str


def judge(rows: Sequence[dict], client: openai.OpenAI, model: str, rubric: str = RUBRIC, workers: int = 4) -> list[Verdict]:
    """A verdict for each row.

    Args:
        rows: chat rows.
        client: of `endpoint.client_for`.
        model: the judge; not the model that wrote the rows, which likes its own.
        rubric: what the marks mean; in the lesson's words by default.
        workers: requests at once.

    Raises:
        CourseError: the endpoint refuses or can't be reached.
    """

    def one(row: dict) -> Verdict:
        shown = f"Message:\n{formats.prompt_of(row)}\n\nAnswer:\n{formats.answer_of(row)}"
        messages = [{"role": "system", "content": rubric}, {"role": "user", "content": shown}]
        key = hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()[:32]
        answer = ask(client, model, messages, SCHEMA, 200, 0.0, key)
        try:
            given = json_in(answer.text)
            mark = given["mark"]
            if not isinstance(mark, int) or not 1 <= mark <= 5:
                raise ValueError(f"the mark is {mark!r}")
            return Verdict(mark, str(given.get("reason", "")))
        except (ValueError, KeyError, TypeError) as error:
            return Verdict(None, f"no verdict: {str(error)[:80]}")

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, rows))


def trust(verdicts: Sequence[Verdict], good: Sequence[bool], from_mark: int = 4) -> dict[str, float]:
    """How far a judge agrees with labels of one's own on the same rows.

    Args:
        verdicts: of the judge.
        good: one's own: should the row stay?
        from_mark: mark from which the judge's verdict means that it should.

    Returns:
        agreement (share), kappa (Cohen's; below about 0.6 the judge should not decide), caught (share of bad rows that the
        judge marks down), spared (share of good rows that it leaves).

    Raises:
        CourseError: lists of different length, or empty.
    """
    if len(verdicts) != len(good) or not verdicts:
        raise CourseError(f"{len(verdicts)} verdicts for {len(good)} labels")
    stays = [verdict.mark is not None and verdict.mark >= from_mark for verdict in verdicts]
    bad = [s for s, g in zip(stays, good) if not g]
    fine = [s for s, g in zip(stays, good) if g]
    return {
        "agreement": sum(s == bool(g) for s, g in zip(stays, good)) / len(good),
        "kappa": agreement(stays, map(bool, good)),
        "caught": 1 - sum(bad) / len(bad) if bad else float("nan"),
        "spared": sum(fine) / len(fine) if fine else float("nan"),
    }
