"""The gated feed-forward block with its three LoRA layers: down(silu(gate(x)) · up(x)).

The block's input is stored once for gate and up, their adapters' first products are computed as one, and silu(gate) · up,
the widest tensor of all, is recomputed in the backward pass instead of being stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from course_utils.quantization import dense
from course_utils.training.fused.lora import active_adapter, is_plain

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

LAYER_NAMES = ("gate_proj", "up_proj", "down_proj")


def replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the feed-forward blocks with plain LoRA on all three layers, each with the forward to replace its own."""
    for module in model.modules():
        layers: list[Any] = [getattr(module, name, None) for name in LAYER_NAMES]
        if all(map(is_plain, layers)) and all(layer.get_base_layer().bias is None for layer in layers):
            yield module, _forward(layers, module.forward)


def _forward(layers: Sequence[Linear], original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        adapters = [active_adapter(layer, x) for layer in layers]
        if None in adapters:
            return original(x)
        weights = [layer.get_base_layer().weight for layer in layers]
        parts = [part for adapter in adapters if adapter is not None for part in adapter]
        output: torch.Tensor = GatedBlock.apply(x, *weights, *parts)
        return output

    return forward


class GatedBlock(torch.autograd.Function):
    """The autograd function of a gated feed-forward block: x (..., hidden) → (..., hidden).

    It returns gradients for x and for the three pairs of A and B. In the code, w is a weight, a and b are the adapter's
    matrices, and s is its factor; u is the product of the input with A, y a layer's output, and d a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_gate: torch.Tensor,
        w_up: torch.Tensor,
        w_down: torch.Tensor,
        a_gate: torch.Tensor,
        b_gate: torch.Tensor,
        s_gate: float,
        a_up: torch.Tensor,
        b_up: torch.Tensor,
        s_up: float,
        a_down: torch.Tensor,
        b_down: torch.Tensor,
        s_down: float,
    ) -> torch.Tensor:
        dtype, flat = x.dtype, x.reshape(-1, x.shape[-1])
        rank = a_gate.shape[0]
        a_both = torch.cat([a_gate, a_up]).to(dtype)
        a_down, b_gate, b_up, b_down = a_down.to(dtype), b_gate.to(dtype), b_up.to(dtype), b_down.to(dtype)
        u_both = flat @ a_both.T
        y_gate = (flat @ dense(w_gate, dtype).T).addmm_(u_both[:, :rank], b_gate.T, alpha=s_gate)
        y_up = (flat @ dense(w_up, dtype).T).addmm_(u_both[:, rank:], b_up.T, alpha=s_up)
        middle = F.silu(y_gate).mul_(y_up)
        u_down = middle @ a_down.T
        y = (middle @ dense(w_down, dtype).T).addmm_(u_down, b_down.T, alpha=s_down)
        ctx.save_for_backward(flat, u_both, y_gate, y_up, u_down, w_gate, w_up, w_down, a_both, b_gate, b_up, a_down, b_down)
        ctx.factors, ctx.shape, ctx.kind = (s_gate, s_up, s_down), x.shape, a_gate.dtype
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (flat, u_both, y_gate, y_up, u_down, w_gate, w_up, w_down, a_both, b_gate, b_up, a_down, b_down) = ctx.saved_tensors
        s_gate, s_up, s_down = ctx.factors
        rank = b_gate.shape[1]
        g = gradient.reshape(-1, gradient.shape[-1])
        active = F.silu(y_gate)

        du_down = (g @ b_down).mul_(s_down)
        da_down = (du_down.T @ (active * y_up)).to(ctx.kind)
        db_down = (g.T @ u_down).to(ctx.kind).mul_(s_down)
        d_middle = (g @ dense(w_down, g.dtype)).addmm_(du_down, a_down)

        d_up = active.mul_(d_middle)
        d_gate = torch.ops.aten.silu_backward(d_middle.mul_(y_up), y_gate)
        db_gate = (d_gate.T @ u_both[:, :rank]).to(ctx.kind).mul_(s_gate)
        db_up = (d_up.T @ u_both[:, rank:]).to(ctx.kind).mul_(s_up)
        du_both = torch.cat([(d_gate @ b_gate).mul_(s_gate), (d_up @ b_up).mul_(s_up)], dim=1)
        da_both = (du_both.T @ flat).to(ctx.kind)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (d_gate @ dense(w_gate, g.dtype)).addmm_(d_up, dense(w_up, g.dtype)).addmm_(du_both, a_both).view(ctx.shape)
        return (
            dx, None, None, None, da_both[:rank], db_gate, None, da_both[rank:], db_up, None, da_down, db_down, None,
        )  # fmt: skip
