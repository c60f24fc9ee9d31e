"""Fine-tuning jobs: the requests that clients may send, and the processes that carry them out.

A job's state is a document in the store, which is the only source of truth. The runner looks for jobs there and starts
processes for them, at most one that validates and one that trains at a time, so that the server can go on answering. A
process that dies is restarted and resumes from its last checkpoint; if it keeps dying without progress, the job fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from openai.types.fine_tuning import FineTuningJobWandbIntegrationObject
from pydantic import Field

from course_utils.openai_server.bodies import ApiError, Metadata, Strict, invalid
from course_utils.openai_server.options import Options
from course_utils.openai_server.store import Store, new_document, random_letters

DEPRECATIONS = "https://developers.openai.com/api/docs/deprecations#update-to-openais-self-serve-fine-tuning"
FINAL_STATUSES = ("succeeded", "failed", "cancelled")
MAX_STARTS = 3  # of a process without a step of progress in between
# Task → what its jobs' status may be; training jobs that a restart interrupted come first.
STATUSES = {"validate": ("validating_files",), "train": ("running", "queued")}


Auto = Literal["auto"]


class Hyperparameters(Strict):
    """The hyperparameters that all methods have; their bounds are the API's (its specification of August 2026)."""

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto | None = None
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto | None = None


class DpoHyperparameters(Hyperparameters):
    """The hyperparameters of DPO, which has `beta` as well."""

    beta: Annotated[float, Field(gt=0, le=2)] | Auto | None = None


HyperparametersT = TypeVar("HyperparametersT", bound=Hyperparameters)


class MethodSettings(Strict, Generic[HyperparametersT]):
    """The settings of a method."""

    hyperparameters: HyperparametersT | None = None


