"""Exercises of section 02, LoRA."""

from __future__ import annotations

from typing import Any

from course_utils.exercises.definitions import Challenge, Exercise, Mistake, remembered


def lora_forward(x, W, A, B, alpha):
    """Output of a linear layer with a LoRA adapter.

    Args:
        x: inputs, shape (batch, d_in).
        W: frozen weight, shape (d_out, d_in).
        A: shape (r, d_in).
        B: shape (d_out, r).
        alpha: the scaling's numerator; the update is scaled by alpha / r.

    Returns:
        Tensor of shape (batch, d_out).
    """
    ### BEGIN SOLUTION
    rank = A.shape[0]
    return x @ W.T + (alpha / rank) * (x @ A.T) @ B.T
    ### END SOLUTION


def _layer_cases(random):
    import torch

    cases = []
    for rank in (1, 2, 4):
        d_in, d_out, batch = (int(random.integers(5, 9)) for _ in range(3))
        shapes = ((batch, d_in), (d_out, d_in), (rank, d_in), (d_out, rank))
        tensors = [torch.tensor(random.normal(size=shape), dtype=torch.float64) for shape in shapes]
        # alpha differs from the rank and is never 1, so that a missing factor always shows
        cases.append((*tensors, float(random.integers(5, 40))))
    return cases


def _no_scaling(x, W, A, B, alpha):
    return x @ W.T + (x @ A.T) @ B.T


def _alpha_without_rank(x, W, A, B, alpha):
    return x @ W.T + alpha * (x @ A.T) @ B.T


def _rank_from_wrong_side(x, W, A, B, alpha):
    return x @ W.T + (alpha / A.shape[1]) * (x @ A.T) @ B.T


def _update_only(x, W, A, B, alpha):
    return (alpha / A.shape[0]) * (x @ A.T) @ B.T


def _scales_everything(x, W, A, B, alpha):
    return (alpha / A.shape[0]) * (x @ W.T + (x @ A.T) @ B.T)


def adapter_parameters(shapes, rank):
    """Number of trainable parameters that LoRA adds.

    Args:
        shapes: list of (d_out, d_in), one for each adapted linear layer.
        rank: r.

    Returns:
        int.
    """
    ### BEGIN SOLUTION
    return sum(rank * (d_in + d_out) for d_out, d_in in shapes)
    ### END SOLUTION


def _shape_cases(random):
    return [
        (
            [(int(random.integers(50, 90)), int(random.integers(100, 500))) for _ in range(n)],
            int(random.integers(2, 17)),
        )
        for n in (1, 2, 5)
    ]


def _product_of_dimensions(shapes, rank):
    return sum(rank * d_in * d_out for d_out, d_in in shapes)


def _only_a(shapes, rank):
    return sum(rank * d_in for _, d_in in shapes)


def _only_b(shapes, rank):
    return sum(rank * d_out for d_out, _ in shapes)


def _square_layers(shapes, rank):
    return sum(2 * rank * d_in for _, d_in in shapes)


def _base_counted_too(shapes, rank):
    return sum(rank * (d_in + d_out) + d_in * d_out for d_out, d_in in shapes)


def _float_count(shapes, rank):
    return float(adapter_parameters(shapes, rank))


def swapped_weight(W, old, new):
    """Weight of a layer in which one merged adapter is replaced by another.

    Args:
        W: the weight with the old adapter already merged into it, shape (d_out, d_in).
        old: the old adapter, a tuple (A, B, alpha): A of shape (r, d_in), B of shape
            (d_out, r), alpha the scaling's numerator.
        new: the new adapter in the same form; its rank and its alpha may be others.

    Returns:
        Tensor of shape (d_out, d_in): the base weight with the new adapter merged instead;
        W itself is not changed.
    """
    ### BEGIN SOLUTION
    base = W - old[2] / len(old[0]) * old[1] @ old[0]
    return base + new[2] / len(new[0]) * new[1] @ new[0]
    ### END SOLUTION


def _swap_cases(random):
    import torch

    cases = []
    for ranks in ((1, 3), (4, 2), (2, 2), (3, 1)):
        size = int(random.integers(5, 9))  # square, so that a transposed product has the right shape too

        def tensor(*shape):
            return torch.tensor(random.normal(size=shape), dtype=torch.float64)

        # the alphas differ, and neither is 1 or its rank, so that every missing or confused factor shows
        alphas = random.choice(range(5, 40), size=2, replace=False)
        old, new = ((tensor(rank, size), tensor(size, rank), float(alpha)) for rank, alpha in zip(ranks, alphas))
        cases.append((tensor(size, size), old, new))
    return cases


