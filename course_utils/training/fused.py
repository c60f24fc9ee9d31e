"""Parts of a model's step, each written as one autograd function: the same numbers in less time and memory.

PyTorch stores what each small operation needs for its backward pass, and launches each one separately. A function written by
hand stores less and launches less. Each can be switched off (`Settings(fused=...)`); tests/training/test_fused.py proves
that none of them changes more than the order of additions in float32:

    head  the last linear layer and the log-softmax together, on the scored positions only
    lora  PEFT's LoRA layers
    mlp   the gated feed-forward block with its three LoRA layers
    norm  RMSNorm with a frozen weight

Cases that they do not cover (8-bit bases, DoRA, dropout, merged or several active adapters, autocast to another format,
other architectures) are computed as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear

from course_utils.quantization import dense, is_four_bit

# Largest table of log-probabilities that is stored (entries of 4 bytes); a larger one is computed twice.
MAX_TABLE_ENTRIES = 2**24


def _head_replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
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

    With a vocabulary of 49,152, one position's logits are as large as 85 of the model's hidden vectors. Computed by separate
    operations, this table exists in 16 bits, in float32, as log-probabilities and as two gradients. Here it exists once, and
    the backward pass turns it into the gradient in place; if even that is large, it is recomputed a few rows at a time.

    Inputs are hidden (positions, hidden), weight (vocabulary, hidden) and labels (positions,). Both outputs have the shape
    (positions,): the labels' log-probabilities, and those of the likeliest tokens, without gradient (empty without
    `with_max`). Only `hidden` gets a gradient, and only once, because the backward pass uses up the table.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, with_max: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = max(1, MAX_TABLE_ENTRIES // len(weight))
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
        rows = max(1, MAX_TABLE_ENTRIES // len(weight))
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


class ActiveAdapter(NamedTuple):
    """The single active adapter of a LoRA layer: A (r, in), B (out, r), and the factor on their product."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def _lora_replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the model's plain LoRA layers, each with the forward that is to replace its own."""
    for module in model.modules():
        if is_plain(module):
            yield module, _lora_forward(module, module.forward)


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


def _lora_forward(module: Linear, original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapter = None if args or kwargs else active_adapter(module, x)
        if adapter is None:
            return original(x, *args, **kwargs)
        base = module.get_base_layer()
        output: torch.Tensor = LoraLinear.apply(x, base.weight, base.bias, *adapter)
        return output

    return forward


class LoraLinear(torch.autograd.Function):
    """The autograd function of a LoRA layer: x (..., in) → (..., out), with gradients for x, A and B.

    y = x Wᵀ + s (x Aᵀ) Bᵀ with s = alpha / r. PEFT composes it from separate operations, each of which stores its input, in
    float32 if the adapter is in float32. Here the layer stores its input once, in the base's format, and the r-wide product.
    In bfloat16 the two small products are computed in bfloat16 too, as they would be under autocast, while A, B and their
    optimiser state stay in float32. A 4-bit weight is dequantized for each product and not stored.
    """

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


LAYER_NAMES = ("gate_proj", "up_proj", "down_proj")


def _mlp_replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the feed-forward blocks with plain LoRA on all three layers, each with the forward to replace its own."""
    for module in model.modules():
        layers: list[Any] = [getattr(module, name, None) for name in LAYER_NAMES]
        if all(map(is_plain, layers)) and all(layer.get_base_layer().bias is None for layer in layers):
            yield module, _mlp_forward(layers, module.forward)


def _mlp_forward(layers: Sequence[Linear], original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
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
    """The autograd function of a gated feed-forward block, down(silu(gate(x)) · up(x)): x (..., hidden) → (..., hidden).

    The block's input is stored once for gate and up, their adapters' first products are computed as one, and
    silu(gate) · up, the widest tensor of all, is recomputed in the backward pass instead of being stored.

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


def _norm_replacements(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the model's RMSNorm layers whose weight is frozen, each with the forward that is to replace its own."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and not module.weight.requires_grad:
            yield module, _norm_forward(module)


def _norm_forward(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: RMSNorm.apply(x, module.weight, module.variance_epsilon)


class RMSNorm(torch.autograd.Function):
    """The autograd function of RMSNorm with a frozen weight: x (..., width) → (..., width), with a gradient for x only.

    y = w · x / sqrt(mean(x²) + eps), with mean and root in float32 as in transformers.
    """

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


FUNCTIONS = {"head": _head_replacements, "lora": _lora_replacements, "mlp": _mlp_replacements, "norm": _norm_replacements}
# Model types with the block that these functions were written for; other types may cap intermediate results, or scale them
# inside of what is fused. Granite scales outside: the embedding, the attention scores, what a block adds, and the logits. It
# divides what its head returns, here the hidden states, which changes the logits as it should.
FUSED_ARCHITECTURES = ("granite", "llama", "mistral", "qwen2", "qwen3")


@contextmanager
def fused(model: torch.nn.Module, names: Sequence[str] = tuple(FUNCTIONS)) -> Iterator[dict[str, int]]:
    """Let the model compute with the fused functions inside the `with` block.

    Args:
        model: the model, possibly wrapped for several processes.
        names: which of the functions to use: "head", "lora", "mlp", "norm".

    Yields:
        Name of each function → number of modules that it replaced.
    """
    replaced = []
    try:
        covered = {}
        for name in names:
            modules = list(FUNCTIONS[name](model)) if is_known(model) or name == "lora" else []
            for module, forward in modules:
                module.forward = forward
                replaced.append(module)
            covered[name] = len(modules)
        yield covered
    finally:
        for module in replaced:
            # Without the instance attribute, the class's method is used again.
            vars(module).pop("forward", None)


def is_known(model: torch.nn.Module) -> bool:
    """Return whether the fused functions were written for this model's architecture."""
    config: Any = next((m.config for m in model.modules() if hasattr(getattr(m, "config", None), "model_type")), None)
    return config is not None and config.model_type in FUSED_ARCHITECTURES
