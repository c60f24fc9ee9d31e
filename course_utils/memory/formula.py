"""The memory of a training step in closed form: weights, what a block keeps for its backward pass, and the logits.

Autograd keeps what each operation needs for its gradient. Which tensors those are was read off the saved tensors of
transformers' blocks and PEFT's layers; `benchmarks/estimates.py` holds the sums against the trace and the real allocator.
Bytes a token, unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.memory.plan import Plan
from course_utils.memory.shape import Linear, Shape

# A linear layer's inputs, by what they are: the four places in a block where an activation is kept once for all that use it.
GROUPS = {"q_proj": "norm1", "k_proj": "norm1", "v_proj": "norm1", "o_proj": "attention", "gate_proj": "norm2",
          "up_proj": "norm2", "down_proj": "product"}  # fmt: skip
SMALLEST_8BIT = 4096  # values of a parameter from which on bitsandbytes keeps 8-bit moments
QKV = {"q_proj", "k_proj", "v_proj"}
LARGEST_TABLE = 2**24 * 4  # of log-probabilities in the course's loop, which makes a larger one piece by piece


@dataclass(frozen=True)
class Parts:
    """What a step holds, in bytes; `peak` is the highest of the moments in `moments`."""

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
        """Highest of the moments."""
        return max(self.moments.values())


def four_bit(values: int) -> int:
    """Bytes of an NF4 weight with double quantisation: 4 bits, a byte of scale for 64, a float32 for 256 of those."""
    blocks = -(-values // 64)
    return -(-values // 2) + blocks + 4 * -(-blocks // 256)


def weight_bytes(shape: Shape, plan: Plan) -> int:
    """Of the base model."""
    linears = sum(x.weights for x in shape.linears) * shape.layers
    rest = (shape.parameters - linears) * plan.bytes_per_weight
    if plan.method != "qlora":
        return linears * plan.bytes_per_weight + rest
    tables = 1024 + 64 + 4  # the 256 and 16 values that codes stand for, and an offset
    return rest + shape.layers * sum(four_bit(x.weights) + tables for x in shape.linears)


def adapter_values(shape: Shape, plan: Plan) -> int:
    """Values of A and B in all blocks."""
    if plan.method == "full":
        return 0
    return shape.layers * sum(plan.rank * (x.inputs + x.outputs) for x in shape.targets(plan.target_modules))


def optimizer_bytes(shape: Shape, plan: Plan) -> int:
    """Two moments for each trained value, in the format of the value (float32 for adapters), or a byte each."""
    trained = adapter_values(shape, plan) or shape.parameters
    if plan.optimizer == "sgd":
        return 0
    if plan.optimizer == "adamw":
        return 2 * trained * (plan.bytes_per_weight if plan.method == "full" else 4)
    if plan.method == "full":
        return round(trained * (2 + 2 * 4 / 256))
    matrices = [plan.rank * size for x in shape.targets(plan.target_modules) for size in (x.inputs, x.outputs)]
    # matrices of fewer values keep float32 moments
    return round(shape.layers * sum(size * (8 if size < SMALLEST_8BIT else 2 + 2 * 4 / 256) for size in matrices))


def kept_by_block(shape: Shape, plan: Plan) -> float:
    """What a block keeps from its forward to its backward pass; attention's share that grows with length included."""
    if plan.loop == "course" and plan.method != "full":  # the fused functions are for frozen weights
        return _kept_by_course_block(shape, plan)
    width = plan.bytes_per_value
    amp, full = plan.precision == "amp", plan.method == "full"
    wide = 4 if amp else width  # of the residual stream and the norms
    targets = () if full else shape.targets(plan.target_modules)
    d, f = shape.hidden, _width_of(shape, "gate_proj")
    q, kv, heads = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.heads

    norms = 2 * (4 * d + 4) + (2 * wide * d if full else 0)
    if shape.qk_norm:
        norms += 4 * (q + kv) + 4 * (heads + shape.kv_heads) + (width * (q + kv) if full else 0)
    inputs = sum(_kept_inputs(shape, plan, group, targets) for group in dict.fromkeys(GROUPS.values()))
    small = (2 if amp else 4) * plan.rank * len(targets)
    block = norms + inputs + small + _kept_by_attention(shape, plan) + 3 * width * f
    if amp:  # autocast's 16-bit copies of the weights are kept too; they do not grow with the tokens
        copied = sum(x.weights for x in shape.linears) + sum(plan.rank * (x.inputs + x.outputs) for x in targets)
        block += 2 * copied / plan.tokens
    return block


