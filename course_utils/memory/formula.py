"""The memory of a training step in closed form: weights, what each block keeps for its backward pass, and the logits.

Autograd keeps what each operation needs for its gradient. Which tensors these are was determined from the saved tensors of
transformers' blocks and PEFT's layers; `benchmarks/estimates.py` compares the sums with the trace and the real allocator.
Sizes of activations are in bytes per token, unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.errors import CourseError
from course_utils.memory.shape import Linear, Shape

CHOICES = {
    "method": ("full", "lora", "qlora"),
    "precision": ("bf16", "fp16", "fp32", "amp"),
    "embeddings": ("bfloat16", "float32"),
    "optimizer": ("adamw", "adamw_8bit", "paged_adamw_8bit", "sgd"),
    "attention": ("sdpa", "eager"),
    "objective": ("sft", "dpo"),
    "device": ("cuda", "cpu"),
}


@dataclass(frozen=True)
class StepPlan:
    """A training step as TRL and most tutorials run it, with all logits and PEFT's layers, as far as memory depends on it.

    Attributes:
        method: "full", "lora" (16- or 32-bit frozen base) or "qlora" (its linear layers in NF4, double quantisation).
        rank: rank of the adapter.
        target_modules: last parts of module names, or "all-linear".
        batch_size: sequences (pairs for DPO) in a micro-batch on one device.
        length: tokens per sequence, padding included.
        padded: whether sequences in a batch differ in length, so that attention gets a mask, and each key and value is
            copied once per query head.
        accumulation: micro-batches per optimiser step; above one, gradients are kept while the next micro-batch runs.
        precision: "bf16" or "fp16" (the weights in 16 bits, adapters in float32), "fp32", or "amp" (weights in float32,
            products in bfloat16 under autocast, which is TRL's default).
        embeddings: what of a 4-bit base is not in 4 bits (embeddings, head, norms): "bfloat16" for 16 bits, as loaded, or
            "float32", as PEFT's `prepare_model_for_kbit_training` makes it.
        optimizer: "adamw", "adamw_8bit", "paged_adamw_8bit" or "sgd" (without momentum).
        checkpointing: keep only each block's input, and recompute the block in the backward pass.
        attention: "sdpa" (never builds the matrix of all pairs) or "eager" (builds it).
        objective: "sft" or "dpo" (two sequences per pair, and a reference).
        separate_reference: DPO's reference is a separate model; otherwise it is the same one, adapter off.
        device: "cuda" or "cpu"; determines what is added to the tensors.
    """

    method: str = "lora"
    rank: int = 16
    target_modules: tuple[str, ...] | str = "all-linear"
    batch_size: int = 1
    length: int = 512
    padded: bool = False
    accumulation: int = 1
    precision: str = "bf16"
    embeddings: str = "bfloat16"
    optimizer: str = "adamw"
    checkpointing: bool = False
    attention: str = "sdpa"
    objective: str = "sft"
    separate_reference: bool = False
    device: str = "cuda"

    def __post_init__(self) -> None:
        """Refuse invalid values; the error names the argument."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise CourseError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        for name in ("rank", "batch_size", "length", "accumulation"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CourseError(f"{name}={value!r}: must be a whole number of at least 1")
        if self.method == "qlora" and self.precision in ("fp32", "amp"):
            raise CourseError("a 4-bit base computes in 16 bits: choose precision 'bf16', or 'fp16' on a T4")
        if self.embeddings == "float32" and self.method != "qlora":
            raise CourseError("embeddings='float32' is for a 4-bit base; for other weights choose the precision")
        if self.objective == "dpo" and self.method == "full" and not self.separate_reference:
            raise CourseError(
                "full fine-tuning by DPO changes the only copy of the weights: its reference must be a model of its own "
                "(separate_reference=True)"
            )
        if self.target_modules != "all-linear":
            names = [self.target_modules] if isinstance(self.target_modules, str) else self.target_modules
            object.__setattr__(self, "target_modules", tuple(names))

    @property
    def sequences(self) -> int:
        """Number of sequences that go through the trained model at once."""
        return self.batch_size * (2 if self.objective == "dpo" else 1)

    @property
    def tokens(self) -> int:
        """Number of tokens that go through the trained model at once."""
        return self.sequences * self.length

    @property
    def repeats_keys(self) -> bool:
        """Whether each key and value is copied once per query head: by eager attention, and by SDPA with a mask."""
        return self.attention == "eager" or self.padded

    @property
    def autocast(self) -> bool:
        """Whether products run under autocast: with weights in float32, and where transformers' trainers train adapters."""
        return self.precision == "amp" or (self.method != "full" and self.precision in ("bf16", "fp16"))

    @property
    def bytes_per_value(self) -> int:
        """Bytes that an activation value takes."""
        return 4 if self.precision == "fp32" else 2

    @property
    def bytes_per_weight(self) -> int:
        """Bytes that a weight takes if it is not quantised."""
        return 4 if self.precision in ("fp32", "amp") else 2


# Linear layers, grouped by their input: the four places in a block where one activation is kept for all layers that use it.
GROUP_OF_LAYER = {"q_proj": "norm1", "k_proj": "norm1", "v_proj": "norm1", "o_proj": "attention", "gate_proj": "norm2",
          "up_proj": "norm2", "down_proj": "product"}  # fmt: skip
INPUT_GROUPS = tuple(dict.fromkeys(GROUP_OF_LAYER.values()))
MIN_8BIT_VALUES = 4096  # size of a parameter from which bitsandbytes keeps 8-bit moments
QKV = {"q_proj", "k_proj", "v_proj"}


@dataclass(frozen=True)
class Parts:
    """The parts of a step's memory at its peak, in bytes.

    Attributes:
        weights, adapter, gradients, optimizer, activations, logits: the bytes of each part.
        phase: name of the moment of the peak.
        moments: name of each moment → bytes of all parts together.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    phase: str
    moments: dict[str, int]

    @property
    def peak(self) -> int:
        """The highest total of all moments, in bytes."""
        return max(self.moments.values())


def four_bit(values: int) -> int:
    """Return the bytes of an NF4 weight with double quantisation.

    It takes 4 bits per value, one byte per 64 values, and a float32 per 256 such bytes.
    """
    blocks = -(-values // 64)
    return -(-values // 2) + blocks + 4 * -(-blocks // 256)


def weight_bytes(shape: Shape, plan: StepPlan) -> int:
    """Return the bytes of the base model's weights."""
    linears = sum(x.weights for x in shape.linears) * shape.layers
    other_bytes = (shape.parameters - linears) * (4 if plan.embeddings == "float32" else plan.bytes_per_weight)
    if plan.method != "qlora":
        return linears * plan.bytes_per_weight + other_bytes
    constants = 1024 + 64 + 4  # the code tables of 256 and 16 values, and an offset
    return other_bytes + shape.layers * sum(four_bit(x.weights) + constants for x in shape.linears)


def adapter_values(shape: Shape, plan: StepPlan) -> int:
    """Return the number of values in the matrices A and B of all blocks."""
    return 0 if plan.method == "full" else shape.adapter(plan.rank, plan.target_modules)


def optimizer_bytes(shape: Shape, plan: StepPlan) -> int:
    """Return the bytes of the optimiser's state.

    AdamW keeps two moments per trained value, in the value's format (float32 for adapters) or in one byte each.
    """
    trained_values = adapter_values(shape, plan) or shape.parameters
    if plan.optimizer == "sgd":
        return 0
    if plan.optimizer == "adamw":
        return 2 * trained_values * (plan.bytes_per_weight if plan.method == "full" else 4)
    if plan.method == "full":
        return round(trained_values * (2 + 2 * 4 / 256))
    matrices = [plan.rank * size for x in shape.targets(plan.target_modules) for size in (x.inputs, x.outputs)]
    for x in shape.target_experts(plan.target_modules):
        matrices += [plan.rank * len(x.names) * x.experts * size for size in (x.inputs, x.outputs)]
    # smaller matrices keep float32 moments
    return round(shape.layers * sum(size * (8 if size < MIN_8BIT_VALUES else 2 + 2 * 4 / 256) for size in matrices))


def kept_by_block(shape: Shape, plan: StepPlan) -> float:
    """Return what a block keeps from its forward pass to its backward pass, in bytes per token.

    It includes attention's share, which grows with the length.
    """
    width = plan.bytes_per_value
    amp, full = plan.precision == "amp", plan.method == "full"
    residual_width = 4 if amp else width  # bytes per value of the residual stream and the norms
    targets = () if full else shape.targets(plan.target_modules)
    d, f = shape.hidden, _width_of(shape, "gate_proj")
    q, kv, heads = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.heads

    norms = 2 * (4 * d + 4) + (2 * residual_width * d if full else 0)
    if shape.qk_norm:
        norms += 4 * (q + kv) + 4 * (heads + shape.kv_heads) + (width * (q + kv) if full else 0)
    inputs = sum(_kept_inputs(shape, plan, group, targets) for group in INPUT_GROUPS)
    adapter_inputs = (2 if plan.autocast else 4) * plan.rank * len(targets)
    kept_bytes = norms + inputs + adapter_inputs + _kept_by_attention(shape, plan)
    kept_bytes += kept_by_experts(shape, plan) if shape.experts else 3 * _gate_width(plan) * f
    if plan.autocast:  # its 16-bit copies of float32 weights are kept too; their size does not depend on the tokens
        cast_values = sum(x.weights for x in shape.linears) * amp + sum(plan.rank * (x.inputs + x.outputs) for x in targets)
        kept_bytes += 2 * cast_values / plan.tokens
    return kept_bytes


def kept_by_experts(shape: Shape, plan: StepPlan) -> float:
    """Return what a block's experts keep for the backward pass, in bytes per token.

    Each token passes through several experts, and each keeps its input, gate and up, their product in two steps, and its
    output. PEFT adds the adapter to the weights themselves, so that the sum, as large as the experts, is kept as well.
    """
    width = 4 if plan.embeddings == "float32" else plan.bytes_per_value
    f, adapted = expert_width(shape), shape.target_experts(plan.target_modules) if plan.method != "full" else ()
    per_expert = width * (2 * shape.hidden + 4 * f)
    return shape.active * per_expert + expert_weight(plan) * sum(x.weights for x in adapted) / plan.tokens


def expert_weight(plan: StepPlan) -> int:
    """Return the bytes of one weight of an expert, which bitsandbytes leaves as it is: 4 where PEFT makes it float32."""
    return 4 if plan.embeddings == "float32" else plan.bytes_per_weight


def expert_width(shape: Shape) -> int:
    """Return the number of values between an expert's two matrices."""
    return next((x.inputs for x in shape.experts if x.name == "down_proj"), 0)


def _kept_inputs(shape: Shape, plan: StepPlan, group: str, targets: tuple[Linear, ...]) -> float:
    """The kept input of layers that share it.

    PEFT makes a float32 copy of a 16-bit input for each layer it adapts, of which autocast makes one in 16 bits, and keeps
    that. On a GPU under autocast its layer for 4 bits leaves the input alone.
    """
    width, full = plan.bytes_per_value, plan.method == "full"
    members = [x for x in shape.linears if GROUP_OF_LAYER.get(x.name) == group]
    adapted = [x for x in members if full or x in targets]
    if not adapted:
        return 0
    input_size = adapted[0].inputs
    kept_by_attention = (
        group == "attention" and plan.attention != "eager"
    )  # attention's output, which attention keeps anyway
    if plan.precision == "amp":
        return 0 if kept_by_attention and full else 2 * input_size * (1 if group == "product" else len(adapted))
    if full or width == 4:
        return 0 if kept_by_attention else width * input_size
    if plan.method == "qlora" and plan.autocast and plan.device == "cuda":
        copied = plan.embeddings == "float32" and group != "attention"
        return 0 if kept_by_attention else 2 * input_size * (len(adapted) if copied else 1)
    return (2 if plan.autocast else 4) * input_size * len(adapted)


def _gate_width(plan: StepPlan) -> int:
    """Bytes per value of gate and up: bitsandbytes' layers answer in the format of their input."""
    return 4 if plan.embeddings == "float32" else plan.bytes_per_value


def _kept_by_attention(shape: Shape, plan: StepPlan) -> float:
    """Queries, keys and values, and with eager attention the weights of all pairs, in float32 and rounded.

    With SDPA instead its output, one sum per row, and a mask that it has converted to floating point.
    """
    width, q, kv = plan.bytes_per_value, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kept_bytes = width * (q + 2 * (q if plan.repeats_keys else kv))
    if plan.attention == "eager":
        return kept_bytes + shape.heads * plan.length * (4 + (2 if width == 2 else 0))
    mask_as_numbers = plan.attention == "sdpa" and plan.padded
    return kept_bytes + width * q + 4 * shape.heads + (width * plan.length if mask_as_numbers else 0)


def not_kept_by_first_block(shape: Shape, plan: StepPlan) -> float:
    """Return what the first block of an adapted model need not keep, in bytes per token: nothing before it is trained."""
    width = plan.bytes_per_value
    not_kept: float = 4 * shape.hidden + 4  # the first norm's
    if plan.precision == "amp":  # 16-bit copies of the weights of q, k and v
        not_kept += 2 * sum(x.weights for x in shape.linears if GROUP_OF_LAYER.get(x.name) == "norm1") / plan.tokens
    names = {x.name for x in shape.targets(plan.target_modules)}
    if not names & QKV:
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        not_kept += _kept_by_attention(shape, plan) + 4 * (q + kv) * shape.qk_norm
        if "o_proj" in names and plan.attention != "eager":
            not_kept -= width * q  # the adapter's input
    return not_kept


def _width_of(shape: Shape, name: str) -> int:
    return next((x.outputs for x in shape.linears if x.name == name), max(x.outputs for x in shape.linears))


def transient_in_block(shape: Shape, plan: StepPlan) -> float:
    """Return the temporary memory in the feed-forward part of a block's backward pass, in bytes per token.

    It comes in addition to what the block keeps, and consists of the gradients of silu(gate) and of up, and of PEFT's
    float32 copies of the inputs.
    """
    f, d, full = _width_of(shape, "gate_proj"), shape.hidden, plan.method == "full"
    if shape.experts:  # and a gradient of the sum of experts and adapter, as large as the sum
        adapted = () if full else shape.target_experts(plan.target_modules)
        gradient = expert_weight(plan) * max((x.weights for x in adapted), default=0) / plan.tokens
        return shape.active * expert_weight(plan) * (2 * f + d) + gradient
    if plan.precision == "amp":
        return 4 * f if full else 6 * f + 10 * d
    if plan.bytes_per_value == 4:
        return 8 * f
    return 4 * f + (2 if full else 12) * d


def transient_in_norm(shape: Shape, plan: StepPlan) -> float:
    """Return the temporary memory of the backward pass at the norm between attention and feed-forward, in bytes per token.

    It includes the float32 values that this norm keeps.
    """
    return (23 if plan.precision == "amp" else 26 if plan.bytes_per_value == 2 else 20) * shape.hidden


def parts(shape: Shape, plan: StepPlan) -> Parts:
    """Compute all memory of a training step at each of its moments, and the parts at the peak.

    The peak can be at any of these moments: the loss, when all blocks keep what they need and the logits exist; the head,
    when its gradient is computed; the last block, which is the first one in the backward pass; the first block, which is the
    last one in the backward pass, when all gradients exist; the embedding; the optimiser's step.
    """
    weights, adapter = weight_bytes(shape, plan), 4 * adapter_values(shape, plan)
    optimizer = optimizer_bytes(shape, plan)
    gradients, activations = _gradients(shape, plan, adapter), _activations(shape, plan)
    positions = plan.tokens * shape.vocabulary
    logits = {
        "loss": 3 * 4 * positions,  # in float32: logits, log-probabilities and a gradient
        "head": plan.bytes_per_value * positions if plan.method == "full" else 0,
    }
    by_moment = {moment: (gradients[moment], activations[moment], logits.get(moment, 0)) for moment in activations}
    moments = {moment: round(weights + adapter + optimizer + sum(sizes)) for moment, sizes in by_moment.items()}
    peak_moment = max(moments, key=lambda moment: moments[moment])
    peak_gradients, peak_activations, peak_logits = map(round, by_moment[peak_moment])
    return Parts(weights, adapter, peak_gradients, optimizer, peak_activations, peak_logits, peak_moment, moments)


def _activations(shape: Shape, plan: StepPlan) -> dict[str, float]:
    """What the forward pass has kept and the backward pass is working with, by moment."""
    tokens, full, amp = plan.tokens, plan.method == "full", plan.precision == "amp"
    float32_stream = amp or plan.embeddings == "float32"  # what the embedding gives, and every block passes on
    residual_width = 4 if float32_stream else plan.bytes_per_value
    kept_per_block = kept_by_block(shape, plan) * tokens
    kept_by_attention = kept_per_block - (kept_by_feed_forward(shape, plan) * tokens)
    transient = transient_in_block(shape, plan) * tokens
    if plan.method == "qlora":  # a matrix dequantised for its product
        transient += 2 * max(x.weights for x in shape.linears)
    checkpoint = residual_width * shape.hidden * tokens
    # rotary tables, token ids and labels; a mask
    constant: float = 2 * plan.bytes_per_value * shape.head_dim * plan.length + 16 * tokens
    if plan.padded or plan.attention != "sdpa":
        constant += mask_bytes(plan)
    kept_by_blocks = shape.layers * (checkpoint if plan.checkpointing else kept_per_block)
    if not plan.checkpointing and not full:
        kept_by_blocks -= not_kept_by_first_block(shape, plan) * tokens
    # final norm, and the head's input if the head is trained
    head_inputs = tokens * ((4 * shape.hidden + 4) + ((residual_width + plan.bytes_per_value) * shape.hidden if full else 0))
    if float32_stream:
        head_inputs += 2 * shape.vocabulary * shape.hidden  # under autocast, a 16-bit copy of the head's weight
    copies = 2 * weights_by_group(shape)["product"] if amp and full else 0
    first_input = checkpoint * plan.checkpointing
    return {
        "loss": kept_by_blocks + constant + head_inputs,
        "head": kept_by_blocks + constant + head_inputs,
        "last block": kept_by_blocks + constant + transient + (kept_per_block if plan.checkpointing else 0),
        "first block": first_input + constant + kept_per_block + transient - copies,
        "first norm": first_input + constant + kept_by_attention + transient_in_norm(shape, plan) * tokens,
        "embedding": constant + checkpoint,
        "optimizer": optimizer_transient(shape, plan),
    }


def _gradients(shape: Shape, plan: StepPlan, adapter: int) -> dict[str, float]:
    """Gradients that exist, by moment; with accumulation those of earlier micro-batches always do."""
    full = plan.method == "full"
    trained_bytes = shape.parameters * plan.bytes_per_weight if full else adapter
    accumulated = trained_bytes if plan.accumulation > 1 else 0

    def gradients_of(values: float) -> float:
        return values * plan.bytes_per_weight if full else 0

    if full:
        after_down = gradients_of(shape.block - next((x.weights for x in shape.linears if x.name == "down_proj"), 0))
    else:  # gradients of the first block's adapters that do not exist yet while its feed-forward part is computed
        after_down = sum(
            4 * plan.rank * (x.inputs + x.outputs) for x in shape.targets(plan.target_modules) if x.name != "down_proj"
        )
    by_group = weights_by_group(shape)
    head = gradients_of(shape.vocabulary * shape.hidden)
    untied_embedding = gradients_of(shape.embedding) if shape.head else 0  # the embedding's gradient, which comes last
    in_first_norm = trained_bytes - gradients_of(by_group["norm1"] + by_group["attention"]) - untied_embedding
    # if head and embedding are tied, both gradients and their sum exist for a moment
    at_embedding = gradients_of(shape.embedding) * ((2 + bool(accumulated)) if not shape.head else bool(accumulated))
    return {
        "loss": accumulated,
        "head": accumulated + head,
        "last block": accumulated or head,
        "first block": accumulated or trained_bytes - after_down - untied_embedding,
        "first norm": accumulated or in_first_norm,
        "embedding": trained_bytes + at_embedding,
        "optimizer": trained_bytes,
    }


def weights_by_group(shape: Shape) -> dict[str, int]:
    """Return the number of weights in a block's linear layers, by the input that they share."""
    return {
        group: sum(x.weights for x in shape.linears if GROUP_OF_LAYER.get(x.name, "norm1") == group)
        for group in INPUT_GROUPS
    }


def kept_by_feed_forward(shape: Shape, plan: StepPlan) -> float:
    """Return the part of `kept_by_block` that is freed before the backward pass reaches attention, in bytes per token."""
    width, full, d = plan.bytes_per_value, plan.method == "full", shape.hidden
    targets = () if full else shape.targets(plan.target_modules)
    residual_width = 4 if plan.precision == "amp" else width
    inputs = sum(_kept_inputs(shape, plan, group, targets) for group in ("norm2", "product"))
    kept_bytes = inputs + (4 * d + 4) + (residual_width * d if full else 0)
    kept_bytes += kept_by_experts(shape, plan) if shape.experts else 3 * _gate_width(plan) * _width_of(shape, "gate_proj")
    if plan.precision == "amp":
        kept_bytes += (
            2 * sum(x.weights for x in shape.linears if GROUP_OF_LAYER.get(x.name) in ("norm2", "product")) / plan.tokens
        )
    return kept_bytes


def mask_bytes(plan: StepPlan) -> float:
    """Return the bytes of attention's mask.

    It has one byte (for eager attention, one floating-point value) per pair of positions.
    """
    pairs = (plan.sequences if plan.padded else 1) * plan.length**2
    return pairs * (1 if plan.attention == "sdpa" else plan.bytes_per_value)


def optimizer_transient(shape: Shape, plan: StepPlan) -> float:
    """Return the temporary bytes of the optimiser's step.

    There are none for PyTorch's fused AdamW and for 8-bit AdamW on a GPU, which work in place.
    """
    if plan.device == "cpu" and "8bit" in plan.optimizer:  # float32 copies of the largest parameter and of its state
        largest = (
            shape.embedding if plan.method == "full" else plan.rank * max(max(x.inputs, x.outputs) for x in shape.linears)
        )
        return 24 * largest
    return 0
