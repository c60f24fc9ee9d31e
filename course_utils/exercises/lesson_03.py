"""Exercises of section 03, QLoRA."""

from __future__ import annotations

from typing import Any

from course_utils.exercises.definitions import Challenge, Exercise, Mistake


def quantize_block(weights, values):
    """Absmax quantization of one block.

    Args:
        weights: tensor of shape (n); at least one is not zero.
        values: the values that a scaled weight can take, sorted, from -1 to 1; shape (k).

    Returns:
        (codes, scale): for each weight the index of the nearest value, shape (n), and what
        a value is multiplied by to give the weight back.
    """
    ### BEGIN SOLUTION
    scale = weights.abs().max()
    codes = (weights[:, None] / scale - values[None, :]).abs().argmin(dim=1)
    return codes, scale
    ### END SOLUTION


def _block_cases(random):
    import numpy as np
    import torch

    cases = []
    for size in (6, 9, 16):
        values = np.sort(random.uniform(-0.95, 0.95, size=6))
        weights = random.normal(size=size) * random.uniform(2, 5)
        weights[1] = 0.4  # small, so that unscaled weights and weights times the scale have other neighbours
        weights[0] = -1.5 * np.abs(weights).max()  # the weight with the largest absolute value is negative
        cases.append((torch.tensor(weights), torch.tensor([-1.0, *values, 1.0], dtype=torch.float64)))
    return cases


def _nearest(scaled, values):
    return (scaled[:, None] - values[None, :]).abs().argmin(dim=1)


def _next_below(weights, values):
    import torch

    scale = weights.abs().max()
    return (torch.searchsorted(values, weights / scale, right=True) - 1).clamp(min=0), scale


def _values_not_codes(weights, values):
    scale = weights.abs().max()
    return values[_nearest(weights / scale, values)], scale


def _inverse_scale(weights, values):
    scale = weights.abs().max()
    return _nearest(weights / scale, values), 1 / scale


def bits_per_weight(block, group=None):
    """Bits that one weight takes in 4-bit storage, its scales included.

    Args:
        block: weights that share one scale.
        group: None if the scales are float32; otherwise they are quantized to 8 bits, and
            `group` of them share one float32.

    Returns:
        float.
    """
    ### BEGIN SOLUTION
    if group is None:
        return 4 + 32 / block
    return 4 + 8 / block + 32 / (block * group)
    ### END SOLUTION


def _bits_cases(random):
    sizes = [int(size) for size in random.integers(24, 4000, size=4)]
    return [
        (sizes[0], None),
        (sizes[1], None),
        (sizes[2], int(random.integers(5, 40))),
        (sizes[3], int(random.integers(5, 40))),
    ]


def _only_codes(block, group=None):
    return 4.0


def _second_scales_forgotten(block, group=None):
    return 4 + (32 if group is None else 8) / block


def _second_scales_a_block(block, group=None):
    return 4 + 32 / block if group is None else 4 + 8 / block + 32 / group


def _bytes_taken_for_bits(block, group=None):
    return 4 + 4 / block if group is None else 4 + 1 / block + 4 / (block * group)


def _both_scales(block, group=None):
    return 4 + 32 / block if group is None else 4 + 32 / block + 8 / (block * group)


def _first_scales_16_bits(block, group=None):
    return 4 + 16 / block if group is None else 4 + 8 / block + 16 / (block * group)


def relative_error(weights, values, block):
    """Relative error of weights after block-wise absmax quantization.

    Args:
        weights: tensor of shape (n); n is a multiple of block, and no block is all zero.
        values: the values that a scaled weight can take, sorted, from -1 to 1; shape (k).
        block: weights that share one scale.

    Returns:
        A number: the length of the vector of errors, divided by the length of the vector
        of weights.
    """
    ### BEGIN SOLUTION
    rows = weights.reshape(-1, block)
    largest = rows.abs().amax(dim=1, keepdim=True)
    numbers = (rows[:, :, None] / largest[:, :, None] - values).abs().argmin(dim=2)
    return (values[numbers] * largest - rows).norm() / weights.norm()
    ### END SOLUTION


