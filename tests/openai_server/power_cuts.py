"""Kills the service or its training process in the middle of something, starts it again, and looks for what was promised.

Promised is what a client was told: a file that an upload was answered with, a job, an event, a model, bytes of a file. After
each kill all of it must be there again, no file may be half, and every job must come to its end.
"""

import hashlib
import os
import random
import signal
import threading
import time
from pathlib import Path

from course_utils.openai_server import local_server
from openai_server.conftest import chats, training_process

MOMENTS = ("upload", "validation", "training", "checkpointing", "serving")
VICTIMS = {"training": ("server", "worker"), "checkpointing": ("server", "worker")}
FINAL = ("succeeded", "failed", "cancelled")


class Promises:
    """What clients were told, by all threads that talk to the server."""

    def __init__(self):
        self.files: dict[str, str] = {}  # id → hash of the bytes
        self.jobs: set[str] = set()
        self.events: dict[str, set[str]] = {}
        self.models: set[str] = set()

    def file(self, client, data: bytes) -> str:
        made = client.files.create(file=("data.jsonl", data), purpose="fine-tune").id
        self.files[made] = hashlib.sha256(data).hexdigest()
        return made

    def look(self, client, job_id: str):
        """Note all that is shown of a job; returns it."""
        job = client.fine_tuning.jobs.retrieve(job_id)
        seen = self.events.setdefault(job_id, set())
        seen |= {event.id for event in client.fine_tuning.jobs.list_events(job_id, limit=100)}
        if job.fine_tuned_model:
            self.models.add(job.fine_tuned_model)
            for file in job.result_files:
                self.files.setdefault(file, hashlib.sha256(client.files.content(file).read()).hexdigest())
        return job

    def broken(self, client, folder: Path) -> list[str]:
        """What is missing or half; empty if every promise was kept."""
        faults = []
        listed = {file.id: file for file in client.files.list()}
        for file, digest in self.files.items():
            if file not in listed or hashlib.sha256(client.files.content(file).read()).hexdigest() != digest:
                faults.append(f"file {file}")
        for file in listed.values():  # also those that nobody was told of must be whole
            if len(client.files.content(file.id).read()) != file.bytes:
                faults.append(f"half a file: {file.id}")
        on_disk = {path.name for path in (folder / "files").iterdir() if not path.name.startswith(".partial")}
        if on_disk - {file.id for file in client.files.list()}:
            faults.append(f"files that nobody knows: {on_disk - set(listed)}")
        jobs = {job.id for job in client.fine_tuning.jobs.list(limit=100)}
        faults += [f"job {job}" for job in self.jobs - jobs]
        for job, events in self.events.items():
            there = {event.id for event in client.fine_tuning.jobs.list_events(job, limit=100)}
            faults += [f"event {event} of {job}" for event in events - there]
        names = {model.id for model in client.models.list()}
        return faults + [f"model {model}" for model in self.models - names]


def one_round(folder: Path, model: str, moment: str, victim: str, seed: int) -> dict:
    """One kill at one moment; returns what happened and what was broken."""
    dice, promises = random.Random(seed), Promises()
    with local_server(folder, model=model) as server:
        client = server.client(max_retries=0, timeout=60)
        data = chats(36)
        file = promises.file(client, data)
        job = client.fine_tuning.jobs.create(
            model=client.models.list().data[0].id,
            training_file=file,
            validation_file=file,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 6, "batch_size": 2}}},
        ).id
        promises.jobs.add(job)
        watching = threading.Thread(target=_watch, args=(server, promises, job), daemon=True)
        watching.start()
        busy = _go_to(moment, server, client, promises, job, dice)
        pid = training_process(server) if victim == "worker" else server.process.pid
        state = client.fine_tuning.jobs.retrieve(job).status
        if pid:
            os.kill(pid, signal.SIGKILL)
        if victim == "server":
            server.process.wait()
        watching.join(timeout=60 if victim == "server" else 0.1)
        if busy:
            busy.join(timeout=60)
    with local_server(folder, model=model) as server:
        client = server.client(timeout=60)
        faults = promises.broken(client, folder)
        until = time.time() + 120
        while (found := promises.look(client, job)).status not in FINAL and time.time() < until:
            time.sleep(0.1)
        if found.status != "succeeded":
            faults.append(f"the job ended {found.status}: {found.error}")
        else:
            client.chat.completions.create(
                model=found.fine_tuned_model, messages=[{"role": "user", "content": "x"}], max_tokens=2
            )
        steps = [e.data["step"] for e in client.fine_tuning.jobs.list_events(job, limit=100) if e.type == "metrics"]
        if steps != sorted(set(steps), reverse=True):
            faults.append("a step was reported twice or out of order")
        faults += promises.broken(client, folder)
    return {"moment": moment, "victim": victim, "job_was": state, "killed": bool(pid), "broken": faults}


def _go_to(moment: str, server, client, promises: Promises, job: str, dice: random.Random) -> threading.Thread | None:
    """Wait until the server is in the middle of something; returns the thread that keeps it there, if one does."""

    def start(action) -> threading.Thread:
        def run():
            try:
                action()
            except Exception:  # the kill, seen from a client
                pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    if moment == "upload":
        thread = start(lambda: [promises.file(client, chats(20_000 + i)) for i in range(50)])
        time.sleep(dice.uniform(0.05, 1.0))
        return thread
    if moment == "validation":
        time.sleep(dice.uniform(0.0, 1.0))
        return None
    if moment == "serving":
        stream = {"messages": [{"role": "user", "content": "tell me"}], "max_tokens": 1500, "stream": True}
        name = client.models.list().data[0].id
        thread = start(lambda: list(client.chat.completions.create(model=name, **stream)))
        time.sleep(dice.uniform(0.5, 3.0))
        return thread
    wanted = "Step " if moment == "training" else "Checkpoint created"
    at_least = dice.randint(1, 40 if moment == "training" else 4)
    until = time.time() + 60
    while sum(e.message.startswith(wanted) for e in client.fine_tuning.jobs.list_events(job, limit=100)) < at_least:
        if time.time() > until or client.fine_tuning.jobs.retrieve(job).status in FINAL:
            break
        time.sleep(0.005)
    time.sleep(dice.uniform(0, 0.15))
    return None


def _watch(server, promises: Promises, job: str) -> None:
    """A client that follows the job for as long as the server lives."""
    client = server.client(max_retries=0, timeout=10)
    try:
        while promises.look(client, job).status not in FINAL:
            time.sleep(0.02)
    except Exception:
        pass


def rounds(number: int):
    """Moments and victims in turns."""
    for i in range(number):
        moment = MOMENTS[i % len(MOMENTS)]
        victims = VICTIMS.get(moment, ("server",))
        yield moment, victims[i // len(MOMENTS) % len(victims)], i