def _update(A, B, alpha):
    return alpha / len(A) * B @ A


def _swap_old_stays(W, old, new):
    return W + _update(*new)


def _swap_only_unmerged(W, old, new):
    return W - _update(*old)


def _swap_old_twice(W, old, new):
    return W + _update(*old) + _update(*new)


def _swap_turned(W, old, new):
    return W + _update(*old) - _update(*new)


def _swap_scaled_as_new(W, old, new):
    return W + new[2] / len(new[0]) * (new[1] @ new[0] - old[1] @ old[0])


def _swap_scaled_as_old(W, old, new):
    return W + old[2] / len(old[0]) * (new[1] @ new[0] - old[1] @ old[0])


def _swap_no_scaling(W, old, new):
    return W - old[1] @ old[0] + new[1] @ new[0]


def _swap_alpha_only(W, old, new):
    return W - old[2] * old[1] @ old[0] + new[2] * new[1] @ new[0]


def _swap_transposed(W, old, new):
    return W - _update(*old).T + _update(*new).T


def _swap_in_place(W, old, new):
    W -= _update(*old)
    W += _update(*new)
    return W


def conversation_labels(ids, turns, header, ignore=-100):
    """Labels for a conversation of several turns: what the assistant says carries loss, and
    nothing else does.

    Args:
        ids: token ids of the whole conversation, a list of int.
        turns: list of (role, length) in the order of the conversation; a role is "system",
            "user", "assistant" or "tool" (what a program returned that the assistant had
            called). The lengths add up to len(ids).
        header: every turn begins with this many tokens that say who speaks, such as
            "<|im_start|>assistant" and a line break. In use the program writes them, not
            the model, so they carry no loss.
        ignore: the label of a position without loss.

    Returns:
        list of int as long as ids. All other tokens of an assistant's turn keep their id,
        also the last one, which ends the turn. (Labels are not shifted: the model or the
        loss shifts them.)
    """
    ### BEGIN SOLUTION
    labels, end = [], 0
    for role, length in turns:
        end += length
        said = length - header if role == "assistant" else 0
        labels += [ignore] * (length - said) + ids[end - said : end]
    return labels
    ### END SOLUTION


def _label_cases(random):
    calls = ["user", "assistant", "tool", "assistant"]  # the assistant calls a program and reads what it returned
    cases = []
    for roles in (
        ["system", "user", "assistant", "user", "assistant"],
        [*calls, "user"],  # the last word need not be the assistant's
        ["system", *calls],
        ["user", "assistant"] * int(random.integers(2, 4)),
        ["system", "user", "assistant"],
    ):
        header = int(random.integers(1, 4))
        lengths = [header + int(random.integers(2, 5)) for _ in roles]
        ids = [int(i) for i in random.integers(3, 1000, size=sum(lengths))]
        for number in range(len(lengths)):
            ids[sum(lengths[: number + 1]) - 1] = 2  # the token that ends a turn, as in a chat template
        ignore = int(random.integers(-99, 0)) if len(cases) in (1, 4) else -100  # another label may be asked for
        cases.append((ids, list(zip(roles, lengths)), header, ignore))
    return cases


def _labelled(ids, turns, ignore, carries):
    """Labels of the tokens for which carries(number of the turn, role, place in the turn, length) is true."""
    labels, start = [], 0
    for number, (role, length) in enumerate(turns):
        part = ids[start : start + length]
        labels += [token if carries(number, role, place, length) else ignore for place, token in enumerate(part)]
        start += length
    return labels


def _labels_of_last_reply(ids, turns, header, ignore=-100):
    last = max(number for number, (role, _) in enumerate(turns) if role == "assistant")
    return _labelled(ids, turns, ignore, lambda number, role, place, length: number == last and place >= header)


def _labels_after_first_prompt(ids, turns, header, ignore=-100):
    first = [role for role, _ in turns].index("assistant")
    return _labelled(
        ids, turns, ignore, lambda number, role, place, length: number > first or (number == first and place >= header)
    )


def _labels_of_all_but_users(ids, turns, header, ignore=-100):
    return _labelled(ids, turns, ignore, lambda number, role, place, length: role != "user" and place >= header)


