"""The local fine-tuning service compared with its peers, and when killed. Each mode writes a dated record.

    python benchmarks/service.py serving      tokens per second and time to the first token, against `transformers serve`
    python benchmarks/service.py adapters     a decoding step with mixed adapters, against PEFT's own
    python benchmarks/service.py lifecycle    a job of 100 examples and 3 epochs, three seeds; four models on one base
    python benchmarks/service.py kills        20 SIGKILLs of the server and of the training process

`serving` needs `pip install 'transformers[serving]'`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import picture, write_results
from course_utils import charts, models
from course_utils.data_prep.tasks import load_task
from course_utils.openai_server import local_server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
STREAMS = (1, 4, 16)
ROUNDS = 5
PEER = "transformers serve"
MAX_TOKENS = 120


def train(client, task, seed: int = 0, examples: int = 100):
    """Train on the course's tickets; returns the finished job and how long it took."""

    def upload(conversations):
        data = "\n".join(json.dumps({"messages": conversation}) for conversation in conversations).encode()
        return client.files.create(file=("tickets.jsonl", data), purpose="fine-tune").id

    started = time.time()
    job = client.fine_tuning.jobs.create(
        model=client.models.list().data[0].id,
        training_file=upload(task.train[:examples]),
        validation_file=upload(task.validation[:20]),
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
        seed=seed,
    )
    while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
        time.sleep(0.5)
    assert job.status == "succeeded", job.error
    return job, time.time() - started


def answers(client, model: str, prompts, streams: int = 16) -> list[str]:
    """Greedy answers to prompts, with `streams` requests at once."""

    def one(prompt):
        completion = client.chat.completions.create(model=model, messages=prompt, temperature=0, max_tokens=MAX_TOKENS)
        return completion.choices[0].message.content

    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(one, prompts))


# -- serving ------------------------------------------------------------------------------------------------------------


def stream(client, model: str, prompt) -> tuple[float, int]:
    """Seconds to the first piece of text, and the number of pieces; both servers send one per token."""
    started, first, pieces = time.perf_counter(), None, 0
    chunks = client.chat.completions.create(model=model, messages=prompt, temperature=0, max_tokens=MAX_TOKENS, stream=True)
    for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - started
            pieces += 1
    return first or time.perf_counter() - started, pieces


def load(client, model: str, prompts, streams: int) -> dict:
    """Tokens per second and time to the first token, with `streams` streams at once that send request after request."""
    pending, results, mutex = list(prompts), [], threading.Lock()

    def work():
        while True:
            with mutex:
                if not pending:
                    return
                prompt = pending.pop()
            result = stream(client, model, prompt)
            with mutex:
                results.append(result)

    started = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return {
        "tokens_per_second": sum(n for _, n in results) / seconds,
        "first_token": statistics.median(t for t, _ in results),
    }


