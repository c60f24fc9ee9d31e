"""Several LoRA adapters on one base model at once: each row of a batch uses its own.

Layers that read the same input (queries, keys and values; gate and up) are computed as one product, and so are their
adapters: the A matrices of all layers and adapters in the batch are stacked, the B matrices form a block matrix, and a mask
zeroes the parts of A's output that belong to another row's adapter. That makes three products instead of six to nine, and
with few rows a step spends most of its time on these. The base's weights are moved into joint matrices, not copied, and no
adapter is merged into them. PEFT can mix adapters in a batch too (`adapter_names=`): it takes the rows of each adapter out
and puts them back, layer by layer (compared by `benchmarks/service.py adapters`).

On a CPU the weights are stored in the layout that its kernels read (`Product`), as TorchInductor's freezing does. Otherwise
the kernels repack them for every product, which is noticeable when there are few rows.
"""

from __future__ import annotations

import json
import platform
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    # A (inputs, columns), B (columns, outputs), and the adapter that each column belongs to
    JoinedAdapters: TypeAlias = tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]

MAX_ADAPTERS = 16  # in memory; an adapter of rank 16 takes 10 MB on the 135M model
SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers that read the same input


class AdapterGone(CourseError):
    """The folder of an adapter no longer exists."""


class Adapters:
    """The adapters of one base model, each loaded when it is first needed.

    Args:
        model: a causal language model; from now on its linear layers compute through this object.
        keep: number of adapters to hold in memory; beyond it, the idle adapter that was used least recently is dropped
            first.
    """

    def __init__(self, model: PreTrainedModel, keep: int = MAX_ADAPTERS) -> None:
        import torch

        self.keep = keep
        self.groups = _groups(model)
        head = model.get_output_embeddings()
        if type(head) is torch.nn.Linear:
            product = Product(head.weight.data, head.bias)
            # an instance's `forward` takes precedence over its class's
            head.forward = lambda x: product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)  # type: ignore[method-assign,assignment]
        self._layers = {name: layer for group in self.groups for name, layer in group.layers.items()}
        self._loaded: OrderedDict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = OrderedDict()
        self._joined: OrderedDict[tuple[str, ...], dict[Group, JoinedAdapters | None]] = OrderedDict()

    def load(self, name: str, folder: Path, in_use: Collection[str] = ()) -> None:
        """Read an adapter in PEFT's format, and make room for it.

        Args:
            name: its name in this object.
            folder: the adapter's folder.
            in_use: names of adapters that must stay, however many there are, because running rows use them.

        Raises:
            AdapterGone: the folder does not exist.
            CourseError: the adapter cannot be read, is not plain LoRA, or belongs to another base model.
        """
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        from safetensors.torch import load_file

        if not folder.is_dir():
            raise AdapterGone(f"the adapter in {folder.name} was deleted")
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "adapter_model.safetensors")
        except (OSError, ValueError) as error:
            raise CourseError(f"cannot read the adapter in {folder.name}: {error}") from error
        if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
            raise CourseError(f"{folder.name} is not a plain LoRA adapter; merge it and serve it as a base of its own")
        layers = {}
        for key, A in tensors.items():
            if ".lora_A." not in key:
                continue
            layer = key.removeprefix("base_model.model.").partition(".lora_A.")[0]
            B = tensors[key.replace(".lora_A.", ".lora_B.")]
            target = self._layers.get(layer)
            if target is None or (B.shape[0], A.shape[1]) != (target.out_features, target.in_features):
                raise CourseError(
                    f"the adapter in {folder.name} has a layer {layer} that this base does not have: it is for another base"
                )
            rank = config.get("rank_pattern", {}).get(layer, A.shape[0])
            alpha = config.get("alpha_pattern", {}).get(layer, config["lora_alpha"])
            scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
            placement: dict[str, Any] = {"dtype": self.groups[0].dtype, "device": self.groups[0].device}
            layers[layer] = (A.to(**placement), (B.float() * scaling).to(**placement))
            # In a batch they would spoil every row: NaN times the mask's zero is NaN.
            if not all(bool(part.isfinite().all()) for part in layers[layer]):
                raise CourseError(f"the adapter in {folder.name} has weights that are not finite (layer {layer})")
        if not layers:
            raise CourseError(f"the adapter in {folder.name} has no LoRA layers")
        for idle in [other for other in self._loaded if other not in in_use][: max(0, len(self._loaded) - self.keep + 1)]:
            self.drop(idle)
        self._loaded[name] = layers

    def drop(self, name: str) -> None:
        """Remove an adapter from memory; nothing happens if it is not there."""
        self._loaded.pop(name, None)
        for names in [key for key in self._joined if name in key]:
            del self._joined[names]

    def use(self, names: Sequence[str | None], lengths: Sequence[int] | None = None) -> None:
        """Set the adapter that each row of the next batches uses.

        Args:
            names: for each row the name of a loaded adapter, or None for the base alone.
            lengths: if all rows are concatenated in a batch of one, the number of positions of each row.
        """
        together = tuple(sorted({name for name in names if name is not None}))
        for name in together:
            self._loaded.move_to_end(name)
        if together not in self._joined:
            self._joined[together] = {group: self._join(group, together) for group in self.groups}
            while len(self._joined) > 2:  # a combination takes as much memory as its adapters
                self._joined.popitem(last=False)
        self._joined.move_to_end(together)
        masks: dict[tuple[str, ...], torch.Tensor] = {}
        for group, joined in self._joined[together].items():
            group.adapter = joined and joined[:2]
            # The mask says which adapter each column belongs to; none is needed where every row uses the same one.
            group.mask = None
            if joined and (len(together) > 1 or None in names):
                if joined[2] not in masks:
                    masks[joined[2]] = _mask(joined[2], names, lengths, joined[0])
                group.mask = masks[joined[2]]

    @property
    def in_memory(self) -> int:
        """Number of adapters that are loaded."""
        return len(self._loaded)

    @property
    def bytes(self) -> int:
        """Memory of the adapters, single and joined, in bytes."""
        single = [tensor for layers in self._loaded.values() for pair in layers.values() for tensor in pair]
        joined = [tensor for groups in self._joined.values() for pair in groups.values() if pair for tensor in pair[:2]]
        return sum(tensor.numel() * tensor.element_size() for tensor in single + joined)

    def _join(self, group: Group, together: tuple[str, ...]) -> JoinedAdapters | None:
        """Join the adapters of a batch for one group of layers; None if none of them adapts it."""
        import torch

        parts, owners, offset = [], [], 0
        for layer, module in group.layers.items():
            for name in together:
                if layer in self._loaded[name]:
                    A, B = self._loaded[name][layer]
                    parts.append((A, B, offset))
                    owners += [name] * len(A)
            offset += module.out_features
        if not parts:
            return None
        A = torch.cat([A for A, _, _ in parts]).t().contiguous()
        B_joined, column = A.new_zeros(A.shape[1], offset), 0
        for A_part, B, first_row in parts:
            B_joined[column : column + len(A_part), first_row : first_row + len(B)] = B.t()
            column += len(A_part)
        return A, B_joined, tuple(owners)