def _error_cases(random):
    import numpy as np
    import torch

    cases = []
    for block, count in ((4, 2), (5, 3), (6, 4)):
        rows = random.normal(size=(count, block)) * random.uniform(0.2, 5, size=(count, 1))
        rows[0, 0] = -1.6 * np.abs(rows[0]).max()  # the largest of a block is negative
        rows[1] *= 30  # and blocks differ in size
        values = np.sort(random.uniform(-0.9, 0.9, size=5))
        cases.append((torch.tensor(rows.flatten()), torch.tensor([-1.0, *values, 1.0], dtype=torch.float64), block))
    return cases


def _restored(weights, values, block, largest=lambda rows: rows.abs().amax(dim=1, keepdim=True)):
    rows = weights.reshape(-1, block)
    scale = largest(rows)
    return values[(rows[:, :, None] / scale[..., None] - values).abs().argmin(dim=2)], scale, rows


def _error_sign_lost(weights, values, block):
    restored, scale, rows = _restored(weights, values, block, lambda rows: rows.amax(dim=1, keepdim=True))
    return (restored * scale - rows).norm() / weights.norm()


def _error_not_scaled_back(weights, values, block):
    restored, _, rows = _restored(weights, values, block)
    return (restored - rows).norm() / weights.norm()


def _error_of_scaled(weights, values, block):
    restored, scale, rows = _restored(weights, values, block)
    return (restored - rows / scale).norm() / (rows / scale).norm()


def _error_as_written(weights, values, block):
    scale = weights.max()
    codes = (weights[:, None] / scale - values).abs().argmin(dim=1)
    return (values[codes] - weights).norm() / weights.norm()


def my_step():
    """A training step of Llama-3.1-8B: rank 16 on all linear layers, examples of 2,048
    tokens, 16 examples per step.

    Returns:
        dict with "method" ("lora" or "qlora"), "batch_size" and "accumulation" (whole
        numbers whose product is 16), "checkpointing" (True or False), "optimizer" ("adamw",
        "adamw_8bit" or "paged_adamw_8bit") and "embeddings" ("float32", as
        prepare_model_for_kbit_training leaves them, or "bfloat16").
    """
    ### BEGIN SOLUTION
    return {
        "method": "qlora",
        "batch_size": 1,
        "accumulation": 16,
        "checkpointing": True,
        "optimizer": "paged_adamw_8bit",
        "embeddings": "bfloat16",
    }
    ### END SOLUTION


CHALLENGE_MODEL, CHALLENGE_LENGTH, CHALLENGE_EXAMPLES = "Llama-3.1-8B", 2048, 16
BAR_GB, HALF_GB = 12.0, 15.8  # a card of 12 GB with some room to spare; a T4
PLAN_CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("lora", "qlora"),
    "checkpointing": (True, False),
    "optimizer": ("adamw", "adamw_8bit", "paged_adamw_8bit"),
    "embeddings": ("float32", "bfloat16"),
}


def _checked_plan(value: Any) -> dict[str, Any]:
    """A plan of the challenge; ValueError says what is wrong with it."""
    names = ("method", "batch_size", "accumulation", "checkpointing", "optimizer", "embeddings")
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"my_step returns a dict with exactly these keys: {', '.join(names)}.")
    for name, choices in PLAN_CHOICES.items():
        if not any(type(value[name]) is type(choice) and value[name] == choice for choice in choices):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}.")
    sizes = [value[name] for name in ("batch_size", "accumulation")]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError("batch_size and accumulation must be whole numbers above 0.")
    if sizes[0] * sizes[1] != CHALLENGE_EXAMPLES:
        raise ValueError(f"batch_size times accumulation must be {CHALLENGE_EXAMPLES}; yours is {sizes[0] * sizes[1]}.")
    return dict(value)


