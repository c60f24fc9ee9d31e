"""One training step built from a `Plan`: on the meta device to be traced, or with random weights to be measured.

Both run this same code, so what `benchmarks/estimates.py` measures is what `tracing` traces.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.memory.plan import Plan

if TYPE_CHECKING:
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import PreTrainedConfig, PreTrainedModel

    from course_utils.memory.tracing import Tracker
    from course_utils.models import Model


def build(config: PreTrainedConfig, plan: Plan) -> Model:
    """A causal language model as `plan` trains it, on the current default device, with weights that nobody trained.

    Args:
        config: a `transformers` configuration.
        plan: what is trained how.

    Raises:
        CourseError: a target module that matches nothing, or bitsandbytes is missing for "qlora".
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


def build_piecewise(config: PreTrainedConfig, plan: Plan, device: str) -> Model:
    """`build` for a model whose weights would not fit on the device before they are packed: each is made and packed alone.

    Args:
        config: a `transformers` configuration.
        plan: what is trained how.
        device: where the model lives.
    """
    import torch

    with torch.device("meta"):
        model = build(config, replace(plan, method="full", objective="sft", checkpointing=False))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "inv_freq"):  # rotary tables are computed from the configuration
                setattr(module, name, type(child)(config=model.config).to(device))
    head = model.get_output_embeddings()
    made: dict[int, torch.nn.Parameter] = {}  # tied weights once
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
                if id(parameter) not in made:
                    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device).normal_(std=0.02)
                    made[id(parameter)] = torch.nn.Parameter(values)
                module._parameters[name] = made[id(parameter)]
    if plan.method == "qlora":
        from course_utils import quantization

        model.is_loaded_in_4bit = True
        quantization.guard(model)
    return _adapted(model, plan)


def _adapted(model: Model, plan: Plan) -> Model:
    """With the plan's adapter and checkpointing, ready to train."""
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
    """Turn the linear layers but the head into bitsandbytes' NF4 layers with double quantisation, in place.

    On the meta device the packed weights and their constants have shapes only.
    """
    import torch

    try:
        import bitsandbytes  # noqa: F401 - only to say in our words that it is missing
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
    model.is_loaded_in_4bit = True  # by this PEFT takes its 4-bit LoRA layer, as it does after `from_pretrained`
    quantization.guard(model)


def _four_bit(layer: torch.nn.Linear, dtype: torch.dtype) -> Linear4bit:
    """A linear layer as bitsandbytes' NF4 layer, on the same device."""
    import bitsandbytes as bnb

    new = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, dtype, quant_type="nf4", device="meta"
    )
    new.weight = bnb.nn.Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=new
    ).to(layer.weight.device)
    new.bias = layer.bias
    return new


