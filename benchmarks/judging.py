"""What a judge of training rows is asked, and how its verdict is read (`laptop_judge.py`).

A judge sees what rules can't: whether a label is right, whether an answer helps. It also has biases (it favours long
answers, and the first of two; Zheng et al. 2023), so its marks are compared with labels of one's own before they decide
anything.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from course_utils.errors import CourseError
from course_utils.scoring import cache_name, chat_token_ids, shared_beginning

import torch
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
