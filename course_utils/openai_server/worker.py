"""The process that validates a job's files or trains its model; it works on the store and on nothing else.

    python -m course_utils.openai_server.worker validate|train FOLDER JOB

It ends when its input is closed, which is when the server that started it dies.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError, Diverged, OutOfMemory, TooLong
from course_utils.files import to_disk
from course_utils.openai_server.jobs import FINAL, fail, method_fields
from course_utils.openai_server.messages import declared, flatten
from course_utils.openai_server.store import Store, is_full, new_id, random_letters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.data_prep.findings import Finding
    from course_utils.data_prep.validation import Report
    from course_utils.models import Model
    from course_utils.training import History

FILES = ("training_file", "validation_file")
KEPT_CHECKPOINTS = 3
PROBE_TOKENS = 64  # of an example, to see that weights can be computed with
RANK, ALPHA = 16, 32
# What a learning rate multiplier of 1 stands for. The hosted service does not say what its own is; these are this course's.
RATES = {
    "supervised": {"cpu": 1e-3, "t4": 3e-4, "a100": 2e-4},
    "dpo": {"cpu": 2e-4, "t4": 1e-4, "a100": 5e-5},
}
AUTO_MULTIPLIER = {"supervised": 2.0, "dpo": 1.0}
AUTO_BETA = 0.1
NICE = 5  # training gives way to answering


def main(arguments: list[str] | None = None) -> int:
    """Do one thing for one job."""
    parser = argparse.ArgumentParser(prog="course_utils.openai_server.worker")
    parser.add_argument("what", choices=("validate", "train"))
    parser.add_argument("folder")
    parser.add_argument("job")
    parser.add_argument("--model")
    parser.add_argument("--context", type=int, default=2048)
    options = parser.parse_args(arguments)
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICE)
    from filelock import FileLock

    store = Store(options.folder)
    # A server that was killed and started again may have been faster than the end of its old worker.
    with FileLock(store.job_folder(options.job) / "lock"):
        try:
            if options.what == "validate":
                validate(store, options.job)
            else:
                Training(store, options.job, options.model, options.context).run()
        except Refused as error:
            fail(store, options.job, error.code, str(error), error.param)
        except CourseError as error:
            code = "invalid_training_file" if options.what == "validate" else "training_failed"
            fail(store, options.job, code, str(error), "training_file" if options.what == "validate" else None)
        except (OSError, sqlite3.Error) as error:
            if not is_full(error):
                raise
            message = "The server has no room left on its disk for this job. Make room there and create the job again."
            fail(store, options.job, "server_error", message, None)
    return 0


class Refused(CourseError):
    """The end of a job, in the words of the API.

    Args:
        message: for whoever made the job and has nothing but the API.
        param: the parameter at fault; None if none is.
        code: for a program.
    """

    def __init__(self, message: str, param: str | None, code: str = "training_failed") -> None:
        super().__init__(message)
        self.code, self.param = code, param


def _end_with_the_server() -> None:
    sys.stdin.buffer.read()
    os._exit(9)


# -- validation ---------------------------------------------------------------------------------------------------------


def validate(store: Store, job_id: str) -> None:
    """Check a job's files by the rules of `data_prep`, and queue it or fail it in the hosted service's words."""
    from course_utils.data_prep import validation

    job = store.document("job", job_id)
    kind = "preference" if job["method"]["type"] == "dpo" else "chat"
    for name in FILES:
        if job[name] is None:
            continue
        report = validation.validate(store.job_folder(job_id) / f"{name}.jsonl", kind, "openai")
        code, message = _fault(report, job[name], name)
        if code:
            fail(store, job_id, code, message, param=name)
            return
    with store.transaction():
        if store.document("job", job_id)["status"] == "validating_files":
            store.add_event(job_id, "Files validated, moving job to queued state")
            store.update("job", job_id, status="queued", _starts=0)


def _fault(report: Report, file_id: str, name: str) -> tuple[str | None, str]:
    """Code and words of the first fault that the hosted service would stop at; None if there is none."""
    from course_utils.data_prep.findings import ERROR

    few = "too_few_rows"
    errors = [f for f in report.findings if f.severity == ERROR and not (f.code == few and name == "validation_file")]
    if not errors:
        return None, ""
    # As Azure asks for it; who reads the lines afterwards passes it over.
    errors = [finding for finding in errors if finding.code != "byte_order_mark"]
    if not errors:
        return None, ""
    first = errors[0]
    # of a file that can't be read at all, the number of its examples is not what is wrong
    error = report.api_error if name == "training_file" and (first.code == few or report.rows) else None
    if error is not None:
        return error.code, error.about(file_id)
    words = f"The job failed due to an invalid {name.replace('_', ' ')}. Invalid file format. {_sentence(first)}"
    return "invalid_training_file", words


def _sentence(finding: Finding) -> str:
    text = str(finding)
    return text[:1].upper() + text[1:]


# -- training -----------------------------------------------------------------------------------------------------------


# Our names for the sides of a preference, and the API's.
SIDES = {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"}


def _side(row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = row[name]["messages"] if name == "input" else row[name]
    return messages


class Training:
    """One job's training, from wherever an earlier process left it."""

    def __init__(self, store: Store, job_id: str, model: str | None, context: int) -> None:
        self.store, self.job_id, self.model, self.context = store, job_id, model, context
        self.folder = store.job_folder(job_id)
        self.lines: dict[str, list[int]] = {}  # name of a file → line of each of its examples

    def run(self) -> None:
        """Train, and tell of it as the hosted service does."""
        with self.store.transaction():
            job = self.job = self.store.document("job", self.job_id)
            if job["status"] in FINAL or job["_paused"]:
                return
            if job["status"] == "queued":
                if not job["_step"]:
                    self.store.add_event(self.job_id, "Fine-tuning job started")
                self.store.update("job", self.job_id, status="running")
        kind = job["method"]["type"]
        train, held_out = (self._examples(name, kind) for name in FILES)
        assert train is not None  # a job has a training file
        self._train(kind, train, held_out)

    def _examples(self, name: str, kind: str) -> list[Any] | None:
        from course_utils.data_prep import reading

        if self.job[name] is None:
            return None
        rows: list[Any] = []
        lines = self.lines[name] = []
        for line in reading.read(self.folder / f"{name}.jsonl"):
            row: Any = line.value
            if row is None:  # a blank line: the file was validated before
                continue
            lines.append(line.line)
            try:
                if kind == "dpo":
                    tools = {"prompt": declared(row["input"])}  # they are told once, where the conversation begins
                    rows.append({ours: flatten(_side(row, his), tools.get(ours, ())) for ours, his in SIDES.items()})
                else:
                    rows.append(flatten(row["messages"], declared(row)))
            except CourseError as error:
                raise Refused(f"{name}, line {line.line}: {error}", name) from error
        return rows

    def _train(self, kind: str, train: list[Any], held_out: list[Any] | None) -> None:
        from course_utils import hardware, training

        asked = self.job["method"][kind]["hyperparameters"]
        settled = settle(asked, len(train), kind)
        self.per_epoch = math.ceil(len(train) / settled["batch_size"])
        model, tokenizer = self._load()
        with self.store.transaction():
            self.store.update("job", self.job_id, **method_fields(kind, settled))
        steps = self.per_epoch * settled["n_epochs"]
        settings = training.Settings(
            learning_rate=settled["learning_rate_multiplier"] * RATES[kind][hardware.detect().tier],
            batch_size=settled["batch_size"],
            epochs=settled["n_epochs"],
            warmup_steps=min(10, steps // 10),
            max_length=self.context,
            evaluate_every=evaluation_interval(self.per_epoch),
            checkpoint_folder=str(self.folder / "checkpoints"),
            checkpoint_every=max(1, min(self.per_epoch, 25)),
            seed=self.job["seed"],
        )
        objective = training.DPO(beta=settled["beta"]) if kind == "dpo" else training.SFT(turns="all", accuracy=True)
        self.net, self.started, self.steps_here = model, time.time(), 0
        encoded = objective.encode
        try:
            first = encoded(tokenizer, train[0], self.context, f"training_file, line {self.lines['training_file'][0]}")
            self.probe = [*first.prompt, *first.completions[0]][:PROBE_TOKENS]
            history = training.fit(model, tokenizer, train, held_out, objective, settings, on_step=self._on_step)
        except TooLong as error:
            self._name_too_long(partial(encoded, tokenizer, max_length=self.context), train, held_out)
            raise Refused(str(error), None) from error
        except Diverged as error:
            raise Refused(
                "The training diverged: its loss or its weights are no numbers any more. Lower the learning_rate_multiplier "
                f"({settled['learning_rate_multiplier']:g}).",
                "learning_rate_multiplier",
            ) from error
        except OutOfMemory as error:
            message = "The server has not enough memory for this job. Lower the batch_size, or shorten the longest examples."
            raise Refused(message, None) from error
        self._finish(history)

    def _name_too_long(self, encode: Callable[..., object], train: list[Any], held_out: list[Any] | None) -> None:
        """Say which line has a prompt that is too long."""
        for name, rows in (("training_file", train), ("validation_file", held_out or [])):
            for line, row in zip(self.lines.get(name, ()), rows):
                try:
                    encode(example=row, where="")
                except TooLong as error:
                    raise Refused(
                        f"{name}, line {line}: the prompt alone has {error.tokens} tokens, and this model takes "
                        f"{error.limit} with the answer. Shorten the prompt.",
                        name,
                    ) from error

    def _check_weights(self) -> None:
        """Refuse weights with which nothing can be computed: a job that ends right after a step has not seen what it did.

        Raises:
            Diverged: they, or what the model makes of an example with them, are not finite.
        """
        import torch

        finite = all(bool(torch.isfinite(p).all()) for p in self.net.parameters() if p.requires_grad)
        if finite:
            was_training = self.net.training
            with torch.no_grad():
                logits = self.net.eval()(input_ids=torch.tensor([self.probe], device=self.net.device)).logits
            self.net.train(was_training)
            finite = bool(torch.isfinite(logits).all())
        if not finite:
            raise Diverged("the weights are not finite")

    def _load(self) -> tuple[Model, PreTrainedTokenizerBase]:
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model

        from course_utils import models

        model, tokenizer = models.load(self.model)
        if (self.folder / "start").is_dir():
            return PeftModel.from_pretrained(model, self.folder / "start", is_trainable=True), tokenizer
        torch.manual_seed(self.job["seed"])
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config), tokenizer

    def _on_step(self, step: int, total: int, history: History) -> None:
        """Report a step, and at the end of an epoch make its checkpoint; steps that were reported before are passed over."""
        self.steps_here += 1
        job = self.store.document("job", self.job_id)
        if job["status"] != "running" or job["_paused"]:
            os._exit(0)  # cancelled or paused while this step ran
        if step <= job["_step"]:
            return
        metrics = metrics_of(history, step, step % self.per_epoch == 0)
        made = self._write_adapter() if step % self.per_epoch == 0 else None
        left = (time.time() - self.started) / self.steps_here * (total - step)
        with self.store.transaction():
            if self.store.document("job", self.job_id)["status"] != "running":
                return
            self.store.add_event(
                self.job_id, sentence(step, total, metrics), data={"step": step, "total_steps": total, **metrics}
            )
            if made:
                self._add_checkpoint(step, metrics, made)
            estimate = int(time.time() + left)
            self.store.update("job", self.job_id, _step=step, _starts=0, estimated_finish=estimate)

    def _write_adapter(self) -> str:
        """Save the adapter under a name of its own; nobody knows of it before the document that names it."""
        self._check_weights()
        name = random_letters(20)
        beside = self.folder / f"adapter-{name}"
        self.net.save_pretrained(str(beside))
        beside.chmod(0o700)
        for file in beside.iterdir():
            file.chmod(0o600)
            to_disk(file)
        to_disk(beside)
        os.replace(beside, self.store.model_folder(name))
        to_disk(self.store.folder / "models")
        return name

    def _add_checkpoint(self, step: int, metrics: Mapping[str, float], folder: str) -> None:
        name = f"{self._model_name(random_letters(8))}:ckpt-step-{step}"
        checkpoint: dict[str, Any] = {
            "id": new_id("checkpoint"),
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(time.time()),
            "fine_tuned_model_checkpoint": name,
            "fine_tuning_job_id": self.job_id,
            "step_number": step,
            "metrics": {key: value for key, value in metrics.items() if key in CHECKPOINT_METRICS} | {"step": step},
        }
        self._add_model(name, folder, checkpoint=True)
        self.store.add("checkpoint", checkpoint["id"], checkpoint, parent=self.job_id)
        self.store.add_event(self.job_id, f"Checkpoint created at step {step} with Snapshot ID: {name}")
        for old in self.store.all("checkpoint", self.job_id, newest_first=True)[KEPT_CHECKPOINTS:]:
            self.store.delete("checkpoint", old["id"])
            self.store.delete("model", old["fine_tuned_model_checkpoint"])

    def _finish(self, history: History) -> None:
        # Weights of its own, though they are the last checkpoint's: the client may have deleted that one.
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
                estimated_finish=None,
                result_files=[file["id"]],
                trained_tokens=history.tokens,
            )
            self.store.add_event(self.job_id, f"New fine-tuned model created: {name}")
            self.store.add_event(self.job_id, "The job has successfully completed")
        self._remove_unused()

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
        self.store.add("model", name, model)

    def _model_name(self, last: str) -> str:
        base = self.job["model"]
        base = base.split(":")[1] if base.startswith("ft:") else base
        suffix = re.sub(r"[^a-z0-9-]+", "-", (self.job["user_provided_suffix"] or "").lower()).strip("-")
        return f"ft:{base}:local:{suffix}:{last}"

    def _remove_unused(self) -> None:
        """Adapters of checkpoints that were not kept."""
        remove_unused_adapters(self.store)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)


