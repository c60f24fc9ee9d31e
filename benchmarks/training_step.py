"""Builds a training step from a `StepPlan` and runs it: traced on the meta device, or measured with random weights.

What the closed form of `memory.estimate` is checked against. Both run the same code, so `estimates.py` measures what is
traced. The trace runs the real code on PyTorch's fake tensors, which have a shape but no values: the same operations, the
same autograd graph and the same optimiser. Every storage is recorded with its size when it is created, and again when its
last tensor is freed. Temporary memory inside an operation is not visible; that benchmark shows how little it is compared
with the real allocator.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.memory.formula import MIN_8BIT_VALUES, StepPlan

if TYPE_CHECKING:
    from course_utils.models import Model

    import torch
    from bitsandbytes.nn import Linear4bit
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import PreTrainedConfig, PreTrainedModel


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
        self.phase, self.live = "forward", 0
        self.events: list[tuple[int, int]] = []  # number of a storage, its bytes (negative when it is freed)
        self.reset_peak()
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
            self.reset_peak()

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
        all_trained = all(parameter.requires_grad for parameter in model.parameters())
        for parameter in model.parameters():
            adapter = parameter.requires_grad and not all_trained
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


def build(config: PreTrainedConfig, plan: StepPlan) -> Model:
    """Build a causal language model as `plan` trains it, with untrained weights on the current default device.

    Args:
        config: a `transformers` configuration.
        plan: the training step.

    Raises:
        CourseError: a target module matches nothing, or "qlora" is asked for and bitsandbytes is missing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {4: torch.float32, 2: torch.float16 if plan.precision == "fp16" else torch.bfloat16}[plan.bytes_per_weight]
    config = copy.deepcopy(config)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=plan.attention)
    if plan.method == "qlora":
        quantise(model, dtype)
    return adapted(model, plan)


def adapted(model: Model, plan: StepPlan) -> Model:
    """Add the plan's adapter and checkpointing; returns the model ready for training."""
    if plan.embeddings == "float32":  # as `prepare_model_for_kbit_training` makes everything that isn't in 4 bits
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.float()
    if plan.method != "full":
        from peft import LoraConfig, get_peft_model

        targets = plan.target_modules if isinstance(plan.target_modules, str) else list(plan.target_modules)
        try:
            lora = LoraConfig(r=plan.rank, lora_alpha=2 * plan.rank, target_modules=targets, task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
        except ValueError as error:
            raise CourseError(f"target_modules={plan.target_modules!r}: {str(error).splitlines()[0]}") from error
    if plan.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if plan.method != "full":
            model.enable_input_require_grads()
    return model.train()


def quantise(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Replace all linear layers except the head by bitsandbytes' NF4 layers with double quantisation, in place.

    On the meta device the packed weights and their constants have only shapes.
    """
    import torch

    try:
        import bitsandbytes  # noqa: F401 - only to report in our own words that it is missing
    except ImportError as error:
        raise CourseError("4-bit models need bitsandbytes: pip install 'finetuning-course[qlora]'") from error
    from course_utils import quantization

    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is not torch.nn.Linear or layer is head:
                continue
            convert = _four_bit_shape if layer.weight.device.type == "meta" else four_bit
            setattr(module, name, convert(layer, dtype))
    model.is_loaded_in_4bit = True  # makes PEFT use its 4-bit LoRA layer, as after `from_pretrained`
    quantization.guard(model)


def four_bit(layer: torch.nn.Linear, dtype: torch.dtype) -> Linear4bit:
    """A linear layer as bitsandbytes' NF4 layer, on the same device."""
    import bitsandbytes as bnb

    quantised = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, dtype, quant_type="nf4", device="meta"
    )
    quantised.weight = bnb.nn.Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=quantised
    ).to(layer.weight.device)
    quantised.bias = layer.bias
    return quantised