def _kept_inputs(shape: Shape, plan: Plan, group: str, targets: tuple[Linear, ...]) -> float:
    """Of the layers that share one input. PEFT makes a float32 copy of a 16-bit input for each layer it adapts."""
    width, full = plan.bytes_per_value, plan.method == "full"
    members = [x for x in shape.linears if GROUPS.get(x.name) == group]
    adapted = [x for x in members if full or x in targets]
    if not adapted:
        return 0
    size = adapted[0].inputs
    already = group == "attention" and not plan.keeps_pairs  # attention's output, which it keeps itself
    if plan.precision == "amp":
        return 0 if already and full else 2 * size * (1 if group == "product" else len(adapted))
    if full or width == 4:
        return 0 if already else width * size
    return 4 * size * len(adapted)


def _kept_by_course_block(shape: Shape, plan: Plan) -> float:
    """The same with the fused functions: each input once, silu(gate) · up and the norms' insides not at all."""
    width, q, kv = plan.bytes_per_value, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    names = {x.name for x in shape.targets(plan.target_modules)}
    adapted = [x for x in shape.targets(plan.target_modules) if GROUPS.get(x.name) in ("norm1", "attention")]
    block = width * shape.hidden * bool(names & QKV) + width * plan.rank * len(adapted)
    block += width * shape.hidden + 4  # the norm's input and its root
    if shape.qk_norm:
        block += width * (q + kv) + 4 * (shape.heads + shape.kv_heads)
    if plan.keeps_pairs and "o_proj" in names:
        block += width * q  # its input, which SDPA keeps itself
    return block + _kept_by_attention(shape, plan) + _kept_by_course_mlp(shape, plan)


def _kept_by_course_mlp(shape: Shape, plan: Plan) -> float:
    width, d, f = plan.bytes_per_value, shape.hidden, _width_of(shape, "gate_proj")
    adapted = [x for x in shape.targets(plan.target_modules) if GROUPS.get(x.name) in ("norm2", "product")]
    names = {x.name for x in adapted}
    kept = width * d + 4 + width * plan.rank * len(adapted)
    if names == {"gate_proj", "up_proj", "down_proj"}:
        return kept + 2 * width * f + width * d
    return kept + 3 * width * f + width * d * bool(names & {"gate_proj", "up_proj"}) + width * f * ("down_proj" in names)


def _kept_by_attention(shape: Shape, plan: Plan) -> float:
    """Queries, keys and values; eager's weights of all pairs, in float32 and rounded; SDPA's output, a sum a row, and a mask
    that it has made numbers of.
    """
    width, q, kv = plan.bytes_per_value, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kept = width * (q + 2 * (q if plan.repeats_keys else kv))
    if plan.keeps_pairs:
        return kept + shape.heads * plan.length * (4 + (2 if width == 2 else 0))
    made_numbers = plan.attention == "sdpa" and plan.padded is True
    return kept + width * q + 4 * shape.heads + (width * plan.length if made_numbers else 0)


def not_kept_by_first_block(shape: Shape, plan: Plan) -> float:
    """What the first block of an adapted model need not keep: nothing before it is trained, no gradient goes back there."""
    width, d = plan.bytes_per_value, shape.hidden
    course = plan.loop == "course"
    none: float = width * d + (4 if course else 0) if course else 4 * d + 4  # the first norm's
    if not course and plan.precision == "amp":  # the weights of q, k and v in 16 bits
        none += 2 * sum(x.weights for x in shape.linears if GROUPS.get(x.name) == "norm1") / plan.tokens
    names = {x.name for x in shape.targets(plan.target_modules)}
    if not names & QKV:
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        none += _kept_by_attention(shape, plan) + (width if course else 4) * (q + kv) * shape.qk_norm
        if "o_proj" in names and not plan.keeps_pairs:
            none -= width * q  # it is the adapter's input
    return none


