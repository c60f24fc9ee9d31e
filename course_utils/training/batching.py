"""Examples as token ids, and how they are put together into what goes through the model at once.

An example is a prompt and one or more completions of it. Several completions of one prompt can share it: the row then holds
prompt, first completion, second completion, and a mask keeps the second from seeing the first. The prompt is computed once,
and every number is the same as in rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

if TYPE_CHECKING:
    import torch

Batch = dict[str, Any]  # tensors by name, and how many sequences there are: what `collate` makes
Example = TypeVar("Example", bound=Sized)


class Output(Protocol):
    """What a model gives back, as far as an objective reads it."""

    logits: torch.Tensor


@dataclass(frozen=True)
class Encoded:
    """One example as token ids.

    Attributes:
        prompt: token ids that are given.
        completions: token ids that are scored, one list for each completion of the prompt.
        reference: log-probability of each completion under the reference model, where an objective needs it.
        extra: further values for each token of the one completion, where an objective needs them (PPO's advantages; SFT's
            weights), or a prompt's messages before it is answered.
    """

    prompt: list[int]
    completions: list[list[int]]
    reference: tuple[float, ...] = ()
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Tokens of the example, the prompt counted once."""
        return len(self.prompt) + self.scored

    @property
    def scored(self) -> int:
        """Tokens of the completions."""
        return sum(map(len, self.completions))

    @property
    def learned(self) -> int:
        """Tokens of the completions that carry loss."""
        return round(sum(self.extra["weight"])) if "weight" in self.extra else self.scored


def collate(examples: Sequence[Encoded], pad_id: int, share_prompt: bool = True) -> Batch:
    """Batch of examples, padded on the left so that all completions end together.

    Then only the last positions can carry loss, and the model needs logits for no others: with completions of 50 tokens
    and a vocabulary of 49,152 that is most of the memory and a fifth of the time.

    Args:
        examples: all with the same number of completions.
        pad_id: token id of the padding.
        share_prompt: several completions in one row, with the prompt once; a row for each completion otherwise.

    Returns:
        dict of tensors: `input_ids`, `position_ids` (rows, length); `attention_mask` (rows, length), or (rows, 1,
        length, length) of booleans where completions share a row; `keep` (kept), the positions whose outputs are
        needed; and for each scored token its `row`, `column` (of `keep`, the position that predicts it), `label`
        and `owner` (number of its completion, those of the first example first); for each completion the row and
        column of its last token, `end_row` and `end_column` (of the whole length); `sequences`, how many there are.
    """
    import torch

    per_row = len(examples[0].completions) if share_prompt else 1
    rows = examples if share_prompt else [Encoded(e.prompt, [c]) for e in examples for c in e.completions]
    # Rounded up to a multiple of 8: libraries prepare a kernel for each new shape, and fewer shapes save more time than
    # the few padded positions cost (5 to 10 % measured on a CPU).
    length = _round_up(max(map(len, rows)))
    kept = min(_round_up(1 + max(row.scored for row in rows)), length)
    input_ids = torch.full((len(rows), length), pad_id)
    position_ids = torch.zeros((len(rows), length), dtype=torch.long)
    segment = torch.full((len(rows), length), -1)  # -1 padding, 0 prompt, 1 first completion, ...
    scored: dict[str, list[int]] = {"row": [], "column": [], "label": [], "owner": [], "end_row": [], "end_column": []}
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
            scored["column"] += [position - (length - kept) for position in predictors]
            scored["label"] += completion
            scored["owner"] += [i * per_row + number] * len(completion)
            scored["end_row"].append(i)
            scored["end_column"].append(end - 1)
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
        "keep": torch.arange(length - kept, length),
        "sequences": len(rows) * per_row,
        **{name: torch.tensor(values, dtype=torch.long) for name, values in scored.items()},
    }


@overload
def token_log_probabilities(model: torch.nn.Module, batch: Batch, best: Literal[False] = False) -> torch.Tensor: ...
@overload
def token_log_probabilities(
    model: torch.nn.Module, batch: Batch, best: Literal[True]
) -> tuple[torch.Tensor, torch.Tensor]: ...
def token_log_probabilities(
    model: torch.nn.Module, batch: Batch, best: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every scored token of a batch made by `collate`, (scored tokens) in float32, with gradient.

    With `best` a pair: also those of the tokens that the model finds likeliest there, without gradient.
    """
    from course_utils.training.fused.head import log_probabilities

    output = run(model, batch).logits[batch["row"], batch["column"]]
    return log_probabilities(model, output, batch["label"], best)


def run(model: torch.nn.Module, batch: Batch, keep_all: bool = False) -> Output:
    """The model's output for a batch, at the positions in `keep` or at all."""
    import torch

    mask = batch["attention_mask"]
    if mask.dim() == 4:
        kind = next(model.parameters()).dtype
        mask = torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill_(~mask, torch.finfo(kind).min)
    # As a list of positions, not a number: the slice that a number makes is not contiguous, and the head then copies its
    # weight once for each example (a third of the step on a CPU).
    kept = {} if keep_all else {"logits_to_keep": batch["keep"]}
    output: Output = model(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"], use_cache=False, **kept
    )
    return output


def by_completion(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sums of token values over each completion, (completions)."""
    return values.new_zeros(batch["sequences"]).index_add_(0, batch["owner"], values)


def batches(examples: Sequence[Example], batch_size: int, seed: int, bucket: int = 1) -> list[list[Example]]:
    """All examples once, in random order; with `bucket` above one, batched with others of like length.

    Batches are then cut from random groups of `bucket` batches that are sorted by length.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    order = random.permutation(len(examples))
    made: list[list[Example]] = []
    for start in range(0, len(order), batch_size * bucket):
        group = sorted(order[start : start + batch_size * bucket], key=lambda i: len(examples[i]))
        made += [[examples[i] for i in group[at : at + batch_size]] for at in range(0, len(group), batch_size)]
    random.shuffle(made)
    return made


def pieces(examples: Sequence[Example], limit: int, most: int | None = None) -> list[list[Example]]:
    """Examples sorted by length, cut so that no piece has more than `limit` tokens with padding, or `most` examples.

    One example makes a piece even if it is longer.
    """
    made: list[list[Example]] = []
    for example in sorted(examples, key=len):
        if made and (len(made[-1]) + 1) * len(example) <= limit and (most is None or len(made[-1]) < most):
            made[-1].append(example)
        else:
            made.append([example])
    return made


def _round_up(length: int, to: int = 8) -> int:
    return -(-length // to) * to
