"""Several LoRA adapters on one base model at once: each row of a batch uses its own.

In each layer the A matrices of all adapters in the batch are stacked, and so are their B matrices; a mask zeroes the parts
of A's output that belong to another row's adapter. No adapter is merged into the base. PEFT can mix adapters in a batch too
(`adapter_names=`): it takes the rows of each adapter out and puts them back, layer by layer, in twice the time
(`benchmarks/service.py adapters`).

On a CPU the weights are stored in the layout that its kernels read (`Product`), as TorchInductor's freezing does. Otherwise
the kernels repack them for every product, which is noticeable when there are few rows.
"""

from __future__ import annotations

import json
import platform
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    # A (inputs, columns), B (columns, outputs), and the adapter that each column belongs to
    JoinedAdapters: TypeAlias = tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]

MAX_ADAPTERS = 16  # in memory; an adapter of rank 16 takes 10 MB on the 135M model


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
        modules = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        self._layers = {name: Layer(module) for name, module in modules.items()}
        # Weights that were not repacked would hold the whole mapped file in memory.
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        self._loaded: OrderedDict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = OrderedDict()
        self._joined: OrderedDict[tuple[str, ...], dict[str, JoinedAdapters]] = OrderedDict()

    def load(self, name: str, folder: Path, in_use: Collection[str] = ()) -> None:
        """Read an adapter as a job writes it, plain LoRA in PEFT's format, and make room for it.

        Args:
            name: its name in this object.
            folder: the adapter's folder.
            in_use: names of adapters that must stay, however many there are, because running rows use them.

        Raises:
            AdapterGone: the folder does not exist.
            CourseError: the adapter cannot be read, was trained on another base model, or its weights are not finite.
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
        layers = {}
        for key, A in tensors.items():
            if ".lora_A." not in key:
                continue
            layer = key.removeprefix("base_model.model.").partition(".lora_A.")[0]
            B = tensors[key.replace(".lora_A.", ".lora_B.")]
            target = self._layers.get(layer)
            if target is None or (B.shape[0], A.shape[1]) != target.shape:  # the service was restarted with another model
                raise CourseError(
                    f"the adapter in {folder.name} has a layer {layer} that this base does not have: it is for another base"
                )
            layers[layer] = A.to(target.like), (B.float() * (config["lora_alpha"] / config["r"])).to(target.like)
            # In a batch they would spoil every row: NaN times the mask's zero is NaN.
            if not all(bool(part.isfinite().all()) for part in layers[layer]):
                raise CourseError(f"the adapter in {folder.name} has weights that are not finite (layer {layer})")
        for idle in [other for other in self._loaded if other not in in_use][: max(0, len(self._loaded) - self.keep + 1)]:
            del self._loaded[idle]
            for names in [key for key in self._joined if idle in key]:
                del self._joined[names]
        self._loaded[name] = layers

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
            self._joined[together] = self._join(together)
            while len(self._joined) > 2:  # a combination takes as much memory as its adapters
                self._joined.popitem(last=False)
        self._joined.move_to_end(together)
        joined = self._joined[together]
        masks: dict[tuple[str, ...], torch.Tensor] = {}
        for name, layer in self._layers.items():
            layer.adapter = layer.mask = None
            if name in joined:
                A, B, owners = joined[name]
                layer.adapter = A, B
                # The mask says which adapter each column belongs to; none is needed where every row uses the same one.
                if len(together) > 1 or None in names:
                    if owners not in masks:
                        masks[owners] = _mask(owners, names, lengths, A)
                    layer.mask = masks[owners]

    def _join(self, together: tuple[str, ...]) -> dict[str, JoinedAdapters]:
        """Stack the adapters of a batch, layer by layer; layers that none of them adapts are left out."""
        import torch

        joined = {}
        for layer in self._layers:
            parts = [(name, *self._loaded[name][layer]) for name in together if layer in self._loaded[name]]
            if parts:
                A = torch.cat([A for _, A, _ in parts]).t().contiguous()
                B = torch.cat([B for _, _, B in parts], 1).t().contiguous()
                joined[layer] = A, B, tuple(name for name, A, _ in parts for _ in range(len(A)))
        return joined


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


class Layer:
    """Computes in place of a linear layer, with the adapters that are in use.

    Attributes:
        adapter: A, of shape (inputs, columns), and B, of shape (columns, outputs).
        mask: one where a column belongs to a row's adapter; see `_mask`.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        import torch

        self.shape = linear.out_features, linear.in_features
        self.like = linear.weight.new_empty(0)  # data type and device
        self.product = Product(linear.weight.data, linear.bias)
        self.adapter: tuple[torch.Tensor, torch.Tensor] | None = None
        self.mask: torch.Tensor | None = None
        # The weight is no longer read here: on the meta device it keeps its shape and frees its memory.
        linear.weight = torch.nn.Parameter(linear.weight.to("meta"), requires_grad=False)
        # an instance's `forward` takes precedence over its class's
        linear.forward = self  # type: ignore[method-assign,assignment]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(…, inputs) → (…, outputs)."""
        flat = x.reshape(-1, x.shape[-1])
        output = self.product(flat)
        if self.adapter is not None:
            A, B = self.adapter
            inner = flat @ A
            if self.mask is not None:
                inner = (inner.view(*x.shape[:-1], -1) * self.mask).view(len(flat), -1)
            output.addmm_(inner, B)
        return output.view(*x.shape[:-1], -1)


def _mask(
    owners: tuple[str, ...], names: Sequence[str | None], lengths: Sequence[int] | None, like: torch.Tensor
) -> torch.Tensor:
    """(rows, 1, columns), or (1, positions of all rows, columns): one where a column belongs to the row's adapter."""
    import torch

    rows = torch.tensor([[float(owner == name) for owner in owners] for name in names], dtype=like.dtype, device=like.device)
    if lengths is None:
        return rows[:, None]
    return rows.repeat_interleave(torch.tensor(lengths, device=like.device), 0)[None]