def _four_bit_shape(layer: torch.nn.Linear, dtype: torch.dtype) -> Linear4bit:
    """A stand-in for a 4-bit layer without values: bytes of the same sizes, and the same temporary tensors in each pass.

    PEFT treats it as a `Linear4bit`. bitsandbytes' own layer can't be made of fake tensors; estimates.py compares
    this one with the real one.
    """
    import torch
    from bitsandbytes.nn import Linear4bit

    count = layer.weight.numel()
    blocks = -(-count // 64)

    def dequantised(packed: torch.Tensor) -> torch.Tensor:
        torch.empty(blocks, dtype=torch.float32, device=packed.device)  # the scales, themselves dequantised
        return torch.empty(layer.weight.shape, dtype=dtype, device=packed.device)

    class FourBitProduct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            ctx.save_for_backward(packed)
            return torch.nn.functional.linear(x, dequantised(packed), bias)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            return gradient @ dequantised(ctx.saved_tensors[0]), None, None

    class FourBitShape(Linear4bit):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = FourBitProduct.apply(x.to(dtype), self.weight, self.bias)
            return output.to(x.dtype)

    layer_shape = FourBitShape(
        layer.in_features, layer.out_features, layer.bias is not None, dtype, quant_type="nf4", device="meta"
    )
    layer_shape.weight = torch.nn.Parameter(
        torch.empty(-(-count // 2), 1, dtype=torch.uint8, device="meta"), requires_grad=False
    )
    layer_shape.weight.quant_type, layer_shape.weight.compress_statistics, layer_shape.weight.quant_state = "nf4", True, None
    layer_shape.bias = layer.bias
    constants = {
        "absmax": (blocks, torch.uint8),
        "absmax2": (-(-blocks // 256), torch.float32),
        "code2": (256, torch.float32),
    }
    for name, (size, dtype_of_constant) in constants.items():
        layer_shape.register_buffer(name, torch.empty(size, dtype=dtype_of_constant, device="meta"), persistent=False)
    return layer_shape


def run(model: Model, plan: StepPlan, tracker: Tracker | None = None, steps: int = 2) -> None:
    """Train for whole steps on dummy tokens: forward and backward pass for each micro-batch, then the optimiser.

    Args:
        model: the model from `build`.
        plan: the plan that it was built for.
        tracker: is told the current phase and the optimiser's state; None to run without one.
        steps: number of steps; the first creates the optimiser's state, and the second is like all later ones.
    """
    import torch

    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], plan)
    for step in range(steps):
        for _ in range(plan.accumulation):
            gc.collect()  # modules leave reference cycles behind, which Python would otherwise collect at random times
            _set_phase(tracker, "forward")
            ids = torch.ones(plan.sequences, plan.length, dtype=torch.long, device=next(model.parameters()).device)
            with without_packing() if is_fake(ids) and not plan.padded else contextlib.nullcontext():
                loss = loss_of(model, ids, plan)
            _set_phase(tracker, "backward")
            loss.backward()
            del loss
        _set_phase(tracker, "optimizer")
        optimizer.step()
        if tracker is not None and step == 0:
            for state in optimizer.state.values():
                for value in state.values():
                    if hasattr(value, "untyped_storage"):
                        tracker.track(value, "optimizer")
        optimizer.zero_grad(set_to_none=True)


def loss_of(model: Model, ids: torch.Tensor, plan: StepPlan) -> torch.Tensor:
    """Compute the step's loss: the next-token loss for SFT, or DPO's loss with its reference.

    Args:
        model: the model from `build`.
        ids: token ids, shape (sequences, length).
        plan: the plan that the model was built for.
    """
    import torch

    inputs = {"input_ids": ids}
    if plan.padded:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["attention_mask"][0, -1] = 0
    dtype = torch.float16 if plan.precision == "fp16" else torch.bfloat16
    with torch.autocast(ids.device.type, dtype, enabled=plan.autocast):
        if plan.objective == "sft":
            loss: torch.Tensor = model(**inputs, labels=ids).loss
            return loss

        def log_probabilities(scored_model: Model) -> torch.Tensor:
            logits = scored_model(**inputs).logits[:, :-1]
            return torch.log_softmax(logits, -1, dtype=torch.float32).gather(2, ids[:, 1:, None]).sum((1, 2))

        with torch.no_grad(), model.disable_adapter() if plan.method != "full" else contextlib.nullcontext():
            reference = log_probabilities(model)
        margin = (log_probabilities(model) - reference).view(-1, 2)
        return -torch.nn.functional.logsigmoid(0.1 * (margin[:, 0] - margin[:, 1])).mean()


@contextlib.contextmanager
def without_packing() -> Iterator[None]:
    """Disable transformers' check for several sequences in one row inside the `with` block.

    The check reads position ids, and fake ones cannot be read.
    """
    from transformers import masking_utils

    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = original


def make_optimizer(parameters: Sequence[torch.nn.Parameter], plan: StepPlan) -> torch.optim.Optimizer | FakeAdamW8bit:
    """Create the optimiser that the plan names.

    Args:
        parameters: the trained parameters.
        plan: the training step.
    """
    import torch

    if plan.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    if plan.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1e-4)
    if is_fake(parameters[0]):
        return FakeAdamW8bit(parameters, plan.device)
    import bitsandbytes as bnb

    optimizer_class = bnb.optim.PagedAdamW8bit if plan.optimizer.startswith("paged") else bnb.optim.AdamW8bit
    optimizer: torch.optim.Optimizer = optimizer_class(parameters, lr=1e-4)
    return optimizer


class FakeAdamW8bit:
    """A stand-in for bitsandbytes' 8-bit AdamW that has no values, but state of the same sizes.

    On a CPU its step makes float32 copies of a parameter, its gradient and its state; on a GPU it is a single kernel.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], device: str) -> None:
        self.parameters, self.device = parameters, device
        self.state: dict[torch.nn.Parameter, dict[int, torch.Tensor]] = {}

    def step(self) -> None:
        """Create the state at the first call, and on a CPU the temporary copies at every call."""
        import torch

        for p in self.parameters if not self.state else ():
            small = p.numel() < MIN_8BIT_VALUES
            state = [torch.zeros_like(p, dtype=torch.float32 if small else torch.uint8) for _ in range(2)]
            if not small:
                state += [torch.zeros(-(-p.numel() // 256), dtype=torch.float32) for _ in range(2)]
            self.state[p] = dict(enumerate(state))
        for p in self.parameters if self.device == "cpu" else ():
            if p.numel() >= MIN_8BIT_VALUES:
                copies = [torch.zeros_like(p, dtype=torch.float32) for _ in range(5)]
                copies.append(copies[0] * 2)
                del copies

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free the gradients."""
        for p in self.parameters:
            p.grad = None


def is_fake(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has only a shape and no values."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor) or isinstance(getattr(tensor, "data", None), FakeTensor)


def _set_phase(tracker: Tracker | None, name: str) -> None:
    if tracker is not None:
        tracker.phase = name