def _width_of(shape: Shape, name: str) -> int:
    return next((x.outputs for x in shape.linears if x.name == name), max(x.outputs for x in shape.linears))


def passing_in_block(shape: Shape, plan: Plan) -> float:
    """What lives for a moment in a block's backward pass, above what it keeps, at the feed-forward part.

    The gradients of silu(gate) and of up, and PEFT's float32 detour for each input.
    """
    f, d, full = _width_of(shape, "gate_proj"), shape.hidden, plan.method == "full"
    if plan.loop == "course" and not full:
        return plan.bytes_per_value * (3 * f + 2 * d)
    if plan.precision == "amp":
        return 4 * f if full else 6 * f + 10 * d
    if plan.bytes_per_value == 4:
        return 8 * f
    return 4 * f + (2 if full else 12) * d


def passing_in_norm(shape: Shape, plan: Plan) -> float:
    """The same at the norm between attention and feed-forward, with what that norm keeps: its float32 insides."""
    return (23 if plan.precision == "amp" else 26 if plan.bytes_per_value == 2 else 20) * shape.hidden


def parts(shape: Shape, plan: Plan) -> Parts:
    """Everything a step holds, by moment.

    Any of these moments can be the highest: the loss, when all blocks keep what they need and the logits are there; the
    head, which makes its gradient; the last block, first of the blocks in the backward pass; the first block, last in it,
    when all gradients are there; the embedding; the optimiser's step.
    """
    tokens, full = plan.tokens, plan.method == "full"
    weights, adapter = weight_bytes(shape, plan), 4 * adapter_values(shape, plan)
    trained = shape.parameters * plan.bytes_per_weight if full else adapter
    optimizer = optimizer_bytes(shape, plan)
    accumulated = trained if plan.accumulation > 1 else 0
    states = weights + adapter + optimizer
    wide = plan.bytes_per_weight if plan.precision == "amp" else plan.bytes_per_value

    block = kept_by_block(shape, plan) * tokens
    passing = passing_in_block(shape, plan) * tokens
    if plan.method == "qlora":  # a matrix turned back for its product
        passing += 2 * max(x.weights for x in shape.linears)
    checkpoint = wide * shape.hidden * tokens
    # rotary tables, token ids and labels; a mask
    always: float = 2 * plan.bytes_per_value * shape.head_dim * plan.length + 16 * tokens
    if plan.padded or plan.attention != "sdpa":
        always += mask_bytes(plan)
    kept = shape.layers * (checkpoint if plan.checkpointing else block)
    if not plan.checkpointing and not full:
        kept -= not_kept_by_first_block(shape, plan) * tokens
    # final norm, and the head's input where the head is trained
    end = tokens * ((4 * shape.hidden + 4) + ((wide + plan.bytes_per_value) * shape.hidden if full else 0))
    if plan.precision == "amp":
        end += 2 * shape.vocabulary * shape.hidden  # the head's weight in 16 bits
    scored = tokens * plan.scored
    logits = head_bytes(shape, plan, scored)

    def gradients_of(values: float) -> float:
        return values * plan.bytes_per_weight if full else 0

    if full:
        after_down = gradients_of(shape.block - next((x.weights for x in shape.linears if x.name == "down_proj"), 0))
    else:  # gradients of the first block's adapters that are still to come while its feed-forward part is at work
        after_down = sum(
            4 * plan.rank * (x.inputs + x.outputs) for x in shape.targets(plan.target_modules) if x.name != "down_proj"
        )
    by_group = {group: sum(x.weights for x in shape.linears if GROUPS.get(x.name, "norm1") == group) for group in _GROUPS}
    head_gradient = accumulated or gradients_of(shape.vocabulary * shape.hidden)
    copies = 2 if plan.precision == "amp" and full else 0
    untied = gradients_of(shape.embedding) if shape.head else 0  # the embedding's gradient, which comes last
    in_first_mlp = trained - after_down - untied
    in_first_norm = trained - gradients_of(by_group["norm1"] + by_group["attention"]) - untied
    # where head and embedding are tied, both shares and their sum are there for a moment
    at_embedding = gradients_of(shape.embedding) * ((2 + bool(accumulated)) if not shape.head else bool(accumulated))
    of_attention = block - (kept_by_feed_forward(shape, plan) * tokens)

    held = {  # moment: gradients, activations, logits
        "loss": (accumulated, kept + always + end, logits),
        "head": (
            accumulated + gradients_of(shape.vocabulary * shape.hidden),
            kept + always + end,
            plan.bytes_per_value * shape.vocabulary * scored if full else 0,
        ),
        "last block": (
            head_gradient if full else accumulated,
            kept + always + passing + (block if plan.checkpointing else 0),
            0,
        ),
        "first block": (
            trained if accumulated else in_first_mlp,
            checkpoint * plan.checkpointing + always + block + passing - copies * by_group["product"],
            0,
        ),
        "first norm": (
            trained if accumulated else in_first_norm,
            checkpoint * plan.checkpointing + always + of_attention + passing_in_norm(shape, plan) * tokens,
            0,
        ),
        "embedding": (trained + at_embedding, always + checkpoint, 0),
        "optimizer": (trained, optimizer_passing(shape, plan), 0),
    }
    moments = {name: round(states + sum(parts)) for name, parts in held.items()}
    moment = max(moments, key=lambda name: moments[name])
    gradients, activations, logits = map(round, held[moment])
    return Parts(weights, adapter, gradients, optimizer, activations, logits, moment, moments)