def _plan_gb(value: Any) -> float:
    """Estimated peak memory of the plan in GB."""
    from course_utils import memory

    plan = _checked_plan(value)
    if plan["method"] == "lora":  # its base has one format
        del plan["embeddings"]
    return memory.estimate(CHALLENGE_MODEL, length=CHALLENGE_LENGTH, **plan).total / 1e9


SIXTEEN_BITS = "The weights alone take 16 GB in 16 bits, and no other setting can make up for that."
ACTIVATIONS = "Activations fill the card, because without checkpointing every layer keeps all of them for the backward pass."
TOO_MANY = "Several long examples go through the model at once; take one at a time and accumulate."
UPCAST = "Nearly there: embedding and head are still in float32, which takes twice the memory they need."


def _advise_plan(value: Any, result: float) -> str:
    """The lever that is still missing."""
    if value["method"] == "lora":
        return SIXTEEN_BITS
    if not value["checkpointing"]:
        return ACTIVATIONS
    if value["batch_size"] > 1:
        return TOO_MANY
    return UPCAST if value["embeddings"] == "float32" else "Look at the table of changes in section 2."


def _plan(**changed):
    best = {"method": "qlora", "batch_size": 1, "accumulation": 16, "checkpointing": True}
    return best | {"optimizer": "adamw", "embeddings": "bfloat16"} | changed


def _plan_with_float32_embeddings():
    return _plan(embeddings="float32", optimizer="paged_adamw_8bit")


