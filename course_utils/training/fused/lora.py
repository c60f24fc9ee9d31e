"""LoRA's forward and backward in one function, for PEFT's own layers.

y = x Wᵀ + s (x Aᵀ) Bᵀ with s = alpha / r. PEFT composes it from separate operations, each of which stores its input, in
float32 if the adapter is in float32. Here the layer stores its input once, in the base's format, and the r-wide product. In
bfloat16 the two small products are computed in bfloat16 too, as they would be under autocast, while A, B and their optimiser
state stay in float32. A 4-bit weight is dequantized for each product and not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeGuard

import torch
from peft.tuners.lora import Linear

from course_utils.quantization import dense, is_four_bit


class ActiveAdapter(NamedTuple):
    """The single active adapter of a LoRA layer: A (r, in), B (out, r), and the factor on their product."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the model's plain LoRA layers, each with the forward that is to replace its own."""
    for module in model.modules():
        if is_plain(module):
            yield module, _forward(module, module.forward)


def is_plain(module: Any) -> TypeGuard[Linear]:
    """Return whether a module is a LoRA layer over a 16-, 32- or 4-bit linear layer, without bias or DoRA."""
    return (
        ((type(module) is Linear and type(module.get_base_layer()) is torch.nn.Linear) or _over_four_bits(module))
        and not any(module.lora_bias.values())
        and not any(getattr(module, "use_dora", {}).values())
    )


def _over_four_bits(module: Any) -> bool:
    # Recognised by the name of PEFT's class, because importing it would need bitsandbytes.
    return type(module).__name__ == "Linear4bit" and hasattr(module, "lora_A") and is_four_bit(module.get_base_layer())


def active_adapter(module: Linear, x: torch.Tensor) -> ActiveAdapter | None:
    """Return the adapter of a plain layer.

    It is None unless exactly one adapter is applied to `x` and nothing else changes what the layer computes.
    """
    active = [name for name in module.active_adapters if name in module.lora_A]
    if (
        len(active) != 1
        or module.disable_adapters
        or module.merged
        or x.dtype != _product_dtype(module.get_base_layer())
        or _cast_elsewhere(x)
        or (module.training and getattr(module.lora_dropout[active[0]], "p", 0.0) > 0)
    ):
        return None
    name = active[0]
    return ActiveAdapter(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])


def _cast_elsewhere(x: torch.Tensor) -> bool:
    """Whether autocast would compute in another format; with loss scaling, autocast is on but to the format of `x`."""
    return torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) != x.dtype


def _product_dtype(layer: Any) -> torch.dtype:
    """The format a layer computes in; a 4-bit layer stores bytes, so its own setting tells, or else its first input does."""
    dtype: torch.dtype = layer.compute_dtype if is_four_bit(layer) else layer.weight.dtype
    return dtype


def _forward(module: Linear, original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapter = None if args or kwargs else active_adapter(module, x)
        if adapter is None:
            return original(x, *args, **kwargs)
        base = module.get_base_layer()
        output: torch.Tensor = LoraLinear.apply(x, base.weight, base.bias, *adapter)
        return output

    return forward


class LoraLinear(torch.autograd.Function):
    """The autograd function of a LoRA layer: x (..., in) → (..., out), with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        u = flat @ a.to(x.dtype).T
        y = torch.nn.functional.linear(flat, dense(weight, x.dtype), bias)
        y.addmm_(u, b.to(x.dtype).T, alpha=scaling)
        ctx.save_for_backward(flat, u, weight, a, b)
        ctx.scaling, ctx.shape = scaling, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, u, weight, a, b = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        gu = (g @ b.to(g.dtype)).mul_(ctx.scaling)
        grad_a = (gu.T @ flat).to(a.dtype)
        grad_b = (g.T @ u).to(b.dtype).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (g @ dense(weight, g.dtype)).addmm_(gu, a.to(g.dtype)).view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None
