"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from course_utils.errors import CourseError
from course_utils.training.batching import Encoded, token_log_probabilities
from course_utils.training.objectives.base import Loss, Objective, check_messages, encode_completion, encode_prompt


@dataclass(frozen=True)
class SFT(Objective):
    """Supervised fine-tuning: cross-entropy on the completion's tokens, none on the prompt's.

    The completion is the last assistant message up to and including the stop token. A token weighs the same in whatever
    example, batch or piece it is.
    """

    name: str = "sft"

    def encode(self, tokenizer, example, max_length: int, where: str) -> Encoded:
        """Turn a conversation (list of messages, the last one the assistant's) into token ids.

        Raises:
            CourseError: not a conversation, no completion, or a prompt that leaves no room for one.
        """
        messages = example["messages"] if isinstance(example, dict) and "messages" in example else example
        if not isinstance(messages, list) or len(messages) < 2:
            raise CourseError(f"{where}: expected a list of at least two messages, found {type(messages).__name__}")
        check_messages(messages, where)
        prompt = encode_prompt(tokenizer, messages[:-1], max_length, where)
        return Encoded(prompt, [encode_completion(tokenizer, prompt, messages, max_length, where)])

    def sizes(self, examples: Sequence[Encoded]) -> dict[str, int]:
        """Scored tokens."""
        return {"tokens": sum(example.scored for example in examples)}

    def loss(self, model, batch: dict, sizes: dict[str, int]) -> Loss:
        """Cross-entropies of the scored tokens, divided by the batch's number of them."""
        return Loss(-token_log_probabilities(model, batch).sum() / sizes["tokens"], {})