def transformers_serve(folder: Path, *options: str):
    """Start `transformers serve` with a merged model; returns a client and the process."""
    import socket

    from openai import OpenAI

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    process = subprocess.Popen([*command, "--port", str(port), *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300, max_retries=0)
    for _ in range(240):
        try:
            client.models.list()
            return client, process
        except Exception:
            if process.poll() is not None:
                raise
            time.sleep(0.5)
    raise TimeoutError("transformers serve did not start")


def serving() -> None:
    """Both servers run at the same time and are measured in turns, so that other load on the machine affects both."""
    from peft import PeftModel

    task = load_task("support_tickets")
    with tempfile.TemporaryDirectory() as folder, local_server(Path(folder) / "service") as server:
        client = server.client(timeout=300, max_retries=0)
        name = train(client, task)[0].fine_tuned_model
        base, tokenizer = models.load(tier="cpu")
        from course_utils.openai_server.store import Store

        store = Store(Path(folder) / "service")
        adapter = store.model_folder(store.get("model", name)["_folder"])
        merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
        merged.set_attn_implementation("sdpa")
        merged.save_pretrained(Path(folder) / "merged")
        tokenizer.save_pretrained(Path(folder) / "merged")
        del base, merged
        peers = {"ours, adapter apart": (client, name)}
        stream(client, name, task.prompts()[0])
        processes = []
        for label, options in {PEER: (), f"{PEER}, continuous batching": ("--continuous-batching",)}.items():
            try:
                peer, process = transformers_serve(Path(folder) / "merged", *options)
                stream(peer, str(Path(folder) / "merged"), task.prompts()[0])
                peers[label] = peer, str(Path(folder) / "merged")
                processes.append(process)
            except Exception as error:
                print(f"{label}: not measured ({type(error).__name__}: {error})", flush=True)
        results = {label: {n: [] for n in STREAMS} for label in peers}
        for round_ in range(ROUNDS):
            for streams in STREAMS:
                prompts = task.prompts()[round_ * 16 : round_ * 16 + max(2, streams)]
                for label, (peer, model) in list(peers.items())[:: 1 if round_ % 2 else -1]:
                    measured = load(peer, model, prompts, streams)
                    results[label][streams].append(measured)
                    print(round_, streams, label, {k: round(v, 2) for k, v in measured.items()}, flush=True)
        for process in processes:
            process.kill()
    summary = {}
    for label, by_streams in results.items():
        summary[label] = {
            str(n): {
                key: [statistics.median(r[key] for r in rounds), min(r[key] for r in rounds), max(r[key] for r in rounds)]
                for key in rounds[0]
            }
            for n, rounds in by_streams.items()
        }
    file = write_results("serving", {"rounds": ROUNDS, "median_min_max": summary})
    for key, title, unit in (
        ("tokens_per_second", "Tokens per second, all streams together", "tokens/s"),
        ("first_token", "Time to the first token", "seconds"),
    ):
        lines = {label: (list(STREAMS), [measured[str(n)][key][0] for n in STREAMS]) for label, measured in summary.items()}
        charts.lines(lines, title, "streams at once", unit).save(picture(f"{file.stem}-{key}"))


# -- adapters -----------------------------------------------------------------------------------------------------------


def adapters() -> None:
    """A decoding step of several rows with four adapters among them: ours against PEFT's mixed batch."""
    from course_utils.openai_server.adapters import Adapters
    from course_utils.openai_server.engine import KeyValueCache
    from course_utils.scoring import cache_name

    import torch
    from peft import LoraConfig, get_peft_model

    names = ["a0", "a1", "a2", "a3"]
    with tempfile.TemporaryDirectory() as folder:
        base, _ = models.load(tier="cpu")
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        mixed = get_peft_model(base, config, adapter_name="a0", autocast_adapter_dtype=False)
        for name in names[1:]:
            mixed.add_adapter(name, config)
        mixed.to(base.dtype).eval()
        mixed.save_pretrained(folder)
        ours, _ = models.load(tier="cpu")
        slots = Adapters(ours)
        for name in names:
            slots.load(name, Path(folder) / name)

        def step(model, rows: int, **arguments):
            cache, positions = KeyValueCache(ours), torch.full((rows,), 96)
            visible = cache.open(positions)[:, None, None]
            mask = torch.zeros(visible.shape, dtype=ours.dtype).masked_fill_(~visible, torch.finfo(ours.dtype).min)
            inputs = {"input_ids": torch.ones(rows, 1, dtype=torch.long), "position_ids": positions[:, None]}
            inputs |= {"attention_mask": mask, cache_name(ours): cache, "use_cache": True, **arguments}

            def run():
                started = time.perf_counter()
                with torch.inference_mode():
                    model(**inputs)
                return time.perf_counter() - started

            return run

        results = {}
        for rows in (1, 4, 16):
            row_adapters = [names[i % 4] for i in range(rows)]
            slots.use(row_adapters)
            implementations = {"ours": step(ours, rows), "PEFT": step(mixed, rows, adapter_names=row_adapters)}
            for run in implementations.values():
                run()
            times = {implementation: [] for implementation in implementations}
            for _ in range(25):
                for implementation, run in implementations.items():
                    times[implementation].append(1000 * run())
            results[rows] = {
                implementation: statistics.median(milliseconds) for implementation, milliseconds in times.items()
            }
            print(rows, results[rows], flush=True)
    write_results("adapters", {"milliseconds_a_step": results, "product_share_of_linear": products()})


def products() -> dict:
    """Time of `Product` relative to `torch.nn.functional.linear`, over all linear layers of the CPU model, in turns."""
    from course_utils.openai_server.adapters import Product

    import torch

    base, _ = models.load(tier="cpu")
    layers = [m for name, m in base.named_modules() if isinstance(m, torch.nn.Linear) and not name.endswith("lm_head")]
    shares: dict = {}
    for dtype in (torch.float32, torch.bfloat16):
        weights = [layer.weight.detach().to(dtype) for layer in layers]
        implementations = {"linear": [lambda x, w=w: torch.nn.functional.linear(x, w) for w in weights]}
        implementations["product"] = [Product(w) for w in weights]
        for rows in (1, 4, 16):
            inputs = [torch.randn(rows, w.shape[1], dtype=dtype) for w in weights]
            times: dict[str, list[float]] = {implementation: [] for implementation in implementations}
            with torch.inference_mode():
                for _ in range(20):
                    for implementation, calls in implementations.items():
                        started = time.perf_counter()
                        for call, x in zip(calls, inputs):
                            call(x)
                        times[implementation].append(time.perf_counter() - started)
            share = statistics.median(times["product"]) / statistics.median(times["linear"])
            shares.setdefault(str(dtype).removeprefix("torch."), {})[rows] = share
            print(dtype, rows, f"{100 * share:.0f} %", flush=True)
    return shares


# -- lifecycle ----------------------------------------------------------------------------------------------------------


def lifecycle() -> None:
    """The job of the lesson's claim with three seeds, and memory with three and four models in use."""
    import psutil

    task, rows = load_task("support_tickets"), []
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder, local_server(folder) as server:
            client = server.client(timeout=300)
            job, seconds = train(client, task, seed)
            base = client.models.list().data[0].id
            steps = [c.fine_tuned_model_checkpoint for c in client.fine_tuning.jobs.checkpoints.list(job.id)][::-1]
            valid = {}
            for label, model in (("base", base), ("checkpoint 1", steps[0]), ("last", job.fine_tuned_model)):
                scores = task.evaluate(answers(client, model, task.prompts()))
                valid[label] = {name: [s.value, s.low, s.high] for name, s in scores.rows()}
            one = psutil.Process(server.process.pid).memory_info().rss
            answers(client, steps[1], task.prompts()[:16])
            four = psutil.Process(server.process.pid).memory_info().rss
            rows.append({"seed": seed, "seconds": seconds, "scores": valid, "bytes_3_models": one, "bytes_4_models": four})
            print(
                seed,
                f"{seconds:.0f} s",
                {k: v["valid format"][0] for k, v in valid.items()},
                rows[-1]["bytes_4_models"],
                flush=True,
            )
    write_results("service-lifecycle", {"runs": rows})


def kills(number: int = 20) -> None:
    """Rounds of `tests/openai_server/power_cuts.py` with a model of two layers."""
    import torch
    import transformers
    from openai_server import power_cuts
    from support import tiny_llama

    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny"
        tiny_llama(max_position_embeddings=2048).save_pretrained(tiny)
        models.load_tokenizer(tier="cpu").save_pretrained(tiny)
        rows = []
        for moment, victim, seed in power_cuts.rounds(number):
            rows.append(power_cuts.one_round(Path(folder) / f"round-{seed}", str(tiny), moment, victim, 100 + seed))
            print(rows[-1], flush=True)
    write_results("service-kills", {"rounds": rows, "kept_all": sum(not row["broken"] for row in rows), "of": len(rows)})


if __name__ == "__main__":
    modes = {"serving": serving, "adapters": adapters, "lifecycle": lifecycle, "kills": kills}
    for mode in sys.argv[1:] or modes:
        modes[mode]()
