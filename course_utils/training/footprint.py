"""Plans the micro-batches of a run by the memory that they are predicted to take.

The closed form of `memory.estimate` is applied to the largest micro-batch of the run. Counted is the memory that the run
adds to what was in use: gradients, optimiser states, activations, the table at the output. On a CPU, libraries also keep
some for themselves, which a rule estimates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from course_utils import memory, quantization
from course_utils.batching import (
    Batch,
    Encoded,
    can_share_prompt,
    default_micro_batch_tokens,
    micro_batches,
    pad_token_id,
    to_device,
)
from course_utils.errors import CourseError
from course_utils.memory import formula
from course_utils.memory.shape import Shape, shape
from course_utils.training.settings import FUSED, Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model
    from course_utils.training.objectives import Objective


# A process takes more memory than its tensors: libraries allocate some when they first compute, and the C library's
# allocator keeps some. Seven runs of the packaged model, with 0.3 to 1.6 GB of tensors, took 60 to 250 MB more; this rule
# was within a quarter of what each took.
CPU_LIBRARIES_BYTES = 100e6
CPU_ALLOCATOR_SHARE = 0.05
# Of the free memory, what a run is planned to take: the allocator loses some in gaps, and libraries take some themselves.
PLANNED_SHARE = 0.85
# On a GPU, where the closed form does not cover the run. For LoRA it gives 3.7 GB for so many tokens of the T4's model, and
# 10.5 GB for those of the A100's: a micro-batch that fits beside the weights on these cards.
UNPREDICTED_TOKENS = 2048


@dataclass(frozen=True)
class Footprint:
    """The memory that a run is predicted to add to what is in use. All sizes are in bytes.

    Attributes:
        predicted: the sum of all parts; None if the closed form does not cover this run.
        reason: why there is no prediction; "" if there is one.
        rows, length: number of sequences in the largest micro-batch, and tokens in each of them, padding included.
        parts: the parts of the prediction, as (name, bytes).
    """

    predicted: int | None
    reason: str = ""
    rows: int = 0
    length: int = 0
    parts: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        if self.predicted is None:
            return f"memory is not predicted: {self.reason}"
        most = max(self.parts, key=lambda part: part[1])[0]
        total = f"{self.predicted / 1e6:,.0f} MB predicted"
        return f"memory on top of the model: {total} ({self.rows} x {self.length} tokens at once, most of it {most})"


def predict(model: Model, batches: Iterable[Batch], settings: Settings, accumulates: bool = False) -> Footprint:
    """Predict the memory that a run adds to the loaded model.

    Args:
        model: the model as it will be trained, adapter included.
        batches: micro-batches made by `Objective.collate`; the one that takes most memory decides.
        settings: the settings of the run.
        accumulates: whether a step has several micro-batches, so that gradients already exist while the next one is
            computed.

    Returns:
        Footprint, with a reason instead of a prediction if the closed form does not cover the run.
    """
    try:
        sizes = shape(model)
        if not sizes.tested:
            raise CourseError(f"the closed form was not tested on the architecture of {sizes.name}")
        plan = plan_of(model, sizes, settings)
        totals = []
        for rows, length, output_length, scored, mask in {_size(batch) for batch in batches}:
            # a frozen head computes its table at the scored positions; a trained one computes logits at all kept positions
            table = scored if plan.method != "full" else rows * output_length
            step_plan = replace(
                plan, batch_size=rows, length=length, accumulation=2 if accumulates else 1, padded=mask,
                scored=max(1, table) / (rows * length),
            )  # fmt: skip
            totals.append((formula.parts(sizes, step_plan), rows, length))
        highest, rows, length = max(totals, key=lambda total: total[0].peak)
    except Exception as error:  # whatever the model is, a failed prediction must not stop its training
        return Footprint(None, str(error) or type(error).__name__)
    parts = [(name, getattr(highest, name)) for name in ("gradients", "optimizer", "activations", "logits")]
    if model.device.type != "cuda":
        parts.append(("overhead", round(CPU_LIBRARIES_BYTES + CPU_ALLOCATOR_SHARE * sum(size for _, size in parts))))
    return Footprint(sum(size for _, size in parts), "", rows, length, tuple(parts))


def largest(micro_batches: Iterable[Sequence[Encoded]], count: int = 12) -> list[Sequence[Encoded]]:
    """Choose the micro-batches that may take the most memory.

    They are those with the most tokens, padding included, and among equals those with the most scored tokens.

    Args:
        micro_batches: all micro-batches, as lists of encoded examples.
        count: how many candidates to return at most.
    """
    by_size: dict[tuple[int, int], Sequence[Encoded]] = {}
    for examples in micro_batches:
        size = len(examples), max(map(len, examples))
        by_size[size] = max(by_size.get(size, examples), examples, key=lambda part: sum(example.scored for example in part))
    sizes = sorted(by_size, key=lambda size: size[0] * size[1], reverse=True)
    longest = max(by_size, key=lambda size: size[1])  # attention's part grows with the square of the length
    return [by_size[size] for size in {*sizes[:count], longest}]


def _size(batch: Batch) -> tuple[int, int, int, int, bool | str]:
    rows, length = batch["input_ids"].shape
    mask = "table" if batch["attention_mask"].dim() == 4 else True
    return rows, length, len(batch["keep"]), len(batch["label"]), mask


def plan_of(model: Model, sizes: Shape, settings: Settings) -> memory.StepPlan:
    """Describe the training of a model as a `StepPlan`, except for the fields that depend on the batch.

    Raises:
        CourseError: the closed form does not cover this model or these settings.
    """
    import torch

    base = getattr(model, "get_base_model", lambda: model)()
    dtype = base.get_input_embeddings().weight.dtype
    precision = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    trained = [p for p in model.parameters() if p.requires_grad]
    kernel = getattr(model.config, "_attn_implementation", None)
    common: dict[str, Any] = {
        "precision": precision, "loop": "course",
        "attention": kernel if kernel in ("eager", "grouped_eager") else "sdpa",
        "device": "cuda" if model.device.type == "cuda" else "cpu",
        "checkpointing": bool(getattr(base, "is_gradient_checkpointing", False)),
    }  # fmt: skip
    if set(settings.fused) != set(FUSED):
        raise CourseError("some of the fused functions are switched off")
    if not hasattr(model, "peft_config"):
        if len(trained) != sum(1 for _ in model.parameters()):
            raise CourseError("part of the model is trained, without an adapter")
        return memory.StepPlan("full", **common)
    active = model.active_adapters() if callable(model.active_adapters) else model.active_adapters
    adapters = [adapter for name, adapter in model.peft_config.items() if name in active]
    if len(adapters) != 1 or not hasattr(adapters[0], "r") or not isinstance(adapters[0].target_modules, (set, list)):
        raise CourseError("the adapter is not a single LoRA on named layers")
    four_bit = bool(quantization.four_bit_layers(model))
    if adapters[0].lora_dropout:
        raise CourseError("dropout stores masks, which the closed form does not count")
    if four_bit and precision == "fp32":
        raise CourseError("it does not cover a 4-bit base that computes in float32")
    if getattr(base, "quantization_method", None) and not four_bit:
        raise CourseError("the base is quantized in a way that the closed form does not know")
    names = tuple(sorted({name.rpartition(".")[2] for name in adapters[0].target_modules}))
    plan = memory.StepPlan("qlora" if four_bit else "lora", rank=adapters[0].r, target_modules=names, **common)
    # DoRA, per-layer ranks, fully trained modules, LoRA on some blocks only: all of these train another number of values
    if sum(p.numel() for p in trained) != formula.adapter_values(sizes, plan) or any(
        p.dtype != torch.float32 for p in trained
    ):
        raise CourseError("what is trained is not a float32 LoRA of one rank on all blocks")
    return plan


class MicroBatches:
    """Cuts batches into micro-batches, makes their tensors, and remembers the latest one for error messages.

    Attributes:
        max_tokens: maximum number of tokens in a micro-batch, padding included.
        latest: examples of the latest micro-batch.
        latest_tokens: number of tokens in the latest micro-batch, padding included.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.model, self.objective, self.settings, self.device = model, objective, settings, device
        self.pad_id = pad_token_id(tokenizer)
        self.max_tokens = settings.micro_batch_tokens or default_micro_batch_tokens(model.device)
        self.share_prompt = settings.share_prompt and can_share_prompt(model)
        self.latest: list[Encoded] = []
        self.latest_tokens = 0

    def fit_into(self, free: int | None, steps: Sequence[Sequence[Encoded]], longest: int | None = None) -> Footprint:
        """Halve the number of tokens in a micro-batch until the memory that training adds is free; then predict that memory.

        The gradient stays the same, up to the order of additions. Nothing is changed if the number is one of the settings.

        Args:
            free: memory that can still be allocated, in bytes; None where it is not known, as on a CPU.
            steps: the examples of each step.
            longest: number of tokens that was chosen when this run began, if it is resumed: if it still fits, additions have
                the same order as before.

        Returns:
            The prediction, as from `footprint`.
        """
        if self.settings.micro_batch_tokens is not None or free is None:
            return self.footprint(steps)
        if longest is not None:
            self.max_tokens = min(self.max_tokens, longest)
        shortest = max(len(example) for step in steps for example in step)  # a micro-batch has at least one example
        while True:
            prediction = self.footprint(steps)
            if prediction.predicted is None:
                self.max_tokens = min(self.max_tokens, UNPREDICTED_TOKENS)
                return prediction
            if prediction.predicted <= PLANNED_SHARE * free or self.max_tokens <= shortest:
                return prediction
            self.max_tokens = max(self.max_tokens // 2, shortest)

    def cut(self, examples: Sequence[Encoded]) -> list[list[Encoded]]:
        """Cut examples into micro-batches."""
        return micro_batches(examples, self.max_tokens)

    def collate(self, examples: Sequence[Encoded]) -> Batch:
        """Return the tensors of a micro-batch, on the device, and remember it as the latest one."""
        batch = self.objective.collate(examples, self.pad_id, self.share_prompt)
        self.latest, self.latest_tokens = list(examples), batch["input_ids"].numel()
        return to_device(batch, self.device)

    def footprint(self, steps: Sequence[Sequence[Encoded]]) -> Footprint:
        """Predict the memory that training adds, from the examples of each of the given steps."""
        cut_steps = [self.cut(step) for step in steps]
        return self._predict(
            largest([part for step in cut_steps for part in step]), any(len(step) > 1 for step in cut_steps)
        )

    def latest_footprint(self) -> Footprint:
        """Predict the memory of the latest micro-batch, as one of several in its step."""
        return self._predict([self.latest], accumulates=True)

    def _predict(self, micro_batches: Sequence[Sequence[Encoded]], accumulates: bool) -> Footprint:
        batches = [self.objective.collate(part, self.pad_id, self.share_prompt) for part in micro_batches]
        return predict(self.model, batches, self.settings, accumulates)
