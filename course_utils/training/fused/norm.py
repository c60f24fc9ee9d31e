"""RMSNorm with a frozen weight: y = w · x / sqrt(mean(x²) + eps), with mean and root in float32 as in transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


def replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the model's RMSNorm layers whose weight is frozen, each with the forward that is to replace its own."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and not module.weight.requires_grad:
            yield module, _forward(module)


def _forward(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: RMSNorm.apply(x, module.weight, module.variance_epsilon)


class RMSNorm(torch.autograd.Function):
    """The autograd function of RMSNorm: x (..., width) → (..., width), with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))
        ctx.save_for_backward(x, inverse, weight)
        return (wide * inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, inverse, weight = ctx.saved_tensors
        g = (gradient * weight).float()
        normal = x.float() * inverse
        along = torch.linalg.vecdot(g, normal).div_(x.shape[-1]).unsqueeze(-1)
        return g.addcmul_(normal, along, value=-1).mul_(inverse).to(gradient.dtype), None, None