def choose_length(lengths, fixed, per_token, memory):
    """Choose `max_length` for your own data: as long as the card allows, but no longer than
    the data need.

    Args:
        lengths: tokens of each of your examples, a list of int.
        fixed: GB that a step takes whatever the length is.
        per_token: GB for each token of length.
        memory: GB of the card.

    Returns:
        (max_length, share): max_length is the largest multiple of 64 that fits, but no larger
        than the longest example rounded up to a multiple of 64. share is the share of
        examples longer than max_length, which would be cut off, from 0 to 1.
    """
    ### BEGIN SOLUTION
    fitting = int((memory - fixed) / per_token) // 64 * 64
    needed = -(-max(lengths) // 64) * 64
    chosen = min(fitting, needed)
    return chosen, sum(length > chosen for length in lengths) / len(lengths)
    ### END SOLUTION


def _length_cases(random):
    cases = []
    # Near multiples of 64, where a wrong rounding shows.
    for data_need, room in (("more", 2), ("more", 61), ("a token more than a multiple of 64", 30), ("a multiple of 64", 40)):
        multiples = int(random.integers(6, 20))
        limit = 64 * multiples
        fixed, per_token = float(random.uniform(5, 9)), float(random.uniform(0.002, 0.004))
        memory = fixed + per_token * (limit + room + float(random.uniform(0, 1)))
        if data_need == "more":  # so long that a card without the fixed part would still be too small
            longest = limit + int(fixed / per_token) + 300
        else:
            longest = 64 * int(random.integers(3, multiples - 1)) + ("more" in data_need)
        lengths = [int(n) for n in random.integers(100, longest, size=int(random.integers(9, 15)))]
        lengths[:2] = [longest, limit] if data_need == "more" else [longest, longest - 5]
        cases.append((lengths, fixed, per_token, memory))
    return cases


def _fitting(fixed, per_token, memory):
    return int((memory - fixed) / per_token) // 64 * 64


def _length_rounded_up(lengths, fixed, per_token, memory):
    chosen = min(_fitting(fixed, per_token, memory) + 64, -(-max(lengths) // 64) * 64)
    return chosen, sum(n > chosen for n in lengths) / len(lengths)


def _length_of_longest(lengths, fixed, per_token, memory):
    chosen = -(-max(lengths) // 64) * 64
    return chosen, 0.0


def _length_as_card_allows(lengths, fixed, per_token, memory):
    chosen = _fitting(fixed, per_token, memory)
    return chosen, sum(n > chosen for n in lengths) / len(lengths)


def _length_equal_is_cut(lengths, fixed, per_token, memory):
    chosen, _ = choose_length(lengths, fixed, per_token, memory)
    return chosen, sum(n >= chosen for n in lengths) / len(lengths)


def _length_number_cut(lengths, fixed, per_token, memory):
    chosen, share = choose_length(lengths, fixed, per_token, memory)
    return chosen, round(share * len(lengths))


def _length_share_of_tokens(lengths, fixed, per_token, memory):
    chosen, _ = choose_length(lengths, fixed, per_token, memory)
    return chosen, sum(max(0, n - chosen) for n in lengths) / sum(lengths)


EXERCISES = (
    Exercise(
        id="qlora-1",
        title="Challenge: 8 billion parameters on 12 GB",
        statement=f"Plan a training step of {CHALLENGE_MODEL} that takes at most {BAR_GB:g} GB by the course's estimate. "
        f"A plan of at most {HALF_GB:g} GB, all of a T4, earns half the points. Train rank 16 on all linear layers, with "
        "examples "
        f"of {CHALLENGE_LENGTH:,} tokens and {CHALLENGE_EXAMPLES} examples per step. The estimator runs on your plan, "
        "here and in grading.",
        solution=my_step,
        cases=lambda random: [()],
        points=4,
        mistakes=(
            Mistake(lambda: _plan(method="lora"), SIXTEEN_BITS),
            Mistake(lambda: _plan(checkpointing=False), ACTIVATIONS),
            Mistake(lambda: _plan(batch_size=4, accumulation=4), TOO_MANY),
            Mistake(_plan_with_float32_embeddings, UPCAST),
        ),
        hint="Go down the table of section 2. One row undoes something that prepare_model_for_kbit_training does.",
        challenge=Challenge(_plan_gb, bar=BAR_GB, half=HALF_GB, advise=_advise_plan, measure="memory in GB"),
    ),
    Exercise(
        id="qlora-2",
        title="How long may your own examples be?",
        statement="Your examples have different lengths and your card has a limit. Choose the `max_length`, and say what share of your examples it cuts off. "
        "Then do it with your own file: count its tokens with the tokenizer, and work out `fixed` and `per_token` from "
        "two calls of `memory.estimate`.",
        solution=choose_length,
        cases=_length_cases,
        points=3,
        mistakes=(
            Mistake(_length_rounded_up, "You rounded up to the next multiple of 64, which no longer fits. Round down."),
            Mistake(_length_of_longest, "Your answer depends on the longest example alone. What does the card allow?"),
            Mistake(
                _length_as_card_allows,
                "The card allows more than your data need. Go no further than the longest example, rounded up to a "
                "multiple of 64.",
            ),
            Mistake(lambda lengths, fixed, per_token, memory: choose_length(lengths, 0.0, per_token, memory), "`fixed` is not subtracted: that part of the card is taken before the first token."),
            Mistake(_length_equal_is_cut, "An example exactly as long as max_length is not cut off."),
            Mistake(_length_number_cut, "That is the number of examples cut off; return their share, from 0 to 1."),
            Mistake(_length_share_of_tokens, "That is the share of tokens that are lost; return the share of examples."),
        ),
        hint="Two things limit the length, the card and the data. Work out both in tokens. Which of them is rounded up, and which down?",
        tolerance=1e-9,
    ),
    Exercise(
        id="qlora-3",
        title="Quantizing one block",
        statement=(
            "Quantize a block of weights: find one scale for all of them and, for each weight, the index of the "
            "nearest given value."
        ),
        solution=quantize_block,
        cases=_block_cases,
        points=4,
        needs=("numpy", "torch"),
        mistakes=(
            Mistake(lambda weights, values: (_nearest(weights / weights.max(), values), weights.max()), "The scale is the largest weight; it must be the largest absolute value, so that a large negative weight fits too."),
            Mistake(lambda weights, values: (_nearest(weights, values), weights.abs().max()), "The weights are compared with the values before they are divided by the scale; the values cover -1 to 1."),
            Mistake(lambda weights, values: (_nearest(weights * weights.abs().max(), values), weights.abs().max()), "The weights are multiplied by the scale; divide by it, so that the largest becomes 1 or -1."),
            Mistake(_next_below, "You took the next value below, which rounds everything down; take the nearest."),
            Mistake(_values_not_codes, "You return the values themselves; a code is the index of a value, which is what fits into 4 bits."),
            Mistake(
                _inverse_scale,
                "The codes are right, but the scale is inverted. Return the largest absolute weight itself, because "
                "weight = value times scale.",
            ),
            Mistake(lambda weights, values: (_nearest(weights / weights.std(), values), weights.std()), "The scale is the standard deviation; then large weights lie outside -1 to 1. Take the largest absolute value."),
        ),
        hint=(
            "By what do you divide so that every weight is between -1 and 1, negative ones too? Then compare each weight with "
            "each value; such a table has the shape (n, k)."
        ),
        tolerance=1e-9,
    ),
    Exercise(
        id="qlora-4",
        title="Bits for one weight",
        statement="Compute the bits that a weight takes, with float32 scales and with double quantization.",
        solution=bits_per_weight,
        cases=_bits_cases,
        points=3,
        mistakes=(
            Mistake(
                _only_codes,
                "These are the codes alone, but every block stores a scale as well. (Or did `//` round the scale's part "
                "down to 0?)",
            ),
            Mistake(_second_scales_forgotten, "With double quantization the 8-bit scales have scales of their own: one float32 for each group."),
            Mistake(_second_scales_a_block, "A group's float32 is shared by group x block weights, not by group weights."),
            Mistake(_bytes_taken_for_bits, "A float32 has 32 bits and an 8-bit scale 8; you counted bytes."),
            Mistake(_both_scales, "You swapped the two scales: a block's scale takes 8 bits, a group's float32 takes 32."),
            Mistake(_first_scales_16_bits, "The unquantized scales are float32, 32 bits each; you counted 16."),
        ),
        hint="Write down everything that is stored, in bits, and for each how many weights share it.",
        tolerance=1e-9,
    ),
    Exercise(
        id="qlora-5",
        title="Three bugs in a measurement",
        statement="""Somebody measures the error of block-wise quantization with this function. It has **three** bugs; find them and fix them.

```python
def relative_error(weights, values, block):
    scale = weights.max()
    codes = (weights[:, None] / scale - values).abs().argmin(dim=1)
    return (values[codes] - weights).norm() / weights.norm()
```""",
        solution=relative_error,
        cases=_error_cases,
        points=4,
        needs=("numpy", "torch"),
        mistakes=(
            Mistake(
                _error_as_written,
                "Your function gives the same values as the one with the bugs, so nothing is fixed yet.",
            ),
            Mistake(lambda weights, values, block: relative_error(weights, values, len(weights)), "All weights share one scale. Each block of `block` weights has its own."),
            Mistake(_error_sign_lost, "The scale is the largest weight of the block; it must be the largest absolute value."),
            Mistake(
                _error_not_scaled_back,
                "You compare the values with the weights before you multiply them by the scale again.",
            ),
            Mistake(
                _error_of_scaled,
                "That is the error of the scaled weights. In it, blocks of large weights count no more than the rest, so "
                "scale back first.",
            ),
            Mistake(lambda weights, values, block: relative_error(weights, values, block) ** 2, "That is the square: divide the lengths, not the sums of squares."),
            Mistake(lambda weights, values, block: relative_error(weights, values, block) * weights.norm(), "That is the length of the errors; divide it by the length of the weights."),
        ),
        hint=(
            "Do it by hand: once for two blocks of very different size, once for a block whose largest weight is "
            "negative. And in the last line, are both sides of the minus sign on the same scale?"
        ),
        tolerance=1e-9,
    ),
)  # fmt: skip
