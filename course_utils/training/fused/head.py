"""The last linear layer and the log-softmax together: log-probabilities of given tokens, without storing logits.

With a vocabulary of 49,152, one position's logits are as large as 85 of the model's hidden vectors. Computed by separate
operations, this table exists in 16 bits, in float32, as log-probabilities and as two gradients. Here it exists once, and the
backward pass turns it into the gradient in place; if even that would be large, it is recomputed a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from course_utils.scoring import output_embeddings

# Largest table of log-probabilities that is stored (entries of 4 bytes); a larger one is computed twice.
MAX_KEPT_ENTRIES = 2**24


def replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the model's head with a forward that returns the hidden states.

    Nothing is yielded unless the head is a frozen linear layer without bias.
    """
    owner: Any = next((m for m in model.modules() if hasattr(m, "get_output_embeddings")), None)
    head = owner.get_output_embeddings() if owner is not None else None
    if type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
        yield head, HiddenStates(head.weight)


class HiddenStates:
    """Replaces the head's forward: it returns the hidden states, from which log-probabilities can be computed on request."""

    def __init__(self, weight: torch.Tensor) -> None:
        """Store the head's weight, of shape (vocabulary, hidden)."""
        self.weight = weight

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the hidden states unchanged."""
        return hidden

    def log_probabilities(
        self, hidden: torch.Tensor, labels: torch.Tensor, with_max: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute log-probabilities for `scoring.log_probabilities`.

        Args:
            hidden: hidden states, shape (positions, hidden).
            labels: token ids, shape (positions,).
            with_max: whether to return the log-probabilities of the likeliest tokens as well.

        Returns:
            The labels' log-probabilities, shape (positions,), and those of the likeliest tokens (empty without `with_max`).
        """
        # Accelerate turns a float16 model's outputs into float32
        result: tuple[torch.Tensor, torch.Tensor] = LogProbabilities.apply(
            hidden.to(self.weight.dtype), self.weight, labels, with_max
        )
        return result


class LogProbabilities(torch.autograd.Function):
    """The autograd function of the head: from hidden states to log-probabilities in float32, without storing the logits.

    Inputs are hidden (positions, hidden), weight (vocabulary, hidden) and labels (positions,). Both outputs have the shape
    (positions,): the labels' log-probabilities, and those of the likeliest tokens, without gradient (empty without
    `with_max`). Only `hidden` gets a gradient, and only once, because the backward pass uses up the table.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, with_max: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = max(1, MAX_KEPT_ENTRIES // len(weight))
        table: torch.Tensor | None = None
        ctx.table = None
        parts, highest = [], []
        for at in range(0, len(hidden), rows):
            del table  # free it before the next one is made
            table = torch.log_softmax(hidden[at : at + rows] @ weight.T, dim=-1, dtype=torch.float32)
            parts.append(table.gather(1, labels[at : at + rows, None])[:, 0])
            if with_max:
                highest.append(table.amax(1))
        if len(parts) == 1 and ctx.needs_input_grad[0]:
            ctx.table = table
        ctx.save_for_backward(hidden, weight, labels)
        empty = hidden.new_zeros(0, dtype=torch.float32)
        likeliest = torch.cat(highest) if highest else empty.clone()
        ctx.mark_non_differentiable(likeliest)
        return torch.cat(parts) if parts else empty, likeliest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        hidden, weight, labels = ctx.saved_tensors
        rows = max(1, MAX_KEPT_ENTRIES // len(weight))
        result = torch.empty_like(hidden)
        for at in range(0, len(hidden), rows):
            part = slice(at, at + rows)
            table, ctx.table = ctx.table, None
            if table is None:
                table = torch.log_softmax(hidden[part] @ weight.T, dim=-1, dtype=torch.float32)
            g = gradient[part, None]
            # d log p(label) / d logits = onehot(label) - p
            d_logits = table.exp_().mul_(-g).scatter_add_(1, labels[part, None], g)
            result[part] = d_logits.to(weight.dtype) @ weight
            del d_logits, table
        return result, None, None, None


@contextmanager
def logits(model: torch.nn.Module) -> Iterator[None]:
    """Let the head compute logits inside the `with` block, even if it is replaced; generation needs them."""
    head = output_embeddings(model)
    stand_in = vars(head).pop("forward", None)
    try:
        yield
    finally:
        if stand_in is not None:
            head.forward = stand_in
