"""Fine-tuning jobs: what a client may ask for, and the processes that do it.

A job's state is a document in the store, and the only truth. The runner looks for work in it and starts a process for each
piece: one that validates and one that trains can be at work, so that answering goes on meanwhile. A process that dies is
started again and goes on from its last checkpoint; one that dies again and again without getting further fails the job.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from openai.types.fine_tuning import FineTuningJob
from pydantic import BaseModel, ConfigDict, Field

from course_utils.openai_server.errors import ApiError, invalid, no_such_job, not_tunable, winding_down
from course_utils.openai_server.store import Store, new_id, random_letters

ORGANIZATION = "org-local"
FINAL = ("succeeded", "failed", "cancelled")
ATTEMPTS = 3  # starts of a process without a step of progress between them
WAIT = {"validating_files": "validate", "queued": "train", "running": "train"}

Auto = Literal["auto"]
Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Key, Value], Field(max_length=16)]


class Hyperparameters(BaseModel):
    """Bounds are the API's (its specification of August 2026)."""

    model_config = ConfigDict(extra="allow")
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] | None = None
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] | None = None
    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] | None = None


class DpoHyperparameters(Hyperparameters):
    """DPO's have one more."""

    beta: Auto | Annotated[float, Field(gt=0, le=2)] | None = None


class Supervised(BaseModel):
    """Settings of supervised fine-tuning."""

    model_config = ConfigDict(extra="allow")
    hyperparameters: Hyperparameters | None = None


class Dpo(BaseModel):
    """Settings of direct preference optimisation."""

    model_config = ConfigDict(extra="allow")
    hyperparameters: DpoHyperparameters | None = None


class Method(BaseModel):
    """How to train; settings of other methods than the one chosen are ignored, as on the hosted service."""

    model_config = ConfigDict(extra="allow")
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: dict[str, Any] | None = None


class Wandb(BaseModel):
    """Where Weights & Biases would show the run."""

    project: str
    entity: str | None = None
    name: str | None = None
    tags: list[str] | None = None


class Integration(BaseModel):
    """Taken and shown again; nothing is sent anywhere from here."""

    type: Literal["wandb"]
    wandb: Wandb


