"""The process that validates a job's files or trains its model; it communicates only through the store.

    python -m course_utils.openai_server.worker validate|train FOLDER JOB CONTEXT [MODEL]

It exits when its input is closed, which happens when the server that started it dies.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openai.types.fine_tuning.jobs.fine_tuning_job_checkpoint import Metrics

from course_utils import facts, session
from course_utils.errors import CourseError, Diverged, OutOfMemory, TooLong
from course_utils.files import to_disk
from course_utils.openai_server.jobs import FINAL_STATUSES, fail, method_fields
from course_utils.openai_server.messages import declared, flatten
from course_utils.openai_server.store import Store, is_full, new_document, random_letters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.data_prep.validation import Report
    from course_utils.models import Model
    from course_utils.training import History
    from course_utils.training.objectives import Objective

FILES = ("training_file", "validation_file")
KEPT_CHECKPOINTS = 3
MAX_LINES = 10  # bad ones that an error names
MAX_WEIGHT = 1e4  # those of a working adapter are below 10
RANK, ALPHA = 16, 32
AUTO_MULTIPLIER = {"supervised": 2.0, "dpo": 1.0}
AUTO_BETA = 0.1
NICENESS = 5  # answering takes precedence over training


def main(task: str, folder: str, job_id: str, context: str, model: str | None = None) -> None:
    """Validate or train one job; `model` and `context` are the service's options of these names, `folder` is its folder."""
    session.prepare_process()
    threading.Thread(target=_exit_with_server, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    from filelock import FileLock

    store = Store(folder)
    # A server that was killed and restarted may be running before its old worker has ended.
    with FileLock(store.job_folder(job_id) / "lock"):
        try:
            if task == "validate":
                validate(store, job_id)
            else:
                train(store, job_id, model, int(context))
        except JobFailure as error:
            fail(store, job_id, error.code, str(error), error.param)
        except CourseError as error:
            code, param = ("invalid_training_file", "training_file") if task == "validate" else ("training_failed", None)
            fail(store, job_id, code, str(error), param)
        except (OSError, sqlite3.Error) as error:
            if not is_full(error):
                raise
            message = "The server has no space left on its disk for this job. Free disk space and create the job again."
            fail(store, job_id, "server_error", message, None)


class JobFailure(CourseError):
    """An error that makes a job fail.

    Args:
        message: explanation for the job's creator, who sees only the API.
        param: the parameter at fault; None if there is none.
        code: error code for programs.
    """

    def __init__(self, message: str, param: str | None, code: str = "training_failed") -> None:
        super().__init__(message)
        self.code, self.param = code, param


def _exit_with_server() -> None:
    sys.stdin.buffer.read()
    os._exit(9)


# -- validation ---------------------------------------------------------------------------------------------------------


def validate(store: Store, job_id: str) -> None:
    """Check the files of a job with `data_prep`, and queue the job.

    Raises:
        JobFailure: a file is invalid; the message has the hosted service's words.
    """
    from course_utils.data_prep import validation

    job = store.document("job", job_id)
    kind = "preference" if job["method"]["type"] == "dpo" else "chat"
    for name in FILES:
        if job[name] is not None:
            report = validation.validate(store.job_folder(job_id) / f"{name}.jsonl", kind, "openai")
            _raise_errors(report, job[name], name)
    with store.transaction():
        if store.document("job", job_id)["status"] == "validating_files":
            store.add_event(job_id, "Files validated, moving job to queued state")
            store.update("job", job_id, status="queued", _starts=0)


def _raise_errors(report: Report, file_id: str, name: str) -> None:
    """Raise JobFailure with the first error, in the hosted service's words, and the next bad lines, if there are any."""
    from course_utils.data_prep.findings import ERROR

    too_few = "too_few_rows"
    # Azure requires a byte order mark; the code that reads the lines skips it.
    ignored = ("byte_order_mark", *((too_few,) if name == "validation_file" else ()))
    errors = [f for f in report.findings if f.severity == ERROR and f.code not in ignored]
    if not errors:
        return
    first, lines = errors[0], {f.line: f for f in reversed(errors) if f.line}
    others = [f"line {n}{f.field and ', '}{f.field}: {f.message}" for n, f in sorted(lines.items()) if n != first.line]
    more = ""
    if first.code not in ("unknown_shape", "wrong_kind"):  # of a wrong format, there is no more to say
        only_marked = 1 not in lines and "byte_order_mark" in report.counts
        more = _more(others, report.bad_rows - only_marked - 1)
    # If a file can't be read at all, its number of examples is not what is wrong.
    error = report.api_error if name == "training_file" and (first.code == too_few or report.rows) else None
    if error is not None:
        raise JobFailure(error.about(file_id) + more, name, error.code)
    text = str(first)
    message = f"The job failed due to an invalid {name.replace('_', ' ')}. Invalid file format. {text[:1].upper()}{text[1:]}"
    raise JobFailure(message + more, name, "invalid_training_file")


def _more(faults: Sequence[str], count: int) -> str:
    """The faults after the first one, one a line, of `count` that there are."""
    shown = faults[: MAX_LINES - 1]
    left = count - len(shown)
    return "".join(f"\n{fault}" for fault in shown) + (f"\nand {left} more line{'s' * (left > 1)}" if left > 0 else "")


# -- training -----------------------------------------------------------------------------------------------------------


# Our names for the answers of a preference row → the API's.
ANSWER_FIELDS = {"chosen": "preferred_output", "rejected": "non_preferred_output"}


def train(store: Store, job_id: str, model: str | None, context: int) -> None:
    """Train the model of a job, unless the job has ended or is paused; report events as the hosted service does."""
    with store.transaction():
        job = store.document("job", job_id)
        if job["status"] in FINAL_STATUSES or job["_paused"]:
            return
        if job["status"] == "queued":
            if not job["_step"]:
                store.add_event(job_id, "Fine-tuning job started")
            store.update("job", job_id, status="running")
    Training(store, job, model, context).run()


def read_examples(folder: Path, name: str, kind: str) -> list[tuple[int, Any]]:
    """Read one of a job's `FILES`, which have been validated.

    Returns:
        The number of each line that is not blank, and its example as `training.fit` takes it.

    Raises:
        JobFailure: a line can't be trained on.
    """
    from course_utils.data_prep import reading

    examples: list[tuple[int, Any]] = []
    faults: list[str] = []
    for line in reading.read(folder / f"{name}.jsonl"):
        row: Any = line.value
        if row is None:  # a blank line
            continue
        try:
            if kind == "dpo":
                example: Any = {side: flatten(row[field]) for side, field in ANSWER_FIELDS.items()}
                # the tools are described once, where the conversation begins
                example["prompt"] = flatten(row["input"]["messages"], declared(row["input"]))
            else:
                example = flatten(row["messages"], declared(row))
        except CourseError as error:
            faults.append(f"line {line.line}: {error}")
        else:
            examples.append((line.line, example))
    if faults:
        raise JobFailure(f"{name}, {faults[0]}{_more(faults[1:], len(faults) - 1)}", name)
    return examples


class Training:
    """The training of one job, which resumes where an earlier process stopped."""

    def __init__(self, store: Store, job: Mapping[str, Any], model: str | None, context: int) -> None:
        """Read the job's files, and load its model.

        Raises:
            JobFailure: an example can't be trained on.
            CourseError: the model can't be loaded.
        """
        from course_utils import training

        self.store, self.job, self.context = store, job, context
        self.job_id: str = job["id"]
        self.kind: str = job["method"]["type"]
        self.folder = store.job_folder(self.job_id)
        self.examples = {name: read_examples(self.folder, name, self.kind) for name in FILES if job[name] is not None}
        requested, count = job["method"][self.kind]["hyperparameters"], len(self.examples["training_file"])
        self.hyperparameters = resolve_hyperparameters(requested, count, self.kind)
        self.steps_per_epoch = math.ceil(count / self.hyperparameters["batch_size"])
        self.objective: Objective = (
            training.DPO(beta=self.hyperparameters["beta"])
            if self.kind == "dpo"
            else training.SFT(turns="all", accuracy=True)
        )
        self.model, self.tokenizer = self._load(model)

    def run(self) -> None:
        """Train, and add the fine-tuned model and its result file to the store.

        Raises:
            JobFailure: the job's data or hyperparameters don't work; the message is for its creator.
        """
        from course_utils import hardware, training

        hyperparameters = self.hyperparameters
        with self.store.transaction():
            self.store.update("job", self.job_id, **method_fields(self.kind, hyperparameters))
        steps = self.steps_per_epoch * hyperparameters["n_epochs"]
        rate = facts.table("tiers")[hardware.detect().tier]["rates"][self.kind]  # for a multiplier of 1
        settings = training.Settings(
            learning_rate=hyperparameters["learning_rate_multiplier"] * rate,
            batch_size=hyperparameters["batch_size"],
            epochs=hyperparameters["n_epochs"],
            warmup_steps=min(10, steps // 10),
            max_length=self.context,
            evaluate_every=evaluation_interval(self.steps_per_epoch),
            checkpoint_folder=str(self.folder / "checkpoints"),
            checkpoint_every=max(1, min(self.steps_per_epoch, 25)),
            seed=self.job["seed"],
        )
        train, held_out = ([example for _, example in self.examples.get(name, ())] for name in FILES)
        try:
            history = training.fit(self.model, self.tokenizer, train, held_out, self.objective, settings, self._on_step)
        except TooLong as error:
            raise self._too_long() from error
        except Diverged as error:
            raise JobFailure(
                "The training diverged: its loss or its weights are not finite any more. Lower the learning_rate_multiplier "
                f"({hyperparameters['learning_rate_multiplier']:g}).",
                "learning_rate_multiplier",
            ) from error
        except OutOfMemory as error:
            message = (
                "The server does not have enough memory for this job. Lower the batch_size, or shorten the longest examples."
            )
            raise JobFailure(message, None) from error
        self._finish(history)

    def _too_long(self) -> JobFailure:
        """The failure that names the lines whose prompts are too long, in the first file that has any."""
        for name, rows in self.examples.items():
            tokens: dict[int, int] = {}  # by line
            for line, row in rows:
                try:
                    self.objective.encode(self.tokenizer, row, self.context, "")
                except TooLong as error:
                    tokens[line] = error.tokens
            if tokens:
                first, *others = (f"line {line}: the prompt alone has {count} tokens" for line, count in tokens.items())
                advice = f"and this model takes at most {self.context} including the answer. Shorten the prompt."
                return JobFailure(f"{name}, {first}, {advice}{_more(others, len(others))}", name)
        raise AssertionError("training found a prompt too long that is in no file")

    def _check_weights(self) -> None:
        """Check that the weights are usable: if a job ends right after a step, no later loss shows the effect of that step.

        Raises:
            Diverged: they are not finite, or so large that the model's logits would not be.
        """
        for parameter in self.model.parameters():
            if parameter.requires_grad and not parameter.abs().max() < MAX_WEIGHT:  # also where it is no number
                raise Diverged("the weights are not finite, or as good as that")

    def _load(self, base: str | None) -> tuple[Model, PreTrainedTokenizerBase]:
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model

        from course_utils import models

        model, tokenizer = models.load(base)
        if (self.folder / "start").is_dir():
            return PeftModel.from_pretrained(model, self.folder / "start", is_trainable=True), tokenizer
        torch.manual_seed(self.job["seed"])
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config), tokenizer

    def _on_step(self, step: int, total: int, history: History) -> None:
        """Report a step, and create a checkpoint at the end of an epoch; steps reported before a restart are skipped."""
        job = self.store.document("job", self.job_id)
        if job["status"] != "running" or job["_paused"]:
            os._exit(0)  # cancelled or paused while this step ran
        if step <= job["_step"]:
            return
        metrics = metrics_of(history, step, step % self.steps_per_epoch == 0)
        adapter_folder = self._write_adapter() if step % self.steps_per_epoch == 0 else None
        with self.store.transaction():
            if self.store.document("job", self.job_id)["status"] != "running":
                return
            self.store.add_event(
                self.job_id, sentence(step, total, metrics), data={"step": step, "total_steps": total, **metrics}
            )
            if adapter_folder:
                self._add_checkpoint(step, metrics, adapter_folder)
            self.store.update("job", self.job_id, _step=step, _starts=0)

    def _write_adapter(self) -> str:
        """Save the adapter under a new name; it becomes visible only with the document that refers to it."""
        self._check_weights()
        name = random_letters(20)
        scratch = self.folder / f"adapter-{name}"
        self.model.save_pretrained(str(scratch))
        scratch.chmod(0o700)
        for file in scratch.iterdir():
            file.chmod(0o600)
            to_disk(file)
        to_disk(scratch)
        os.replace(scratch, self.store.model_folder(name))
        to_disk(self.store.folder / "models")
        return name

    def _add_checkpoint(self, step: int, metrics: Mapping[str, float], folder: str) -> None:
        name = f"{self._model_name(random_letters(8))}:ckpt-step-{step}"
        checkpoint = new_document(
            "checkpoint",
            fine_tuned_model_checkpoint=name,
            fine_tuning_job_id=self.job_id,
            step_number=step,
            metrics={key: value for key, value in metrics.items() if key in Metrics.model_fields} | {"step": step},
        )
        self._add_model(name, folder, checkpoint=True)
        self.store.add("checkpoint", checkpoint, parent=self.job_id)
        self.store.add_event(self.job_id, f"Checkpoint created at step {step} with Snapshot ID: {name}")
        for surplus in self.store.all("checkpoint", self.job_id, newest_first=True)[KEPT_CHECKPOINTS:]:
            self.store.delete("checkpoint", surplus["id"])
            self.store.delete_model(surplus["fine_tuned_model_checkpoint"])

    def _finish(self, history: History) -> None:
        # Saved again although the last checkpoint has the same weights: the client may have deleted that one.
        name, folder = self._model_name(self.job["_name"]), self._write_adapter()
        scratch = self.store.scratch("results")
        scratch.touch(mode=0o600)
        scratch.write_bytes(base64.b64encode(results(history).encode()))
        with self.store.transaction():
            job = self.store.document("job", self.job_id)
            if job["status"] != "running":
                scratch.unlink()
                return
            file = self.store.add_file(scratch, "step_metrics.csv", "fine-tune-results")
            self._add_model(name, folder)
            self.store.update(
                "job",
                self.job_id,
                status="succeeded",
                fine_tuned_model=name,
                finished_at=int(time.time()),
                result_files=[file["id"]],
                trained_tokens=history.tokens,
            )
            self.store.add_event(self.job_id, f"New fine-tuned model created: {name}")
            self.store.add_event(self.job_id, "The job has successfully completed")
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)  # the trainer's

    def _add_model(self, name: str, folder: str, checkpoint: bool = False) -> None:
        model = {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "local",
            "shutdown_date": None,
            "_folder": folder,
            "_checkpoint": checkpoint,
            "_job": self.job_id,
        }
        self.store.add("model", model)

    def _model_name(self, last: str) -> str:
        base = self.job["model"]
        base = base.split(":")[1] if base.startswith("ft:") else base
        suffix = re.sub(r"[^a-z0-9-]+", "-", (self.job["user_provided_suffix"] or "").lower()).strip("-")
        return f"ft:{base}:local:{suffix}:{last}"


