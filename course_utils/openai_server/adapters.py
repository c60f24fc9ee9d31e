"""Many LoRA adapters on one base at once: each row of a batch goes through its own.

The adapters of a batch are laid side by side, A under A and B beside B, so that all of them are two thin products, and a
mask keeps of A's output what is each row's own. The base is neither copied nor changed. PEFT can mix adapters in a batch too
(`adapter_names=`): it takes the rows of each adapter out and puts them back, layer by layer, and its step on a CPU takes
about twice as long (`benchmarks/serving.py adapters` has the figures).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from course_utils.errors import CourseError

KEEP = 16  # adapters in memory; each of rank 16 is 10 MB on the 135M model


class Adapters:
    """Adapters of one base model, loaded when they are first asked for.

    Args:
        model: a causal language model; its linear layers answer through this object from now on.
        keep: adapters to hold in memory; the one that was not used for longest goes first.
    """

    def __init__(self, model, keep: int = KEEP):
        import torch

        self.keep = keep
        self._layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
        self._loaded: OrderedDict[str, dict] = OrderedDict()
        self._wide: OrderedDict[tuple, dict] = OrderedDict()
        self._at_work: dict = {}
        self._mask = None
        for name, layer in self._layers.items():
            layer.forward = self._forward(name, layer)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter as PEFT saves it.

        Raises:
            CourseError: it is not there, not plain LoRA, or belongs to another base.
        """
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        import torch
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "adapter_model.safetensors")
        except (OSError, ValueError) as error:
            raise CourseError(f"cannot read the adapter in {folder.name}: {error}") from error
        if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
            raise CourseError(f"{folder.name} is no plain LoRA adapter; merge it and serve it as a base of its own")
        found = {}
        for key, A in tensors.items():
            if ".lora_A." not in key:
                continue
            layer = key.removeprefix("base_model.model.").partition(".lora_A.")[0]
            B = tensors[key.replace(".lora_A.", ".lora_B.")]
            target = self._layers.get(layer)
            if target is None or (B.shape[0], A.shape[1]) != (target.out_features, target.in_features):
                raise CourseError(
                    f"the adapter in {folder.name} has a layer {layer} that this base has not; it is another's"
                )
            rank = config.get("rank_pattern", {}).get(layer, A.shape[0])
            alpha = config.get("alpha_pattern", {}).get(layer, config["lora_alpha"])
            scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
            kind = {"dtype": target.weight.dtype, "device": target.weight.device}
            found[layer] = (A.to(**kind), (B.to(torch.float32) * scaling).to(**kind))
        if not found:
            raise CourseError(f"the adapter in {folder.name} has no LoRA layers")
        self._loaded[name] = found

    def drop(self, name: str) -> None:
        """Forget an adapter; nothing if it is not in memory."""
        self._loaded.pop(name, None)
        for together in [key for key in self._wide if name in key]:
            del self._wide[together]

    def use(self, names: Sequence[str | None]) -> None:
        """Say which adapter each row of the next batches goes through; None is the base alone."""
        import torch

        together = tuple(sorted({name for name in names if name is not None}))
        for name in together:
            self._loaded.move_to_end(name)
        while len(self._loaded) > max(self.keep, len(together)):
            self.drop(next(iter(self._loaded)))
        self._mask = None
        if not together:
            self._at_work = {}
            return
        if together not in self._wide:
            self._wide[together] = self._joined(together)
            while len(self._wide) > 2:  # a combination of all costs as much memory as its adapters
                self._wide.popitem(last=False)
        self._wide.move_to_end(together)
        self._at_work = self._wide[together]
        if len(together) > 1 or None in names:
            self._mask = {}
            for layer, (A, _) in self._at_work.items():
                ranks = tuple(self._rank(name, layer) for name in together)
                if ranks not in self._mask:
                    mask = torch.zeros(len(names), 1, sum(ranks), dtype=A.dtype, device=A.device)
                    for row, name in enumerate(names):
                        if name is not None:
                            at = together.index(name)
                            mask[row, :, sum(ranks[:at]) : sum(ranks[: at + 1])] = 1
                    self._mask[ranks] = mask
                self._mask[layer] = self._mask[ranks]

    @property
    def in_memory(self) -> int:
        """Adapters that are loaded."""
        return len(self._loaded)

    @property
    def bytes(self) -> int:
        """Memory of the adapters, joined ones counted too unless they are the same tensors."""
        tensors = {
            id(tensor): tensor
            for held in (*self._loaded.values(), *self._wide.values())
            for pair in held.values()
            for tensor in pair
        }
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def _rank(self, name: str, layer: str) -> int:
        return len(self._loaded[name][layer][0]) if layer in self._loaded[name] else 0

    def _joined(self, together: tuple) -> dict:
        import torch

        if len(together) == 1:
            return self._loaded[together[0]]
        joined = {}
        for layer in dict.fromkeys(layer for name in together for layer in self._loaded[name]):
            pairs = [self._loaded[name][layer] for name in together if layer in self._loaded[name]]
            joined[layer] = (torch.cat([A for A, _ in pairs]), torch.cat([B for _, B in pairs], dim=1))
        return joined

    def _forward(self, name: str, layer):
        import torch.nn.functional as F

        def forward(x):
            output = F.linear(x, layer.weight, layer.bias)
            pair = self._at_work.get(name)
            if pair is None:
                return output
            inner = F.linear(x, pair[0])
            if self._mask is not None:
                inner = inner * self._mask[name]
            return output.add_(F.linear(inner, pair[1]))

        return forward