def _labels_with_header(ids, turns, header, ignore=-100):
    return _labelled(ids, turns, ignore, lambda number, role, place, length: role == "assistant")


def _labels_without_end(ids, turns, header, ignore=-100):
    return _labelled(
        ids, turns, ignore, lambda number, role, place, length: role == "assistant" and header <= place < length - 1
    )


def _labels_turned(ids, turns, header, ignore=-100):
    return _labelled(ids, turns, ignore, lambda number, role, place, length: not (role == "assistant" and place >= header))


def _nothing_masked(ids, turns, header, ignore=-100):
    return list(ids)


def _labels_left_out(ids, turns, header, ignore=-100):
    return [label for label in conversation_labels(ids, turns, header, ignore) if label != ignore]


def _always_minus_100(ids, turns, header, ignore=-100):
    return conversation_labels(ids, turns, header)


def _shifted(ids, turns, header, ignore=-100):
    return [*conversation_labels(ids, turns, header, ignore)[1:], ignore]


def lora_slots(ranks, shapes, free, bytes_per_parameter):
    """Settings of a server that keeps many adapters in memory: how many slots, and for
    which rank.

    All slots have the same size: each has room for an adapter of the slots' rank. An
    adapter fits if its own rank is not higher, and takes a whole slot even if it is lower.

    Args:
        ranks: the rank of each adapter, in no particular order.
        shapes: list of (d_out, d_in), one for each adapted linear layer, the same for all
            adapters.
        free: bytes of memory that are left for slots; at least one adapter fits.
        bytes_per_parameter: 2 for bfloat16, 4 for float32.

    Returns:
        Tuple of two int, (number of slots, rank of the slots), such that as many adapters
        as possible are in memory at the same time, one in each slot. No slot stays empty,
        and the rank is the lowest with which this works.
    """
    ### BEGIN SOLUTION
    rank_bytes = bytes_per_parameter * sum(d_out + d_in for d_out, d_in in shapes)
    ordered = sorted(ranks)
    fitting = [number for number, rank in enumerate(ordered, 1) if number * rank * rank_bytes <= free]
    return len(fitting), ordered[len(fitting) - 1]
    ### END SOLUTION


def _slot_cases(random):
    cases = []
    for kind in range(6):
        numbers = [int(n) for n in random.integers(3, 8, size=3)]
        low = int(random.choice([8, 16, 32]))
        if kind < 2:  # a single adapter of the middle rank fits, and fills the memory to the last byte
            numbers[1], spare = 1, 0.0
            fitting = numbers[0] + 1
        elif kind < 4:  # only some of the lowest rank fit
            fitting, spare = numbers[0] - 2 + kind % 2, float(random.uniform(0.2, 0.9))
        elif kind == 4:  # some of the middle rank fit
            fitting, spare = numbers[0] + 2, float(random.uniform(0.2, 0.9))
        else:  # all fit
            fitting, spare = sum(numbers), float(random.uniform(0.2, 0.9))
        ordered = [low * 2**step for step, number in enumerate(numbers) for _ in range(number)]
        shapes = [(128 * int(random.integers(2, 8)), 128 * int(random.integers(8, 33))) for _ in range(kind % 3 + 1)]
        size = int(random.choice([2, 4]))
        free = int((fitting + spare) * ordered[fitting - 1] * size * sum(map(sum, shapes)))
        cases.append(([int(rank) for rank in random.permutation(ordered)], shapes, free, size))
    return cases


def _rank_bytes(shapes, bytes_per_parameter):
    return bytes_per_parameter * sum(d_out + d_in for d_out, d_in in shapes)


def _filled(ordered, fits):
    """How many adapters are loaded from the front, as long as `fits` accepts all of them, and the highest rank among these."""
    loaded = []
    while len(loaded) < len(ordered) and fits([*loaded, ordered[len(loaded)]]):
        loaded.append(ordered[len(loaded)])
    return len(loaded), max(loaded, default=0)


