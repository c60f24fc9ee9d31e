"""LoRA's forward and backward in one autograd function, for PEFT's own layers.

PEFT composes a LoRA layer from separate operations, each of which keeps its input for the backward pass, in float32 where
the adapter is float32. Written as one function, the layer keeps its input once, in the base's format, and the r-wide
product beside it. The formulas are PEFT's: y = x Wᵀ + s (x Aᵀ) Bᵀ with s = alpha / r; equal to it in float32 up to the order
of additions (tests/training/test_fused.py). In bfloat16 the two small products run in bfloat16 too, as they would
under autocast, while A, B and their optimiser state stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fused_lora(model) -> Iterator[int]:
    """Let PEFT's LoRA linear layers of `model` compute with one fused function inside the block.

    Layers it does not cover go on as before: quantised bases, DoRA, dropout, merged or several active adapters,
    autocast. Yields the number of layers that are covered.
    """
    replaced = []
    try:
        for module in model.modules():
            if _is_plain(module):
                module.forward = _fused_forward(module, module.forward)
                replaced.append(module)
        yield len(replaced)
    finally:
        for module in replaced:
            del module.forward  # the instance attribute; the class's method shows again


def _is_plain(module) -> bool:
    import torch
    from peft.tuners.lora import Linear

    return (
        type(module) is Linear
        and type(module.get_base_layer()) is torch.nn.Linear
        and not any(module.lora_bias.values())
        and not any(getattr(module, "use_dora", {}).values())
    )


def _fused_forward(module, original):
    import torch

    function = _function()

    def forward(x, *args, **kwargs):
        base = module.get_base_layer()
        active = [name for name in module.active_adapters if name in module.lora_A]
        name = active[0] if len(active) == 1 else None
        plain = (
            name is not None
            and not args
            and not kwargs
            and not module.disable_adapters
            and not module.merged
            and x.dtype == base.weight.dtype
            and not torch.is_autocast_enabled(x.device.type)
            and not (module.training and getattr(module.lora_dropout[name], "p", 0.0) > 0)
        )
        if not plain:
            return original(x, *args, **kwargs)
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        return function.apply(x, base.weight, base.bias, a, b, module.scaling[name])

    return forward


def _function():
    """Made on first use, so that importing this module does not import torch."""
    global _LoraLinear
    if _LoraLinear is None:
        import torch

        class LoraLinear(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, weight, bias, a, b, scaling):
                flat = x.reshape(-1, x.shape[-1])
                u = flat @ a.to(x.dtype).T
                y = torch.nn.functional.linear(flat, weight, bias)
                y.addmm_(u, b.to(x.dtype).T, alpha=scaling)
                ctx.save_for_backward(flat, u, weight, a, b)
                ctx.scaling, ctx.shape = scaling, x.shape
                return y.view(*x.shape[:-1], -1)

            @staticmethod
            def backward(ctx, gradient):
                flat, u, weight, a, b = ctx.saved_tensors
                g = gradient.reshape(-1, gradient.shape[-1])
                gu = (g @ b.to(g.dtype)).mul_(ctx.scaling)
                grad_a = (gu.T @ flat).to(a.dtype)
                grad_b = (g.T @ u).to(b.dtype).mul_(ctx.scaling)
                grad_x = None
                if ctx.needs_input_grad[0]:
                    grad_x = (g @ weight).addmm_(gu, a.to(g.dtype)).view(ctx.shape)
                return grad_x, None, None, grad_a, grad_b, None

        _LoraLinear = LoraLinear
    return _LoraLinear


_LoraLinear = None