TOKEN_METRICS = {"accuracy": "mean_token_accuracy"}
PREFERENCE_METRICS = {
    "reward_chosen": "rewards_chosen",
    "reward_rejected": "rewards_rejected",
    "margin": "rewards_margins",
    "accuracy": "rewards_accuracies",
}
FULL = ("valid_loss", "valid_mean_token_accuracy")
CHECKPOINT_METRICS = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


def remove_unused_adapters(store: Store) -> None:
    """Remove the folders that no model's document names any more."""
    named = {model["_folder"] for model in store.all("model")}
    for folder in (store.folder / "models").iterdir():
        # a young one may be on its way to being named
        if folder.name not in named and time.time() - folder.stat().st_mtime > 60:
            shutil.rmtree(folder, ignore_errors=True)


def settle(asked: Mapping[str, Any], examples: int, kind: str) -> dict[str, Any]:
    """Hyperparameters with numbers for "auto".

    Epochs are those of OpenAI's published rule: three, and more for fewer than 34 examples, so that 100 are seen. Batch size
    and rate are this course's own choice, for an adapter on a small model.
    """
    auto = {
        "n_epochs": 3 if examples >= 34 else min(25, math.ceil(100 / examples)),
        "batch_size": max(1, min(16, round(examples / 25))),
        "learning_rate_multiplier": AUTO_MULTIPLIER[kind],
        "beta": AUTO_BETA,
    }
    return {name: auto[name] if value == "auto" else value for name, value in asked.items()}