def _slots_for_the_highest(ranks, shapes, free, bytes_per_parameter):
    return min(len(ranks), free // (max(ranks) * _rank_bytes(shapes, bytes_per_parameter))), max(ranks)


def _slots_for_the_lowest(ranks, shapes, free, bytes_per_parameter):
    return free // (min(ranks) * _rank_bytes(shapes, bytes_per_parameter)), min(ranks)


def _slots_of_own_size(ranks, shapes, free, bytes_per_parameter):
    one = _rank_bytes(shapes, bytes_per_parameter)
    return _filled(sorted(ranks), lambda loaded: sum(loaded) * one <= free)


def _slots_in_the_given_order(ranks, shapes, free, bytes_per_parameter):
    one = _rank_bytes(shapes, bytes_per_parameter)
    return _filled(ranks, lambda loaded: len(loaded) * max(loaded) * one <= free)


def _slots_with_room_left(ranks, shapes, free, bytes_per_parameter):
    one = _rank_bytes(shapes, bytes_per_parameter)
    return _filled(sorted(ranks), lambda loaded: len(loaded) * max(loaded) * one < free)


def _slots_in_parameters(ranks, shapes, free, bytes_per_parameter):
    return lora_slots(ranks, shapes, free, 1)


def _slots_of_a_alone(ranks, shapes, free, bytes_per_parameter):
    return lora_slots(ranks, [(0, d_in) for _, d_in in shapes], free, bytes_per_parameter)


def _rank_of_all(ranks, shapes, free, bytes_per_parameter):
    return lora_slots(ranks, shapes, free, bytes_per_parameter)[0], max(ranks)


def answer_loss(logits, labels):
    """Mean loss on the tokens of the answer.

    Args:
        logits: the model's raw scores, shape (positions, vocabulary); row i scores the
            token at position i + 1.
        labels: token ids, shape (positions,); -100 where no loss is taken.

    Returns:
        A number, or a tensor with one number.
    """
    ### BEGIN SOLUTION
    targets = labels[1:]
    learned = targets != -100
    log_probability = logits[:-1].double().log_softmax(dim=1)
    return -log_probability[learned, targets[learned]].mean()
    ### END SOLUTION


def _loss_cases(random):
    import torch

    cases = []
    for positions in (6, 7, 8, 9):
        vocabulary, prompt = int(random.integers(5, 9)), int(random.integers(2, 4))
        logits = torch.tensor(random.normal(scale=2.0, size=(positions, vocabulary)), dtype=torch.float64)
        labels = torch.tensor(random.integers(0, vocabulary, size=positions))
        labels[:prompt] = -100
        cases.append((logits, labels))
    return cases


def _loss_unshifted(logits, labels):
    import torch

    learned = labels != -100
    return -torch.log_softmax(logits, dim=-1)[learned, labels[learned]].mean()


def _loss_softmax_twice(logits, labels):
    import torch

    targets = labels[1:]
    learned = targets != -100
    return -torch.log_softmax(logits[:-1].softmax(dim=-1), dim=-1)[learned, targets[learned]].mean()


def _loss_of_all_positions(logits, labels):
    import torch

    targets = labels[1:]
    learned = targets != -100
    return -torch.log_softmax(logits[:-1], dim=-1)[learned, targets[learned]].sum() / len(targets)


def _loss_sum(logits, labels):
    import torch

    targets = labels[1:]
    learned = targets != -100
    return -torch.log_softmax(logits[:-1], dim=-1)[learned, targets[learned]].sum()


def _loss_positive(logits, labels):
    import torch

    targets = labels[1:]
    learned = targets != -100
    return torch.log_softmax(logits[:-1], dim=-1)[learned, targets[learned]].mean()


def _loss_perplexity(logits, labels):
    return (-_loss_positive(logits, labels)).exp()


def my_settings():
    """Settings of a run of 40 steps, 2 examples each, on the CPU tier's model.

    Returns:
        dict with "rank" (1 to 64), "alpha" (a number above 0), "learning_rate" (above 0, at
        most 1), "warmup_steps" (0 to 40), "schedule" ("constant", "linear" or "cosine") and
        "target_modules" ("all-linear" or a list of layer names).
    """
    ### BEGIN SOLUTION
    return {
        "rank": 16,
        "alpha": 32,
        "learning_rate": 2e-3,
        "warmup_steps": 4,
        "schedule": "linear",
        "target_modules": "all-linear",
    }
    ### END SOLUTION


LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CHALLENGE_STEPS, CHALLENGE_BATCH = 40, 2
# Measured 2026-11-27: the solution 0.142, twice its rate 0.165, half of it 0.153, a tenth of it 0.469.
BAR, HALF = 0.17, 0.3


def _checked_settings(value: Any) -> dict[str, Any]:
    """Settings of the challenge as plain values; ValueError says what is wrong with them."""
    names = ("rank", "alpha", "learning_rate", "warmup_steps", "schedule", "target_modules")
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"my_settings returns a dict with exactly these keys: {', '.join(names)}.")
    limits = {"rank": (1, 64), "alpha": (1e-6, 1e4), "learning_rate": (1e-12, 1.0), "warmup_steps": (0, CHALLENGE_STEPS)}
    for name, (low, high) in limits.items():
        number = value[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}.")
    if not isinstance(value["schedule"], str) or value["schedule"] not in ("constant", "linear", "cosine"):
        raise ValueError('schedule must be "constant", "linear" or "cosine".')
    targets = value["target_modules"]
    listed = isinstance(targets, list | tuple) and all(isinstance(name, str) and name in LAYERS for name in targets)
    if targets != "all-linear" and not (listed and targets):
        raise ValueError(f'target_modules must be "all-linear" or a list of names among {", ".join(LAYERS)}.')
    whole = {name: int(value[name]) for name in ("rank", "warmup_steps")}
    return {**value, **whole, "target_modules": targets if targets == "all-linear" else list(targets)}


