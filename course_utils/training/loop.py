"""The training loop: batches, optimiser, schedule, validation, early stopping, checkpoints, progress.

Accelerate carries the device, the precision and several processes. Frozen weights may be in 16 bits; whatever trains should
be float32 (PEFT makes adapters so by itself), since AdamW's small updates vanish in bfloat16.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from course_utils import memory, quantization
from course_utils.errors import CourseError
from course_utils.training.batching import Encoded, batches, by_completion, pieces, token_log_probabilities
from course_utils.training.checkpoints import Checkpoints, State, random_states, restore_random_states
from course_utils.training.footprint import Footprint, largest, predict, touch
from course_utils.training.history import History
from course_utils.training.objectives import SFT, Objective
from course_utils.training.objectives.base import check_reference
from course_utils.training.progress import Progress
from course_utils.training.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model
    from course_utils.training.batching import Batch

# A piece is what goes through the model at once. On a CPU larger ones are no faster and only take memory: this much keeps
# the 135M model's training under 2 GB, which is all that Binder has.
CPU_PIECE_TOKENS = 320
GPU_PIECE_TOKENS = 8192


def fit(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Any],
    validation: Sequence[Any] | None = None,
    objective: Objective | None = None,
    settings: Settings | None = None,
    on_step: Callable[[int, int, History], None] | None = None,
) -> History:
    """Train the parameters of `model` that require gradients, in place.

    Under `accelerate launch` each process takes its part of every batch; a batch then has `batch_size` examples a process.

    Args:
        model: a causal language model, with or without an adapter (for `Reward` a sequence classifier).
        tokenizer: its tokenizer, with a chat template.
        train: examples as the objective takes them; for SFT conversations, lists of {"role", "content"} messages that
            end with the assistant's, or dicts with such a list under "messages"; for preferences dicts with "prompt",
            "chosen" and "rejected"; for PPO prompts.
        validation: examples whose loss is followed and never trained on.
        objective: what to learn; SFT by default.
        settings: see `Settings`.
        on_step: called by the main process after each step with its number, how many there will be, and the history; its
            validation is done then, its checkpoint not yet written, so that a run that goes on from a checkpoint never
            skips a call. What it raises ends the run.

    Returns:
        History with training and validation losses, and what else the objective measures.

    Raises:
        CourseError: empty data, a broken example (named by its position), nothing to train, a loss that is NaN, memory
            that does not suffice, or checkpoints of another run in the folder.
    """
    run = _Run(model, tokenizer, objective or SFT(), settings or Settings(), on_step)
    try:
        return run.train(train, validation)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise CourseError(run.out_of_memory()) from error
    finally:
        run.close()


class _Run:
    """One call of `fit`: what its steps share."""

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        settings: Settings,
        on_step: Callable[[int, int, History], None] | None = None,
    ) -> None:
        self.on_step = on_step
        self.model, self.tokenizer, self.objective, self.settings = model, tokenizer, objective, settings
        self.was_training = model.training
        self.history = History(settings)
        self.best: dict[str, torch.Tensor] | None = None
        self.best_step: int | None = None
        self.at_work: tuple[list[Encoded], int] = (
            [],
            0,
        )  # examples and padded tokens of a piece, for the sentence about memory
        self.step = 0
        quantization.guard(model)
        objective.attach(model)

    def close(self) -> None:
        self.objective.detach(self.model)
        self.model.train(self.was_training)

    def train(self, train: Sequence[Any], validation: Sequence[Any] | None) -> History:
        import torch
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import set_seed

        from course_utils.training.fused import fused

        settings, objective = self.settings, self.objective
        trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not trainable:
            raise CourseError("no parameter of the model requires a gradient: add an adapter (peft.get_peft_model) first")
        on_cpu = self.model.device.type == "cpu"
        half = next(self.model.parameters()).dtype == torch.float16
        if half and on_cpu:
            raise CourseError(
                "the model is in float16 on a CPU, where it is slow and inexact: load it in bfloat16 or float32"
            )
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        self.piece_tokens = settings.piece_tokens or (CPU_PIECE_TOKENS if on_cpu else GPU_PIECE_TOKENS)
        attention = getattr(self.model.config, "_attn_implementation", None) or ""
        self.share_prompt = settings.share_prompt and not attention.startswith("flash")  # which takes no mask of our own
        examples = self._encode(train, "train")
        held_out = self._encode(validation, "validation") if validation else []

        set_seed(settings.seed)
        precision = "fp16" if half else "no"
        # Another trainer of this process, TRL's say, may have set another precision, or another device (`use_cpu`), which
        # Accelerate would go on with silently.
        elsewhere = bool(PartialState._shared_state) and PartialState().device.type != self.model.device.type
        if elsewhere or (AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision):
            AcceleratorState._reset_state(reset_partial_state=elsewhere)
        self.accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu)
        self.optimizer = torch.optim.AdamW(
            trainable.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.trainable = trainable
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        checkpoints = self._checkpoints(examples, held_out)
        state = checkpoints.load() if checkpoints else None

        self.batch_size = settings.batch_size * settings.gradient_accumulation_steps * self.world
        per_epoch = math.ceil(len(examples) / self.batch_size) * self._inner
        total = settings.max_steps or max(1, round(settings.epochs * per_epoch))
        every = settings.checkpoint_every or per_epoch
        self.history.memory = self._footprint(examples, math.ceil(total / per_epoch))
        touch(self.model)
        with Progress(total, self.history, show=self.accelerator.is_main_process) as progress:
            with memory.track("training") as report, fused(self.wrapped, settings.fused):
                if objective.needs_reference:
                    examples, held_out = self._with_reference(examples, held_out, state)
                begun = state.step if state else 0
                self._all_steps(examples, held_out, checkpoints, state, total, every, progress)
            if self.step > begun:
                self.history.memory = self.history.memory.with_measurement(report)
        if checkpoints:
            self.history.notes += checkpoints.notes
        self._restore_best(checkpoints)
        return self.history

    def _all_steps(
        self,
        examples: list[Encoded],
        held_out: list[Encoded],
        checkpoints: Checkpoints | None,
        state: State | None,
        total: int,
        every: int,
        progress: Progress,
    ) -> None:
        """Validate, then step, validate and save until the end; from `state` on if there is one."""
        if state:
            self._restore(state)
        else:
            self._validate(held_out, checkpoints)
        self.wrapped.train()
        if self.step >= total or (state and state.record["stopped"]):
            return  # a whole run that is asked for again
        for mine, share, sizes in self._stream(examples, self.step):
            self._one_step(mine, share, sizes, total)
            last = self.step == total
            stop = False
            if last or (self.settings.evaluate_every and self.step % self.settings.evaluate_every == 0):
                stop = self._validate(held_out, checkpoints)
            if self.on_step and self.accelerator.is_main_process:
                self.on_step(self.step, total, self.history)
            if checkpoints and (last or stop or self.step % every == 0) and self.step % self._inner == 0:
                self._save(checkpoints, examples, held_out, stop)
            progress.update(self.step, last or stop)
            if last or stop:
                return

    # -- examples ---------------------------------------------------------------------------------------------------

    def _encode(self, rows: Sequence[Any], what: str) -> list[Encoded]:
        if not len(rows):
            raise CourseError(f"the {what} set is empty")
        limit = self.settings.max_length
        examples = [self.objective.encode(self.tokenizer, row, limit, f"{what}[{i}]") for i, row in enumerate(rows)]
        if what == "train" and len(examples) > 1 and not self.objective.online:
            first = examples[0].completions
            if all(example.completions == first for example in examples):
                self.history.note("every training example has the same completion: the model will learn to say just that")
        return examples

    @property
    def _inner(self) -> int:
        """Optimiser steps on each batch of examples."""
        return self.objective.epochs if self.objective.online else 1

    def _stream(self, examples: list[Encoded], done: int) -> Iterator[tuple[list[Encoded], int, Mapping[str, float]]]:
        """This process's part, what it counts, and the sizes of the whole batch, for each step after `done`.

        The order depends on nothing else. The last batch of an epoch can be smaller than the number of processes; one that
        has no part of it works on the first example all the same, which then counts nothing, since all must take part in
        averaging gradients.
        """
        step, epoch_made, made = done, -1, []
        while True:
            at = step // self._inner
            per_epoch = math.ceil(len(examples) / self.batch_size)
            epoch, number = divmod(at, per_epoch)
            if epoch != epoch_made:
                epoch_made, made = (
                    epoch,
                    batches(examples, self.batch_size, self.settings.seed + epoch, self.settings.bucket),
                )
            whole = made[number]
            mine = whole[self.rank :: self.world]
            share = 1 if mine else 0
            mine = mine or whole[:1]
            if not self.objective.online:
                yield mine, share, self.objective.sizes(whole)
                step += 1
                continue
            mine = self._rollout(mine, self.settings.seed * 100_003 + at * self.world + self.rank)
            sizes = self._reduced({name: share * size for name, size in self.objective.sizes(mine).items()})
            for _ in range(self._inner):
                yield mine, share, sizes
                step += 1

    def _rollout(self, prompts: list[Encoded], seed: int) -> list[Encoded]:
        started = time.perf_counter()
        self.model.eval()
        made, record = self.objective.rollout(self.model, self.tokenizer, prompts, self._look_back, seed)
        self.wrapped.train()
        self.history.rollout_seconds += time.perf_counter() - started
        self.history.add_metrics(self.step + 1, {n: v / self.world for n, v in self._reduced(record).items()})
        return made

    def _look_back(self, examples: list[Encoded], reference: bool) -> list[tuple[list[float], list[float]]]:
        """For each example its answer's log-probabilities and values, under the policy or the reference."""
        import torch

        adapter_off = self.model.disable_adapter() if reference else nullcontext()
        found = {}
        with torch.no_grad(), adapter_off:
            for piece in self._pieces(examples):
                batch = self._batch(piece)
                logs, values = self.objective.log_probabilities_and_values(self.model, batch)
                counts = [example.scored for example in piece]
                for example, *both in zip(piece, logs.cpu().split(counts), values.cpu().split(counts)):
                    found[id(example)] = tuple(part.tolist() for part in both)
        return [found[id(example)] for example in examples]

    def _with_reference(
        self, examples: list[Encoded], held_out: list[Encoded], state: State | None
    ) -> tuple[list[Encoded], list[Encoded]]:
        """Examples with log-probabilities of the reference, or of the model as it is; from the checkpoint if resumed."""
        import torch

        everything = [*examples, *held_out]
        known = state.record["reference"] if state else None
        if known is None:
            reference = getattr(self.objective, "reference", None)
            if reference is not None:
                check_reference(self.model, reference)
            reference = reference or self.model
            reference.eval()
            found: dict[int, tuple[float, ...]] = {}
            started = time.perf_counter()
            with torch.no_grad():
                for piece in self._pieces(everything):
                    batch = self._batch([replace(e, reference=(0.0,) * len(e.completions)) for e in piece])
                    sums = by_completion(token_log_probabilities(reference, batch), batch).view(len(piece), -1)
                    found |= {id(example): tuple(row) for example, row in zip(piece, sums.tolist())}
            self.history.reference_seconds = time.perf_counter() - started
            known = [found[id(example)] for example in everything]
        with_it = [replace(e, reference=tuple(r)) for e, r in zip(everything, known)]
        return with_it[: len(examples)], with_it[len(examples) :]

    def _pieces(self, examples: Sequence[Encoded], most: int | None = None) -> list[list[Encoded]]:
        return pieces(examples, self.piece_tokens, most)

    @property
    def _most(self) -> int | None:
        """Examples of a batch that may go through the model at once."""
        return self.settings.batch_size if self.settings.gradient_accumulation_steps > 1 else None

    def _batch(self, piece: list[Encoded]) -> Batch:
        batch = self.objective.collate(piece, self.pad_id, self.share_prompt)
        self.at_work = piece, batch["input_ids"].numel()
        device = self.accelerator.device
        return {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}

    # -- a step -----------------------------------------------------------------------------------------------------

    def _one_step(self, mine: list[Encoded], share: int, sizes: Mapping[str, float], total: int) -> None:
        started = time.perf_counter()
        self.step += 1
        settings = self.settings
        rate = settings.learning_rate * schedule(self.step, total, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Pieces that fit in memory. Each loss is divided by what the whole batch has, so the gradient is that of the batch
        # in one piece, however it is cut and over however many processes.
        cut = self._pieces(mine, self._most)
        added: dict[str, torch.Tensor | float] = {"loss": 0.0}
        for number, piece in enumerate(cut):
            last = number == len(cut) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss, metrics = self.objective.loss(self.wrapped, self._batch(piece), sizes)
                # Processes average their gradients; the batch's is their sum.
                self.accelerator.backward(loss * (self.world * share))
            for name, value in {"loss": loss.detach(), **metrics}.items():
                added[name] = added.get(name, 0.0) + share * value
        sums = self._reduced({name: float(value) for name, value in added.items()})
        mean = sums.pop("loss")
        if not math.isfinite(mean):
            raise CourseError(
                f"the loss is {mean} at step {self.step}: the learning rate {settings.learning_rate:g} is too high, or "
                "the weights are in float16 where they should not be (on a CPU, or trainable in float16)"
            )
        norm = self.accelerator.clip_grad_norm_(self.trainable.values(), settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        history = self.history
        history.seconds += time.perf_counter() - started
        history.steps.append(self.step)
        history.losses.append(mean)
        history.grad_norms.append(float(norm))
        history.learning_rates.append(rate)
        history.add_metrics(self.step, sums)
        counted: dict[str, float] = {"tokens": share * sum(map(len, mine)), "scored": share * sum(e.learned for e in mine)}
        counted = self._reduced(counted)
        history.tokens += round(counted["tokens"])
        history.scored_tokens += round(counted["scored"])

    def _reduced(self, values: dict[str, float]) -> dict[str, float]:
        """Sums of plain values over the processes."""
        if self.world == 1:
            return values
        import torch

        both = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(both, "sum").tolist()))

    # -- validation and early stopping ------------------------------------------------------------------------------

    def _validate(self, held_out: list[Encoded], checkpoints: Checkpoints | None) -> bool:
        """Take the validation loss; returns whether to stop early."""
        if not held_out:
            return False
        import torch

        self.model.eval()
        sizes = self.objective.sizes(held_out)
        sums = {"loss": 0.0}
        if self.objective.online:
            _, record = self.objective.rollout(self.model, self.tokenizer, held_out, self._look_back, self.settings.seed)
            sums = {"loss": -record["reward"], **record}
        else:
            with torch.no_grad():
                for piece in self._pieces(held_out[self.rank :: self.world]):
                    loss, metrics = self.objective.loss(self.model, self._batch(piece), sizes)
                    for name, value in {"loss": loss, **metrics}.items():
                        sums[name] = sums.get(name, 0.0) + float(value)
            sums = self._reduced(sums)
        self.wrapped.train()
        history = self.history
        mean = sums.pop("loss")
        history.validation_steps.append(self.step)
        history.validation_losses.append(mean)
        history.add_metrics(self.step, sums, validation=True)
        patience = self.settings.early_stopping
        if patience is None:
            return False
        if self.best_step is None or mean < history.validation_losses[history.validation_steps.index(self.best_step)]:
            self.best_step = self.step
            self.best = {name: p.detach().cpu().clone() for name, p in self.trainable.items()}
            if checkpoints and self.accelerator.is_main_process:
                checkpoints.save_best(self.step, self.best)
        since = len(history.validation_steps) - 1 - history.validation_steps.index(self.best_step)
        return since >= patience

    def _restore_best(self, checkpoints: Checkpoints | None) -> None:
        if self.best_step is None:
            return
        if self.best is None and checkpoints:
            self.best = checkpoints.load_best(self.best_step)
        self.history.best_step = self.best_step
        if self.best is None:
            self.history.note(f"the best weights (step {self.best_step}) are not whole; the model keeps its last ones")
            return
        self._set_weights(self.best)

    def _set_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(weights[name])

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoints(self, examples: list[Encoded], held_out: list[Encoded]) -> Checkpoints | None:
        settings = self.settings
        if settings.checkpoint_folder is None:
            return None
        data = hashlib.sha256(repr([(e.prompt, e.completions) for e in [*examples, *held_out]]).encode()).hexdigest()
        plain = {n: v for n, v in settings.as_dict().items() if not n.startswith("checkpoint")}
        identity = {
            "settings": plain,
            "objective": repr(self.objective) if not self.objective.online else self.objective.name,
            "data": data,
            "model": {name: list(p.shape) for name, p in self.trainable.items()},
            "processes": self.world,
        }
        return Checkpoints(settings.checkpoint_folder, identity)

    def _save(self, checkpoints: Checkpoints, examples: list[Encoded], held_out: list[Encoded], stopped: bool) -> None:
        from accelerate.utils import gather_object

        states = gather_object([random_states()])
        if not self.accelerator.is_main_process:
            return
        optimizer = {"optimizer": self.optimizer.state_dict()}
        if self.accelerator.scaler is not None:
            optimizer["scaler"] = self.accelerator.scaler.state_dict()
        reference = [e.reference for e in [*examples, *held_out]] if self.objective.needs_reference else None
        record = {
            "history": self.history.as_dict(), "best_step": self.best_step, "reference": reference, "stopped": stopped,
        }  # fmt: skip
        checkpoints.save(State(self.step, self.trainable, optimizer, states, record))

    def _restore(self, state: State) -> None:
        self.step, self.best_step = state.step, state.record["best_step"]
        self._set_weights(state.weights)
        self.optimizer.load_state_dict(state.optimizer["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state.optimizer:
            self.accelerator.scaler.load_state_dict(state.optimizer["scaler"])
        self.history.restore(state.record["history"])
        self.history.note(f"resumed after step {state.step}")
        restore_random_states(state.random[self.rank])

    # -- memory -----------------------------------------------------------------------------------------------------

    def _footprint(self, examples: list[Encoded], epochs: int) -> Footprint:
        """What the run will add to memory; the largest piece is looked for in its first three epochs."""
        if self.objective.online:
            return Footprint(
                None,
                "how long the answers get is not known yet",
                where="GPU" if self.model.device.type == "cuda" else "process",
            )
        cut = [
            self._pieces(whole[self.rank :: self.world] or whole[:1], self._most)
            for epoch in range(min(epochs, 3))
            for whole in batches(examples, self.batch_size, self.settings.seed + epoch, self.settings.bucket)
        ]
        return self._predicted(largest([piece for step in cut for piece in step]), any(len(step) > 1 for step in cut))

    def _predicted(self, pieces: Sequence[Sequence[Encoded]], several: bool) -> Footprint:
        blank = [[replace(e, reference=e.reference or (0.0,) * len(e.completions)) for e in piece] for piece in pieces]
        made = [self.objective.collate(piece, self.pad_id, self.share_prompt) for piece in blank]
        return predict(self.model, made, self.settings, self.objective.output, several)

    def out_of_memory(self) -> str:
        """Sentence about what to lower, with what the piece at work takes."""
        examples, tokens = self.at_work
        advice = f"lower Settings(piece_tokens={self.piece_tokens}), which changes nothing but memory and time"
        if len(examples) == 1:
            advice = f"lower Settings(max_length={self.settings.max_length}), or take a smaller or 4-bit model"
        text = f"out of memory at step {self.step}, with {tokens:,} tokens at once"
        if examples and not self.objective.online:
            text += f" ({self._predicted([examples], several=True)})"
        return f"{text}; {advice}"


def schedule(step: int, total: int, settings: Settings) -> float:
    """Factor on the learning rate at a step counted from 1."""
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    done = (step - 1 - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
