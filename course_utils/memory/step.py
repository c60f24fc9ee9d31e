"""Builds and runs a training step from a `StepPlan`: on the meta device for tracing, or with random weights for measuring.

Both run the same code, so `benchmarks/estimates.py` measures what `tracing` traces.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.memory.plan import StepPlan

if TYPE_CHECKING:
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import PreTrainedConfig, PreTrainedModel

    from course_utils.memory.tracing import Tracker
    from course_utils.models import Model


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
    return _adapted(model, plan)


def build_piecewise(config: PreTrainedConfig, plan: StepPlan, device: str) -> Model:
    """Build a model that fits on the device only once it is quantised; its weights are made and quantised one at a time.

    Args:
        config: a `transformers` configuration.
        plan: the training step.
        device: device of the model, such as "cuda".

    Raises:
        CourseError: for the same reasons as `build`.
    """
    import torch

    with torch.device("meta"):
        model = build(config, replace(plan, method="full", objective="sft", checkpointing=False))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "inv_freq"):  # rotary tables are computed from the configuration
                setattr(module, name, type(child)(config=model.config).to(device))
    head = model.get_output_embeddings()
    parameters: dict[int, torch.nn.Parameter] = {}  # so that tied weights are made once
    for module in list(model.modules()):
        if plan.method == "qlora" and type(module) is torch.nn.Linear and module is not head:
            continue  # replaced while its parent was visited
        linears = {n: c for n, c in module.named_children() if type(c) is torch.nn.Linear and c is not head}
        for name, layer in linears.items() if plan.method == "qlora" else ():
            with torch.device(device):
                setattr(module, name, _four_bit(torch.nn.Linear(
                    layer.in_features, layer.out_features, layer.bias is not None, dtype=layer.weight.dtype
                ), layer.weight.dtype))  # fmt: skip
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.device.type == "meta":
                if id(parameter) not in parameters:
                    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device).normal_(std=0.02)
                    parameters[id(parameter)] = torch.nn.Parameter(values)
                module._parameters[name] = parameters[id(parameter)]
    if plan.method == "qlora":
        from course_utils import quantization

        model.is_loaded_in_4bit = True
        quantization.guard(model)
    return _adapted(model, plan)


def _adapted(model: Model, plan: StepPlan) -> Model:
    """Add the plan's adapter and checkpointing; returns the model ready for training."""
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
            if layer.weight.device.type == "meta":
                setattr(module, name, _four_bit_shape(layer, dtype))
                continue
            setattr(module, name, _four_bit(layer, dtype))
    model.is_loaded_in_4bit = True  # makes PEFT use its 4-bit LoRA layer, as after `from_pretrained`
    quantization.guard(model)


def _four_bit(layer: torch.nn.Linear, dtype: torch.dtype) -> Linear4bit:
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

    PEFT treats it as a `Linear4bit`. bitsandbytes' own layer can't be made of fake tensors; benchmarks/estimates.py compares
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
            output: torch.Tensor = FourBitProduct.apply(x, self.weight, self.bias)
            return output

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
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=plan.precision == "amp"):
        if plan.objective == "sft":
            loss: torch.Tensor = model(**inputs, labels=ids).loss
            return loss
        if plan.objective == "ppo":
            raise CourseError("PPO is estimated by the closed form only (way='formula'): its step has a loop of its own")

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

    SMALLEST = 4096  # parameters with fewer values keep a float32 state

    def __init__(self, parameters: Sequence[torch.nn.Parameter], device: str) -> None:
        self.parameters, self.device = parameters, device
        self.state: dict[torch.nn.Parameter, dict[int, torch.Tensor]] = {}

    def step(self) -> None:
        """Create the state at the first call, and on a CPU the temporary copies at every call."""
        import torch

        for p in self.parameters if not self.state else ():
            if p.numel() < self.SMALLEST:
                state = [torch.zeros_like(p, dtype=torch.float32) for _ in range(2)]
            else:
                state = [torch.zeros_like(p, dtype=torch.uint8) for _ in range(2)]
                state += [torch.zeros(-(-p.numel() // 256), dtype=torch.float32) for _ in range(2)]
            self.state[p] = dict(enumerate(state))
        for p in self.parameters if self.device == "cpu" else ():
            if p.numel() >= self.SMALLEST:
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
