"""Parts of a model's step, each written as one autograd function: the same numbers in less time and memory.

PyTorch stores what each small operation needs for its backward pass, and launches each one separately. A function written by
hand stores less and launches less. Each can be switched off (`Settings(fused=...)`); tests/training/test_fused.py proves
that none of them changes more than the order of additions in float32:

    head  the last linear layer and the log-softmax together, on the scored positions only (`head.py`)
    lora  PEFT's LoRA layers (`lora.py`)
    mlp   the gated feed-forward block with its three LoRA layers (`mlp.py`)
    norm  RMSNorm with a frozen weight (`norm.py`)

Cases that they do not cover (8-bit bases, DoRA, dropout, merged or several active adapters, autocast to another format,
other architectures) are computed as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from course_utils.training.fused import head, lora, mlp, norm

if TYPE_CHECKING:
    import torch

FUNCTIONS = {"head": head, "lora": lora, "mlp": mlp, "norm": norm}
# Model types with the block that these functions were written for; other types may scale or cap intermediate results.
FUSED_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


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
            modules = list(FUNCTIONS[name].replacements(model)) if is_known(model) or name == "lora" else []
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