class Method(Strict):
    """How to train; the settings of a method other than the chosen one have no effect."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: MethodSettings[Hyperparameters] | None = None
    dpo: MethodSettings[DpoHyperparameters] | None = None
    reinforcement: dict[str, Any] | None = None  # not offered here


class CreateJob(Strict):
    """The body of a request to create a fine-tuning job."""

    model: Annotated[str, Field(min_length=1)]
    training_file: Annotated[str, Field(min_length=1)]
    validation_file: Annotated[str, Field(min_length=1)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    metadata: Metadata | None = None
    # accepted and shown again; nothing is sent anywhere, and an event says so
    integrations: Annotated[list[FineTuningJobWandbIntegrationObject], Field(max_length=5)] | None = None


class Jobs:
    """Creates, shows and stops fine-tuning jobs.

    A method that takes a job's id raises an `ApiError` if there is no such job, or if it has ended and is to be changed.

    Args:
        store: the service's documents and files.
        bases: names under which the base model is offered.
        refuse: whether to refuse new jobs, as OpenAI has refused them to new organisations since May 2026.
    """

    def __init__(self, store: Store, bases: tuple[str, ...], refuse: bool = False) -> None:
        self.store, self.bases, self.refuse = store, bases, refuse

    def create(self, request: CreateJob) -> dict[str, Any]:
        """Store a new job, and return its document; the runner validates and runs it later.

        Raises:
            ApiError: the request is invalid. Errors in the files are reported later, in the job.
        """
        if self.refuse:
            message = (
                "OpenAI is winding down the fine-tuning platform and your organization is no longer able to create new "
                f"fine-tuning training jobs. Learn more {DEPRECATIONS}"
            )
            raise ApiError(403, message, code="training_not_available")
        job = new_document("job")
        try:
            with self.store.transaction():  # so that no file or model can be deleted meanwhile
                return self._create(job, request)
        except BaseException:
            shutil.rmtree(self.store.job_folder(job["id"]), ignore_errors=True)
            raise

    def _create(self, job: dict[str, Any], request: CreateJob) -> dict[str, Any]:
        start = self.store.get("model", request.model)
        if start is None and request.model not in self.bases:
            message = f"Model {request.model} is not available for fine-tuning or does not exist."
            raise invalid("model", message, "model_not_available")
        files = {}
        for name in ("training_file", "validation_file"):
            file_id = getattr(request, name)
            if file_id is None:
                continue
            file = self.store.get("file", file_id)
            if file is None:
                raise invalid(name, f"invalid {name}: {file_id}")
            if file["purpose"] != "fine-tune":
                raise invalid(name, f"invalid {name}: {file_id} has the purpose '{file['purpose']}', not 'fine-tune'")
            files[name] = file_id
        kind, hyperparameters = self._method(request)
        job |= dict(
            error=None,
            fine_tuned_model=None,
            finished_at=None,
            model=request.model,
            organization_id="org-local",
            result_files=[],
            seed=request.seed if request.seed is not None else int.from_bytes(os.urandom(3), "big"),
            status="validating_files",
            trained_tokens=None,
            training_file=request.training_file,
            validation_file=request.validation_file,
            estimated_finish=None,
            integrations=[integration.model_dump(exclude_none=True) for integration in request.integrations or []],
            metadata=request.metadata,
            usage_metrics=None,
            shared_with_openai=False,
            user_provided_suffix=request.suffix,
            **method_fields(kind, hyperparameters),
            _paused=False,
            _step=0,
            _starts=0,
            _name=random_letters(8),
        )
        folder = self.store.job_folder(job["id"])
        folder.mkdir(mode=0o700)
        # The client may delete a file while the job is running, so the job keeps its own link to the bytes.
        for name, file_id in files.items():
            _link(self.store.file_path(file_id), folder / f"{name}.jsonl")
        if start:
            shutil.copytree(self.store.model_folder(start["_folder"]), folder / "start", copy_function=_link)
        self.store.add("job", job)
        self.store.add_event(job["id"], f"Created fine-tuning job: {job['id']}")
        for name, file_id in files.items():
            self.store.add_event(job["id"], f"Validating {name.replace('_', ' ')}: {file_id}")
        if request.integrations:
            message = "Nothing is sent to wandb: this server keeps a job's metrics in its events and its result file"
            self.store.add_event(job["id"], message, "warn")
        return job

    def get(self, job_id: str) -> dict[str, Any]:
        """Return the document of a job."""
        job = self.store.get("job", job_id)
        if job is None:
            message = f"Could not find fine tune: {job_id}"
            raise ApiError(404, message, param="fine_tune_id", code="fine_tune_not_found")
        return job

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job, and return its document. Its checkpoints are kept; what was trained after the last one is lost."""
        with self.store.transaction():
            job = self._unfinished(job_id, "cancelled")
            self.store.add_event(job_id, "The job has been cancelled")
            return self.store.update(
                "job", job["id"], status="cancelled", finished_at=int(time.time()), estimated_finish=None
            )

    def pause(self, job_id: str) -> dict[str, Any]:
        """Pause a job, and return its document. The API documents no status for this, so it is shown as queued.

        Files are validated all the same: it takes seconds, and a faulty file should not wait to be found.
        """
        with self.store.transaction():
            job = self._unfinished(job_id, "paused")
            if not job["_paused"]:
                self.store.add_event(job_id, "Fine-tuning job paused")
            status = "queued" if job["status"] == "running" else job["status"]
            return self.store.update("job", job_id, status=status, _paused=True)

    def resume(self, job_id: str) -> dict[str, Any]:
        """Resume a job, and return its document; nothing happens if it is not paused."""
        with self.store.transaction():
            job = self._unfinished(job_id, "resumed")
            if job["_paused"]:
                self.store.add_event(job_id, "Fine-tuning job resumed")
            return self.store.update("job", job_id, _paused=False)

    def _unfinished(self, job_id: str, action: str) -> dict[str, Any]:
        job = self.get(job_id)
        if job["status"] in FINAL_STATUSES:
            ended = "been cancelled" if job["status"] == "cancelled" else job["status"]
            raise invalid(None, f"Job {job_id} has already {ended}; it can't be {action}.")
        return job

    def _method(self, request: CreateJob) -> tuple[str, dict[str, Any]]:
        """Training method and requested hyperparameters, from the current request form, the deprecated one, or both."""
        kind = request.method.type if request.method else "supervised"
        if kind == "reinforcement":
            message = "Reinforcement fine-tuning is not available for this model; take 'supervised' or 'dpo'."
            raise invalid("method", message, "method_not_available")
        block = getattr(request.method, kind) if request.method else None
        current_block = (block.hyperparameters if block else None) or Hyperparameters()
        deprecated_block = request.hyperparameters or Hyperparameters()
        chosen = {}
        for name in (DpoHyperparameters if kind == "dpo" else Hyperparameters).model_fields:
            current, deprecated = getattr(current_block, name, None), getattr(deprecated_block, name, None)
            if current is not None and deprecated is not None and current != deprecated:
                message = (
                    f"'hyperparameters.{name}' is {deprecated!r} and 'method.{kind}.hyperparameters.{name}' is {current!r}; "
                    "'hyperparameters' is deprecated; give the value under 'method' only."
                )
                raise invalid("hyperparameters", message)
            value = current if current is not None else deprecated
            chosen[name] = "auto" if value is None else value
        return kind, chosen


