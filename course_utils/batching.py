"""From token ids to batches: examples are cut into batches and micro-batches, and padded into tensors, here only.

An example is a prompt and one or more completions of it. Several completions can share their prompt: the row then contains
the prompt, the first completion and the second completion, and a mask keeps the second from seeing the first. The prompt is
computed once, and every result is the same as with separate rows.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Batch = dict[str, Any]  # tensors by name, and the number of sequences: what `collate` makes
Example = TypeVar("Example", bound=Sized)

# Tokens that go through the model at once. On a CPU, more would not be faster and only take memory: this number keeps
# training the 135M model under 2 GB, which is all that Binder has.
CPU_MICRO_BATCH_TOKENS = 320
# LoRA takes 3.7 GB for so many tokens of the T4's model, and 10.5 GB for those of the A100's, which fits beside the weights;
# where memory runs out, training goes on with fewer.
GPU_MICRO_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Encoded:
    """One example as token ids.

    Attributes:
        prompt: token ids of the prompt, which are not scored.
        completions: token ids to score, one list per completion of the prompt.
        reference_log_probabilities: log-probability of each completion under the reference model, in nats, if an objective
            needs them.
        token_values: name → one number per token of the completions (SFT's weights).
    """

    prompt: list[int]
    completions: list[list[int]]
    reference_log_probabilities: tuple[float, ...] = ()
    token_values: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of tokens, with the prompt counted once."""
        return len(self.prompt) + self.scored

    @property
    def scored(self) -> int:
        """Number of tokens in the completions."""
        return sum(map(len, self.completions))

    @property
    def learned(self) -> int:
        """Number of completion tokens that contribute to the loss."""
        return round(sum(self.token_values["weight"])) if "weight" in self.token_values else self.scored


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token id for padding, or the stop token's if the tokenizer defines none; masks hide it either way."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad_id)


def can_share_prompt(model: PreTrainedModel) -> bool:
    """Return whether the model's attention accepts a custom mask; FlashAttention does not."""
    attention = getattr(model.config, "_attn_implementation", None) or ""
    return not str(attention).startswith("flash")


def default_micro_batch_tokens(device: torch.device) -> int:
    """Return the default number of tokens in a micro-batch on this device, padding included."""
    return CPU_MICRO_BATCH_TOKENS if device.type == "cpu" else GPU_MICRO_BATCH_TOKENS


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`."""
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}


def shuffled_batches(examples: Sequence[Example], batch_size: int, seed: int) -> list[list[Example]]:
    """Cut the examples of one epoch into batches, in random order; each example occurs exactly once.

    Args:
        examples: the encoded examples of the data set.
        batch_size: number of examples in a batch; one may have fewer.
        seed: seed of the order.

    Returns:
        The batches, as lists of the given examples.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    order = random.permutation(len(examples))
    batches: list[list[Example]] = []
    for start in range(0, len(order), batch_size):
        batch = [examples[i] for i in order[start : start + batch_size]]
        batches.append(sorted(batch, key=len))
    random.shuffle(batches)
    return batches


def micro_batches(examples: Sequence[Example], max_tokens: int) -> list[list[Example]]:
    """Sort examples by length, and cut them into micro-batches within the limit.

    Args:
        examples: examples of any length.
        max_tokens: maximum number of tokens in a micro-batch, padding included; a single example may be longer.
    """
    cut: list[list[Example]] = []
    for example in sorted(examples, key=len):
        if cut and (len(cut[-1]) + 1) * len(example) <= max_tokens:
            cut[-1].append(example)
        else:
            cut.append([example])
    return cut


def collate(examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
    """Batch of examples, padded on the left so that all completions end at the same position.

    Then only the last positions can have a loss, and the model computes logits for no others: with completions of 50 tokens
    and a vocabulary of 49,152 this saves most of the memory and a fifth of the time.

    Args:
        examples: all with the same number of completions.
        pad_id: token id for padding.
        share_prompt: put all completions of a prompt into one row, with the prompt once; otherwise one row per completion.

    Returns:
        dict of tensors: `input_ids`, `position_ids` (rows, length); `attention_mask` (rows, length), or (rows, 1,
        length, length) of booleans if completions share a row; `keep` (output length), the positions whose outputs are
        needed; for each scored token its `row`, `column` (index in `keep` of the position that predicts it), `label` and
        `completion` (number of its completion, those of the first example first); `sequences`, the number of completions;
        `reference_log_probabilities` (examples, completions of each) if the examples have them; and the examples'
        `token_values` (scored tokens) under their names.
    """
    import torch

    per_row = len(examples[0].completions) if share_prompt else 1
    rows = examples if share_prompt else [Encoded(e.prompt, [c]) for e in examples for c in e.completions]
    # Rounded up to a multiple of 8: libraries prepare a kernel for each new shape, and having fewer shapes saves more time
    # than the extra padding costs (5 to 10 %, measured on a CPU).
    length = _round_up(max(map(len, rows)))
    output_length = min(_round_up(1 + max(row.scored for row in rows)), length)
    input_ids = torch.full((len(rows), length), pad_id)
    position_ids = torch.zeros((len(rows), length), dtype=torch.long)
    segment = torch.full((len(rows), length), -1)  # -1 padding, 0 prompt, 1 first completion, ...
    names = ("row", "column", "label", "completion")
    scored: dict[str, list[int]] = {name: [] for name in names}
    for i, row in enumerate(rows):
        start = length - len(row)
        after_prompt = at = start + len(row.prompt)
        input_ids[i, start:at] = torch.tensor(row.prompt)
        position_ids[i, start:at] = torch.arange(len(row.prompt))
        segment[i, start:at] = 0
        for number, completion in enumerate(row.completions):
            end = at + len(completion)
            input_ids[i, at:end] = torch.tensor(completion)
            position_ids[i, at:end] = torch.arange(len(row.prompt), len(row.prompt) + len(completion))
            segment[i, at:end] = number + 1
            # Each position predicts the next token; the first of every completion is predicted by the prompt's last.
            predictors = [after_prompt - 1, *range(at, end - 1)] if completion else []
            scored["row"] += [i] * len(completion)
            scored["column"] += [position - (length - output_length) for position in predictors]
            scored["label"] += completion
            scored["completion"] += [i * per_row + number] * len(completion)
            at = end
    if per_row == 1:
        mask = (segment >= 0).long()
    else:
        query, key = segment[:, :, None], segment[:, None, :]
        mask = ((key == 0) | (key == query)) & (key >= 0) & torch.ones(length, length, dtype=torch.bool).tril()
        mask = mask[:, None]
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": mask,
        "keep": torch.arange(length - output_length, length),
        "sequences": len(rows) * per_row,
        **{name: torch.tensor(values, dtype=torch.long) for name, values in scored.items()},
        **_values_of(examples),
    }


def _values_of(examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Tensors of the values that the examples carry besides their token ids."""
    import torch

    first = examples[0]
    values = {name: torch.tensor([v for e in examples for v in e.token_values[name]]) for name in first.token_values}
    if first.reference_log_probabilities:
        values["reference_log_probabilities"] = torch.tensor([e.reference_log_probabilities for e in examples])
    return values


def _round_up(length: int, to: int = 8) -> int:
    return -(-length // to) * to


def pad_prompts(prompts: Sequence[list[int]], pad_id: int, shared: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask of prompts that are to be continued, both of shape (prompts, tokens).

    The padding is to the left of the prompt, since generation continues at its end.

    Args:
        prompts: token ids of each prompt.
        pad_id: token id for padding.
        shared: number of tokens with which all prompts begin, if they have been computed already: the padding comes after
            them.
    """
    import torch

    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        own = slice(length - len(prompt) + shared, length)
        for part, where in ((prompt[:shared], slice(0, shared)), (prompt[shared:], own)):
            ids[row, where] = torch.tensor(part, dtype=ids.dtype)
            mask[row, where] = 1
    return ids, mask