def _four_bit_shape(layer: torch.nn.Linear, dtype: torch.dtype) -> Linear4bit:
    """Stands for a 4-bit layer where there are no numbers: bytes of the same sizes, and the same tensors made in each pass.

    It is a `Linear4bit` to PEFT. bitsandbytes' own cannot be made of fake tensors; benchmarks/estimates.py holds this one
    against the real one.
    """
    import torch
    from bitsandbytes.nn import Linear4bit

    count = layer.weight.numel()
    blocks = -(-count // 64)

    def turned_back(packed: torch.Tensor) -> torch.Tensor:
        torch.empty(blocks, dtype=torch.float32, device=packed.device)  # the scales, themselves turned back
        return torch.empty(layer.weight.shape, dtype=dtype, device=packed.device)

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            ctx.save_for_backward(packed)
            return torch.nn.functional.linear(x, turned_back(packed), bias)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            return gradient @ turned_back(ctx.saved_tensors[0]), None, None

    class Shape(Linear4bit):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = Product.apply(x, self.weight, self.bias)
            return output

    made = Shape(layer.in_features, layer.out_features, layer.bias is not None, dtype, quant_type="nf4", device="meta")
    made.weight = torch.nn.Parameter(torch.empty(-(-count // 2), 1, dtype=torch.uint8, device="meta"), requires_grad=False)
    made.weight.quant_type, made.weight.compress_statistics, made.weight.quant_state = "nf4", True, None
    made.bias = layer.bias
    constants = {
        "absmax": (blocks, torch.uint8),
        "absmax2": (-(-blocks // 256), torch.float32),
        "code2": (256, torch.float32),
    }
    for name, (size, kind) in constants.items():
        made.register_buffer(name, torch.empty(size, dtype=kind, device="meta"), persistent=False)
    return made


def run(model: Model, plan: Plan, tracker: Tracker | None = None, steps: int = 2) -> None:
    """Train for whole steps on made-up tokens: forward, backward, as often as accumulated, and the optimiser.

    Args:
        model: from `build`.
        plan: the same plan.
        tracker: told what is going on.
        steps: the first step makes the optimiser's state, the second is as all others.
    """
    import torch

    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], plan)
    for number in range(steps):
        for _ in range(plan.accumulation):
            gc.collect()  # modules leave reference cycles behind, and when Python finds them is chance
            _phase(tracker, "forward")
            ids = torch.ones(plan.sequences, plan.length, dtype=torch.long, device=next(model.parameters()).device)
            with without_packing() if is_fake(ids) and not plan.padded else contextlib.nullcontext():
                loss = loss_of(model, ids, plan)
            _phase(tracker, "backward")
            loss.backward()
            del loss
        _phase(tracker, "optimizer")
        optimizer.step()
        if tracker is not None and number == 0:
            for state in optimizer.state.values():
                for value in state.values():
                    if hasattr(value, "untyped_storage"):
                        tracker.note(value, "optimizer")
        optimizer.zero_grad(set_to_none=True)


def loss_of(model: Model, ids: torch.Tensor, plan: Plan) -> torch.Tensor:
    """The step's loss: next-token loss for SFT, DPO's with its reference for DPO."""
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
            raise CourseError("PPO is estimated by the closed form only: its step is a loop of its own (way='formula')")

        def sums(which: Model) -> torch.Tensor:
            logits = which(**inputs).logits[:, :-1]
            return torch.log_softmax(logits, -1, dtype=torch.float32).gather(2, ids[:, 1:, None]).sum((1, 2))

        with torch.no_grad(), model.disable_adapter() if plan.method != "full" else contextlib.nullcontext():
            reference = sums(model)
        margin = (sums(model) - reference).view(-1, 2)
        return -torch.nn.functional.logsigmoid(0.1 * (margin[:, 0] - margin[:, 1])).mean()


@contextlib.contextmanager
def without_packing() -> Iterator[None]:
    """transformers looks at position ids to see whether rows hold several sequences; fake ones it cannot read."""
    from transformers import masking_utils

    found = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = found


def make_optimizer(parameters: Sequence[torch.nn.Parameter], plan: Plan) -> torch.optim.Optimizer | EightBitShape:
    """The optimiser a plan names."""
    import torch

    if plan.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    if plan.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1e-4)
    if is_fake(parameters[0]):
        return EightBitShape(parameters, plan.device)
    import bitsandbytes as bnb

    kind = bnb.optim.PagedAdamW8bit if plan.optimizer.startswith("paged") else bnb.optim.AdamW8bit
    made: torch.optim.Optimizer = kind(parameters, lr=1e-4)
    return made


class EightBitShape:
    """Stands for bitsandbytes' 8-bit AdamW where there are no numbers: state of the same sizes.

    On a CPU its step makes float32 copies of a parameter, its gradient and its state; on a GPU it is one kernel.
    """

    SMALLEST = 4096  # parameters with fewer values keep a float32 state

    def __init__(self, parameters: Sequence[torch.nn.Parameter], device: str) -> None:
        self.parameters, self.device = parameters, device
        self.state: dict[torch.nn.Parameter, dict[int, torch.Tensor]] = {}

    def step(self) -> None:
        """Make the state, once, and on a CPU the copies."""
        import torch

        for p in self.parameters if not self.state else ():
            if p.numel() < self.SMALLEST:
                made = [torch.zeros_like(p, dtype=torch.float32) for _ in range(2)]
            else:
                made = [torch.zeros_like(p, dtype=torch.uint8) for _ in range(2)]
                made += [torch.zeros(-(-p.numel() // 256), dtype=torch.float32) for _ in range(2)]
            self.state[p] = dict(enumerate(made))
        for p in self.parameters if self.device == "cpu" else ():
            if p.numel() >= self.SMALLEST:
                copies = [torch.zeros_like(p, dtype=torch.float32) for _ in range(5)]
                copies.append(copies[0] * 2)
                del copies

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let gradients go."""
        for p in self.parameters:
            p.grad = None


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a shape only."""
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor) or isinstance(getattr(tensor, "data", None), FakeTensor)


def _phase(tracker: Tracker | None, name: str) -> None:
    if tracker is not None:
        tracker.phase = name