def method_fields(kind: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Return the two fields in which a job shows its hyperparameters, "method" and the older "hyperparameters"."""
    plain = {name: value for name, value in hyperparameters.items() if name in Hyperparameters.model_fields}
    return {"hyperparameters": plain, "method": {"type": kind, kind: {"hyperparameters": hyperparameters}}}


class Runner:
    """Starts and watches the processes that validate and train, with one thread for each of the two tasks."""

    def __init__(self, store: Store, options: Options) -> None:
        self.store, self.options = store, options
        self._processes: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}  # task → job id, process
        self._changed = threading.Condition()  # also guards the processes
        self._closed = False
        tasks = STATUSES if options.jobs else ()
        self._threads = [threading.Thread(target=self._work, args=(task,), daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Let the runner look for work now."""
        with self._changed:
            self._changed.notify_all()

    def stop(self, job_id: str) -> None:
        """Stop the training of a job that was paused, and whatever is done for one that was cancelled."""
        cancelled = self.store.document("job", job_id)["status"] in FINAL_STATUSES
        with self._changed:
            tasks = [task for task, (job, _) in self._processes.items() if job == job_id]
            for task in tasks:
                if cancelled or task == "train":
                    self._processes[task][1].kill()
        if cancelled and not tasks:  # else when its process has ended
            shutil.rmtree(self.store.job_folder(job_id), ignore_errors=True)

    def close(self) -> None:
        """Kill all processes; jobs resume when the server starts again."""
        with self._changed:
            self._closed = True
            for _, process in self._processes.values():
                process.kill()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def process_of(self, task: str) -> int | None:
        """Return the process id of a task ("validate" or "train"), or None if it is not running."""
        entry = self._processes.get(task)
        return entry[1].pid if entry else None

    def _work(self, task: str) -> None:
        while not self._closed:
            pause = 0.5
            try:
                job_id = self._next(task)
                if job_id is not None:
                    self._run(task, job_id)
                    continue
            except Exception as error:  # a full disk or a locked database: report it and try again
                print(f"jobs: {type(error).__name__}: {error}", file=sys.stderr)
                pause = 5.0
            with self._changed:
                self._changed.wait(pause)

    def _next(self, task: str) -> str | None:
        for status in STATUSES[task]:
            for job in self.store.page("job", limit=-1, newest_first=False, where={"status": status})[0]:
                if task == "validate" or not job["_paused"]:
                    return str(job["id"])
        return None

    def _run(self, task: str, job_id: str) -> None:
        """Run the process of a task to its end."""
        folder = self.store.job_folder(job_id)
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "course_utils.openai_server.worker", task, str(self.store.folder), job_id]
        command += [str(self.options.context), *([self.options.model] if self.options.model else [])]
        with self._changed, open(folder / "log.txt", "ab") as log:
            if self._closed:
                return
            # A closed pipe on its input tells a process that its server has died, and it exits.
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
            self._processes[task] = job_id, process
        with process:
            code = process.wait()
        with self._changed:
            del self._processes[task]
        if not self._closed:
            self._ended(task, job_id, code)
            self.wake()  # what was validated may be trained

    def _ended(self, task: str, job_id: str, code: int) -> None:
        """Handle the end of a process: restart its job or fail it, and clean up after jobs that have ended."""
        with self.store.transaction():
            job = self.store.document("job", job_id)
            if job["status"] in STATUSES[task] and not (task == "train" and job["_paused"]):
                starts = job["_starts"] + 1
                outcome = f"signal {-code}" if code < 0 else f"status {code}"
                if starts >= MAX_STARTS:
                    message = f"The process of the job ended {starts} times with {outcome} and made no progress."
                    fail(self.store, job_id, "server_error", message, param=None)
                else:
                    self.store.update("job", job_id, _starts=starts)
                    self.store.add_event(
                        job_id, f"The process of the job ended with {outcome}; it will be started again", "warn"
                    )
            job = self.store.document("job", job_id)
        if task == "train":
            self.store.tidy("models")  # an adapter whose checkpoint was not added any more
        if job["status"] in FINAL_STATUSES:
            shutil.rmtree(self.store.job_folder(job_id), ignore_errors=True)


def fail(store: Store, job_id: str, code: str, message: str, param: str | None = "training_file") -> None:
    """Mark a job as failed with a reason, unless it has already ended."""
    with store.transaction():
        if store.document("job", job_id)["status"] in FINAL_STATUSES:
            return
        error = {"code": code, "message": message, "param": param}
        store.update("job", job_id, status="failed", error=error, finished_at=int(time.time()))
        store.add_event(job_id, message, level="error")


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # no hard links on this disk
        shutil.copyfile(source, target)
