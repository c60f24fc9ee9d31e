"""Parts of a model's step written as one autograd function each: the same numbers, less time and memory.

PyTorch keeps what each small operation needs for its backward pass, and starts each of them apart. A function written by
hand keeps less and starts less. Each can be switched off (`Settings(fused=...)`); tests/training/test_fused.py proves
that none of them changes more than the order of additions in float32:

    head  the last linear layer and the log-softmax together, on the scored positions only (`head.py`)
    lora  PEFT's LoRA layers (`lora.py`)
    mlp   the gated feed-forward block with its three LoRA layers (`mlp.py`)
    norm  RMSNorm with a frozen weight (`norm.py`)

What they do not cover (8-bit bases, DoRA, dropout, merged or several active adapters, autocast to another format, other
architectures) is computed as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from course_utils.training.fused import head, lora, mlp, norm

if TYPE_CHECKING:
    import torch

FUNCTIONS = {"head": head, "lora": lora, "mlp": mlp, "norm": norm}
# Model types whose block is the one these functions were written for; others may scale or cap what they compute.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


@contextmanager
def fused(model: torch.nn.Module, names: Sequence[str] = tuple(FUNCTIONS)) -> Iterator[dict[str, int]]:
    """Let `model` compute with the fused functions inside the block; yields name → number of modules that it covers."""
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
            # The instance's attribute goes, the class's method shows again.
            vars(module).pop("forward", None)


def is_known(model: torch.nn.Module) -> bool:
    """Whether the model's architecture is one of those that these functions were written for."""
    config: Any = next((m.config for m in model.modules() if hasattr(getattr(m, "config", None), "model_type")), None)
    return config is not None and config.model_type in ARCHITECTURES