TOKEN_METRICS = {"accuracy": "mean_token_accuracy"}
PREFERENCE_METRICS = {
    "reward_chosen": "rewards_chosen",
    "reward_rejected": "rewards_rejected",
    "margin": "rewards_margins",
    "accuracy": "rewards_accuracies",
}
FULL_METRICS = ("valid_loss", "valid_mean_token_accuracy")


def resolve_hyperparameters(requested: Mapping[str, Any], examples: int, kind: str) -> dict[str, Any]:
    """Replace "auto" by numbers in the hyperparameters.

    Epochs follow OpenAI's published rule: three, or more for fewer than 34 examples, so that 100 examples are seen. Batch
    size and learning rate are this course's own choice, for an adapter on a small model.
    """
    auto = {
        "n_epochs": 3 if examples >= 34 else min(25, math.ceil(100 / examples)),
        "batch_size": max(1, min(16, round(examples / 25))),
        "learning_rate_multiplier": AUTO_MULTIPLIER[kind],
        "beta": AUTO_BETA,
    }
    return {name: auto[name] if value == "auto" else value for name, value in requested.items()}


def evaluation_interval(steps_per_epoch: int) -> int:
    """Return the number of steps between validations: about four validations per epoch, and always one at its end."""
    return next(n for n in range(math.ceil(steps_per_epoch / 4), steps_per_epoch + 1) if steps_per_epoch % n == 0)