def evaluation_interval(per_epoch: int) -> int:
    """Steps between validation losses: about four times an epoch, and always at its end."""
    return next(n for n in range(math.ceil(per_epoch / 4), per_epoch + 1) if per_epoch % n == 0)


def metrics_of(history: History, step: int, epoch_ends: bool) -> dict[str, float]:
    """What the API calls a step's metrics; those of preferences are named as TRL names them, since the API has no names."""
    found = {"train_loss": history.losses[-1]}
    for part, kept in (("train", history.metrics), ("valid", history.validation_metrics)):
        names = PREFERENCE_METRICS if "margin" in kept else TOKEN_METRICS
        for name, pairs in kept.items():
            if pairs[-1][0] == step and math.isfinite(pairs[-1][1]):  # JSON has no infinity
                found[f"{part}_{names[name]}"] = pairs[-1][1]
    if history.validation_steps and history.validation_steps[-1] == step:
        found["valid_loss"] = history.validation_losses[-1]
        if epoch_ends:  # ours is always over the whole file
            found |= {f"full_{name}": value for name, value in found.items() if name in FULL}
    return found


def sentence(step: int, total: int, metrics: Mapping[str, float]) -> str:
    """A metrics event's message."""
    names = {"train_loss": "training loss", "valid_loss": "validation loss", "full_valid_loss": "full validation loss"}
    return f"Step {step}/{total}: " + ", ".join(
        f"{say}={metrics[name]:.2f}" for name, say in names.items() if name in metrics
    )


def results(history: History) -> str:
    """The result file: a row a step, blank where nothing was measured."""
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
    sys.exit(main())
