"""A model as judge of training rows, and whether to trust it.

A judge sees what rules can't: whether a label is right, whether an answer helps. It also has biases (it favours long
answers, and the first of two; Zheng et al. 2023), so its marks are compared with labels of your own before they decide
anything.
"""

from __future__ import annotations

import copy
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
PAIR_RUBRIC = """Two replies to a customer of a support desk. The better one is warm, names the customer's problem,
says what happens next and by when, and is short. Which reply is better? Answer with one letter: A or B."""
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
        client: from `endpoint.client_for`.
        model: name of the judge. It should not be the model that wrote the rows, which prefers its own answers.
        rubric: what the marks mean; by default the lesson's rubric.
        workers: number of requests that run at once.

    Returns:
        One verdict per row.

    Raises:
        CourseError: the endpoint refuses, or it cannot be reached.
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


@dataclass(frozen=True)
class Pair:
    """Two replies to one message, of which people prefer `better`."""

    message: str
    better: str
    worse: str


@dataclass(frozen=True)
class PairVerdict:
    """What a judge says about a pair that it has seen in both orders.

    Attributes:
        pair: the pair.
        as_a, as_b: the probability that the judge gives to the better reply, shown as A and shown as B.
    """

    pair: Pair
    as_a: float
    as_b: float

    @property
    def steady(self) -> bool:
        """Whether the judge prefers the same reply in both orders."""
        return (self.as_a > 0.5) == (self.as_b > 0.5)

    @property
    def both_orders(self) -> float:
        """The mean of the two probabilities, from which a preference for one of the two places cancels out."""
        return (self.as_a + self.as_b) / 2


def compare_here(
    pairs: Sequence[Pair], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rubric: str = PAIR_RUBRIC
) -> list[PairVerdict]:
    """Let a model on this machine choose the better reply of each pair, shown in both orders.

    Args:
        pairs: the pairs.
        model, tokenizer: the judge.
        rubric: what it is asked; it must ask for "A" or "B".

    Returns:
        One verdict per pair.
    """

    def conversation(message: str, a: str, b: str) -> list[dict]:
        shown = f"Message: {message}\n\nA: {a}\n\nB: {b}"
        return [{"role": "system", "content": rubric}, {"role": "user", "content": shown}]

    first = next_word(model, tokenizer, [conversation(p.message, p.better, p.worse) for p in pairs], ("A", "B"))
    second = next_word(model, tokenizer, [conversation(p.message, p.worse, p.better) for p in pairs], ("A", "B"))
    return [PairVerdict(pair, a, b) for pair, (a, _), (_, b) in zip(pairs, first, second)]


def biases(verdicts: Sequence[PairVerdict]) -> dict[str, float]:
    """Measure what a judge's choices depend on besides the replies.

    Returns:
        "takes the better reply" (in both orders together; 0.5 is guessing), "takes what is shown first" (0.5 is fair), "same
        reply in both orders" (1 is fair), and "takes the longer reply" (after averaging both orders).

    Raises:
        CourseError: there are no verdicts.
    """
    if not verdicts:
        raise CourseError("there are no verdicts to measure biases on")
    n = len(verdicts)
    better = sum((v.as_a > 0.5) + (v.as_b > 0.5) for v in verdicts) / (2 * n)
    first = sum((v.as_a > 0.5) + (v.as_b <= 0.5) for v in verdicts) / (2 * n)
    longer = sum((v.both_orders > 0.5) == (len(v.pair.better) > len(v.pair.worse)) for v in verdicts) / n
    return {
        "takes the better reply": better,
        "takes what is shown first": first,
        "same reply in both orders": sum(v.steady for v in verdicts) / n,
        "takes the longer reply": longer,
    }
