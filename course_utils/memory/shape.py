"""The sizes that memory depends on, and exact parameter counts, of models of any size and without their weights.

A model built on PyTorch's meta device has all layers and shapes but no values. Even that needs torch and transformers, whose
import takes seconds, so the sizes of `ARCHITECTURES` are kept in shapes.json, which `benchmarks/shapes.py` writes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from course_utils.models import Model

    Described: TypeAlias = str | Path | PreTrainedConfig | Model  # a name, a folder, or what has a configuration


# Published configurations (config.json of each model), included so that counting needs no network.
ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("architectures.json").read_text(encoding="utf-8")
)


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
        name: as for `kept_name`.

    Raises:
        CourseError: the course includes no configuration of that name.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = kept_configuration(name)
    if config is None:
        raise CourseError(f"the course has no configuration for {name!r}; it has those of {', '.join(ARCHITECTURES)}")
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


KEPT_SHAPES = Path(__file__).with_name("shapes.json")
# Architectures that the closed form was written for and tested on.
TESTED_ARCHITECTURES = ("granite", "llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Linear:
    """A linear layer of a block, with its name, the numbers of its inputs and outputs, and whether it has a bias."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def weights(self) -> int:
        """Number of values in the weight, without the bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that consists of equal blocks.

    Attributes:
        name: name for display.
        tested: whether the closed form was tested on this architecture.
        layers: number of blocks.
        hidden: width of the residual stream.
        vocabulary: number of tokens in the vocabulary.
        heads, kv_heads, head_dim: number of query heads, number of key and value heads, and width of a head.
        linears: the linear layers of one block.
        block_other: number of parameters of a block outside its linear layers.
        embedding: number of parameters of the embedding; a tied head shares them.
        head: number of parameters of the head; 0 if it is tied.
        other: number of parameters outside the blocks, the embedding and the head.
        qk_norm: whether queries and keys are normalised in each head.
    """

    name: str
    tested: bool
    layers: int
    hidden: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    linears: tuple[Linear, ...]
    block_other: int
    embedding: int
    head: int
    other: int
    qk_norm: bool

    @property
    def block(self) -> int:
        """Number of parameters in one block."""
        return sum(x.weights + x.outputs * x.bias for x in self.linears) + self.block_other

    @property
    def parameters(self) -> int:
        """Number of parameters in the whole model."""
        return self.layers * self.block + self.embedding + self.head + self.other

    def targets(self, names: Sequence[str] | str) -> tuple[Linear, ...]:
        """Return the linear layers of a block to which an adapter is attached.

        Args:
            names: last parts of module names, or "all-linear".

        Raises:
            CourseError: a name matches none of the layers.
        """
        if names == "all-linear":
            return self.linears
        linear_names = [x.name for x in self.linears]
        for name in names:
            if name not in linear_names:
                raise CourseError(
                    f"target module {name!r} matches no linear layer; there are {', '.join(sorted(linear_names))}"
                )
        return tuple(x for x in self.linears if x.name in names)


def configuration(model: Described) -> PreTrainedConfig:
    """Return the `transformers` configuration of a model, without ever loading its weights.

    Args:
        model: a key of ARCHITECTURES, a folder, `owner/model` on the hub, a `PretrainedConfig`, or a model.

    Raises:
        CourseError: there is no configuration for the name; the message says what to do.
    """
    described: Any = model
    if hasattr(described, "config"):
        return described.config
    if hasattr(described, "model_type"):
        return described
    if kept := kept_configuration(str(model)):
        return kept
    from course_utils import models

    try:
        return models.configuration(str(model))
    except CourseError as error:
        known = ", ".join(ARCHITECTURES)
        raise CourseError(f"{str(error).rstrip('.')}. Configurations included here: {known}") from error


def kept_name(name: str) -> str | None:
    """Return the key of ARCHITECTURES for a model, or None if the course does not include it.

    Args:
        name: name of the model, in capitals or not, with or without its owner and "-Instruct".
    """
    plain = name.rpartition("/")[2].casefold().removesuffix("-instruct").removesuffix("-hf").removeprefix("meta-")
    return {key.casefold(): key for key in ARCHITECTURES}.get(plain)


def kept_configuration(name: str) -> PreTrainedConfig | None:
    """Return the configuration that the course includes for a model (see `kept_name`), or None if it includes none."""
    from transformers import AutoConfig

    key = kept_name(name)
    return AutoConfig.for_model(**ARCHITECTURES[key]) if key else None


def shape(model: Described) -> Shape:
    """Return the sizes of a model: at once if the course keeps them, else read from its configuration.

    Args:
        model: as for `configuration`.

    Raises:
        CourseError: there is no configuration for the name; the message says what to do.
    """
    key = kept_name(str(model)) if isinstance(model, (str, Path)) else None
    if key is None:
        return read_shape(model)
    sizes = _kept_shapes()[key]
    return Shape(**(sizes | {"name": str(model), "linears": tuple(Linear(*layer) for layer in sizes["linears"])}))


@cache
def _kept_shapes() -> dict[str, dict[str, Any]]:
    shapes: dict[str, dict[str, Any]] = json.loads(KEPT_SHAPES.read_text(encoding="utf-8"))
    return shapes


def read_shape(model: Described) -> Shape:
    """Read the sizes of a model from its configuration, which takes seconds, most of them for torch.

    Args:
        model: as for `configuration`.

    Raises:
        CourseError: there is no configuration for the name; the message says what to do.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = configuration(model)
    text = config.get_text_config()
    small = copy.deepcopy(text)
    small.num_hidden_layers = min(2, text.num_hidden_layers)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[: small.num_hidden_layers]
    try:
        with torch.device("meta"):
            probe = AutoModelForCausalLM.from_config(small)
    except ValueError as error:
        raise CourseError(f"{text.model_type!r} is not a causal language model: {str(error).splitlines()[0]}") from error
    blocks = next((m for m in probe.modules() if isinstance(m, torch.nn.ModuleList)), None)
    if blocks is None or len(blocks) != small.num_hidden_layers:
        raise CourseError(f"the architecture {text.model_type!r} is not made of a list of blocks; trace it (way='trace')")
    block = blocks[-1]
    linears = tuple(
        Linear(name.rpartition(".")[2], m.in_features, m.out_features, m.bias is not None)
        for name, m in block.named_modules()
        if isinstance(m, torch.nn.Linear)
    )
    in_block = sum(p.numel() for p in block.parameters())
    in_linears = sum(x.weights + x.outputs * x.bias for x in linears)
    embedding, head = probe.get_input_embeddings().weight, probe.get_output_embeddings().weight
    tied = head is embedding
    parameter_counts = {id(p): p.numel() for p in probe.parameters()}
    outside = sum(parameter_counts.values()) - sum(p.numel() for p in blocks.parameters())
    heads = text.num_attention_heads
    names = {x.name for x in linears}
    usual_names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} == names
    return Shape(
        name=str(model) if isinstance(model, (str, Path)) else text.model_type,
        tested=text.model_type in TESTED_ARCHITECTURES and usual_names,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        linears=linears,
        block_other=in_block - in_linears,
        embedding=embedding.numel(),
        head=0 if tied else head.numel(),
        other=outside - embedding.numel() - (0 if tied else head.numel()),
        qk_norm=any("q_norm" in name for name, _ in block.named_modules()),
    )
