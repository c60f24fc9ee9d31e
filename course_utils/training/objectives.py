"""Objectives: how an example becomes token ids, and a batch becomes a loss; SFT and DPO.

The trainer uses of an objective only the attributes and methods of `Objective`. If a method needs something new, it is added
there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils.batching import Batch, Encoded, collate
from course_utils.errors import CourseError, TooLong
from course_utils.scoring import (
    chat_token_ids,
    log_probabilities,
    run_model,
    sum_by_completion,
    token_log_probabilities,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Loss(NamedTuple):
    """What a micro-batch contributes to the loss and to the mean metrics of its batch; the contributions are added up.

    Attributes:
        value: the contribution to the loss, a scalar tensor with gradient.
        metrics: name → contribution to the batch's mean, a scalar tensor without gradient.
    """

    value: torch.Tensor
    metrics: dict[str, torch.Tensor]


class Objective:
    """Base class of the objectives: how an example becomes token ids, and how a batch becomes a loss.

    An objective knows nothing about devices, optimisers, logging or checkpoints; the trainer knows nothing about messages.

    Attributes:
        name: the method's usual name.
        needs_reference: whether the completions' log-probabilities under the reference, the model as it is before training,
            are computed once, before the first step.
    """

    name: str = "objective"
    needs_reference: bool = False

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn an example in the user's format into token ids.

        Args:
            tokenizer: a tokenizer with a chat template.
            example: an example in the form that the objective describes.
            max_length: maximum length of an example, in tokens.
            where: name of the example in error messages, such as "train[3]".

        Raises:
            CourseError: the example is broken, or its prompt is too long.
        """
        raise NotImplementedError

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the numbers by which the losses of a batch of these examples are divided, such as {"tokens": 120}."""
        raise NotImplementedError

    def collate(self, examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
        """Return the tensors of a batch, padded with `pad_id`; see `batching.collate`."""
        return collate(examples, pad_id, share_prompt)

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute what a batch or micro-batch contributes to the loss, with gradient.

        Args:
            model: the model, which may be wrapped for several processes.
            batch: tensors from `collate`, of the whole batch or of one micro-batch.
            totals: the `normalizers` of the whole batch.
        """
        raise NotImplementedError


def messages_of(example: Any, key: str, where: str) -> list[dict[str, Any]]:
    """Return the messages under a key of an example, after checking them.

    A text stands for one message: in a prompt the user's, elsewhere the assistant's.

    Args:
        example: an example in the user's format.
        key: "prompt", "chosen", "rejected" or "completion".
        where: name of the example in error messages.

    Raises:
        CourseError: there is neither a text nor a list of messages, or a message has no role or no text.
    """
    messages = example.get(key) if isinstance(example, dict) else None
    if isinstance(messages, str):
        messages = [{"role": "user" if key == "prompt" else "assistant", "content": messages}]
    if not isinstance(messages, list) or not messages:
        raise CourseError(f"{where}: expected messages or a text under {key!r}, found {messages!r:.60}")
    return check_messages(messages, f"{where}, {key}")


def check_messages(messages: list[Any], where: str) -> list[dict[str, Any]]:
    """Return the messages unchanged, after checking that each has a role and a text.

    Raises:
        CourseError: a message has no role, or its content is not a text.
    """
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise CourseError(f"{where}, message {number}: expected {{'role': ..., 'content': text}}, found {message!r:.80}")
    return messages


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], max_length: int, where: str
) -> list[int]:
    """Return the token ids of a prompt, up to the place where the assistant's answer begins.

    Raises:
        TooLong: the prompt leaves no room for an answer within `max_length` tokens.
    """
    prompt = chat_token_ids(tokenizer, messages, add_generation_prompt=True)
    if len(prompt) >= max_length:
        raise TooLong(
            f"{where}: the prompt alone has {len(prompt)} tokens and max_length is {max_length}; "
            f"raise Settings(max_length=...) above it or shorten the message",
            len(prompt),
        )
    return prompt


def encode_completion(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    messages: Sequence[Mapping[str, Any]],
    max_length: int,
    where: str,
) -> list[int]:
    """Return the token ids of the last message, which must be the assistant's, up to and including the stop token.

    Args:
        tokenizer: a tokenizer with a chat template.
        prompt: token ids of the messages before it, from `encode_prompt`.
        messages: the whole conversation.
        max_length: maximum length of prompt and answer together, in tokens; a longer answer is cut.
        where: name of the example in error messages.

    Raises:
        CourseError: the last message is not the assistant's or is empty, or the chat template changes the prompt.
    """
    if messages[-1]["role"] != "assistant":
        raise CourseError(f"{where}: the last message must be the assistant's, but it is the {messages[-1]['role']}'s")
    if not messages[-1]["content"].strip():
        raise CourseError(f"{where}: the assistant's message is empty, so there is nothing to learn")
    ids = chat_token_ids(tokenizer, messages)
    if ids[: len(prompt)] != prompt:
        raise CourseError(f"{where}: the chat template changes the prompt once an answer follows it")
    completion = ids[len(prompt) :]
    while completion and completion[-1] != tokenizer.eos_token_id and tokenizer.eos_token_id in completion:
        completion.pop()  # templates put a newline after the stop token; nothing is learned from it
    return completion[: max_length - len(prompt)]


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
        output = run_model(model, batch)[batch["row"], batch["column"]]
        scores, highest = log_probabilities(model, output, batch["label"], with_max=True)
        right = (scores.detach() == highest) * weight
        return Loss(-(scores * weight).sum() / totals["tokens"], {"accuracy": right.sum() / totals["tokens"]})


