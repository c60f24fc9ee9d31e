"""What an objective is, and what all of them share: conversations in, token ids out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from course_utils.errors import CourseError
from course_utils.training.batching import Batch, Encoded, collate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model


class Loss(NamedTuple):
    """A piece's share of a batch's loss, and of the batch's means of other quantities; shares add up over the pieces."""

    value: torch.Tensor
    metrics: dict[str, torch.Tensor]


class LookBack(Protocol):
    """For each example its answer's log-probabilities and values, under the policy or the reference."""

    def __call__(self, examples: list[Encoded], reference: bool) -> list[tuple[list[float], list[float]]]:
        """A number for each token of the answer."""


class Objective:
    """Base of the objectives; the loop calls these methods and no others.

    Attributes:
        name: the field's name for the method.
        needs_reference: whether the loop takes the completions' log-probabilities once before training, from the model
            as it is then. That model is the reference, so that no second copy of it is needed.
        output: what the last layer makes: "scored" for a table over the vocabulary at the scored tokens, "none" for less.
        online: whether training examples are made by the model itself while it trains (`rollout`).
        epochs: times each batch of examples that the model has made is trained on.
    """

    name = "objective"
    needs_reference = False
    output = "scored"
    online = False
    epochs: int = 1

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn an example as the user has it into token ids; `where` names it in errors."""
        raise NotImplementedError

    def sizes(self, examples: Sequence[Encoded]) -> dict[str, int]:
        """What the losses of a batch of these examples are divided by."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
        """Tensors of a batch."""
        return collate(examples, pad_id, share_prompt)

    def loss(self, model: torch.nn.Module, batch: Batch, sizes: Mapping[str, float]) -> Loss:
        """Share of the loss, with gradient; `sizes` are those of the whole batch, of which this may be a piece."""
        raise NotImplementedError

    def attach(self, model: Model) -> None:
        """Add what the objective trains beside the model (PPO's value head)."""

    def detach(self, model: Model) -> None:
        """Take it away again."""

    def rollout(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Encoded],
        forward: LookBack,
        seed: int,
    ) -> tuple[list[Encoded], dict[str, float]]:
        """Where `online`: training examples that the model makes of prompts, and means for the record."""
        raise NotImplementedError

    def log_probabilities_and_values(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Where `online`: what `rollout` looks back on, for each scored token."""
        raise NotImplementedError


def messages_of(example: Any, key: str, where: str) -> list[dict[str, Any]]:
    """Messages under `key` of an example, checked; a text stands for one message of the assistant's."""
    messages = example.get(key) if isinstance(example, dict) else None
    if isinstance(messages, str):
        messages = [{"role": "user" if key == "prompt" else "assistant", "content": messages}]
    if not isinstance(messages, list) or not messages:
        raise CourseError(f"{where}: expected messages or a text under {key!r}, found {messages!r:.60}")
    return check_messages(messages, f"{where}, {key}")


def check_messages(messages: list[Any], where: str) -> list[dict[str, Any]]:
    """The messages, if each has a role and a text."""
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise CourseError(f"{where}, message {number}: expected {{'role': ..., 'content': text}}, found {message!r:.80}")
    return messages


def check_reference(model: torch.nn.Module, reference: torch.nn.Module) -> None:
    """Refuse a reference that the training would move: every log-ratio to it would be zero for ever.

    It need not be one object: `get_peft_model` puts the adapter into the base it is given, so that base *is* the policy.
    """
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    shared = next((trained[id(p)] for p in reference.parameters() if id(p) in trained), None)
    if reference is model or shared:
        raise CourseError(
            f"the reference is the trained model itself ({shared or 'one object'} is part of both): leave the reference "
            "out, and the model as it is before training is taken; or load a second copy with models.load"
        )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], max_length: int, where: str
) -> list[int]:
    """Token ids of a prompt up to where the assistant's answer begins; refused if it leaves no room for one."""
    prompt = template_ids(tokenizer, messages, add_generation_prompt=True)
    if len(prompt) >= max_length:
        raise CourseError(
            f"{where}: the prompt alone has {len(prompt)} tokens and max_length is {max_length}; "
            f"raise Settings(max_length=...) above it or shorten the message"
        )
    return prompt


def encode_completion(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    messages: Sequence[Mapping[str, Any]],
    max_length: int,
    where: str,
) -> list[int]:
    """Token ids of the last message, which is the assistant's, up to and including the stop token."""
    if messages[-1]["role"] != "assistant":
        raise CourseError(f"{where}: the last message must be the assistant's, it is the {messages[-1]['role']}'s")
    if not messages[-1]["content"].strip():
        raise CourseError(f"{where}: the assistant's message is empty, there is nothing to learn")
    ids = template_ids(tokenizer, messages)
    if ids[: len(prompt)] != prompt:
        raise CourseError(f"{where}: the chat template changes the prompt once an answer follows it")
    completion = ids[len(prompt) :]
    while completion and completion[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id in completion:
        completion.pop()  # templates put a newline after the stop token; nothing is learned from it
    return completion[: max_length - len(prompt)]


def template_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> list[int]:
    """Token ids of messages written with the tokenizer's chat template."""
    if not tokenizer.chat_template:
        raise CourseError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template, so it does not say how the "
            "speakers are marked: take the instruct model's tokenizer, or set tokenizer.chat_template to the one it knows"
        )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
