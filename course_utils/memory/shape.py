"""The sizes that memory depends on, and exact parameter counts, of models of any size and without their weights.

A model built on PyTorch's meta device has all layers and shapes but no values. Even that needs torch and transformers, whose
import takes seconds, so the sizes of `ARCHITECTURES` are kept in shapes.json, which `benchmarks/shapes.py` writes.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
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


def count_parameters(model: Described, rank: int = 16, target_modules: Sequence[str] | str = "all-linear") -> ParameterCount:
    """Count exactly how many parameters LoRA of a given rank adds to a model, without allocating them.

    A linear layer of shape (out, in) gets A (rank, in) and B (out, rank), which are rank · (in + out) parameters. Of a
    mixture of experts it counts what PEFT adapts, see `Experts`.

    Args:
        model: as for `configuration`; without an adapter.
        rank: rank r of the update.
        target_modules: last parts of module names ("q_proj", ...), or "all-linear" for every linear layer except the head.

    Raises:
        CourseError: the rank is below 1, the model's name is unknown, or a target matches no linear layer.
    """
    if rank < 1:
        raise CourseError(f"rank must be at least 1, not {rank}")
    if isinstance(target_modules, str) and target_modules != "all-linear":
        target_modules = [target_modules]
    sizes = shape(model)
    return ParameterCount(sizes.parameters, sizes.adapter(rank, target_modules))


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
class Experts:
    """One parameter of a block that holds a matrix of each of its experts, as transformers 5 keeps them, or of its router.

    It is no linear layer, so bitsandbytes doesn't quantise it (bitsandbytes issue 1849).

    Attributes:
        name: name of the parameter.
        experts: number of experts; 1 for the router.
        inputs, outputs: size of each expert's matrix.
        names: names of linear layers of transformers 4 that PEFT takes for it, all of which must be named; () if no target
            module reaches it, not even "all-linear" (unsloth issue 4032).
    """

    name: str
    experts: int
    inputs: int
    outputs: int
    names: tuple[str, ...]

    @property
    def weights(self) -> int:
        """Number of values of all experts together."""
        return self.experts * self.inputs * self.outputs

    @property
    def adapter(self) -> int:
        """Number of values of the adapter, for each unit of its rank; PEFT gives a fused parameter the rank of its parts."""
        return len(self.names) * self.experts * (self.inputs + self.outputs)


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
        experts: the parameters of a block that hold experts; () for a model without.
        active: number of experts that each token passes through.
        sdpa: whether transformers has attention without the matrix of all pairs for it; if not, it uses "eager".
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
    experts: tuple[Experts, ...] = ()
    active: int = 0
    sdpa: bool = True

    @property
    def expert_weights(self) -> int:
        """Number of values in the experts and routers of all blocks; 0 for a model without."""
        return self.layers * sum(x.weights for x in self.experts)

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
        linear_names = [x.name for x in self.linears] + [name for x in self.experts for name in x.names]
        for name in names:
            if name not in linear_names:
                raise CourseError(
                    f"target module {name!r} matches no linear layer; there are {', '.join(sorted(linear_names))}"
                )
        for stack in self.experts:
            if stack.names and not set(stack.names) <= set(names) and set(stack.names) & set(names):
                raise CourseError(f"target modules {' and '.join(stack.names)} are one parameter here: name both or neither")
        return tuple(x for x in self.linears if x.name in names)

    def target_experts(self, names: Sequence[str] | str) -> tuple[Experts, ...]:
        """Return the parameters of a block's experts and router to which PEFT attaches an adapter.

        Args:
            names: as for `targets`.
        """
        return tuple(x for x in self.experts if x.names and (names == "all-linear" or set(x.names) <= set(names)))

    def adapter(self, rank: int, names: Sequence[str] | str) -> int:
        """Return the number of values in LoRA's matrices A and B of all blocks.

        Args:
            rank: rank of the adapter.
            names: as for `targets`.

        Raises:
            CourseError: a name matches none of the layers.
        """
        sides = sum(x.inputs + x.outputs for x in self.targets(names))
        return self.layers * rank * (sides + sum(x.adapter for x in self.target_experts(names)))


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
    linears = tuple(Linear(*layer) for layer in sizes["linears"])
    rows = sizes.get("experts", ())
    experts = tuple(Experts(name, count, ins, outs, tuple(names)) for name, count, ins, outs, names in rows)
    return Shape(**(sizes | {"name": str(model), "linears": linears, "experts": experts}))


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
        raise CourseError(f"the architecture {text.model_type!r} is not made of a list of blocks")
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
    experts = _experts(probe, block)  # last: it adapts the probe
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
        experts=experts,
        active=(getattr(text, "num_experts_per_tok", None) or 1) if experts else 0,
        sdpa=bool(probe._supports_sdpa),
    )


# What PEFT takes for a parameter of fused experts: target modules as they were called before transformers 5.
QWEN_NAMES = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",), "gate": ("gate",)}
MIXTRAL_NAMES = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",), "gate": ("gate",)}


def _experts(probe: PreTrainedModel, block: torch.nn.Module) -> tuple[Experts, ...]:
    """The fused experts of a block and their router; whether "all-linear" reaches them, PEFT shows on the probe itself."""
    text = probe.config.get_text_config()
    sizes = {n.rpartition(".")[2]: p.shape for n, p in block.named_parameters() if p.ndim == 3 and ".experts." in n}
    if not sizes:
        return ()
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, on fused parameters
        adapted = get_peft_model(probe, LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM"))
    reached = any(".experts." in name for name, p in adapted.named_parameters() if p.requires_grad)
    names = (MIXTRAL_NAMES if text.model_type.startswith(("mixtral", "minimax")) else QWEN_NAMES) if reached else {}
    stacks, hidden, count = [], text.hidden_size, 1
    for name, (count, *sides) in sizes.items():
        other = sides[0] * sides[1] // hidden
        inputs, outputs = (other, hidden) if name.startswith("down") else (hidden, other)
        stacks.append(Experts(name, count, inputs, outputs, names.get(name, ())))
    return (*stacks, Experts("gate" if reached else "router", 1, hidden, count, names.get("gate", ())))
