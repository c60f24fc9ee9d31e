"""The training loop: batches, optimiser, schedule, validation, progress.

Accelerate carries the device and the precision. Frozen weights may be in 16 bits; whatever trains should be float32
(PEFT makes adapters so by itself), since AdamW's small updates vanish in bfloat16.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext

from course_utils.errors import CourseError
from course_utils.training.fused import fused_lora
from course_utils.training.history import History
from course_utils.training.objectives import SFT, Encoded
from course_utils.training.progress import Progress
from course_utils.training.settings import Settings

# Batches are cut from groups of this many, sorted by length: little padding, and still a random order.
BUCKET = 16
# A piece is what goes through the model at once. On a CPU larger ones are no faster and only take memory: this much keeps
# the 135M model's training under 2 GB, which is all that Binder has.
CPU_PIECE_TOKENS = 320
GPU_PIECE_TOKENS = 8192


def fit(
    model,
    tokenizer,
    train: Sequence,
    validation: Sequence | None = None,
    objective: SFT | None = None,
    settings: Settings | None = None,
) -> History:
    """Train the parameters of `model` that require gradients, in place.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: its tokenizer, with a chat template.
        train: examples as the objective takes them; for SFT conversations, lists of {"role", "content"} messages that
            end with the assistant's, or dicts with such a list under "messages".
        validation: examples whose loss is followed and never trained on.
        objective: what to learn; SFT by default.
        settings: see `Settings`.

    Returns:
        History with training and validation losses.

    Raises:
        CourseError: empty data, a broken example (named by its position), nothing to train, or a loss that is NaN.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    objective, settings = objective or SFT(), settings or Settings()
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise CourseError("no parameter of the model requires a gradient: add an adapter (peft.get_peft_model) first")
    examples = _encode(objective, tokenizer, train, settings, "train")
    held_out = _encode(objective, tokenizer, validation, settings, "validation") if validation else []

    set_seed(settings.seed)
    half = next(model.parameters()).dtype == torch.float16
    accelerator = Accelerator(mixed_precision="fp16" if half else "no", cpu=model.device.type == "cpu")
    optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    piece_tokens = settings.piece_tokens or (CPU_PIECE_TOKENS if accelerator.device.type == "cpu" else GPU_PIECE_TOKENS)
    steps_per_epoch = math.ceil(len(examples) / settings.batch_size)
    total = settings.max_steps or max(1, round(settings.epochs * steps_per_epoch))

    def batches():
        epoch = 0
        while True:
            yield from _batches(examples, settings.batch_size, settings.seed + epoch)
            epoch += 1

    history = History(settings)

    def validate(step: int) -> None:
        if held_out:
            loss = mean_loss(model, objective, held_out, piece_tokens, pad_id, accelerator.device)
            history.validation_steps.append(step)
            history.validation_losses.append(loss)

    was_training = model.training
    validate(0)
    model.train()
    stream = batches()
    fused = fused_lora(model) if settings.fused_lora else nullcontext()
    with Progress(total) as progress, fused:
        for step in range(1, total + 1):
            started = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, total, settings)
            chosen = next(stream)
            scored = sum(map(objective.scored, chosen))
            mean = 0.0
            # Pieces that fit in memory. Each sum is divided by the tokens of the whole batch, so the gradient is that of
            # the batch in one piece, however it is cut.
            for piece in _pieces(chosen, piece_tokens):
                batch = _to_device(objective.collate(piece, pad_id), accelerator.device)
                loss = objective.loss(model, batch) / scored
                accelerator.backward(loss)
                mean += loss.item()
            if not math.isfinite(mean):
                raise CourseError(
                    f"the loss is {mean} at step {step}: the learning rate {settings.learning_rate:g} is too high, or "
                    "the weights are in float16 where they should not be (on a CPU, or trainable in float16)"
                )
            norm = accelerator.clip_grad_norm_(trainable, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.seconds += time.perf_counter() - started
            history.steps.append(step)
            history.losses.append(mean)
            history.grad_norms.append(float(norm))
            history.learning_rates.append(optimizer.param_groups[0]["lr"])
            history.tokens += sum(map(len, chosen))
            history.scored_tokens += scored
            if step == total or (settings.evaluate_every and step % settings.evaluate_every == 0):
                validate(step)
            progress.update(step, history)
    model.train(was_training)
    return history


def mean_loss(model, objective, examples: Sequence[Encoded], piece_tokens: int, pad_id: int, device) -> float:
    """Loss a token over all examples, each token weighing the same whatever batch it fell into."""
    import torch

    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for piece in _pieces(examples, piece_tokens):
            total += objective.loss(model, _to_device(objective.collate(piece, pad_id), device)).item()
    model.train(was_training)
    return total / sum(map(objective.scored, examples))


def _encode(objective, tokenizer, rows: Sequence, settings: Settings, what: str) -> list[Encoded]:
    if not len(rows):
        raise CourseError(f"the {what} set is empty")
    return [objective.encode(tokenizer, row, settings.max_length, f"{what}[{i}]") for i, row in enumerate(rows)]


def _batches(examples: Sequence[Encoded], batch_size: int, seed: int) -> list[list[Encoded]]:
    """All examples once, in random order, batched with others of like length."""
    import numpy as np

    random = np.random.default_rng(seed)
    order = random.permutation(len(examples))
    batches = []
    for start in range(0, len(order), batch_size * BUCKET):
        group = sorted(order[start : start + batch_size * BUCKET], key=lambda i: len(examples[i]))
        batches += [[examples[i] for i in group[at : at + batch_size]] for at in range(0, len(group), batch_size)]
    random.shuffle(batches)
    return batches


def _pieces(examples: Sequence[Encoded], limit: int) -> list[list[Encoded]]:
    """Examples sorted by length, cut so that no piece has more than `limit` tokens with padding (one example at least)."""
    pieces: list[list[Encoded]] = []
    for example in sorted(examples, key=len):
        if pieces and (len(pieces[-1]) + 1) * len(example) <= limit:
            pieces[-1].append(example)
        else:
            pieces.append([example])
    return pieces


def _schedule(step: int, total: int, settings: Settings) -> float:
    """Factor on the learning rate at a step counted from 1."""
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    done = (step - 1 - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def _to_device(batch: dict, device) -> dict:
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