class Product:
    """The matrix product of a linear layer, with the weight in the layout that this machine's kernels read.

    On a CPU a transposed weight is faster in float32, and a weight packed by oneDNN is faster in bfloat16;
    `benchmarks/service.py adapters` measures by how much.

    Args:
        weight: the weight, of shape (outputs, inputs).
        bias: the bias, of shape (outputs,), or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        import torch

        self.weight, self.bias, self.layout = weight, bias, "as it is"
        if weight.device.type != "cpu":
            return
        if weight.dtype == torch.float32:
            self.weight, self.layout = weight.t().contiguous(), "transposed"
        elif weight.dtype == torch.bfloat16 and platform.machine().lower() in ("x86_64", "amd64"):
            # correct for any number of rows
            self.weight, self.layout = torch.ops.mkldnn._reorder_linear_weight(weight, 16), "packed"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, inputs) → (rows, outputs)."""
        import torch

        if self.layout == "packed":
            output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return output
        if self.layout == "as it is":
            return torch.nn.functional.linear(x, self.weight, self.bias)
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


class Group:
    """Linear layers that read the same input, computed as one product.

    Args:
        layers: name → layer, in the order in which the model calls them; their weights are moved into one matrix.
    """

    def __init__(self, layers: Mapping[str, torch.nn.Linear]) -> None:
        import torch

        self.layers = layers
        self.adapter: tuple[torch.Tensor, torch.Tensor] | None = None
        self.mask: torch.Tensor | None = None
        modules = list(layers.values())
        self.dtype, self.device = modules[0].weight.dtype, modules[0].weight.device
        self.sizes = [module.out_features for module in modules]
        bias = None if modules[0].bias is None else torch.cat([module.bias.data for module in modules])
        self.product = Product(torch.cat([module.weight.data for module in modules]), bias)
        self._input: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()
        for number, module in enumerate(modules):
            # The separate weights are no longer read: on the meta device they keep their shape and free their memory.
            module.weight = torch.nn.Parameter(module.weight.to("meta"), requires_grad=False)
            forward = self._whole if len(modules) == 1 else self._part(number)
            module.forward = forward  # type: ignore[method-assign,assignment]  # as above

    def _whole(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        output = self.product(flat)
        if self.adapter is not None:
            A, B = self.adapter
            inner = flat @ A
            if self.mask is not None:
                inner = (inner.view(*x.shape[:-1], -1) * self.mask).view(len(flat), -1)
            output.addmm_(inner, B)
        return output.view(*x.shape[:-1], -1)

    def _part(self, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
        last = len(self.layers) - 1

        def forward(x: torch.Tensor) -> torch.Tensor:
            if self._input is not x:
                self._input, self._outputs = x, self._whole(x).split(self.sizes, dim=-1)
            output = self._outputs[number]
            if number == last:
                self._input, self._outputs = None, ()
            return output

        return forward


def _groups(model: PreTrainedModel) -> list[Group]:
    """All linear layers except the head, which the service's adapters never adapt."""
    import torch

    head = model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    groups, grouped = [], set()
    for name in layers:
        if name in grouped:
            continue
        parent, _, last = name.rpartition(".")
        siblings = next((names for names in SHARED_INPUT if last == names[0]), (last,))
        members = {
            full: layers[full] for sibling in siblings if (full := f"{parent}.{sibling}" if parent else sibling) in layers
        }
        alike = {(layer.in_features, layer.bias is None, type(layer)) for layer in members.values()}
        if len(alike) > 1 or len(members) < len(siblings):
            members = {name: layers[name]}
        grouped |= set(members)
        groups.append(Group(members))
    return groups


def _mask(
    owners: tuple[str, ...], names: Sequence[str | None], lengths: Sequence[int] | None, like: torch.Tensor
) -> torch.Tensor:
    """(rows, 1, columns), or (1, positions of all rows, columns): one where a column belongs to the row's adapter."""
    import torch

    rows = torch.tensor([[float(owner == name) for owner in owners] for name in names], dtype=like.dtype, device=like.device)
    if lengths is None:
        return rows[:, None]
    return rows.repeat_interleave(torch.tensor(lengths, device=like.device), 0)[None]