def _run_settings(value: Any) -> float:
    """Validation loss after training with the answer's settings; the same settings are run once."""
    return _challenge_loss(**_checked_settings(value))


@remembered("lora-4", steps=CHALLENGE_STEPS, batch=CHALLENGE_BATCH)
def _challenge_loss(
    rank: int, alpha: float, learning_rate: float, warmup_steps: int, schedule: str, target_modules: Any
) -> float:
    import math
    import random

    import torch
    from peft import LoraConfig, get_peft_model

    from course_utils import models, plans, training
    from course_utils.data_prep import load_task
    from course_utils.errors import Diverged

    task = load_task("support_tickets", list(plans.PLANS["02"]["cpu"].fields))
    rows = random.Random(0).sample(task.train, CHALLENGE_STEPS * CHALLENGE_BATCH)
    model, tokenizer = models.load(tier="cpu")
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=target_modules, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    settings = training.Settings(
        learning_rate=learning_rate, batch_size=CHALLENGE_BATCH, max_steps=CHALLENGE_STEPS, warmup_steps=warmup_steps,
        schedule=schedule, seed=0,
    )  # fmt: skip
    try:
        return training.fit(adapted, tokenizer, rows, task.validation[:24], settings=settings).validation_losses[-1]
    except Diverged:
        return math.inf


TOO_LARGE = "The steps are so large that the loss jumps about or explodes: lower the learning rate."
TOO_SMALL = "The loss was still falling when the steps ran out: the steps are too small. Look at the figure of the rates."
FEW_LAYERS = "Only a few layers learn; compare the table of target modules."
ALL_WARM_UP = "More than a third of the steps is warm-up, at rates below the one that you chose."


def _advise(value: Any, result: float) -> str:
    """What is typically wrong with settings that miss the bar."""
    import math

    step = value["learning_rate"] * value["alpha"] / value["rank"]
    if not math.isfinite(result) or step > 0.02:
        return TOO_LARGE
    if value["warmup_steps"] > CHALLENGE_STEPS // 3:
        return ALL_WARM_UP
    if step < 0.002:
        return TOO_SMALL
    if value["target_modules"] != "all-linear" and len(value["target_modules"]) < 4:
        return FEW_LAYERS
    return "Close. Vary one setting at a time, the learning rate first."


def _settings(**changed):
    usual = {"rank": 16, "alpha": 32, "learning_rate": 2e-3, "warmup_steps": 4, "schedule": "linear"}
    return usual | {"target_modules": "all-linear"} | changed


def _rate_of_full_fine_tuning():
    return _settings(learning_rate=2e-5)


def _rate_far_too_high():
    return _settings(learning_rate=5e-2)


def _value_projections_only():
    return _settings(target_modules=["v_proj"], rank=2, alpha=4)


def _warm_up_throughout():
    return _settings(warmup_steps=40)


def training_rows(lines, system):
    """Rows as `SFTTrainer` takes them, from your own JSONL file.

    Args:
        lines: lines of text; each is empty or a JSON object with "message" (a text) and
            "record" (an object).
        system: the system message that every row gets.

    Returns:
        list of {"prompt": [system and user message], "completion": [assistant message]},
        messages being {"role": ..., "content": ...}. Blank lines and blank messages are
        left out. The assistant's content is the record as `json.dumps` writes it, with its
        usual spaces, but letters such as ü are not escaped.
    """
    ### BEGIN SOLUTION
    import json

    rows = []
    for line in lines:
        entry = json.loads(line) if line.strip() else {"message": ""}
        if entry["message"].strip():
            asked = [{"role": "system", "content": system}, {"role": "user", "content": entry["message"]}]
            reply = json.dumps(entry["record"], ensure_ascii=False)
            rows.append({"prompt": asked, "completion": [{"role": "assistant", "content": reply}]})
    return rows
    ### END SOLUTION


