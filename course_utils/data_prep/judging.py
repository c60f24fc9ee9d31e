"""A model as judge of training rows, and whether to trust it.

A judge sees what rules can't: whether a label is right, whether an answer helps. It also has biases (it favours long
answers, and the first of two; Zheng et al. 2023), so its marks are compared with labels of your own before they decide
anything.
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
    """A mark from 1 to 5 and the judge's reason; the mark is None if the judge gave none that could be read."""

    mark: int | None
    reason: str


def judge(rows: Sequence[dict], client: openai.OpenAI, model: str, rubric: str = RUBRIC, workers: int = 4) -> list[Verdict]:
    """A verdict for each row.

    Args:
        rows: chat rows.
        client: of `endpoint.client_for`.
        model: the judge; not the model that wrote the rows, which prefers its own answers.
        rubric: what the marks mean; by default the lesson's rubric.
        workers: how many requests run at once.

    Raises:
        CourseError: the endpoint refuses, or can't be reached.
    """

    def judge_row(row: dict) -> Verdict:
        shown = f"Message:\n{formats.prompt_of(row)}\n\nAnswer:\n{formats.answer_of(row)}"
        messages = [{"role": "system", "content": rubric}, {"role": "user", "content": shown}]
        key = hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()[:32]
        answer = ask(client, model, messages, SCHEMA, 200, 0.0, key)
        try:
            verdict = json_in(answer.text)
            mark = verdict["mark"]
            if not isinstance(mark, int) or not 1 <= mark <= 5:
                raise ValueError(f"the mark is {mark!r}")
            return Verdict(mark, str(verdict.get("reason", "")))
        except (ValueError, KeyError, TypeError) as error:
            return Verdict(None, f"no verdict: {str(error)[:80]}")

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(judge_row, rows))


def trust(verdicts: Sequence[Verdict], good: Sequence[bool], from_mark: int = 4) -> dict[str, float]:
    """How far a judge agrees with your own labels of the same rows.

    Args:
        verdicts: the judge's.
        good: your own labels: should the row be kept?
        from_mark: the lowest mark with which the judge would keep a row.

    Returns:
        agreement (share), kappa (Cohen's; below about 0.6 the judge should not decide), caught (share of the bad rows that
        the judge rejects), spared (share of the good rows that it keeps).

    Raises:
        CourseError: the lists differ in length, or are empty.
    """
    if len(verdicts) != len(good) or not verdicts:
        raise CourseError(f"{len(verdicts)} verdicts for {len(good)} labels")
    accepted = [verdict.mark is not None and verdict.mark >= from_mark for verdict in verdicts]
    accepted_bad = [s for s, g in zip(accepted, good) if not g]
    accepted_good = [s for s, g in zip(accepted, good) if g]
    return {
        "agreement": sum(s == bool(g) for s, g in zip(accepted, good)) / len(good),
        "kappa": agreement(accepted, map(bool, good)),
        "caught": 1 - sum(accepted_bad) / len(accepted_bad) if accepted_bad else float("nan"),
        "spared": sum(accepted_good) / len(accepted_good) if accepted_good else float("nan"),
    }
