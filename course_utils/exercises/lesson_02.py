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
TOO_SMALL = (
    "The loss was still falling at the last step, so the steps are too small. Look at the figure that compares learning "
    "rates."
)
FEW_LAYERS = "Only a few layers learn. Go back to the table that compares target modules."
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


def training_rows(lines, system):
    """Turn the lines of your own JSONL file into rows for `SFTTrainer`.

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


def _rows_compact(lines, system):
    import json

    return _rows(lines, system, lambda record: json.dumps(record, ensure_ascii=False, separators=(",", ":")))


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
            Mistake(lambda logits, labels: _loss_sum(logits, labels) / len(labels), "You divide by len(labels), which counts masked positions as well. The mean is over the tokens that carry loss."),
            Mistake(_loss_sum, "That is the sum; the loss is the mean over the tokens that carry loss."),
            Mistake(_loss_positive, "The sign is missing: a loss is minus the logarithm of a probability."),
            Mistake(lambda logits, labels: (-_loss_positive(logits, labels)).exp(), "That is the perplexity, e to the power of the loss."),
        ),
        hint="Check which row belongs to which label, how often the softmax is taken, and what the sum is divided by.",
    ),
    Exercise(
        id="lora-2",
        title="The LoRA forward pass",
        statement=(
            "Write the forward pass of a LoRA layer: add the adapter's path, scaled by $\\alpha/r$, to the frozen "
            "path."
        ),
        solution=lora_forward,
        cases=_layer_cases,
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(lambda x, W, A, B, alpha: x @ W.T + (x @ A.T) @ B.T, "The update is not scaled. LoRA multiplies it by alpha / r, r being the rank."),
            Mistake(
                lambda x, W, A, B, alpha: x @ W.T + alpha * (x @ A.T) @ B.T,
                "You scale the update by alpha; the convention is alpha / r. Take the rank r from A here, not from "
                "elsewhere.",
            ),
            Mistake(lambda x, W, A, B, alpha: x @ W.T + (alpha / A.shape[1]) * (x @ A.T) @ B.T, "The rank is A's first dimension, (r, d_in); you divided by d_in."),
            Mistake(lambda x, W, A, B, alpha: x @ W.T + (alpha / B.shape[0]) * (x @ A.T) @ B.T, "B is (d_out, r), so you divided by d_out. The rank is B's second dimension, or A's first."),
            Mistake(lambda x, W, A, B, alpha: (alpha / A.shape[0]) * (x @ A.T) @ B.T, "This is the adapter's path alone; the frozen path x Wᵀ is missing from the sum."),
            Mistake(lambda x, W, A, B, alpha: (alpha / A.shape[0]) * (x @ W.T + (x @ A.T) @ B.T), "alpha / r scales the update only, not the frozen path."),
            Mistake(lambda x, W, A, B, alpha: W @ x + (alpha / A.shape[0]) * B @ (A @ x), "W @ x treats x as one column, but the inputs are its rows. Which matrix must be transposed?"),
            Mistake(lambda x, W, A, B, alpha: x @ W.T + (alpha / A.shape[0]) * B @ (A @ x), "The frozen path is right, but A @ x treats x as one column. The inputs are the rows of x."),
            Mistake(lambda x, W, A, B, alpha: W @ x.T + (alpha / A.shape[0]) * B @ (A @ x.T), "These are the right numbers with one output per column; return one per row."),
        ),
        hint="The inputs are rows. Write down the shape that each product must have, then see which matrix to transpose.",
    ),
    Exercise(
        id="lora-3",
        title="Counting what LoRA trains",
        statement="Count the trainable parameters that LoRA of rank `r` adds to linear layers of given shapes.",
        solution=adapter_parameters,
        cases=_shape_cases,
        points=2,
        mistakes=(
            Mistake(lambda shapes, rank: sum(rank * d_in * d_out for d_out, d_in in shapes), "You multiplied d_in by d_out. A has r x d_in, B has d_out x r: add the two."),
            Mistake(lambda shapes, rank: sum(rank * d_in for _, d_in in shapes), "Only A is counted; B adds d_out x r more."),
            Mistake(lambda shapes, rank: sum(rank * d_out for d_out, _ in shapes), "Only B is counted; A adds r x d_in more."),
            Mistake(
                lambda shapes, rank: sum(2 * rank * d_in for _, d_in in shapes),
                "You treated the layers as square, but d_in and d_out differ: r x (d_in + d_out).",
            ),
            Mistake(
                lambda shapes, rank: float(adapter_parameters(shapes, rank)),
                "The number is right, but it is a float. Parameters are counted in whole numbers, so return an int; / "
                "gives a float, // does not.",
            ),
            Mistake(lambda shapes, rank: sum(rank * (d_in + d_out) + d_in * d_out for d_out, d_in in shapes), "The frozen weight d_in x d_out is counted; it is not trained."),
        ),
        hint="How many rows and columns do A and B have? Draw both for one layer.",
        tolerance=1e-9,
        whole=True,
    ),
    Exercise(
        id="lora-4",
        title="Challenge: forty steps",
        statement=f"You have {CHALLENGE_STEPS} steps of {CHALLENGE_BATCH} examples each. Choose the settings. A validation loss of {BAR} or "
        f"less earns all points, {HALF} or less earns half. Your settings are actually run, here and in grading, which takes ten "
        "seconds to a minute, or minutes on a busy machine. Keep in mind that with enough tries you'll overfit the validation messages too.",
        solution=my_settings,
        cases=lambda random: [()],
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(lambda: _settings(learning_rate=2e-5), TOO_SMALL),
            Mistake(lambda: _settings(learning_rate=5e-2), TOO_LARGE),
            Mistake(lambda: _settings(target_modules=["v_proj"], rank=2, alpha=4), FEW_LAYERS),
            Mistake(lambda: _settings(warmup_steps=40), ALL_WARM_UP),
        ),
        hint="The learning rate that is usual for full fine-tuning is far too low for LoRA on a small model.",
        challenge=Challenge(_run_settings, bar=BAR, half=HALF, advise=_advise, measure="validation loss"),
    ),
    Exercise(
        id="lora-5",
        title="Your own data",
        statement="Your data is a JSONL file with one message and one record per line. Turn its lines into rows for `SFTTrainer`. "
        "Then try it: write a hundred lines about something that you know, store most rows as `train.jsonl` and the rest as "
        "`validation.jsonl` in a folder of their own, and run `course train-script` and the script that it writes there.",
        solution=training_rows,
        cases=_row_cases,
        points=4,
        mistakes=(
            Mistake(_rows_escaped, "ü became \\u00fc: the model would learn to write escapes. Pass ensure_ascii=False."),
            Mistake(lambda lines, system: _rows(lines, system, str), "str() writes Python ('single quotes', None, True), which no JSON parser reads."),
            Mistake(
                _rows_compact,
                "That is JSON, but without the spaces that json.dumps writes by default. Don't change the separators.",
            ),
            Mistake(lambda lines, system: _rows(lines, system, lambda record: record), "The content of a message is text; write the record as JSON."),
            Mistake(
                lambda lines, system: _rows(lines, system, _json, lambda entry: True),
                "You keep a message that is only spaces, so the model would learn to invent records from nothing.",
            ),
            Mistake(_rows_without_system, "The system message is missing. Train with the prompt that you will use later."),
            Mistake(
                _rows_in_one,
                "You put prompt and completion into one list. Keep them apart, so that the trainer knows where the answer "
                "begins.",
            ),
        ),
        hint="For each line that is not empty, call json.loads and build a dict with the two lists.",
    ),
)  # fmt: skip