def dpo_loss(log_ratios: torch.Tensor, beta: float) -> torch.Tensor:
    """Compute the DPO loss for each pair: -log sigmoid(beta · (log-ratio of chosen − log-ratio of rejected)).

    Rafailov et al., 2023 (arXiv 2305.18290), equation 7.

    Args:
        log_ratios: shape (pairs, 2): for the chosen and the rejected answer, its log-probability under the policy minus that
            under the reference.
        beta: how strongly the policy is held to the reference.

    Returns:
        One loss per pair, shape (pairs,).
    """
    import torch.nn.functional as F

    return -F.logsigmoid(beta * (log_ratios[:, 0] - log_ratios[:, 1]))


def encode_pair(tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
    """Turn a pair {"prompt", "chosen", "rejected"} into token ids; each part is a text or a list of messages.

    Without "prompt", chosen and rejected are whole conversations that differ only in the last message (TRL's implicit
    prompt).

    Returns:
        Encoded with two completions: the chosen one, then the rejected one.

    Raises:
        CourseError: a part is missing, empty or too long, the two answers are the same, or their prompts differ.
    """
    if isinstance(example, dict) and "prompt" not in example:
        example = _with_explicit_prompt(example, where)
    question = messages_of(example, "prompt", where)
    prompt = encode_prompt(tokenizer, question, max_length, where)
    chosen, rejected = (
        encode_completion(tokenizer, prompt, question + messages_of(example, key, where), max_length, f"{where}, {key}")
        for key in ("chosen", "rejected")
    )
    if chosen == rejected:
        raise CourseError(
            f"{where}: chosen and rejected are the same (within max_length={max_length}), there is no preference"
        )
    return Encoded(prompt, [chosen, rejected])


def _with_explicit_prompt(example: dict[str, Any], where: str) -> dict[str, list[dict[str, Any]]]:
    chosen, rejected = (messages_of(example, key, where) for key in ("chosen", "rejected"))
    if len(chosen) < 2:
        raise CourseError(
            f"{where}: there is no prompt; give it under 'prompt', or as the first messages of chosen and rejected"
        )
    for number, (chosen_message, rejected_message) in enumerate(zip(chosen[:-1], rejected[:-1])):
        if chosen_message != rejected_message:
            raise CourseError(
                f"{where}: the prompts of the pair differ in message {number} ({chosen_message['content']!r:.50} and "
                f"{rejected_message['content']!r:.50}); two answers can be compared only if they answer the same prompt"
            )
    if len(chosen) != len(rejected):
        raise CourseError(
            f"{where}: the prompts of the pair differ: {len(chosen) - 1} messages before chosen, {len(rejected) - 1} "
            "before rejected"
        )
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


@dataclass(frozen=True)
class DPO(Objective):
    """Direct preference optimisation: -log sigmoid(beta · (log-ratio of chosen − log-ratio of rejected)).

    A log-ratio is a completion's log-probability under the policy minus that under the reference, which is the model as it
    was when training began. At step 0 the two are equal, and the loss is ln 2. beta · log-ratio is called the implicit
    reward.

    Attributes:
        beta: how strongly the policy is held to the reference; the larger beta is, the closer the policy stays to it.
        sft_weight: weight of an SFT term on the chosen answers (TRL's loss type "sft" beside "sigmoid"). It holds the chosen
            answer up, whose probability DPO alone may lower (Pang et al., 2024, arXiv 2404.19733, who weight all pairs
            alike; TRL and we weight all tokens alike).
    """

    beta: float = 0.1
    sft_weight: float = 0.0
    name: str = "dpo"
    needs_reference = True

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a preference pair into token ids; see `encode_pair`."""
        return encode_pair(tokenizer, example, max_length, where)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the numbers of pairs and of the chosen answers' tokens, as {"pairs", "tokens"}."""
        return {"pairs": len(examples), "tokens": sum(len(e.completions[0]) for e in examples)}

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the micro-batch's contribution to the mean over the batch's pairs, and over tokens for the SFT term."""
        scores = token_log_probabilities(model, batch)
        log_ratios = sum_by_completion(scores, batch).view(-1, 2) - batch["reference_log_probabilities"]
        metrics = pair_metrics(self.beta * log_ratios.detach(), totals["pairs"])
        loss = dpo_loss(log_ratios, self.beta).sum() / totals["pairs"]
        if not self.sft_weight:
            return Loss(loss, metrics)
        sft = -scores[batch["completion"] % 2 == 0].sum() / totals["tokens"]
        return Loss(loss + self.sft_weight * sft, metrics | {"sft_loss": sft.detach()})


def pair_metrics(rewards: torch.Tensor, pairs: float) -> dict[str, torch.Tensor]:
    """Return what a micro-batch contributes to the batch's mean rewards, margin and accuracy.

    Args:
        rewards: shape (pairs of the micro-batch, 2), the rewards of chosen and rejected.
        pairs: number of pairs in the whole batch.
    """
    chosen, rejected = rewards[:, 0], rewards[:, 1]
    return {
        "reward_chosen": chosen.sum() / pairs,
        "reward_rejected": rejected.sum() / pairs,
        "margin": (chosen - rejected).sum() / pairs,
        "accuracy": (chosen > rejected).sum() / pairs,
    }
