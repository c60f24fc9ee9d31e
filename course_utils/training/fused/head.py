"""The last linear layer and the log-softmax together: log-probabilities of given tokens, without keeping logits.

With a vocabulary of 49,152 one position's logits are as large as 85 of the model's hidden vectors. Written apart they
exist in 16 bits, in float32, as log-probabilities and as two gradients. Here there is one such table, which the backward
pass turns into the gradient in place; and where even that would be large, it is made again piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, overload

import torch

# Largest table of log-probabilities that is kept (entries of 4 bytes); a larger one is computed twice.
KEEP = 2**24


def replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """The model's head, if it is frozen, plain and without bias, with a forward that passes the hidden states on."""
    owner: Any = next((m for m in model.modules() if hasattr(m, "get_output_embeddings")), None)
    head = owner.get_output_embeddings() if owner is not None else None
    if type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
        yield head, HiddenStates(head.weight)


class HiddenStates:
    """Stands for the head's forward: gives back what it got, for `log_probabilities` to finish."""

    def __init__(self, weight: torch.Tensor) -> None:
        """Remember the head's weight (vocabulary, hidden)."""
        self.weight = weight

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Pass the hidden states on."""
        return hidden


class LogProbabilities(torch.autograd.Function):
    """hidden (positions, hidden), weight (vocabulary, hidden), labels (positions) → (positions) in float32, twice.

    The second are the likeliest tokens' (empty without `best`), without gradient. Gradient for hidden alone, once: the table
    is used up.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, best: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = max(1, KEEP // len(weight))
        table: torch.Tensor | None = None
        ctx.table = None
        parts, highest = [], []
        for at in range(0, len(hidden), rows):
            del table  # the piece before goes before the next one comes
            table = torch.log_softmax(hidden[at : at + rows] @ weight.T, dim=-1, dtype=torch.float32)
            parts.append(table.gather(1, labels[at : at + rows, None])[:, 0])
            if best:
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
        rows = max(1, KEEP // len(weight))
        result = torch.empty_like(hidden)
        for at in range(0, len(hidden), rows):
            piece = slice(at, at + rows)
            table, ctx.table = ctx.table, None
            if table is None:
                table = torch.log_softmax(hidden[piece] @ weight.T, dim=-1, dtype=torch.float32)
            g = gradient[piece, None]
            # d log p(label) / d logits = onehot(label) - p
            d_logits = table.exp_().mul_(-g).scatter_add_(1, labels[piece, None], g)
            result[piece] = d_logits.to(weight.dtype) @ weight
            del d_logits, table
        return result, None, None, None


@contextmanager
def logits(model: torch.nn.Module) -> Iterator[None]:
    """Let the head compute logits inside the block even where the piece is at work: generation needs them."""
    head = _owner(model).get_output_embeddings()
    standing_in = vars(head).pop("forward", None)
    try:
        yield
    finally:
        if standing_in is not None:
            head.forward = standing_in


def _owner(model: torch.nn.Module) -> Any:
    """The first module that knows the head, whatever wraps it."""
    return next(m for m in model.modules() if hasattr(m, "get_output_embeddings"))


@overload
def log_probabilities(
    model: torch.nn.Module, hidden_or_logits: torch.Tensor, labels: torch.Tensor, best: Literal[False] = False
) -> torch.Tensor: ...
@overload
def log_probabilities(
    model: torch.nn.Module, hidden_or_logits: torch.Tensor, labels: torch.Tensor, best: bool
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]: ...
def log_probabilities(
    model: torch.nn.Module, hidden_or_logits: torch.Tensor, labels: torch.Tensor, best: bool = False
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `labels`, from the model's output at their positions.

    Args:
        model: the model that made the output, with or without the piece "head" at work.
        hidden_or_logits: (positions, hidden) with it, (positions, vocabulary) without.
        labels: (positions) token ids.
        best: give those of the likeliest tokens too.

    Returns:
        (positions) in float32, with gradient; with `best` a pair, the second without gradient.
    """
    head = vars(_owner(model).get_output_embeddings()).get("forward")
    if isinstance(head, HiddenStates):
        # Accelerate turns a float16 model's outputs into float32
        found, highest = LogProbabilities.apply(hidden_or_logits.to(head.weight.dtype), head.weight, labels, best)
        return (found, highest) if best else found
    table = torch.log_softmax(hidden_or_logits, dim=-1, dtype=torch.float32)
    found = table.gather(1, labels[:, None])[:, 0]
    return (found, table.detach().amax(1)) if best else found
