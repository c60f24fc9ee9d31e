"""Objectives: how an example becomes token ids, and a batch becomes a loss.

An objective knows nothing of devices, optimisers, logging or checkpoints; the loop knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from course_utils.errors import CourseError

IGNORE = -100


@dataclass(frozen=True)
class Encoded:
    """One example as token ids: the first `prompt_length` are given, the rest are to be learned."""

    ids: list[int]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: cross-entropy on the completion's tokens, none on the prompt's.

    The completion is the last assistant message up to and including the stop token.
    """

    name: str = "sft"

    def encode(self, tokenizer, example, max_length: int, where: str) -> Encoded:
        """Turn a conversation (list of messages, the last one the assistant's) into token ids.

        Raises:
            CourseError: not a conversation, no completion, or a prompt that leaves no room for one.
        """
        messages = example["messages"] if isinstance(example, dict) and "messages" in example else example
        _require_conversation(messages, where)
        prompt = _template_ids(tokenizer, messages[:-1], add_generation_prompt=True)
        ids = _template_ids(tokenizer, messages)
        if ids[: len(prompt)] != prompt:
            raise CourseError(f"{where}: the chat template changes the prompt once an answer follows it")
        while ids and ids[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id in ids[len(prompt) :]:
            ids.pop()  # templates put a newline after the stop token; nothing is learned from it
        if len(prompt) >= max_length:
            raise CourseError(
                f"{where}: the prompt alone has {len(prompt)} tokens and max_length is {max_length}; "
                f"raise Settings(max_length=...) above it or shorten the message"
            )
        return Encoded(ids[:max_length], len(prompt))

    def scored(self, example: Encoded) -> int:
        """Number of tokens of an example that carry loss."""
        return len(example) - example.prompt_length

    def collate(self, examples: Sequence[Encoded], pad_id: int) -> dict:
        """Batch of examples, padded on the left so that all completions end together.

        Then only the last `keep` positions can carry loss, and the model needs logits for no others: with completions
        of 50 tokens and a vocabulary of 49,152 that is most of the memory and a fifth of the time.

        Returns:
            dict of `input_ids`, `attention_mask`, `position_ids` (batch, length), `labels` (batch, keep) with IGNORE
            where there is no loss, and the integer `keep`.
        """
        import torch

        # Rounded up to a multiple of 8: libraries prepare a kernel for each new shape, and fewer shapes save more time than
        # the few padded positions cost (5 to 10 % measured on a CPU).
        length = _round_up(max(map(len, examples)))
        keep = min(_round_up(max(map(self.scored, examples))), length - 1)
        input_ids = torch.full((len(examples), length), pad_id)
        attention_mask = torch.zeros((len(examples), length), dtype=torch.long)
        labels = torch.full((len(examples), keep), IGNORE)
        for row, example in enumerate(examples):
            input_ids[row, length - len(example) :] = torch.tensor(example.ids)
            attention_mask[row, length - len(example) :] = 1
            completion = example.ids[example.prompt_length :]
            labels[row, keep - len(completion) :] = torch.tensor(completion)
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "labels": labels,
            "keep": keep,
        }

    def loss(self, model, batch: dict):
        """Sum of the cross-entropies over the scored tokens.

        The sum, not the mean: the loop divides by the tokens of the whole batch, so that a token weighs the same in
        whatever piece it is.
        """
        import torch
        import torch.nn.functional as F

        length = batch["input_ids"].shape[1]
        # From one position before the labels, since each position predicts the next, and without the last. As a list of
        # positions, not a number: the slice that a number makes is not contiguous, and the head then copies its weight
        # once for each example (a third of the step on a CPU).
        positions = torch.arange(length - batch["keep"] - 1, length - 1, device=batch["input_ids"].device)
        logits = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            logits_to_keep=positions,
            use_cache=False,
        ).logits
        labels = batch["labels"]
        scored = labels != IGNORE
        return F.cross_entropy(logits[scored].float(), labels[scored], reduction="sum")


def _round_up(length: int, to: int = 8) -> int:
    return -(-length // to) * to


def _template_ids(tokenizer, messages, add_generation_prompt: bool = False) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _require_conversation(messages, where: str) -> None:
    if not isinstance(messages, list) or len(messages) < 2:
        raise CourseError(f"{where}: expected a list of at least two messages, found {type(messages).__name__}")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise CourseError(f"{where}, message {number}: expected {{'role': ..., 'content': text}}, found {message!r:.80}")
    if messages[-1]["role"] != "assistant":
        raise CourseError(f"{where}: the last message must be the assistant's, it is the {messages[-1]['role']}'s")
    if not messages[-1]["content"].strip():
        raise CourseError(f"{where}: the assistant's message is empty, there is nothing to learn")
