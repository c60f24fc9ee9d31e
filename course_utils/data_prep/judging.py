"""A model as judge of training rows, and whether to trust it.

A judge sees what rules can't: whether a label is right, whether an answer helps. It also has biases (it favours long
answers, and the first of two; Zheng et al. 2023), so its marks are compared with labels of your own before they decide
anything.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.data_prep import formats
from course_utils.data_prep.quality import agreement
from course_utils.errors import CourseError

if TYPE_CHECKING:
    import openai
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RUBRIC = """You check training data. Read the message and the answer, and give a mark:
5 the answer is right in every part; 4 right but for a trifle; 3 one part is wrong or doubtful;
2 several parts are wrong; 1 the answer does not belong to the message, or says nothing.
Answer with JSON: {"reason": "<one sentence>", "mark": <1 to 5>}."""
# The same question for a model on this machine, whose next word is the verdict.
ONE_WORD_RUBRIC = """You check training data for a support desk. Each row has a customer's message and the
record that an agent wrote. The category says what the message is mainly about:
delivery: something has not come, came late or is the wrong item; billing: payments, refunds, invoices, gift cards;
returns: the customer sends something back; defect: something is broken or dangerous; account: log-in, data, newsletter;
question: anything the customer wants to know before buying or while using it.
Is the category right, and is the record about this message? Answer with one word: yes or no."""
SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "mark": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["reason", "mark"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Verdict:
    """What a judge says about a row: a mark from 1 to 5, and the reason.

    The mark is None if the judge gave none that could be read.
    """

    mark: int | None
    reason: str


def judge(rows: Sequence[dict], client: openai.OpenAI, model: str, rubric: str = RUBRIC, workers: int = 4) -> list[Verdict]:
    """Let a model behind an endpoint judge each row.

    Args:
        rows: chat rows.
        client: a client of the openai library.
        model: name of the judge. It should not be the model that wrote the rows, which prefers its own answers.
        rubric: what the marks mean; by default the lesson's rubric.
        workers: number of requests that run at once.

    Returns:
        One verdict per row.

    Raises:
        CourseError: the endpoint refuses, or it cannot be reached.
    """

    import openai

    answer_format: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}

    def judge_row(row: dict) -> Verdict:
        shown = f"Message:\n{formats.prompt_of(row)}\n\nAnswer:\n{formats.answer_of(row)}"
        messages: Any = [{"role": "system", "content": rubric}, {"role": "user", "content": shown}]
        try:
            answer = client.chat.completions.create(model=model, messages=messages, response_format=answer_format)
        except openai.OpenAIError as error:
            raise CourseError(f"{client.base_url}: {error.__cause__ or str(error)[:300]}") from error
        try:
            verdict = json_in(answer.choices[0].message.content or "")
            mark = verdict["mark"]
            if not isinstance(mark, int) or not 1 <= mark <= 5:
                raise ValueError(f"the mark is {mark!r}")
            return Verdict(mark, str(verdict.get("reason", "")))
        except (ValueError, KeyError, TypeError) as error:
            return Verdict(None, f"no verdict: {str(error)[:80]}")

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(judge_row, rows))


def json_in(text: str) -> Any:
    """Return the JSON in an answer, with or without a code fence around it.

    Raises:
        ValueError: there is no JSON in it.
    """
    text = text.strip()
    if text.startswith("```"):
        text = text.split("\n", 1)[-1].rsplit("```", 1)[0]
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def agreement_with_labels(verdicts: Sequence[Verdict], good: Sequence[bool], from_mark: int = 4) -> dict[str, float]:
    """Measure how far a judge agrees with your own labels of the same rows.

    Args:
        verdicts: the judge's verdicts.
        good: your own labels: whether each row should be kept.
        from_mark: the lowest mark with which the judge would keep a row.

    Returns:
        "agreement" (share of the rows), "kappa" (Cohen's; below about 0.6 the judge should not decide), "caught" (share of
        the bad rows that the judge rejects), "spared" (share of the good rows that it keeps).

    Raises:
        CourseError: the lists differ in length, or they are empty.
    """
    if len(verdicts) != len(good) or not verdicts:
        raise CourseError(f"{len(verdicts)} verdicts for {len(good)} labels: give one label for each verdict")
    accepted = [verdict.mark is not None and verdict.mark >= from_mark for verdict in verdicts]
    accepted_bad = [s for s, g in zip(accepted, good) if not g]
    accepted_good = [s for s, g in zip(accepted, good) if g]
    return {
        "agreement": sum(s == bool(g) for s, g in zip(accepted, good)) / len(good),
        "kappa": agreement(accepted, map(bool, good)),
        "caught": 1 - sum(accepted_bad) / len(accepted_bad) if accepted_bad else float("nan"),
        "spared": sum(accepted_good) / len(accepted_good) if accepted_good else float("nan"),
    }


# -- a judge on this machine ------------------------------------------------------------------------------------------------


def next_word(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[list[dict]], words: Sequence[str]
) -> list[list[float]]:
    """Compute how probable each word is as the beginning of the answer, compared with the other words.

    Nothing is generated: the prompt goes through the model once.

    Args:
        model, tokenizer: the judge.
        conversations: what it is shown.
        words: the verdicts that it can give; each must begin with another token.

    Returns:
        For each conversation the probabilities of the words, which sum to 1.

    Raises:
        CourseError: two words begin with the same token.
    """
    import torch

    from course_utils.scoring import cache_name, chat_token_ids, shared_beginning

    first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    if len(set(first)) < len(first):
        raise CourseError(f"{', '.join(words)} begin with the same token; choose other verdicts")
    prompts = [chat_token_ids(tokenizer, conversation, add_generation_prompt=True) for conversation in conversations]
    shared = shared_beginning(prompts)
    name = cache_name(model)
    probabilities = []
    model.eval()
    with torch.no_grad():
        prefix = model(torch.tensor([prompts[0][:shared]], device=model.device), use_cache=True) if shared else None
        for ids in prompts:
            rest = torch.tensor([ids[shared:]], device=model.device)
            # The rubric is read once; a cache grows as it is used, so each prompt gets a copy.
            cache = {name: copy.deepcopy(prefix.past_key_values)} if prefix is not None else {}
            logits = model(rest, use_cache=True, **cache).logits[0, -1].float()
            probabilities.append(logits[first].softmax(0).tolist())
    return probabilities


def judge_here(
    rows: Sequence[dict], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rubric: str = ONE_WORD_RUBRIC
) -> list[float]:
    """Let a model on this machine judge each row.

    Args:
        rows: chat rows.
        model, tokenizer: the judge.
        rubric: what it is asked; it must ask for "yes" or "no".

    Returns:
        For each row, the probability of "yes" (keep it) rather than "no".
    """
    conversations = [
        [
            {"role": "system", "content": rubric},
            {"role": "user", "content": f"Message: {formats.prompt_of(row)}\n\nRecord: {formats.answer_of(row)}"},
        ]
        for row in rows
    ]
    return [yes for yes, _ in next_word(model, tokenizer, conversations, ("yes", "no"))]
