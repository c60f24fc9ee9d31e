"""The sizes that memory depends on, read off a model of two blocks that has no numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils.errors import CourseError
from course_utils.memory.counting import ARCHITECTURES, architecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from course_utils.models import Model

    Described: TypeAlias = str | Path | PreTrainedConfig | Model  # a name, a folder, or what has a configuration

# Architectures whose blocks the closed form was written for and tested on.
KNOWN = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Linear:
    """A linear layer of a block."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def weights(self) -> int:
        """Values of the weight, without bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """A decoder of equal blocks.

    Attributes:
        name: for people.
        known: whether the closed form was tested on this architecture.
        layers: number of blocks.
        hidden: width of the residual stream.
        vocabulary: number of tokens.
        heads, kv_heads, head_dim: of attention.
        linears: linear layers of one block.
        block_other: parameters of a block outside its linear layers.
        embedding: parameters of the embedding; the head's are the same ones where they are tied.
        head: parameters of the head, 0 where tied.
        other: parameters outside blocks, embedding and head.
        qk_norm: whether queries and keys are normalised a head.
    """

    name: str
    known: bool
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
        """Parameters of one block."""
        return sum(x.weights + x.outputs * x.bias for x in self.linears) + self.block_other

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.block + self.embedding + self.head + self.other

    def targets(self, names: Sequence[str] | str) -> tuple[Linear, ...]:
        """The linear layers of a block that an adapter is attached to.

        Raises:
            CourseError: a name that matches none of them.
        """
        if names == "all-linear":
            return self.linears
        known = [x.name for x in self.linears]
        for name in names:
            if name not in known:
                raise CourseError(f"target module {name!r} matches no linear layer; there are {', '.join(sorted(known))}")
        return tuple(x for x in self.linears if x.name in names)


def configuration(model: Described) -> PreTrainedConfig:
    """The `transformers` configuration of a model given by name, folder, configuration or module; never its weights.

    Args:
        model: a key of ARCHITECTURES, a folder, `owner/model` on the hub, a `PretrainedConfig` or a model.

    Raises:
        CourseError: a name that leads to no configuration, with what to do.
    """
    from transformers import AutoConfig

    given: Any = model
    if hasattr(given, "config"):
        return given.config
    if hasattr(given, "model_type"):
        return given
    if kept := kept_configuration(str(model)):
        settings = dict(kept)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)
    from course_utils import models

    try:
        return models.configuration(str(model))
    except CourseError as error:
        raise CourseError(f"{error}. Configurations kept here: {', '.join(ARCHITECTURES)}") from error


def kept_configuration(name: str) -> dict[str, Any] | None:
    """The configuration kept with the course for a model's name, in any case, with or without owner and "-Instruct"."""
    plain = name.rpartition("/")[2].casefold().removesuffix("-instruct").removesuffix("-hf").removeprefix("meta-")
    return architecture(plain)


def shape(model: Described) -> Shape:
    """Read the sizes of a model off its configuration; takes a moment also for 70B."""
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
            built = AutoModelForCausalLM.from_config(small)
    except ValueError as error:
        raise CourseError(f"{text.model_type!r} is no causal language model: {str(error).splitlines()[0]}") from error
    blocks = next((m for m in built.modules() if isinstance(m, torch.nn.ModuleList)), None)
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
    embedding, head = built.get_input_embeddings().weight, built.get_output_embeddings().weight
    tied = head is embedding
    everything = {id(p): p.numel() for p in built.parameters()}
    outside = sum(everything.values()) - sum(p.numel() for p in blocks.parameters())
    heads = text.num_attention_heads
    names = {x.name for x in linears}
    usual = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} == names
    return Shape(
        name=str(model) if isinstance(model, (str, Path)) else text.model_type,
        known=text.model_type in KNOWN and usual,
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
