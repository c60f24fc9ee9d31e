"""Exact parameter counts of models of any size, without their weights.

A model built on PyTorch's meta device has all layers and shapes but no values, so a 70B model takes a second and a few
megabytes. What LoRA adds follows from the shapes of the linear layers it is attached to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from course_utils.models import Model

# Published configurations (config.json of each model), included so that counting needs no network.
ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("architectures.json").read_text(encoding="utf-8")
)


def architecture(name: str) -> dict[str, Any] | None:
    """Return the configuration that the course includes for a model, or None if it includes none.

    Args:
        name: name of the model, in capitals or not.
    """
    return {key.casefold(): config for key, config in ARCHITECTURES.items()}.get(name.casefold())


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters a model with LoRA has.

    Attributes:
        base: parameters of the model itself, tied embeddings counted once.
        trainable: parameters of the adapter, all of which are trained.
    """

    base: int
    trainable: int

    @property
    def total(self) -> int:
        """Number of parameters of model and adapter together."""
        return self.base + self.trainable

    @property
    def percent(self) -> float:
        """Share of all parameters that is trained, in percent."""
        return 100 * self.trainable / self.total

    def __str__(self) -> str:
        return f"{self.trainable:,} trainable of {self.total:,} = {self.percent:.4f} %"


def build_without_weights(name: str) -> PreTrainedModel:
    """Build a model on PyTorch's meta device: with all its layers and shapes, but without values.

    Args:
        name: a key of ARCHITECTURES.

    Raises:
        CourseError: the course includes no configuration of that name.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    stored_config = architecture(name)
    if stored_config is None:
        raise CourseError(f"the course has no configuration for {name!r}; it has those of {', '.join(ARCHITECTURES)}")
    settings = dict(stored_config)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count_parameters(
    model: Model | str, rank: int = 16, target_modules: Sequence[str] | str = "all-linear"
) -> ParameterCount:
    """Count exactly how many parameters LoRA of a given rank adds to a model, without allocating them.

    A linear layer of shape (out, in) gets A (rank, in) and B (out, rank), which are rank · (in + out) parameters.

    Args:
        model: a `torch.nn.Module` without an adapter, on any device, or a key of ARCHITECTURES.
        rank: rank r of the update.
        target_modules: last parts of module names ("q_proj", ...), or "all-linear" for every linear layer except the head.

    Raises:
        CourseError: the rank is below 1, the model's name is unknown, or a target matches no linear layer.
    """
    import torch

    if rank < 1:
        raise CourseError(f"rank must be at least 1, not {rank}")
    if isinstance(model, str):
        model = build_without_weights(model)
    head = model.get_output_embeddings()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    if target_modules != "all-linear":
        target_names = [target_modules] if isinstance(target_modules, str) else list(target_modules)
        names = sorted({name.rpartition(".")[2] for name in linears})
        if unknown := [name for name in target_names if name not in names]:
            raise CourseError(f"target module {unknown[0]!r} matches no linear layer; there are {', '.join(names)}")
        linears = {name: module for name, module in linears.items() if name.rpartition(".")[2] in target_names}
    trainable = sum(rank * (module.in_features + module.out_features) for module in linears.values())
    return ParameterCount(base=sum(p.numel() for p in model.parameters()), trainable=trainable)