class CreateJob(BaseModel):
    """A request for a job."""

    model_config = ConfigDict(extra="allow")
    model: Annotated[str, Field(min_length=1)]
    training_file: Annotated[str, Field(min_length=1)]
    validation_file: Annotated[str, Field(min_length=1)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    metadata: Metadata | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None


class Jobs:
    """Creates, shows and stops jobs.

    Args:
        store: what the service remembers.
        base: the name under which the base model is offered.
        names: other names for it, stand-ins for hosted models.
        refuse: answer a request for a job as OpenAI has answered new organisations since May 2026.
    """

    def __init__(self, store: Store, base: str, names: tuple[str, ...] = (), refuse: bool = False) -> None:
        self.store, self.base, self.names, self.refuse = store, base, names, refuse

    def create(self, request: CreateJob) -> dict[str, Any]:
        """Write a job down; it is validated and run later, by the runner.

        Raises:
            ApiError: what is wrong with the request. What is wrong with the files turns up later, in the job.
        """
        if self.refuse:
            raise winding_down()
        start = self.store.get("model", request.model)
        if start is None and request.model not in (self.base, *self.names):
            raise not_tunable(request.model)
        files = {}
        for name in ("training_file", "validation_file"):
            file_id = getattr(request, name)
            if file_id is None:
                continue
            found = self.store.get("file", file_id)
            if found is None:
                raise invalid(name, f"invalid {name}: {file_id}")
            if found["purpose"] != "fine-tune":
                raise invalid(name, f"invalid {name}: {file_id} has the purpose '{found['purpose']}', not 'fine-tune'")
            files[name] = file_id
        kind, hyperparameters = self._method(request)
        job = {
            "id": new_id("job"),
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "model": request.model,
            "organization_id": ORGANIZATION,
            "result_files": [],
            "seed": request.seed if request.seed is not None else int.from_bytes(os.urandom(3), "big"),
            "status": "validating_files",
            "trained_tokens": None,
            "training_file": request.training_file,
            "validation_file": request.validation_file,
            "estimated_finish": None,
            "integrations": [one.model_dump(exclude_none=True) for one in request.integrations or []],
            "metadata": request.metadata,
            "usage_metrics": None,
            "shared_with_openai": False,
            "user_provided_suffix": request.suffix,
            **method_fields(kind, hyperparameters),
            "_paused": False,
            "_step": 0,
            "_starts": 0,
            "_name": random_letters(8),
        }
        folder = self.store.job_folder(job["id"])
        try:
            folder.mkdir(mode=0o700)
            # The client may delete a file while the job lasts; the bytes stay with the job.
            for name, file_id in files.items():
                _link(self.store.file_path(file_id), folder / f"{name}.jsonl")
            if start:
                shutil.copytree(self.store.model_folder(start["_folder"]), folder / "start", copy_function=_link)
            self._note(job)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, FileNotFoundError):  # deleted a moment ago
                raise self._gone(request, files) from error
            raise
        return job

    def _note(self, job: dict[str, Any]) -> None:
        with self.store.transaction():
            self.store.add("job", job["id"], job)
            self.store.add_event(job["id"], f"Created fine-tuning job: {job['id']}")
            self.store.add_event(job["id"], f"Validating training file: {job['training_file']}")
            if job["validation_file"]:
                self.store.add_event(job["id"], f"Validating validation file: {job['validation_file']}")

    def _gone(self, request: CreateJob, files: dict[str, str]) -> ApiError:
        """Which of the things that a job is made from was deleted while it was made."""
        for name, file_id in files.items():
            if not self.store.file_path(file_id).exists():
                return invalid(name, f"invalid {name}: {file_id}")
        return not_tunable(request.model)

    def get(self, job_id: str) -> dict[str, Any]:
        """A job.

        Raises:
            ApiError: there is none of this id.
        """
        job = self.store.get("job", job_id)
        if job is None:
            raise no_such_job(job_id)
        return job

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job; what it has learned is lost, but its checkpoints stay."""
        with self.store.transaction():
            job = self._unfinished(job_id, "cancelled")
            self.store.add_event(job_id, "The job has been cancelled")
            return self._changed(job["id"], status="cancelled", finished_at=int(time.time()), estimated_finish=None)

    def pause(self, job_id: str) -> dict[str, Any]:
        """Stop a job for now. The documented states have none for this: it shows as queued."""
        with self.store.transaction():
            job = self._unfinished(job_id, "paused")
            if not job["_paused"]:
                self.store.add_event(job_id, "Fine-tuning job paused")
            status = "queued" if job["status"] == "running" else job["status"]
            return self._changed(job_id, status=status, _paused=True, estimated_finish=None)

    def resume(self, job_id: str) -> dict[str, Any]:
        """Go on with a paused job; no harm if it is not."""
        with self.store.transaction():
            job = self._unfinished(job_id, "resumed")
            if job["_paused"]:
                self.store.add_event(job_id, "Fine-tuning job resumed")
            return self._changed(job_id, _paused=False)

    def _changed(self, job_id: str, **changes: Any) -> dict[str, Any]:
        job = self.store.update("job", job_id, **changes)
        assert job is not None  # jobs are never deleted
        return job

    def _unfinished(self, job_id: str, what: str) -> dict[str, Any]:
        job = self.get(job_id)
        if job["status"] in FINAL:
            message = (
                f"Job {job_id} has already {job['status']}; it can't be {what}."
                if job["status"] != "cancelled"
                else (f"Job {job_id} has already been cancelled; it can't be {what}.")
            )
            raise invalid(None, message)
        return job

    def _method(self, request: CreateJob) -> tuple[str, dict[str, Any]]:
        """Kind of training and the hyperparameters asked for, from the present form, the deprecated one, or both."""
        kind = request.method.type if request.method else "supervised"
        if kind == "reinforcement":
            raise invalid("method", "Reinforcement fine-tuning is not available for this model.", "method_not_available")
        block = getattr(request.method, kind) if request.method else None
        new = (block.hyperparameters if block else None) or Hyperparameters()
        old = request.hyperparameters or Hyperparameters()
        names = ["n_epochs", "batch_size", "learning_rate_multiplier", *(["beta"] if kind == "dpo" else [])]
        found = {}
        for name in names:
            one, other = getattr(new, name, None), getattr(old, name, None)
            if one is not None and other is not None and one != other:
                message = (
                    f"'hyperparameters.{name}' is {other!r} and 'method.{kind}.hyperparameters.{name}' is {one!r}; "
                    "'hyperparameters' is deprecated, give the value under 'method' alone."
                )
                raise invalid("hyperparameters", message)
            value = one if one is not None else other
            found[name] = "auto" if value is None else value
        return kind, found


def method_fields(kind: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """The two places in which a job shows its hyperparameters."""
    plain = {name: value for name, value in hyperparameters.items() if name != "beta"}
    return {"hyperparameters": plain, "method": {"type": kind, kind: {"hyperparameters": hyperparameters}}}


def public(document: dict[str, Any]) -> dict[str, Any]:
    """A document without what is the server's own."""
    return {name: value for name, value in document.items() if not name.startswith("_")}


