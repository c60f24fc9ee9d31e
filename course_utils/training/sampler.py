"""Which examples each step trains on: from a data set, or from rollouts of the model itself."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from course_utils.scoring import Encoded
from course_utils.training.batching import shuffled_batches
from course_utils.training.processes import sum_over_processes

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from course_utils.models import Model
    from course_utils.training.history import History
    from course_utils.training.micro_batches import MicroBatches
    from course_utils.training.objectives import Objective, OnlineObjective
    from course_utils.training.settings import Settings


@dataclass(frozen=True)
class StepBatch:
    """What one process has to work on in one step.

    Attributes:
        examples: this process's part of the batch.
        weight: 1, or 0 if the batch has no part for this process. It then works on another process's first example, only
            because all processes must take part in averaging the gradients.
        normalizers: the numbers by which the losses are divided, of the whole batch over all processes.
    """

    examples: list[Encoded]
    weight: int
    normalizers: Mapping[str, float]


class BatchSampler:
    """Yields the batches of a run in order. They depend only on the data, the settings and the number of processes.

    Attributes:
        steps_per_batch: number of optimiser steps that are made with each batch.
    """

    steps_per_batch = 1

    def __init__(self, objective: Objective, settings: Settings, accelerator: Accelerator) -> None:
        self.objective, self.settings, self.accelerator = objective, settings, accelerator
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.batch_size = settings.batch_size * settings.gradient_accumulation_steps * self.world

    def steps_per_epoch(self, examples: Sequence[Encoded]) -> int:
        """Return the number of optimiser steps in one pass over the examples."""
        batches: int = math.ceil(len(examples) / self.batch_size)
        return batches * self.steps_per_batch

    def epoch(self, examples: Sequence[Encoded], number: int) -> list[list[Encoded]]:
        """Return all batches of an epoch; each batch has the examples of all processes.

        Args:
            examples: the encoded examples of the data set.
            number: number of the epoch, from 0.
        """
        return shuffled_batches(examples, self.batch_size, self.settings.seed + number, self.settings.bucket)

    def part(self, batch: list[Encoded]) -> tuple[list[Encoded], int]:
        """Return this process's examples of a whole batch, and their weight (see `StepBatch`)."""
        own_examples = batch[self.rank :: self.world]
        return (own_examples, 1) if own_examples else (batch[:1], 0)

    def first_epochs(self, examples: Sequence[Encoded], count: int) -> list[list[Encoded]]:
        """Return this process's examples in each step of the first `count` epochs."""
        return [self.part(batch)[0] for number in range(count) for batch in self.epoch(examples, number)]

    def after(self, step: int, examples: Sequence[Encoded]) -> Iterator[StepBatch]:
        """Yield this process's work in each step that follows `step`, without end."""
        for _, batch in self._batches_from(step, examples):
            own_examples, weight = self.part(batch)
            yield StepBatch(own_examples, weight, self.objective.normalizers(batch))

    def _batches_from(self, step: int, examples: Sequence[Encoded]) -> Iterator[tuple[int, list[Encoded]]]:
        """(number of the batch in the run, the batch), starting with the batch of the step after `step`."""
        start = step // self.steps_per_batch
        epoch, first = divmod(start, math.ceil(len(examples) / self.batch_size))
        number = start
        while True:
            for batch in self.epoch(examples, epoch)[first:]:
                yield number, batch
                number += 1
            epoch, first = epoch + 1, 0


class RolloutSampler(BatchSampler):
    """Yields batches that the model makes itself.

    It answers prompts, and is trained several times on each batch of answers.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        objective: OnlineObjective,
        settings: Settings,
        accelerator: Accelerator,
        micro_batches: MicroBatches,
        history: History,
    ) -> None:
        super().__init__(objective, settings, accelerator)
        self.model, self.tokenizer, self.online = model, tokenizer, objective
        self.micro_batches, self.history = micro_batches, history
        self.steps_per_batch = objective.epochs

    def after(self, step: int, examples: Sequence[Encoded]) -> Iterator[StepBatch]:
        """Yield this process's work in each step that follows `step`.

        The examples are prompts, which the model answers first.
        """
        for number, batch in self._batches_from(step, examples):
            prompts, weight = self.part(batch)
            answered = self._roll_out(prompts, self.settings.seed * 100_003 + number * self.world + self.rank, step + 1)
            own_normalizers = {name: weight * size for name, size in self.online.normalizers(answered).items()}
            normalizers = sum_over_processes(self.accelerator, own_normalizers)
            for _ in range(self.steps_per_batch):
                yield StepBatch(answered, weight, normalizers)
                step += 1

    def measure(self, prompts: Sequence[Encoded]) -> dict[str, float]:
        """Let the model answer prompts that are not trained on, and return means such as "reward" and "kl"."""
        _, means = self.online.rollout(self.model, self.tokenizer, prompts, self.score, self.settings.seed)
        return means

    def score(self, examples: Sequence[Encoded], reference: bool) -> list[tuple[list[float], list[float]]]:
        """Compute log-probability and value of each answer token, without gradients.

        Args:
            examples: prompts with answers.
            reference: whether to use the reference (the model without its adapter) instead of the policy.

        Returns:
            For each example two lists with one entry per answer token: log-probabilities in nats, and values.
        """
        import torch

        by_example = {}
        with torch.no_grad(), self.model.disable_adapter() if reference else nullcontext():
            for micro_batch in self.micro_batches.cut(examples):
                logs, values = self.online.log_probabilities_and_values(self.model, self.micro_batches.collate(micro_batch))
                counts = [example.scored for example in micro_batch]
                for example, *scores in zip(micro_batch, logs.cpu().split(counts), values.cpu().split(counts)):
                    by_example[id(example)] = (scores[0].tolist(), scores[1].tolist())
        return [by_example[id(example)] for example in examples]

    def _roll_out(self, prompts: list[Encoded], seed: int, step: int) -> list[Encoded]:
        started = time.perf_counter()
        self.model.eval()
        answered, means = self.online.rollout(self.model, self.tokenizer, prompts, self.score, seed)
        self.model.train()
        self.history.rollout_seconds += time.perf_counter() - started
        summed = sum_over_processes(self.accelerator, means)
        self.history.add_metrics(step, {name: value / self.world for name, value in summed.items()})
        return answered
