"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.scoring import Batch, Encoded, chat_token_ids, token_log_probabilities
from course_utils.training.objectives.base import Loss, Objective
from course_utils.training.objectives.encoding import check_messages, encode_completion, encode_prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

TURNS = ("last", "all")


@dataclass(frozen=True)
class SFT(Objective):
    """Supervised fine-tuning: cross-entropy on the completion's tokens only, not on the prompt's.

    Every token has the same weight, whatever example, batch or micro-batch it is in.

    Attributes:
        turns: which of the assistant's messages are learned, each up to and including its stop token: "last", or "all"
            except those with `"weight": 0`, as in the hosted API.
        accuracy: whether to measure also the share of learned tokens that are the model's first choice.
    """

    turns: str = "last"
    accuracy: bool = False
    name: str = "sft"

    def __post_init__(self) -> None:
        """Refuse an unknown choice of turns.

        Raises:
            CourseError: `turns` is neither "last" nor "all".
        """
        if self.turns not in TURNS:
            raise CourseError(f"SFT(turns={self.turns!r}): choose among {', '.join(TURNS)}")

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a conversation, a list of messages that ends with the assistant's, into token ids.

        Raises:
            CourseError: it is not a conversation, it has no completion, or its prompt leaves no room for one.
        """
        messages = example["messages"] if isinstance(example, dict) and "messages" in example else example
        if not isinstance(messages, list) or len(messages) < 2:
            raise CourseError(f"{where}: expected a list of at least two messages, found {type(messages).__name__}")
        check_messages(messages, where)
        if self.turns == "all":
            return self._encode_all(tokenizer, messages, max_length, where)
        prompt = encode_prompt(tokenizer, messages[:-1], max_length, where)
        return Encoded(prompt, [encode_completion(tokenizer, prompt, messages, max_length, where)])

    def _encode_all(
        self, tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], max_length: int, where: str
    ) -> Encoded:
        """Encode all learned messages: the prompt ends before the first one, and tokens between them have weight 0."""
        unweighted = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        learned = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight", 1) != 0]
        if not learned:
            raise CourseError(
                f"{where}: there is no message of the assistant to learn from (all have weight 0, or there is none)"
            )
        prompt = encode_prompt(tokenizer, unweighted[: learned[0]], max_length, where)
        ids, weights = list(prompt), list[float]()
        for i in learned:
            start = chat_token_ids(tokenizer, unweighted[:i], add_generation_prompt=True)
            answer = encode_completion(tokenizer, start, unweighted[: i + 1], len(start) + 10**9, f"{where}, message {i}")
            if start[: len(ids)] != ids:
                raise CourseError(f"{where}: the chat template changes what came before once message {i} follows it")
            weights += [0.0] * (len(start) - len(ids)) + [1.0] * len(answer)
            ids = start + answer
        max_completion = max_length - len(prompt)
        return Encoded(prompt, [ids[len(prompt) :][:max_completion]], token_values={"weight": weights[:max_completion]})

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the number of learned tokens, under the name "tokens"."""
        return {"tokens": sum(example.learned for example in examples)}

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the micro-batch's contribution to the mean cross-entropy of the batch's learned tokens, in nats."""
        weight = batch.get("weight", 1)
        if not self.accuracy:
            return Loss(-(token_log_probabilities(model, batch) * weight).sum() / totals["tokens"], {})
        scores, highest = token_log_probabilities(model, batch, with_max=True)
        right = (scores.detach() == highest) * weight
        return Loss(-(scores * weight).sum() / totals["tokens"], {"accuracy": right.sum() / totals["tokens"]})
