"""The memory of a training step, exactly: the real code runs on tensors that have a shape and no numbers.

PyTorch's fake tensors go through the same operations, the same autograd graph and the same optimiser as real ones. Here
every storage that comes into being is noted with its size, and again when the last tensor on it is gone. What an operation
needs inside itself for a moment does not show; benchmarks/estimates.py says how little that is beside the real allocator.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

CATEGORIES = ("weights", "adapter", "gradients", "optimizer", "logits", "activations")


@dataclass
class Trace:
    """What a traced step held.

    Attributes:
        peak: highest sum of live storages, in bytes.
        phase: what was going on then: "forward", "backward" or "optimizer".
        at_peak: category → bytes at that moment; they add up to the peak.
    """

    peak: int
    phase: str
    at_peak: dict[str, int] = field(default_factory=dict)


class Tracker:
    """Keeps account of storages; `mode()` is the block in which operations are watched."""

    def __init__(self, vocabulary: int, block: int = 1) -> None:
        self.vocabulary, self.block = vocabulary, block
        self.phase = "forward"
        self.live = self.peak = 0
        self.peak_phase, self.peak_at = "forward", 0
        self.events: list[tuple[int, int]] = []  # number of a storage, its bytes (negative when it goes)
        self.category: dict[int, str] = {}
        self._numbers: dict[int, int] = {}

    def note(self, tensor: torch.Tensor, category: str | None = None) -> None:
        """Count a tensor's storage, once; a category given later overrides."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        number = self._numbers.get(key)
        if number is None:
            number = len(self.category)
            self._numbers[key] = number
            size = -(-storage.nbytes() // self.block) * self.block
            if category is None:
                category = "logits" if tensor.shape and tensor.shape[-1] == self.vocabulary else "activations"
            self.category[number] = category
            self._change(number, size)
            weakref.finalize(storage, self._gone, key, number, size)
        elif category is not None:
            self.category[number] = category

    def _gone(self, key: int, number: int, size: int) -> None:
        if self._numbers.get(key) == number:
            del self._numbers[key]
        self._change(number, -size)

    def _change(self, number: int, size: int) -> None:
        self.events.append((number, size))
        self.live += size
        if self.live > self.peak:
            self.peak, self.peak_at, self.peak_phase = self.live, len(self.events), self.phase

    def forget_peak(self) -> None:
        """Start anew from what is live now."""
        self.peak, self.peak_at, self.peak_phase = self.live, len(self.events), self.phase

    def mode(self) -> TorchDispatchMode:
        """Context manager that watches every operation."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        tracker = self

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(
                self,
                function: Callable[..., Any],
                types: Sequence[type],
                args: tuple[Any, ...] = (),
                kwargs: dict[str, Any] | None = None,
            ) -> Any:
                made = function(*args, **(kwargs or {}))
                for tensor in tree_leaves(made):
                    if hasattr(tensor, "untyped_storage"):
                        tracker.note(tensor)
                return made

        return Watch()

    def result(self) -> Trace:
        """The peak so far."""
        at_peak = dict.fromkeys(CATEGORIES, 0)
        for number, size in self.events[: self.peak_at]:
            at_peak[self.category[number]] += size
        return Trace(self.peak, self.peak_phase, at_peak)


def trace(model: torch.nn.Module, run: Callable[[Any, Tracker], object], device_block: int = 1) -> Trace:
    """Run a training step on fake tensors and say what it held at its highest.

    Args:
        model: a module on the meta device, as it is trained: adapters added, frozen what is frozen, in train mode. Its
            parameters are replaced by fake ones; it is of no use afterwards.
        run: called with (model, tracker); does whole steps and sets `tracker.phase`. Steps, in plural: the first has no
            optimiser state yet.
        device_block: every storage is rounded up to this many bytes; 512 for PyTorch's CUDA allocator.

    Returns:
        Trace.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        replace_by_fakes(model)
        vocabulary = getattr(getattr(model, "config", None), "vocab_size", 0)
        tracker = Tracker(vocabulary, device_block)
        for parameter in model.parameters():
            adapter = parameter.requires_grad and not all(p.requires_grad for p in model.parameters())
            tracker.note(parameter.data, "adapter" if adapter else "weights")
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: tracker.note(p.grad, "gradients"))
        for buffer in model.buffers():
            tracker.note(buffer, "weights")
        tracker.forget_peak()
        with tracker.mode():
            run(model, tracker)
        return tracker.result()


def replace_by_fakes(model: torch.nn.Module) -> None:
    """Give a model on the meta device fake parameters on the CPU; call it inside a FakeTensorMode."""
    import torch

    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, torch.nn.Parameter):
                new = torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
            made[id(tensor)] = new
        return made[id(tensor)]

    for module in model.modules():
        both: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for kind in both:
            for name, tensor in list(kind.items()):
                if tensor is not None and tensor.device.type == "meta":
                    kind[name] = fake(tensor)
