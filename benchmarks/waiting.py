"""How the threads of a matrix product on a CPU wait for each other, on an idle machine and next to busy processes.

    python benchmarks/waiting.py [--rounds N] [--libiomp PATH]

GNU OpenMP's threads spin while they wait, by default for some milliseconds at a time. On an idle machine that costs only
power; next to another process, a spinning thread holds the core that the thread it waits for needs. Each row is a policy,
set in the environment of two processes: one that trains and generates, and one that serves. All are started first; then each
is measured in turn, in a new random order each round, while 0, 1 or 2 other processes each keep a core busy. A measurement
is as many repetitions as fit into `BUDGET` seconds, at least one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

BUDGET = 6.0
LOADS = (0, 1, 2)
# Variables that a policy may set; those that it does not set are removed from the process's environment.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "KMP_BLOCKTIME", "LD_PRELOAD")
GNU_DEFAULT = "300000"  # GNU OpenMP's own default; set explicitly here, because the course sets another value
POLICIES: dict[str, dict[str, str]] = {
    "GNU's default": {"GOMP_SPINCOUNT": GNU_DEFAULT},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 300": {"GOMP_SPINCOUNT": "300"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 3,000": {"GOMP_SPINCOUNT": "3000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"GOMP_SPINCOUNT": GNU_DEFAULT, "OMP_NUM_THREADS": "1"},
}


def measure_training(model, tokenizer, examples) -> float:
    """Seconds of a training step on four short examples."""
    from course_utils import training

    settings = training.Settings(batch_size=4, max_steps=1, learning_rate=1e-5, max_length=128)
    return training.fit(model, tokenizer, examples[:4], settings=settings).seconds


def measure_generation(model, tokenizer, prompts) -> float:
    """Seconds to generate 24 tokens of one answer."""
    from course_utils.generation import generate

    started = time.perf_counter()
    generate(model, tokenizer, prompts[:1], max_new_tokens=24)
    return time.perf_counter() - started


def worker() -> None:
    """Train or generate in this process, as requested by each line of standard input."""
    from course_utils import models
    from course_utils.data_prep.tasks import load_task

    from peft import LoraConfig, get_peft_model

    task = load_task("support_tickets")
    model, tokenizer = models.load(tier="cpu")
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    work = {
        "training": lambda: measure_training(model, tokenizer, task.train),
        "generation": lambda: measure_generation(model, tokenizer, task.prompts()),
    }
    answer(work)


def server() -> None:
    """Serve in this process, and request 24 tokens for each line of standard input."""
    import tempfile
    import threading

    from course_utils.data_prep.tasks import load_task
    from course_utils.openai_server.options import Options
    from course_utils.openai_server.serving import serve

    from openai import OpenAI

    prompts = load_task("support_tickets").prompts()

    def ask(client, model):
        started = time.perf_counter()
        client.chat.completions.create(model=model, messages=prompts[0], temperature=0, max_tokens=24)
        return time.perf_counter() - started

    def ready(base_url, key):
        client = OpenAI(base_url=base_url, api_key=key, timeout=1200, max_retries=0)

        def run():
            model = client.models.list().data[0].id
            answer({"serving": lambda: ask(client, model)})
            os._exit(0)

        threading.Thread(target=run).start()

    with tempfile.TemporaryDirectory() as folder:
        serve(Options(folder=folder), ready)


def answer(work) -> None:
    """Run the task named by each line of standard input for `BUDGET` seconds, and print how long each repetition took."""
    for name in work:
        work[name]()  # warm up
    print("ready", flush=True)
    for line in sys.stdin:
        times, until = [], time.perf_counter() + BUDGET
        while not times or time.perf_counter() < until:
            times.append(work[line.strip()]())
        print(json.dumps(times), flush=True)


class Peer:
    """A process under one policy."""

    def __init__(self, role: str, variables: dict[str, str]):
        environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | variables
        command = [sys.executable, __file__, "--role", role]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while (line := self.process.stdout.readline()).strip() != "ready":
            assert line, f"{role} under {variables} did not start"

    def ask(self, name: str) -> list[float]:
        """Seconds of each repetition of the named task."""
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def _burn() -> None:
    while True:
        pass


@contextmanager
def busy(count: int):
    """Run `count` processes that each keep a core busy."""
    processes = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def main(rounds: int, only: list[str], libiomp: str | None) -> None:
    """Measure all policies and write the record."""
    from common import write_results

    policies = {label: POLICIES[label] for label in only or POLICIES}
    if libiomp:
        for milliseconds in ("200", "1", "0"):
            policies[f"libiomp, block time {milliseconds} ms"] = {"LD_PRELOAD": libiomp, "KMP_BLOCKTIME": milliseconds}
    peers = {label: [Peer(role, variables) for role in ("worker", "server")] for label, variables in policies.items()}
    tasks = {"training": 0, "generation": 0, "serving": 1}
    times_by_load = {load: {label: {task: [] for task in tasks} for label in policies} for load in LOADS}
    for round_ in range(rounds):
        for load in LOADS:
            with busy(load):
                for label in random.Random(100 * round_ + load).sample(list(policies), len(policies)):
                    for task, peer_index in tasks.items():
                        times = peers[label][peer_index].ask(task)
                        times_by_load[load][label][task] += times
                        print(round_, load, label, task, [round(t, 3) for t in times][:8], flush=True)
    for pair in peers.values():
        for peer in pair:
            peer.process.kill()
    rows = {
        str(load): {label: {task: [statistics.median(t), min(t), max(t), len(t)] for task, t in by_task.items()}
                    for label, by_task in by_label.items()}
        for load, by_label in times_by_load.items()
    }  # fmt: skip
    for load, by_label in rows.items():
        print(f"\nnext to {load} busy processes: median seconds")
        for label, by_task in by_label.items():
            print(f"  {label:32}" + "".join(f"{task} {values[0]:8.3f}   " for task, values in by_task.items()))
    write_results("waiting", {"policies": policies, "rounds": rounds, "busy_processes": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=["worker", "server"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=POLICIES, default=[], help="measure only these policies")
    parser.add_argument("--libiomp", help="path of libiomp5.so (package intel-openmp), to measure it in place of GNU OpenMP")
    options = parser.parse_args()
    if options.role:
        {"worker": worker, "server": server}[options.role]()
    else:
        main(options.rounds, options.only, options.libiomp)