def _row_cases(random):
    import json

    names = ["Müller", "Søren", "Łucja", "Zoë", "Jürgen", "Renée"]
    cases = []
    for size in (3, 4, 5):
        lines = []
        for _ in range(size):
            number, name = int(random.integers(100, 9999)), names[int(random.integers(len(names)))]
            record = {"customer": name, "order": number, "paid": bool(random.integers(2)), "note": None}
            lines.append(json.dumps({"message": f"Order {number} is late, says {name}.", "record": record}))
        lines.insert(int(random.integers(size)), " " * int(random.integers(3)))
        lines.insert(int(random.integers(size)), json.dumps({"message": "  ", "record": {"order": None}}))
        cases.append((lines, f"Triage number {int(random.integers(10, 99))}."))
    return cases


def _rows(lines, system, write, is_kept=lambda entry: entry["message"].strip()):
    import json

    rows = []
    for line in lines:
        entry = json.loads(line) if line.strip() else {"message": ""}
        if is_kept(entry) and "record" in entry:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": entry["message"]}]
            rows.append({"prompt": messages, "completion": [{"role": "assistant", "content": write(entry["record"])}]})
    return rows


def _json(record):
    import json

    return json.dumps(record, ensure_ascii=False)


def _rows_escaped(lines, system):
    import json

    return _rows(lines, system, json.dumps)


def _rows_as_python(lines, system):
    return _rows(lines, system, str)


def _rows_compact(lines, system):
    import json

    return _rows(lines, system, lambda record: json.dumps(record, ensure_ascii=False, separators=(",", ":")))


def _rows_not_text(lines, system):
    return _rows(lines, system, lambda record: record)


def _rows_with_empty(lines, system):
    return _rows(lines, system, _json, lambda entry: True)


def _rows_without_system(lines, system):
    return [row | {"prompt": row["prompt"][1:]} for row in _rows(lines, system, _json)]


def _rows_in_one(lines, system):
    return [{"messages": row["prompt"] + row["completion"]} for row in _rows(lines, system, _json)]


