"""How fast is data preparation, how does it grow, and beside whom?

    python benchmarks/data_prep.py [--rows 100000] [--short]

100,000 chat rows of 2 kB each (200 MB): validate, deduplicate, redact, on two processes, with peak memory of all of them.
Peers on a sample, in turns: datatrove's MinHash and datasketch for near-duplicates, Presidio's own engine for personal data.
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

from common import RECORDS, write_record
from course_utils import figures
from course_utils.data_prep import deduplicate, formats, reading, truth, validation
from course_utils.data_prep.pii import Redactor
from course_utils.data_prep.similarity import in_processes
from course_utils.memory import ProcessesPeak

WORKERS = 2


def rows(n: int, seed: int = 0) -> list[str]:
    """JSON lines of about 2 kB: messages of the export one after another, a fifth of the rows near-copies of others."""
    rng = random.Random(seed)
    export = truth.load_raw_export()
    texts = [formats.prompt_of(row) for row in export.rows().values()]
    words = [word for text in texts for word in text.split() if word.isalpha()]
    made: list[list[str]] = []
    for _ in range(n):
        if made and rng.random() < 0.2:
            parts = list(rng.choice(made))
            parts[rng.randrange(len(parts))] += " " + rng.choice(words)
        else:
            # Sentences of real messages, and enough random words that two rows are not alike by chance.
            parts = [rng.choice(texts) for _ in range(3)] + [" ".join(rng.choices(words, k=230))]
        made.append(parts)
    lines = []
    for number, parts in enumerate(made):
        user = {"role": "user", "name": f"c-{number % (n // 2 + 1)}", "content": "\n".join(parts)}
        answer = {"role": "assistant", "content": '{"category": "delivery", "escalation": "none"}'}
        lines.append(json.dumps({"messages": [user, answer]}, ensure_ascii=False))
    return lines


def write_rows(path: Path, n: int) -> None:
    """The rows, into a file."""
    path.write_text("\n".join(rows(n)) + "\n", encoding="utf-8")


def measure(path: Path, workers: int) -> dict:
    """Seconds of each step on a file, and the peak."""
    found = {}
    with ProcessesPeak() as peak:
        began = time.perf_counter()
        valid = [row.value for row, findings in validation.check(reading.read(path), "chat") if not findings]
        found["validate"] = time.perf_counter() - began
        began = time.perf_counter()
        result = deduplicate(valid, workers=workers)
        kept = [valid[i] for i in result.kept]
        found["deduplicate"] = time.perf_counter() - began
        del valid
        redactor = Redactor()
        began = time.perf_counter()
        for index, redacted in enumerate(in_processes(redactor.row, kept, workers, 64)):
            kept[index] = redacted.row
        found["redact"] = time.perf_counter() - began
    return {"seconds": found, "kept": len(kept), "peak_mb": peak.bytes / 1e6}


def datasketch_pairs(texts: list[str]) -> set:
    """Near-duplicate candidates by datasketch's MinHash LSH on the same words and pairs of words."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.6, num_perm=128)
    found = set()
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.casefold())
        sketch = MinHash(num_perm=128)
        sketch.update_batch([w.encode() for w in words] + [f"{a} {b}".encode() for a, b in itertools.pairwise(words)])
        found |= {(other, number) for other in index.query(sketch)}
        index.insert(number, sketch)
    return found


def presidio_engine():
    """Presidio with its own recognisers; its spaCy model is not on the package index, so it looks for no names."""
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        def __init__(self):
            super().__init__()
            self.nlp = {"en": spacy.blank("en")}

        def load(self):
            """Loaded already."""

    engine = AnalyzerEngine(nlp_engine=Blank(), supported_languages=["en"])
    return lambda text: engine.analyze(text, "en")


def peers(lines: list[str], rounds: int) -> dict:
    """Rows a second, ours and theirs in turns, in one process."""
    texts = [formats.prompt_of(json.loads(line)) for line in lines]
    chat = [json.loads(line) for line in lines]
    engine, redactor = presidio_engine(), Redactor()
    redactor.text(texts[0])
    engine(texts[0])
    few = texts[:100]
    runs = {
        "near-duplicates, ours": (len(texts), lambda: deduplicate(chat, method="minhash")),
        "near-duplicates, datasketch": (len(texts), lambda: datasketch_pairs(texts)),
        "personal data, ours": (len(few), lambda: [redactor.text(text) for text in few]),
        "personal data, Presidio without names": (len(few), lambda: [engine(text) for text in few]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (_, run) in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: {"rows": n, "rows_a_second": n / statistics.median(seconds[name])} for name, (n, _) in runs.items()}


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--short", action="store_true", help="no peers")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    # Made in a process of its own: what made them is no part of the measurement.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(write_rows, (folder / "all.jsonl", options.rows))
    found: dict = {"workers": WORKERS, "sizes": {}}
    sizes = [size for size in (options.rows // 8, options.rows // 4, options.rows // 2, options.rows) if size]
    for size in sizes:
        path = folder / f"{size}.jsonl"
        with (folder / "all.jsonl").open(encoding="utf-8") as whole:
            path.write_text("".join(itertools.islice(whole, size)), encoding="utf-8")
        found["sizes"][size] = {"megabytes": path.stat().st_size / 1e6, **measure(path, WORKERS)}
        print(size, found["sizes"][size], flush=True)
    if not options.short:
        with (folder / "all.jsonl").open(encoding="utf-8") as whole:
            found["peers"] = peers(list(itertools.islice(whole, 2000)), rounds=3)
        print(json.dumps(found["peers"], indent=1))
    file = write_record("data-prep", found)
    curves = {
        step: (sizes, [found["sizes"][size]["seconds"][step] for size in sizes])
        for step in ("validate", "deduplicate", "redact")
    }
    figures.lines(curves, "Data preparation on two cores", "rows of 2 kB", "seconds").save(str(RECORDS / f"{file.stem}.png"))


if __name__ == "__main__":
    main()
