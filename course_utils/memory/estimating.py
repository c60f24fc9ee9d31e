"""Will it fit? Predicts the memory of a training step in closed form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from course_utils import facts
from course_utils.errors import CourseError
from course_utils.memory import formula
from course_utils.memory.formula import StepPlan
from course_utils.memory.shape import Shape, shape

if TYPE_CHECKING:
    from course_utils.memory.shape import Described

# Bytes as PyTorch reports them (`total_memory`), fewer than the card's name promises.
GPUS: dict[str, float] = {name: row["memory"] for name, row in facts.table("gpus").items()}
# On top of the tensors on a GPU: the context, the libraries' workspaces, and memory that the allocator reserves without
# using it. Not measured here: fitcheck-llm found 141 MiB for a T4's bare context, and adds 500 MiB and 5 % by default.
CONTEXT = 0.5e9
FRAGMENTATION = 0.05


@dataclass(frozen=True)
class MemoryEstimate:
    """The peak memory of a training step on one device. All sizes are in bytes.

    Attributes:
        model: name of the model.
        plan: the training step.
        weights: weights of the base model.
        adapter: the LoRA matrices.
        other_models: a separate reference model.
        gradients, optimizer, activations, logits: what each of these takes at the peak.
        overhead: memory on a GPU in addition to the tensors.
        phase: when the peak occurs.
        warnings: what the reader should know about this estimate.
    """

    model: str
    plan: StepPlan
    weights: int
    adapter: int
    other_models: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int
    phase: str
    warnings: tuple[str, ...] = ()

    @property
    def tensors(self) -> int:
        """Bytes of all tensors, which is what PyTorch's `max_memory_allocated` would return."""
        return self.total - self.overhead

    @property
    def total(self) -> int:
        """Bytes of all parts together, the overhead included."""
        return sum(size for _, size in self.rows())

    def rows(self) -> list[tuple[str, int]]:
        """Return the name and the bytes of each part."""
        names = ("weights", "adapter", "other_models", "gradients", "optimizer", "activations", "logits", "overhead")
        return [(name.replace("_", " "), getattr(self, name)) for name in names]

    def fits(self, gpu: str) -> bool:
        """Return whether the step fits on a GPU.

        Args:
            gpu: a key of GPUS.

        Raises:
            CourseError: the GPU is unknown.
        """
        return self.total <= gpu_memory(gpu)

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values that can be written as JSON."""
        return asdict(self) | {"total": self.total, "tensors": self.tensors}

    def __str__(self) -> str:
        plan = self.plan
        lines = [f"{self.model}, {plan.method}, batch {plan.batch_size} x {plan.length} tokens, {plan.precision} (formula)"]
        lines += [f"  {name:<13}{size / 1e9:>9.2f} GB" for name, size in self.rows() if size]
        lines += [f"  {'total':<13}{self.total / 1e9:>9.2f} GB, highest at: {self.phase}"]
        return "\n".join([*lines, *(f"  note: {text}" for text in self.warnings)])


def estimate(model: Described, method: str = "lora", **options: Any) -> MemoryEstimate:
    """Predict the peak memory of a training step, without the model's weights.

    Args:
        model: a name that the course knows (`memory.ARCHITECTURES`), a folder, `owner/model` on the hub, a `transformers`
            configuration, or a model.
        method: "full", "lora" or "qlora".
        options: the other fields of `StepPlan`, such as `batch_size` and `length`.

    Returns:
        MemoryEstimate for one device.

    Raises:
        CourseError: there is no configuration for the model, the options are invalid, or a target matches no layer.
    """
    plan = _plan(method=method, **options)
    sizes = shape(model)
    if plan.method != "full":
        sizes.targets(plan.target_modules)  # raises an error for a name that matches nothing, before any arithmetic
    warnings = expert_notes(sizes, plan)
    if plan.attention == "sdpa" and not sizes.sdpa:
        plan = replace(plan, attention="eager")
        warnings.append(f"transformers has no SDPA for {sizes.name}: it builds the matrix of all pairs (attention='eager')")
    if not sizes.tested:
        warnings.append(f"the closed form was not tested on the architecture of {sizes.name}: take it as a rough guide")
    parts = formula.parts(sizes, plan)
    overhead = 0
    if plan.optimizer.startswith("paged"):
        warnings.append("paged: the optimiser's share moves to the CPU's memory when the card is full")
    if plan.device == "cuda":
        overhead = round(CONTEXT + FRAGMENTATION * (parts.activations + parts.logits + parts.gradients))
        warnings.append("overhead is a rule (0.5 GB and 5 % of what comes and goes), not measured on your card")
    reference = parts.weights if plan.objective == "dpo" and plan.separate_reference else 0
    return MemoryEstimate(
        sizes.name, plan, parts.weights, parts.adapter, reference, parts.gradients, parts.optimizer, parts.activations,
        parts.logits, overhead, parts.phase, tuple(warnings),
    )  # fmt: skip


def expert_notes(sizes: Shape, plan: StepPlan) -> list[str]:
    """Return a sentence for each thing that a recipe for dense models does to a mixture of experts; see `course preflight`.

    Tried with random weights (transformers 5.15 and 5.24, PEFT 0.20 and 0.21, bitsandbytes 0.50); see bitsandbytes issue
    1849 and unsloth issue 4032.

    Args:
        sizes: the model's.
        plan: the training step.
    """
    values, notes = sizes.expert_weights, list[str]()
    if not values or plan.method == "full":
        return notes
    share = f"experts ({values / 1e9:.1f} of its {sizes.parameters / 1e9:.1f} billion parameters)"
    if plan.method == "qlora":
        width = 4 if plan.embeddings == "float32" else 2
        notes.append(
            f"{share} are not in 4 bits, and take {width * values / 1e9:.0f} GB; `course preflight` says what to do"
        )
    adapted = sizes.target_experts(plan.target_modules)
    if any(x.experts > 1 for x in adapted):
        added = sizes.layers * plan.rank * sum(x.adapter for x in adapted)
        without = "targets q_proj,k_proj,v_proj,o_proj leave them out"
        notes.append(f"each expert gets an adapter, {added / 1e9:.2f} billion parameters in all; {without}")
    else:
        notes.append(f"{share} get no adapter from target modules {plan.target_modules}: only the rest is trained")
    return notes


def _plan(**options: Any) -> StepPlan:
    try:
        return StepPlan(**options)
    except TypeError as error:
        option_names = ", ".join(StepPlan.__dataclass_fields__)
        raise CourseError(f"{str(error).removeprefix('StepPlan.__init__() ')}; options are {option_names}") from error


def gpu_memory(gpu: str) -> float:
    """Return the memory of a GPU, in bytes.

    Args:
        gpu: a key of GPUS.

    Raises:
        CourseError: the GPU is unknown.
    """
    if gpu.lower() not in GPUS:
        raise CourseError(f"unknown GPU {gpu!r}; known are {', '.join(GPUS)}")
    return GPUS[gpu.lower()]


# Possible changes, cheapest first: sdpa costs nothing; a micro-batch of one example with more accumulation is the same step;
# checkpointing takes a third more time; 8-bit optimisers, adapters and a 4-bit base change the method; finally, examples are
# truncated.
CHANGES: tuple[dict[str, Any], ...] = (
    {"attention": "sdpa"},
    {"batch_size": 1},
    {"checkpointing": True},
    {"optimizer": "paged_adamw_8bit"},
    {"precision": "bf16"},
    {"method": "lora"},
    {"method": "qlora"},
    {"length": 512},
    {"length": 256},
)


def what_fits(model: Described, gpu: str, method: str = "lora", **options: Any) -> tuple[dict[str, Any], MemoryEstimate]:
    """Find the cheapest changes with which a training step fits on a GPU.

    Changes are added, the cheapest first, until the step fits; then those that turn out to be unnecessary are removed, the
    most expensive first.

    Args:
        model: as for `estimate`.
        gpu: a key of GPUS.
        method: "full", "lora" or "qlora".
        options: the other fields of `StepPlan`.

    Returns:
        The changed options, and the estimate with them. There are no changes if the step fits as it is. If nothing helps,
        the returned estimate does not fit either.

    Raises:
        CourseError: for the same reasons as `estimate`, or because the GPU is unknown.
    """
    gpu_memory(gpu)
    requested = {"method": method, **options}
    plan = _plan(**requested)
    changes: dict[str, Any] = {}

    def estimate_with(changed_options: dict[str, Any]) -> MemoryEstimate:
        return estimate(model, **(requested | changed_options))

    estimated = estimate_with({})
    for change in CHANGES:
        if estimated.fits(gpu):
            break
        ((name, value),) = change.items()
        current = (asdict(plan) | changes)[name]
        pointless = (
            current == value
            or (name == "length" and current < value)
            or (change == {"method": "lora"} and current == "qlora")
        )
        pointless |= name == "optimizer" and current == "sgd"
        if pointless or (name == "precision" and plan.bytes_per_weight == 2):
            continue
        changes |= change
        estimated = estimate_with(changes)
    if estimated.fits(gpu):
        for name in reversed(list(changes)):
            fewer = {n: v for n, v in changes.items() if n != name}
            if not (changes.get("method") == "qlora" and name == "precision") and estimate_with(fewer).fits(gpu):
                changes = fewer
        estimated = estimate_with(changes)
    return changes, estimated


def advice(estimated: MemoryEstimate, model: Described, gpu: str) -> str:
    """Say in one or two sentences whether a step fits on a GPU, and if it does not, what to change so that it does.

    Args:
        estimated: the estimate of the step as it is.
        model: the same model, as for `estimate`.
        gpu: a key of GPUS.
    """
    memory = gpu_memory(gpu)
    if estimated.fits(gpu):
        return f"fits on {gpu} ({memory / 1e9:.1f} GB) with {(memory - estimated.total) / 1e9:.1f} GB to spare"
    options = {n: v for n, v in asdict(estimated.plan).items() if n != "method"}
    problem = f"does not fit on {gpu} ({memory / 1e9:.1f} GB): {(estimated.total - memory) / 1e9:.1f} GB too much"
    changes, changed_estimate = what_fits(model, gpu, estimated.plan.method, **options)
    if not changed_estimate.fits(gpu):
        return f"{problem}, and no change of settings helps: take a smaller model or a larger card"
    written = {name: ("on" if value else "off") if isinstance(value, bool) else value for name, value in changes.items()}
    changes_text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in written.items())
    return f"{problem}; it would with {changes_text}: {changed_estimate.total / 1e9:.1f} GB"
