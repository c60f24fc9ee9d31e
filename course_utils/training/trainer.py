"""The training loop: batches, optimiser, schedule, validation, checkpoints, progress.

Where memory runs out, the step is computed anew in smaller micro-batches, which changes only the order of additions.

Accelerate handles the device, the precision and several processes. Frozen weights may be in 16 bits; trained weights should
be in float32 (PEFT's default for adapters), since AdamW's small updates vanish in bfloat16.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

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
from course_utils.errors import CourseError, Diverged, OutOfMemory
from course_utils.scoring import completion_log_probabilities
from course_utils.training.checkpoints import (
    Checkpoints,
    State,
    random_states,
    restore_random_states,
    run_identity,
)
from course_utils.training.history import History, Progress
from course_utils.training.objectives import SFT, Objective
from course_utils.training.processes import (
    BatchSampler,
    StepBatch,
    accelerator_for,
    forward_restored,
    sum_over_processes,
    to_floats,
)
from course_utils.training.settings import Settings, learning_rate_factor

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model


T = TypeVar("T")
OnStep = Callable[[int, int, History], None]
MAX_GRAD_NORM = 1.0  # gradients with a larger norm are scaled down to it


def fit(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Any],
    validation: Sequence[Any] | None = None,
    objective: Objective | None = None,
    settings: Settings | None = None,
    on_step: OnStep | None = None,
) -> History:
    """Train the parameters of `model` that require gradients, in place.

    Under `accelerate launch` each process trains on its part of every batch; a batch then has `batch_size` examples per
    process.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: its tokenizer, with a chat template.
        train: examples in the form that the objective takes: for SFT conversations, lists of {"role", "content"} messages
            that end with the assistant's, or dicts with such a list under "messages"; for DPO dicts with "prompt", "chosen"
            and "rejected".
        validation: examples whose loss is monitored, and which are never trained on.
        objective: what to learn; SFT by default.
        settings: see `Settings`.
        on_step: called by the main process after each step with its number, the number of steps of the run, and the
            history. At that point the step has been validated but its checkpoint not yet written, so that a resumed run
            never skips a call. An exception that it raises ends the run.

    Returns:
        History with training and validation losses, and the objective's other metrics.

    Raises:
        CourseError: empty data, a broken example (named by its position), nothing to train, a loss that is NaN, gradients
            that were never finite in float16, too little memory, or checkpoints of another run in the folder.
    """
    quantization.guard(model)
    was_training = model.training
    trainer = None
    try:
        with forward_restored(model):
            trainer = Trainer(model, tokenizer, objective or SFT(), settings or Settings(), on_step)
            return trainer.train(train, validation)
    except (RuntimeError, MemoryError) as error:
        if trainer is None or not _is_out_of_memory(error):
            raise
        raise OutOfMemory(trainer.out_of_memory()) from error
    finally:
        model.train(was_training)


class Trainer:
    """One run of `fit`: optimiser steps on the sampler's batches, with validation and checkpoints between them.

    Attributes:
        history: what has happened so far.
        step: number of optimiser steps done.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        settings: Settings,
        on_step: OnStep | None = None,
    ) -> None:
        """Prepare a run; for the arguments see `fit`.

        Raises:
            CourseError: no parameter of the model requires a gradient, or the model is in float16 on a CPU.
        """
        import torch
        from accelerate.utils import set_seed

        self.model, self.tokenizer, self.objective, self.settings = model, tokenizer, objective, settings
        self.on_step = on_step
        self.history = History(settings)
        self.step = 0
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.trainable:
            raise CourseError("no parameter of the model requires a gradient: add an adapter (peft.get_peft_model) first")
        set_seed(settings.seed)
        self.accelerator = accelerator_for(model)
        optimizer = torch.optim.AdamW(self.trainable.values(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.pad_id = pad_token_id(tokenizer)
        self.share_prompt = can_share_prompt(model)
        self.micro_batch_tokens = settings.micro_batch_tokens or default_micro_batch_tokens(model.device)
        self.latest: tuple[int, int] = (0, 0)  # of the latest micro-batch: examples, and tokens with padding
        self.sampler = BatchSampler(objective, settings, self.accelerator)

    def train(self, train: Sequence[Any], validation: Sequence[Any] | None) -> History:
        """Train on examples in the user's own format (see `fit`), and return the history.

        Raises:
            CourseError: see `fit`.
        """
        from course_utils.training.fused import fused

        settings, objective = self.settings, self.objective
        examples = self._encode(train, "train")
        validation_examples = self._encode(validation, "validation") if validation else []
        per_epoch = self.sampler.steps_per_epoch(examples)
        total = settings.max_steps or max(1, round(settings.epochs * per_epoch))
        checkpoints, state = self._checkpoints([*examples, *validation_examples])
        if state and settings.micro_batch_tokens is None:  # if the run had to lower it, additions keep their order
            self.micro_batch_tokens = min(self.micro_batch_tokens, state.values["micro_batch_tokens"])
        memory.release()
        show = self.accelerator.is_main_process
        with Progress(total, self.history, show=show) as progress, fused(self.wrapped, settings.fused):
            if objective.needs_reference:
                examples, validation_examples = self._with_reference(examples, validation_examples, state)
            checkpoint_every = settings.checkpoint_every or per_epoch
            self._all_steps(examples, validation_examples, checkpoints, state, total, checkpoint_every, progress)
        self._report_skipped_steps()
        return self.history

    def out_of_memory(self) -> str:
        """Return a message that says what to lower."""
        examples, tokens = self.latest
        advice = f"lower Settings(micro_batch_tokens={self.micro_batch_tokens}), which changes only memory and time"
        if examples == 1:
            advice = f"lower Settings(max_length={self.settings.max_length}), or use a smaller or 4-bit model"
        return f"out of memory at step {self.step}, with {tokens:,} tokens at once; {advice}"

    # -- before the first step ----------------------------------------------------------------------------------------

    def _encode(self, rows: Sequence[Any], split: str) -> list[Encoded]:
        if not len(rows):
            raise CourseError(f"the {split} set is empty: it needs at least one example")
        limit = self.settings.max_length
        examples = [self.objective.encode(self.tokenizer, row, limit, f"{split}[{i}]") for i, row in enumerate(rows)]
        if split == "train" and len(examples) > 1:
            first = examples[0].completions
            if all(example.completions == first for example in examples):
                self.history.note("every training example has the same completion: the model will learn to say just that")
        return examples

    def _checkpoints(self, examples: Sequence[Encoded]) -> tuple[Checkpoints | None, State | None]:
        """The checkpoints of this run, and the state in the newest one."""
        folder = self.settings.checkpoint_folder
        if folder is None:
            return None, None
        processes = self.accelerator.num_processes
        identity = run_identity(self.objective, self.settings, examples, self.trainable, processes)
        checkpoints = Checkpoints(folder, identity, self.history.note)
        return checkpoints, checkpoints.load()

    # -- micro-batches ------------------------------------------------------------------------------------------------

    def _cut(self, examples: Sequence[Encoded]) -> list[list[Encoded]]:
        return micro_batches(examples, self.micro_batch_tokens)

    def _collate(self, examples: Sequence[Encoded]) -> Batch:
        batch = self.objective.collate(examples, self.pad_id, self.share_prompt)
        self.latest = len(examples), batch["input_ids"].numel()
        return to_device(batch, self.accelerator.device)

    def _within_memory(self, compute: Callable[[], T]) -> T:
        """Compute something from micro-batches, and again in smaller ones each time memory runs out.

        A number of tokens in the settings is kept. With several processes, the others would wait for this one's gradients.
        """
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                is_fixed = self.settings.micro_batch_tokens is not None or self.accelerator.num_processes > 1
                if is_fixed or self.latest[0] == 1 or not _is_out_of_memory(error):
                    raise
            # only here, where the error no longer holds what the failed pass has computed
            tokens = self.latest[1]
            self.optimizer.zero_grad(set_to_none=True)
            memory.release()
            self.micro_batch_tokens = tokens // 2
            self.history.note(f"memory ran out with {tokens:,} tokens at once; the run goes on with half as many")

    def _with_reference(
        self, examples: list[Encoded], held_out: list[Encoded], state: State | None
    ) -> tuple[list[Encoded], list[Encoded]]:
        """The examples with the reference's log-probabilities, computed now or taken from the checkpoint."""
        values = state.values["reference"] if state else None
        if values is None:
            started = time.perf_counter()
            values = self._within_memory(lambda: self._reference_log_probabilities([*examples, *held_out]))
            self.history.reference_seconds = time.perf_counter() - started
        completed = [
            replace(example, reference_log_probabilities=tuple(own))
            for example, own in zip([*examples, *held_out], values, strict=True)
        ]
        return completed[: len(examples)], completed[len(examples) :]

    def _reference_log_probabilities(self, examples: Sequence[Encoded]) -> list[tuple[float, ...]]:
        """For each example the log-probability of each of its completions under the reference, in nats."""
        self.model.eval()
        by_example = completion_log_probabilities(self.model, self._cut(examples), self._collate)
        return [by_example[id(example)] for example in examples]

    # -- steps --------------------------------------------------------------------------------------------------------

    def _all_steps(
        self,
        examples: list[Encoded],
        held_out: list[Encoded],
        checkpoints: Checkpoints | None,
        state: State | None,
        total: int,
        checkpoint_every: int,
        progress: Progress,
    ) -> None:
        """Validate, then train, validate and save until the end; resumes from `state` if there is one."""
        if state:
            self._restore(state)
        else:
            self._validate(held_out)
        self.wrapped.train()
        if self.step >= total:
            return  # the run was finished before
        for batch in self.sampler.after(self.step, examples):
            self._one_step(batch, total)
            last = self.step == total
            if last or (self.settings.evaluate_every and self.step % self.settings.evaluate_every == 0):
                self._validate(held_out)
            if self.on_step and self.accelerator.is_main_process:
                self.on_step(self.step, total, self.history)
            if checkpoints and (last or self.step % checkpoint_every == 0):
                self._save(checkpoints, [*examples, *held_out])
            progress.update(self.step)
            if last:
                return

    def _one_step(self, batch: StepBatch, total: int) -> None:
        started = time.perf_counter()
        self.step += 1
        learning_rate = self.settings.learning_rate * learning_rate_factor(self.step, total, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        sums = self._within_memory(lambda: self._accumulate_gradients(batch))
        loss = sums.pop("loss")
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is {loss} at step {self.step}: the learning rate {self.settings.learning_rate:g} is too high, or "
                "the weights are in float16 where they should not be (on a CPU, or trainable in float16)"
            )
        norm = float(self.accelerator.clip_grad_norm_(self.trainable.values(), MAX_GRAD_NORM))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        history = self.history
        # In float16 the optimiser has then left the weights alone. Accelerate's own flag misses it: it sees that a fused
        # optimiser was called, and not that the optimiser did nothing.
        if self.accelerator.scaler is not None and not math.isfinite(norm):
            history.skipped_steps.append(self.step)
        history.seconds += time.perf_counter() - started
        history.steps.append(self.step)
        history.losses.append(loss)
        history.grad_norms.append(norm)
        history.learning_rates.append(learning_rate)
        history.add_metrics(self.step, sums)
        own_counts = {"tokens": sum(map(len, batch.examples)), "scored": sum(e.learned for e in batch.examples)}
        counts = self._sum({name: batch.weight * count for name, count in own_counts.items()})
        history.tokens += round(counts["tokens"])
        history.scored_tokens += round(counts["scored"])

    def _accumulate_gradients(self, batch: StepBatch) -> dict[str, float]:
        """Add up the micro-batches' gradients; returns the batch's loss and metrics.

        Each loss is divided by the totals of the whole batch, so that the gradient is that of the whole batch, however it is
        cut and distributed over processes.
        """
        cut = self._cut(batch.examples)
        sums: dict[str, torch.Tensor | float] = {"loss": 0.0}
        for number, examples in enumerate(cut):
            is_last = number == len(cut) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                tensors = self._collate(examples)
                loss, metrics = self.objective.loss(self.wrapped, tensors, batch.normalizers)
                # Processes average their gradients, but the batch's gradient is their sum.
                self.accelerator.backward(loss * (self.accelerator.num_processes * batch.weight))
            for name, value in {"loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + batch.weight * value
        return self._sum(sums)

    def _sum(self, values: Mapping[str, torch.Tensor | float]) -> dict[str, float]:
        return sum_over_processes(self.accelerator, to_floats(values))

    def _report_skipped_steps(self) -> None:
        """Say how many steps changed nothing because their gradient overflowed float16.

        Raises:
            Diverged: it was all of them.
        """
        skipped, steps = len(self.history.skipped_steps), len(self.history.steps)
        if not skipped:
            return
        if skipped == steps:
            raise Diverged(
                f"none of the {steps} steps changed the model: the gradient was never finite in float16, at any scale that "
                "was tried. Train for more steps, or load the model in bfloat16 or float32"
            )
        self.history.note(
            f"{skipped} of {steps} steps were skipped because their gradient was not finite in float16; the weights stayed "
            "as they were. A few at the beginning are normal: the loss scaling looks for its scale"
        )

    # -- validation and checkpoints -----------------------------------------------------------------------------------

    def _validate(self, held_out: list[Encoded]) -> None:
        """Measure the validation loss."""
        if not held_out:
            return
        self.model.eval()
        means = self._within_memory(lambda: self._validation_means(held_out))
        self.wrapped.train()
        self.history.validation_steps.append(self.step)
        self.history.validation_losses.append(means.pop("loss"))
        self.history.add_metrics(self.step, means, validation=True)

    def _validation_means(self, held_out: list[Encoded]) -> dict[str, float]:
        """Loss and metrics of the whole validation set."""
        import torch

        own_examples, weight = self.sampler.part(held_out)
        batch = StepBatch(own_examples, weight, self.objective.normalizers(held_out))
        cut = self._cut(own_examples)
        parts: list[dict[str, torch.Tensor]] = []
        with torch.no_grad():
            for examples in cut:
                tensors = self._collate(examples)
                loss, metrics = self.objective.loss(self.model, tensors, batch.normalizers)
                parts.append({"loss": loss, **metrics})
        values = to_floats({(number, name): value for number, part in enumerate(parts) for name, value in part.items()})
        sums: dict[str, float] = {"loss": 0.0}
        for (_, name), value in values.items():
            sums[name] = sums.get(name, 0.0) + weight * value
        return self._sum(sums)

    def _save(self, checkpoints: Checkpoints, examples: Sequence[Encoded]) -> None:
        """Write a checkpoint. All processes must call this; only the main one writes."""
        from accelerate.utils import gather_object

        states = gather_object([random_states()])
        if not self.accelerator.is_main_process:
            return
        optimizer = {"optimizer": self.optimizer.state_dict()}
        if self.accelerator.scaler is not None:
            optimizer["scaler"] = self.accelerator.scaler.state_dict()
        values = {
            "history": self.history.as_dict(),
            "reference": [e.reference_log_probabilities for e in examples] if self.objective.needs_reference else None,
            "micro_batch_tokens": self.micro_batch_tokens,
        }
        checkpoints.save(State(self.step, self.trainable, optimizer, states, values))

    def _restore(self, state: State) -> None:
        """Restore weights, optimiser, history and random generators; a note says that the run was resumed."""
        import torch

        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(state.weights[name])
        self.optimizer.load_state_dict(state.optimizer["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state.optimizer:
            self.accelerator.scaler.load_state_dict(state.optimizer["scaler"])
        self.history.restore(state.values["history"])
        self.history.note(f"resumed after step {state.step}")
        restore_random_states(state.random[self.accelerator.process_index])
        self.step = state.step


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


NAME = "trial"


def trial(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Any],
    validation: Sequence[Any],
    config: LoraConfig,
    settings: Settings,
) -> History:
    """Train a fresh adapter beside those that the model has, measure it, and remove it again.

    Args:
        model: a PEFT model. Its active adapter is not used during the trial, and is active again afterwards.
        tokenizer: its tokenizer.
        train, validation: conversations, as `fit` takes them.
        config: configuration of the fresh adapter.
        settings: settings of the run; the seed also determines the adapter's first weights.

    Returns:
        History of the run.

    Raises:
        CourseError: for the same reasons as `fit`.
    """
    import torch

    active = model.active_adapter
    torch.manual_seed(settings.seed)
    model.add_adapter(NAME, config)
    try:
        model.set_adapter(NAME)
        return fit(model, tokenizer, train, validation, settings=settings)
    finally:
        model.set_adapter(active)
        model.delete_adapter(NAME)