EXERCISES = (
    Exercise(
        id="lora-1",
        title="Three bugs in a loss",
        statement="""Somebody wrote this loss in a hurry. It has **three** bugs. Find them and write it correctly.

```python
def answer_loss(logits, labels):
    probabilities = logits.softmax(dim=-1)
    scores = probabilities.log_softmax(dim=-1)
    losses = [-scores[i, label] for i, label in enumerate(labels) if label != -100]
    return sum(losses) / len(labels)
```""",
        solution=answer_loss,
        cases=_loss_cases,
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(_loss_unshifted, "Row i of the logits scores the token at position i + 1. You compare it with token i."),
            Mistake(_loss_softmax_twice, "The softmax is taken twice; log_softmax wants the raw logits."),
            Mistake(_loss_of_all_positions, "You divide by all positions. The mean is over the tokens that carry loss."),
            Mistake(_loss_sum, "That is the sum; the loss is the mean over the tokens that carry loss."),
            Mistake(_loss_positive, "The sign is missing: a loss is minus the logarithm of a probability."),
            Mistake(_loss_perplexity, "That is the perplexity, e to the power of the loss."),
        ),
        hint="Bugs: which row belongs to which label, how often the softmax is taken, and by what the sum is divided.",
    ),
    Exercise(
        id="lora-2",
        title="The LoRA forward pass",
        statement="Write the forward pass of a LoRA layer: both paths, scaled by $\\alpha/r$, summed.",
        solution=lora_forward,
        cases=_layer_cases,
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(_no_scaling, "The update is not scaled. LoRA multiplies it by alpha / r, r being the rank."),
            Mistake(_alpha_without_rank, "The update is scaled by alpha; the convention is alpha / r."),
            Mistake(_rank_from_wrong_side, "The rank is A's first dimension, (r, d_in); you divided by d_in."),
            Mistake(_update_only, "This is the adapter's path alone; the frozen path x Wᵀ is missing from the sum."),
            Mistake(_scales_everything, "alpha / r scales the update only, not the frozen path."),
        ),
        hint="x @ A.T has shape (batch, r); (x @ A.T) @ B.T has shape (batch, d_out). The rank is A.shape[0].",
    ),
    Exercise(
        id="lora-3",
        title="Counting what LoRA trains",
        statement="Count the trainable parameters that LoRA of rank `r` adds to linear layers of given shapes.",
        solution=adapter_parameters,
        cases=_shape_cases,
        points=2,
        mistakes=(
            Mistake(_product_of_dimensions, "You multiplied d_in by d_out. A has r x d_in, B has d_out x r: add the two."),
            Mistake(_only_a, "Only A is counted; B adds d_out x r more."),
            Mistake(_only_b, "Only B is counted; A adds r x d_in more."),
            Mistake(_square_layers, "You took the layers for square. d_in and d_out differ: r x (d_in + d_out)."),
            Mistake(_float_count, "The number is right, but it is a float; parameters are counted in whole numbers, int. / makes floats, // does not."),
            Mistake(_base_counted_too, "The frozen weight d_in x d_out is counted; it is not trained."),
        ),
        hint="For one layer: r * d_in for A, plus d_out * r for B.",
        tolerance=1e-9,
        whole=True,
    ),
    Exercise(
        id="lora-4",
        title="Challenge: forty steps",
        statement=f"You have {CHALLENGE_STEPS} steps of {CHALLENGE_BATCH} examples each. Choose the settings. A validation loss of {BAR} or "
        f"less earns all points, {HALF} or less earns half. Your settings are really run, here and in grading, which takes ten "
        "seconds to a minute, and minutes on a busy machine. Keep in mind that whoever tries often enough fits the validation messages too.",
        solution=my_settings,
        cases=lambda random: [()],
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(_rate_of_full_fine_tuning, TOO_SMALL),
            Mistake(_rate_far_too_high, TOO_LARGE),
            Mistake(_value_projections_only, FEW_LAYERS),
            Mistake(_warm_up_throughout, ALL_WARM_UP),
        ),
        hint="The learning rate that is usual for full fine-tuning is far too low for LoRA on a small model.",
        challenge=Challenge(_run_settings, bar=BAR, half=HALF, advise=_advise, measure="validation loss"),
    ),
    Exercise(
        id="lora-5",
        title="One adapter for another",
        statement="A server has an adapter merged into its weights and keeps no copy of the base's. Now it needs another adapter. "
        "Compute the weight in which the new adapter is merged instead of the old one.",
        solution=swapped_weight,
        cases=_swap_cases,
        points=3,
        needs=("torch",),
        mistakes=(
            Mistake(_swap_old_stays, "The old adapter is still in the weight. Take it off before you put the new one on."),
            Mistake(_swap_only_unmerged, "This is the base alone: the old adapter is off, and the new one is missing."),
            Mistake(_swap_old_twice, "The old adapter is now in the weight twice. Merging added its update; taking it off subtracts it."),
            Mistake(_swap_turned, "The signs are the wrong way round: the old update is subtracted, the new one added."),
            Mistake(_swap_scaled_as_new, "Both updates are scaled by the new adapter's alpha / r. The old one went in with its own."),
            Mistake(_swap_scaled_as_old, "Both updates are scaled by the old adapter's alpha / r. The new one has its own."),
            Mistake(_swap_no_scaling, "The updates are not scaled; each is (alpha / r) B A."),
            Mistake(_swap_alpha_only, "The updates are scaled by alpha; the convention is alpha / r, each with its own rank."),
            Mistake(_swap_transposed, "The products are transposed. W has shape (d_out, d_in), as B @ A has."),
            Mistake(_swap_in_place, "W itself is changed (+= and -= do that): return a new tensor, W - ..., and leave W as it was."),
        ),
        hint="What did merging the old adapter add to the base's weight? Take exactly that off; then merge the new one.",
        keeps=("W",),
    ),
    Exercise(
        id="lora-6",
        title="Several replies in one conversation",
        statement="Section 2 learned from the last answer of a conversation. In a longer one the assistant speaks several times, between messages of the "
        "user and results of tools, and the model can learn from all of its replies in one step. Build the labels for that.",
        solution=conversation_labels,
        cases=_label_cases,
        points=3,
        mistakes=(
            Mistake(_labels_of_last_reply, "Only the last reply carries loss. The earlier ones are the assistant's words too."),
            Mistake(_labels_after_first_prompt, "Everything after the first prompt carries loss, so that the model learns to write the user's next message too."),
            Mistake(_labels_of_all_but_users, "Turns of the system or of a tool carry loss. The model reads them and never writes them; only the assistant's turns are learned."),
            Mistake(_labels_with_header, "The assistant's headers carry loss. Each turn's first `header` tokens are written by the program, not by the model."),
            Mistake(_labels_without_end, "The last token of the assistant's turns is masked: a model that never learns to end its turn does not stop talking."),
            Mistake(_labels_turned, "The mask is the wrong way round: it hides the replies and keeps the rest."),
            Mistake(_nothing_masked, "Every token carries loss, so that the model learns to write the users' messages too."),
            Mistake(_labels_left_out, "Labels need one entry for each id; masked positions stay, with the value `ignore`."),
            Mistake(_always_minus_100, "Masked positions get -100 whatever `ignore` is; it is the argument that says which label is ignored."),
            Mistake(_shifted, "The labels are shifted by one. Here each belongs to the token at its own position; the loss shifts them."),
        ),
        hint="Go through the turns and keep count of where each begins. A turn gives `ignore` for each of its tokens, or, if it is the assistant's, "
        "`ignore` for its header and then its own ids.",
        tolerance=1e-9,
    ),
    Exercise(
        id="lora-7",
        title="Many adapters, one card",
        statement="Each customer has an adapter, and all of them share a base and a card. vLLM reserves the memory for adapters when it starts: `--max-loras` slots, "
        "each large enough for rank `--max-lora-rank`. So one adapter of rank 64 makes every slot eight times as large as rank 8 needs, and it may be better "
        "to leave it out. Choose both settings so that as many adapters as possible are in memory at the same time.",
        solution=lora_slots,
        cases=_slot_cases,
        points=3,
        mistakes=(
            Mistake(_slots_for_the_highest, "Your slots have room for the highest rank of all. Leave the largest adapters out, and more of the others fit."),
            Mistake(_slots_for_the_lowest, "Your slots have room for the lowest rank alone. Adapters of a higher rank don't fit into them, and some slots may stay empty."),
            Mistake(_slots_of_own_size, "You gave each adapter the memory that its own rank needs. All slots are as large as that of the highest rank among those kept."),
            Mistake(_slots_in_the_given_order, "You took the adapters in the order of the list. Those of the lowest rank need the smallest slots: take them first."),
            Mistake(_slots_with_room_left, "Slots that take exactly the free bytes fit as well: at most `free`, not less."),
            Mistake(_slots_in_parameters, "You compared numbers of parameters with bytes; each parameter takes bytes_per_parameter."),
            Mistake(_slots_of_a_alone, "You counted A alone; each rank also adds d_out parameters of B."),
            Mistake(_rank_of_all, "The number of slots is right. Their rank is the highest among the adapters that are kept, not among all."),
        ),
        hint="Sort the ranks. How many bytes do slots for the first adapter take, for the first two, for the first three? (A rank of 1 costs what lora-3 counts.)",
    ),
    Exercise(
        id="lora-8",
        title="Your own data",
        statement="Your data are a JSONL file with a message and a record per line. Turn its lines into rows for `SFTTrainer`. "
        "(Then try it: write twenty lines about something that you know, and in the program of section 7 replace the "
        "two lines that make `data` by `data = Dataset.from_list(rows).train_test_split(test_size=0.2, seed=0)`, with "
        "`warmup_steps=2`.)",
        solution=training_rows,
        cases=_row_cases,
        points=4,
        mistakes=(
            Mistake(_rows_escaped, "ü became \\u00fc: the model would learn to write escapes. Pass ensure_ascii=False."),
            Mistake(_rows_as_python, "str() writes Python ('single quotes', None, True), which no JSON parser reads."),
            Mistake(_rows_compact, "That is JSON, but without the spaces that json.dumps writes by itself. Leave the separators."),
            Mistake(_rows_not_text, "The content of a message is text; write the record as JSON."),
            Mistake(_rows_with_empty, "A message of spaces is kept: the model would learn to invent records for nothing."),
            Mistake(_rows_without_system, "The system message is missing. Train with the prompt that you will use later."),
            Mistake(_rows_in_one, "Prompt and completion are in one list; apart, the trainer knows where the answer begins."),
        ),
        hint="For each line that is not empty: json.loads, then a dict with the two lists.",
    ),
)  # fmt: skip
