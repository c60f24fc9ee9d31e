"""4-bit bases (QLoRA, Dettmers et al., 2023, arXiv 2305.14314) through bitsandbytes, safe to train on a CPU too.

The trap this room guards against, found in bitsandbytes 0.50.2: on a CPU with AVX512-BF16, the first evaluation forward of a
`Linear4bit` repacks its weight in place for fast inference, and the repacked layer passes no gradient to its input. Training
goes on, the loss looks normal, and every adapter below gets a wrong gradient. Nothing is raised; PyTorch warns once that an
operation has no backward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

KINDS = ("nf4", "fp4")


def config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """What `from_pretrained` takes to load a base in 4 bits, with double quantisation.

    Args:
        kind: "nf4" or "fp4": the sixteen values that a weight can take.
        dtype: `torch.dtype` that the weights are turned into for each product: bfloat16, or float16 on a T4.

    Raises:
        CourseError: an unknown kind, or bitsandbytes is missing.
    """
    import importlib.util

    from transformers import BitsAndBytesConfig

    if kind not in KINDS:
        raise CourseError(f"unknown quantization {kind!r}; choose one of {', '.join(KINDS)}, or None for 16 bits")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CourseError("4-bit models need bitsandbytes: pip install 'finetuning-course[qlora]'")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def four_bit_layers(model: torch.nn.Module) -> dict[str, Linear4bit]:
    """Name → module of each bitsandbytes 4-bit linear layer; empty where there is none."""
    return {name: module for name, module in model.named_modules() if is_four_bit(module)}


def is_four_bit(module: object) -> TypeGuard[Linear4bit]:
    """Whether a module is a 4-bit linear layer; does not import bitsandbytes, whose classes cannot exist without it."""
    return any(cls.__name__ == "Linear4bit" and cls.__module__.startswith("bitsandbytes.") for cls in type(module).__mro__)


def guard(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking the 4-bit layers of a model on a CPU; call it before the first forward.

    Raises:
        CourseError: a layer is repacked already; unpacking does not give the same weights back, so load the model again.
    """
    for name, module in four_bit_layers(model).items():
        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise CourseError(
                f"the 4-bit layer {name} was repacked for inference by an evaluation forward, and no gradient passes it any "
                "more: load the base again with models.load(quantization=...), or call quantization.guard(model) before "
                "anything runs through it"
            )
        module.support_avx512bf16_for_cpu = False


def dense(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A layer's weight (out, in) as a plain tensor; a 4-bit one is turned back, for as long as the result lives."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    import bitsandbytes.functional

    turned_back: torch.Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, state).to(dtype)
    return turned_back
