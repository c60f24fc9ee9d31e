"""The exact memory of a training step: the real code runs on tensors that have a shape but no values.

PyTorch's fake tensors go through the same operations, the same autograd graph and the same optimiser as real ones. Every
storage is recorded with its size when it is created, and again when its last tensor is freed. Temporary memory inside an
operation is not visible; benchmarks/estimates.py shows how little that is compared with the real allocator.
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
    """The memory of a traced step.

    Attributes:
        peak: highest sum of live storages, in bytes.
        phase: phase of the peak: "forward", "backward" or "optimizer".
        at_peak: category → bytes at the peak; they add up to `peak`.
    """

    peak: int
    phase: str
    at_peak: dict[str, int] = field(default_factory=dict)


class Tracker:
    """Keeps an account of the memory of storages.

    It counts the tensors that are given to `track`, and all that are made while `mode()` is active.

    Attributes:
        phase: name of the current phase, set by whoever runs the step.
        live, peak: bytes that exist now, and the most that have existed at once.
    """

    def __init__(self, vocabulary: int, block: int = 1) -> None:
        self.vocabulary, self.block = vocabulary, block
        self.phase = "forward"
        self.live = self.peak = 0
        self.peak_phase, self.peak_at = "forward", 0
        self.events: list[tuple[int, int]] = []  # number of a storage, its bytes (negative when it is freed)
        self.category: dict[int, str] = {}
        self._numbers: dict[int, int] = {}

    def track(self, tensor: torch.Tensor, category: str | None = None) -> None:
        """Count the storage of a tensor, once.

        Args:
            tensor: the tensor.
            category: one of CATEGORIES; without it, the shape decides between "logits" and "activations". A category that is
                given later replaces an earlier one.
        """
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
            weakref.finalize(storage, self._free, key, number, size)
        elif category is not None:
            self.category[number] = category

    def _free(self, key: int, number: int, size: int) -> None:
        if self._numbers.get(key) == number:
            del self._numbers[key]
        self._change(number, -size)

    def _change(self, number: int, size: int) -> None:
        self.events.append((number, size))
        self.live += size
        if self.live > self.peak:
            self.peak, self.peak_at, self.peak_phase = self.live, len(self.events), self.phase

    def reset_peak(self) -> None:
        """Forget the peak so far: from now on, it is the highest sum since this call."""
        self.peak, self.peak_at, self.peak_phase = self.live, len(self.events), self.phase

    def mode(self) -> TorchDispatchMode:
        """Return a context manager that tracks the result of every operation of PyTorch."""
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
                outputs = function(*args, **(kwargs or {}))
                for tensor in tree_leaves(outputs):
                    if hasattr(tensor, "untyped_storage"):
                        tracker.track(tensor)
                return outputs

        return Watch()

    def result(self) -> Trace:
        """Return the peak so far, with what it consisted of."""
        at_peak = dict.fromkeys(CATEGORIES, 0)
        for number, size in self.events[: self.peak_at]:
            at_peak[self.category[number]] += size
        return Trace(self.peak, self.peak_phase, at_peak)


def trace(model: torch.nn.Module, run: Callable[[Any, Tracker], object], device_block: int = 1) -> Trace:
    """Run a training step on fake tensors, and return its peak memory.

    Args:
        model: a module on the meta device that is ready for training: with adapters, with frozen parameters, in train mode.
            Its parameters are replaced by fake ones, so that it cannot be used afterwards.
        run: function of (model, tracker) that runs whole steps and sets `tracker.phase`. It must run at least two steps,
            since the optimiser has no state yet in the first.
        device_block: every storage is rounded up to a multiple of this many bytes; 512 for PyTorch's CUDA allocator.

    Returns:
        The peak, its phase and its parts.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        replace_by_fakes(model)
        vocabulary = getattr(getattr(model, "config", None), "vocab_size", 0)
        tracker = Tracker(vocabulary, device_block)
        for parameter in model.parameters():
            adapter = parameter.requires_grad and not all(p.requires_grad for p in model.parameters())
            tracker.track(parameter.data, "adapter" if adapter else "weights")
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: tracker.track(p.grad, "gradients"))
        for buffer in model.buffers():
            tracker.track(buffer, "weights")
        tracker.reset_peak()
        with tracker.mode():
            run(model, tracker)
        return tracker.result()


def replace_by_fakes(model: torch.nn.Module) -> None:
    """Replace the parameters of a model on the meta device by fake ones on the CPU; call it inside a FakeTensorMode."""
    import torch

    fakes: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in fakes:
            replacement = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, torch.nn.Parameter):
                replacement = torch.nn.Parameter(replacement, requires_grad=tensor.requires_grad)
            fakes[id(tensor)] = replacement
        return fakes[id(tensor)]

    for module in model.modules():
        registries: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for registry in registries:
            for name, tensor in list(registry.items()):
                if tensor is not None and tensor.device.type == "meta":
                    registry[name] = fake(tensor)