_GROUPS = tuple(dict.fromkeys(GROUPS.values()))


def kept_by_feed_forward(shape: Shape, plan: Plan) -> float:
    """The part of `kept_by_block` that is released before the backward pass comes to attention."""
    width, full, d = plan.bytes_per_value, plan.method == "full", shape.hidden
    if plan.loop == "course" and not full:
        return _kept_by_course_mlp(shape, plan)
    targets = () if full else shape.targets(plan.target_modules)
    wide = 4 if plan.precision == "amp" else width
    inputs = sum(_kept_inputs(shape, plan, group, targets) for group in ("norm2", "product"))
    kept = inputs + 3 * width * _width_of(shape, "gate_proj") + (4 * d + 4) + (wide * d if full else 0)
    if plan.precision == "amp":
        kept += 2 * sum(x.weights for x in shape.linears if GROUPS.get(x.name) in ("norm2", "product")) / plan.tokens
    return kept


def mask_bytes(plan: Plan) -> float:
    """Of attention's mask: a byte (or, for eager attention, a number) for each pair of positions."""
    rows = plan.sequences if plan.padded else 1
    pairs = rows * plan.length**2
    if plan.padded == "table":
        return pairs * (1 + plan.bytes_per_value)
    return pairs * (1 if plan.attention == "sdpa" else plan.bytes_per_value)


def optimizer_passing(shape: Shape, plan: Plan) -> float:
    """What the optimiser's step needs for a moment. PyTorch's fused AdamW works in place; so does 8-bit AdamW on a GPU."""
    if plan.device == "cpu" and "8bit" in plan.optimizer:  # float32 copies of the largest parameter and of its state
        largest = (
            shape.embedding if plan.method == "full" else plan.rank * max(max(x.inputs, x.outputs) for x in shape.linears)
        )
        return 24 * largest
    return 0


def head_bytes(shape: Shape, plan: Plan, scored: float) -> float:
    """At the loss: log-probabilities in float32, the gradient of the loss for them, and for the logits."""
    table = 4 * shape.vocabulary * scored
    if plan.loop == "transformers" or plan.method == "full":
        return 3 * table
    # logits in the model's format, the table of log-probabilities, and on a CPU a float32 copy in between
    copies = 2 if plan.bytes_per_value == 4 else 2.5 if plan.device == "cpu" else 1.5
    return min(table, LARGEST_TABLE) * copies
