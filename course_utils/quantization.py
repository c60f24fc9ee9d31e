"""4-bit base models (QLoRA, Dettmers et al., 2023, arXiv 2305.14314) with bitsandbytes, safe to train on a CPU too.

The bug this module guards against, found in bitsandbytes 0.50.2: on a CPU with AVX512-BF16, the first evaluation forward of
a `Linear4bit` repacks its weight in place for fast inference, and the repacked layer passes no gradient to its input.
Training goes on, the loss looks normal, and every adapter below that layer gets a wrong gradient. No error is raised;
PyTorch only warns once that an operation has no backward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

FOUR_BIT_TYPES = ("nf4", "fp4")


def config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the configuration with which `from_pretrained` loads a base model in 4 bits, with double quantisation.

    Args:
        kind: "nf4" or "fp4", the set of sixteen values that a weight can take.
        dtype: `torch.dtype` to which weights are dequantized for each product: bfloat16, or float16 on a T4.

    Raises:
        CourseError: the kind is unknown, or bitsandbytes is missing.
    """
    import importlib.util

    from transformers import BitsAndBytesConfig

    if kind not in FOUR_BIT_TYPES:
        raise CourseError(f"unknown quantization {kind!r}; choose one of {', '.join(FOUR_BIT_TYPES)}, or None for 16 bits")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CourseError("4-bit models need bitsandbytes: pip install 'finetuning-course[qlora]'")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def four_bit_layers(model: torch.nn.Module) -> dict[str, Linear4bit]:
    """Return the bitsandbytes 4-bit linear layers of a model, by the names of their modules."""
    return {name: module for name, module in model.named_modules() if is_four_bit(module)}


def is_four_bit(module: object) -> TypeGuard[Linear4bit]:
    """Return whether a module is a 4-bit linear layer.

    It is judged by the name of its class, so that bitsandbytes need not be imported.
    """
    return any(cls.__name__ == "Linear4bit" and cls.__module__.startswith("bitsandbytes.") for cls in type(module).__mro__)


def guard(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking a model's 4-bit layers on a CPU; call it before the first forward pass.

    Raises:
        CourseError: a layer is already repacked; unpacking does not restore the same weights, so load the model again.
    """
    for name, module in four_bit_layers(model).items():
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise CourseError(
                f"the 4-bit layer {name} was repacked for inference by an evaluation forward, and no longer passes "
                "gradients: load the base again with models.load(quantization=...), or call quantization.guard(model) "
                "before anything runs through it"
            )
        module.support_avx512bf16_for_cpu = False


def dense(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a layer's weight, of shape (out, in), as a plain tensor; a 4-bit weight is dequantized into a temporary copy.

    Args:
        weight: the weight as the layer stores it.
        dtype: number format of the result.
    """
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    import bitsandbytes.functional

    dequantized: torch.Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, state).to(dtype)
    return dequantized
