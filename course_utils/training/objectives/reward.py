"""A reward model from preferences (Bradley and Terry, 1952; Ouyang et al., 2022, arXiv 2203.02155)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.scoring import (
    Batch,
    Encoded,
    chat_token_ids,
    collate,
    micro_batches,
    pad_token_id,
    run_model,
    to_device,
)
from course_utils.training.losses import bradley_terry_loss
from course_utils.training.objectives.base import Loss, Objective
from course_utils.training.objectives.preference import encode_pair, pair_metrics

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.generation import Conversation
    from course_utils.models import Model


@dataclass(frozen=True)
class Reward(Objective):
    """Bradley-Terry reward model: -log sigmoid(reward of chosen − reward of rejected).

    The model is a sequence classifier with one output (`models.load_reward`). The reward is read at the completion's last
    token, which is found by its position. transformers instead looks for the last token whose id is not that of the padding;
    if the stop token is also used for padding, that is one token too early.

    Attributes:
        centre: weight of a second term, which pulls the sum of the two rewards to zero (Eisenstein et al., 2023, arXiv
            2312.09244).
    """

    centre: float = 0.0
    name: str = "reward"
    output = "none"

    def encode(self, tokenizer: PreTrainedTokenizerBase, example: Any, max_length: int, where: str) -> Encoded:
        """Turn a preference pair into token ids; see `encode_pair`."""
        return encode_pair(tokenizer, example, max_length, where)

    def normalizers(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Return the number of pairs, under the name "pairs"."""
        return {"pairs": len(examples)}

    def loss(self, model: torch.nn.Module, batch: Batch, totals: Mapping[str, float]) -> Loss:
        """Compute the micro-batch's contribution to the mean loss over the batch's pairs."""
        rewards = last_token_rewards(model, batch).view(-1, 2)
        losses = bradley_terry_loss(rewards, self.centre)
        return Loss(losses.sum() / totals["pairs"], pair_metrics(rewards.detach(), totals["pairs"]))


def last_token_rewards(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Compute the reward of each completion in a batch, with gradient.

    Returns:
        A float32 tensor of shape (completions,).

    Raises:
        CourseError: the model has no reward head.
    """
    head = next((module for name, module in model.named_modules() if name.split(".")[-1] == "score"), None)
    if head is None:
        raise CourseError("the model has no reward head: load it with models.load_reward")
    outputs: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        run_model(model, batch, keep_all=True)
    finally:
        hook.remove()
    return outputs[0][batch["end_row"], batch["end_column"], 0].float()


def reward_scores(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Conversation],
    answers: Sequence[str],
    batch_size: int = 16,
) -> list[float]:
    """Score answers with a trained reward model; the result can serve as PPO's reward.

    Args:
        model: a reward model, from `models.load_reward`.
        tokenizer: its tokenizer.
        prompts: for each answer its prompt, as messages or a text.
        answers: the answers, as texts; an answer may be empty.
        batch_size: number of answers that are scored at once.

    Returns:
        One score per answer.

    Raises:
        CourseError: the model has no reward head.
    """
    import torch

    examples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        # Unlike in training, an answer may be empty here.
        completion = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        examples.append(Encoded(chat_token_ids(tokenizer, messages, add_generation_prompt=True), [completion]))
    scores: dict[int, float] = {}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for micro_batch in micro_batches(examples, 10**9, batch_size):
            batch = to_device(collate(micro_batch, pad_token_id(tokenizer)), model.device)
            scores |= {
                id(example): reward for example, reward in zip(micro_batch, last_token_rewards(model, batch).tolist())
            }
    model.train(was_training)
    return [scores[id(example)] for example in examples]