def shown(job: dict[str, Any]) -> dict[str, Any]:
    """A job as the client sees it, checked against the official client's own type."""
    return FineTuningJob.model_validate(public(job)).model_dump(mode="json", exclude_unset=True)


class Runner:
    """Starts and watches the processes that validate and train.

    Args:
        store: what the service remembers.
        model: name of the base model, as `models.load` takes it; None for the tier's.
        context: longest example in tokens.
        keep_going: whether to start anything at all (off: jobs stay where they are).
    """

    def __init__(self, store: Store, model: str | None, context: int, keep_going: bool = True) -> None:
        self.store, self.model, self.context = store, model, context
        self._at_work: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}  # what it does → job, process
        self._news = threading.Event()
        self._closed = not keep_going
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        if keep_going:
            self._thread.start()

    def wake(self) -> None:
        """Look for work now."""
        self._news.set()

    def stop(self, job_id: str) -> None:
        """End the process of a job that was cancelled or paused."""
        with self._mutex:
            for job, process in self._at_work.values():
                if job == job_id:
                    process.kill()
        self.wake()

    def close(self) -> None:
        """End all processes; jobs go on at the next start."""
        self._closed = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        with self._mutex:
            for _, process in self._at_work.values():
                process.kill()
                process.wait()

    def process_of(self, what: str) -> int | None:
        """Process id of the one that validates or trains, if there is one."""
        found = self._at_work.get(what)
        return found[1].pid if found else None

    def _work(self) -> None:
        while not self._closed:
            try:
                self._look()
                pause = 0.1 if self._at_work else 0.5
            except Exception as error:  # a full disk, a locked database: say so and try again
                print(f"jobs: {type(error).__name__}: {error}", file=sys.stderr)
                pause = 5.0
            self._news.wait(pause)
            self._news.clear()

    def _look(self) -> None:
        for what, (job_id, process) in list(self._at_work.items()):
            if process.poll() is not None:
                assert process.stdin is not None
                process.stdin.close()
                with self._mutex:
                    del self._at_work[what]
                self._ended(what, job_id, process.returncode)
        found = [
            job
            for status in WAIT
            for job in self.store.page("job", limit=-1, newest_first=False, where={"status": status})[0]
        ]
        waiting = [job for job in found if not job["_paused"]]
        for what in ("validate", "train"):
            mine = [job for job in waiting if WAIT[job["status"]] == what]
            mine.sort(key=lambda job: job["status"] != "running")  # what a restart interrupted comes first
            if mine and what not in self._at_work:
                self._start(what, mine[0]["id"])

    def _start(self, what: str, job_id: str) -> None:
        folder = self.store.job_folder(job_id)
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "course_utils.openai_server.worker", what, str(self.store.folder), job_id]
        command += ["--context", str(self.context), *(["--model", self.model] if self.model else [])]
        with open(folder / "log.txt", "ab") as log:
            # The pipe to its input is how a process learns that its server has died: it ends with it.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        with self._mutex:
            self._at_work[what] = job_id, process

    def _ended(self, did: str, job_id: str, code: int) -> None:
        """Look at what a process left behind."""
        with self.store.transaction():
            job = self.store.document("job", job_id)
            if WAIT.get(job["status"]) == did and not job["_paused"]:
                starts = job["_starts"] + 1
                what = f"signal {-code}" if code < 0 else f"status {code}"
                if starts >= ATTEMPTS:
                    message = f"The process of the job ended {starts} times with {what} and made no progress."
                    fail(self.store, job_id, "server_error", message, param=None)
                else:
                    self.store.update("job", job_id, _starts=starts)
                    self.store.add_event(job_id, f"The process of the job ended with {what}; it is started again", "warn")
            job = self.store.document("job", job_id)
        if job["status"] in FINAL:
            shutil.rmtree(self.store.job_folder(job_id), ignore_errors=True)


def fail(store: Store, job_id: str, code: str, message: str, param: str | None = "training_file") -> None:
    """End a job with a reason, unless it has ended."""
    with store.transaction():
        if store.document("job", job_id)["status"] in FINAL:
            return
        error = {"code": code, "message": message, "param": param}
        store.update("job", job_id, status="failed", error=error, finished_at=int(time.time()), estimated_finish=None)
        store.add_event(job_id, message, level="error")


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # no hard links on this disk
        shutil.copyfile(source, target)


__all__ = ["FINAL", "CreateJob", "Jobs", "Runner", "fail", "method_fields", "public", "shown"]