def metrics_of(history: History, step: int, epoch_ends: bool) -> dict[str, float]:
    """Return the metrics of a step by the API's names; preference metrics by TRL's, since the API has none for them."""
    metrics = {"train_loss": history.losses[-1]}
    for part, recorded in (("train", history.metrics), ("valid", history.validation_metrics)):
        names = PREFERENCE_METRICS if "margin" in recorded else TOKEN_METRICS
        for name, pairs in recorded.items():
            if pairs[-1][0] == step and math.isfinite(pairs[-1][1]):  # JSON has no infinity
                metrics[f"{part}_{names[name]}"] = pairs[-1][1]
    if history.validation_steps and history.validation_steps[-1] == step:
        metrics["valid_loss"] = history.validation_losses[-1]
        if epoch_ends:  # ours is always computed on the whole file
            metrics |= {f"full_{name}": value for name, value in metrics.items() if name in FULL_METRICS}
    return metrics


def sentence(step: int, total: int, metrics: Mapping[str, float]) -> str:
    """Return the message of a metrics event."""
    names = {"train_loss": "training loss", "valid_loss": "validation loss", "full_valid_loss": "full validation loss"}
    return f"Step {step}/{total}: " + ", ".join(
        f"{label}={metrics[name]:.2f}" for name, label in names.items() if name in metrics
    )


def results(history: History) -> str:
    """Return the result file as CSV: one row per step, with empty fields where nothing was measured."""
    columns = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    train, valid = dict(history.metrics.get("accuracy", ())), dict(history.validation_metrics.get("accuracy", ()))
    losses = dict(zip(history.validation_steps, history.validation_losses))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for step, loss in zip(history.steps, history.losses):
        row = [loss, train.get(step), losses.get(step), valid.get(step)]
        writer.writerow([step, *("" if value is None else f"{value:.5f}" for value in row)])
    return text.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
