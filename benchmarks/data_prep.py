"""How fast is data preparation, how does it scale, and how does it compare with other tools?

    python benchmarks/data_prep.py [--rows 100000] [--short]

100,000 chat rows of 2 kB each (200 MB): validate, deduplicate and redact, in two processes, with the peak memory of all of
them. Peers on a sample, in turns: datasketch for near-duplicates, Presidio's own engine for personal data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import re
import statistics
import tempfile
import time
from pathlib import Path

from common import picture, write_results
from course_utils import charts
from course_utils.data_prep import deduplicate, formats, reading, truth, validation
from course_utils.data_prep.pii import Redactor
from course_utils.data_prep.similarity import in_processes
from course_utils.memory import ProcessesPeak

WORKERS = 2


def rows(n: int, seed: int = 0) -> list[str]:
    """JSON lines of about 2 kB, made from messages of the export; a fifth of the rows are near-copies of others."""
    rng = random.Random(seed)
    export = truth.load_raw_export()
    texts = [formats.prompt_of(row) for row in export.rows().values()]
    words = [word for text in texts for word in text.split() if word.isalpha()]
    messages: list[list[str]] = []
    for _ in range(n):
        if messages and rng.random() < 0.2:
            parts = list(rng.choice(messages))
            parts[rng.randrange(len(parts))] += " " + rng.choice(words)
        else:
            # Sentences from real messages, and enough random words that two rows are not similar by chance.
            parts = [rng.choice(texts) for _ in range(3)] + [" ".join(rng.choices(words, k=230))]
        messages.append(parts)
    lines = []
    for number, parts in enumerate(messages):
        user = {"role": "user", "name": f"c-{number % (n // 2 + 1)}", "content": "\n".join(parts)}
        answer = {"role": "assistant", "content": '{"category": "delivery", "escalation": "none"}'}
        lines.append(json.dumps({"messages": [user, answer]}, ensure_ascii=False))
    return lines


def write_rows(path: Path, n: int) -> None:
    """Write the rows to a file."""
    path.write_text("\n".join(rows(n)) + "\n", encoding="utf-8")


def measure(path: Path, workers: int) -> dict:
    """Seconds of each step on a file, and peak memory."""
    seconds = {}
    with ProcessesPeak() as peak:
        started = time.perf_counter()
        valid = [row.value for row, findings in validation.check(reading.read(path), "chat") if not findings]
        seconds["validate"] = time.perf_counter() - started
        started = time.perf_counter()
        result = deduplicate(valid, workers=workers)
        kept_rows = [valid[i] for i in result.kept]
        seconds["deduplicate"] = time.perf_counter() - started
        del valid
        redactor = Redactor()
        started = time.perf_counter()
        for index, redacted in enumerate(in_processes(redactor.row, kept_rows, workers, 64)):
            kept_rows[index] = redacted.row
        seconds["redact"] = time.perf_counter() - started
    return {"seconds": seconds, "kept": len(kept_rows), "peak_mb": peak.bytes / 1e6}


def datasketch_pairs(texts: list[str]) -> set:
    """Near-duplicate candidates from datasketch's MinHash LSH on the same words and word pairs."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.6, num_perm=128)
    pairs = set()
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.casefold())
        sketch = MinHash(num_perm=128)
        sketch.update_batch([w.encode() for w in words] + [f"{a} {b}".encode() for a, b in itertools.pairwise(words)])
        pairs |= {(other, number) for other in index.query(sketch)}
        index.insert(number, sketch)
    return pairs


def presidio_engine():
    """Presidio with its own recognisers; its spaCy model is not on the package index, so it does not look for names."""
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        def __init__(self):
            super().__init__()
            self.nlp = {"en": spacy.blank("en")}

        def load(self):
            """Do nothing: the model is loaded already."""

    engine = AnalyzerEngine(nlp_engine=Blank(), supported_languages=["en"])
    return lambda text: engine.analyze(text, "en")


def peers(lines: list[str], rounds: int) -> dict:
    """Rows per second, for us and for peers in turns, in one process."""
    texts = [formats.prompt_of(json.loads(line)) for line in lines]
    chat = [json.loads(line) for line in lines]
    engine, redactor = presidio_engine(), Redactor()
    redactor.text(texts[0])
    engine(texts[0])
    sample = texts[:100]
    runs = {
        "near-duplicates, ours": (len(texts), lambda: deduplicate(chat, method="minhash")),
        "near-duplicates, datasketch": (len(texts), lambda: datasketch_pairs(texts)),
        "personal data, ours": (len(sample), lambda: [redactor.text(text) for text in sample]),
        "personal data, Presidio without names": (len(sample), lambda: [engine(text) for text in sample]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (_, run) in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: {"rows": n, "rows_a_second": n / statistics.median(seconds[name])} for name, (n, _) in runs.items()}


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--short", action="store_true", help="no peers")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    # Written by a process of its own, whose memory is not part of the measurement.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(write_rows, (folder / "all.jsonl", options.rows))
    results: dict = {"workers": WORKERS, "sizes": {}}
    sizes = [size for size in (options.rows // 8, options.rows // 4, options.rows // 2, options.rows) if size]
    for size in sizes:
        path = folder / f"{size}.jsonl"
        with (folder / "all.jsonl").open(encoding="utf-8") as whole:
            path.write_text("".join(itertools.islice(whole, size)), encoding="utf-8")
        results["sizes"][size] = {"megabytes": path.stat().st_size / 1e6, **measure(path, WORKERS)}
        print(size, results["sizes"][size], flush=True)
    if not options.short:
        with (folder / "all.jsonl").open(encoding="utf-8") as whole:
            results["peers"] = peers(list(itertools.islice(whole, 2000)), rounds=3)
        print(json.dumps(results["peers"], indent=1))
    file = write_results("data-prep", results)
    curves = {
        step: (sizes, [results["sizes"][size]["seconds"][step] for size in sizes])
        for step in ("validate", "deduplicate", "redact")
    }
    charts.lines(curves, "Data preparation on two cores", "rows of 2 kB", "seconds").save(picture(file.stem))


if __name__ == "__main__":
    main()
