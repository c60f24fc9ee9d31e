"""The same steps for corpora that are too large for one machine, as three datatrove pipelines: read, choose, write.

datatrove provides the executors: `LocalPipelineExecutor` on one machine (tests/data_prep/test_scale.py shows it), and
`SlurmPipelineExecutor` and `RayPipelineExecutor` elsewhere, with `depends` between the stages. Every task except the one
that chooses works on its own files. Tasks pass data to each other in the folder `work`, which all of them must be able to
read.

1. Read (many tasks): valid and fixed rows go to `rows/`, the others to `rejects/`; for each row, a MinHash signature and
   four keys, about 550 bytes, go to `signatures/`.
2. Choose (one task): near-duplicates are found by bands of the signatures, and each pair is verified on its texts; the
   numbers of the rows to keep go to `kept/`.
3. Write (many tasks): the rows to keep, without personal data.

Quality rules look at all answers together, so they should be run on a sample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from course_utils.data_prep import formats, reading
from course_utils.data_prep.deduplication import choose, comparable, digest, first_of_each, surroundings
from course_utils.data_prep.pii import Redactor
from course_utils.data_prep.pipeline import Preparation, read_rows, without_customers, write_lines
from course_utils.data_prep.similarity import PERMUTATIONS, banded, jaccard, shingles, text_signature
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from datatrove.data import Document, DocumentsPipeline


def stages(
    source: str | Path,
    target: str | Path,
    work: str | Path,
    threshold: float = 0.6,
    redaction: str = "label",
    allow: Iterable[str] = (),
    seed: int = 0,
) -> dict[str, list[Callable]]:
    """Return the three pipelines by name, for any of datatrove's executors.

    They are to be run in this order: "read", then "choose" as a single task, then "write".

    Args:
        source: folder with JSONL, JSON, CSV or Parquet files of conversations; each of N tasks reads every N-th file.
        target: folder for the prepared files.
        work: folder in which the stages pass data to each other.
        threshold: Jaccard index from which two prompts may be near-duplicates, as in `deduplicate`.
        redaction, allow, seed: as in `prepare`.

    Raises:
        CourseError: the folder does not exist or has no files that can be read, or the mode is unknown.
    """
    files = [str(file) for file in sorted(Path(source).rglob("*")) if file.suffix.lower() in reading.SUFFIXES]
    if not files:
        raise CourseError(f"{source}: there are no files that end in {', '.join(reading.SUFFIXES)}")
    redactor = Redactor(redaction, seed=seed, allow=allow)
    return {
        "read": [Read(files, str(work))],
        "choose": [Choose(len(files), str(work), threshold)],
        "write": [Write(len(files), str(work), str(target), redactor)],
    }


class _Stage:
    """The interface that datatrove calls: (documents, rank, number of tasks) → documents; here there are none."""

    work: str

    def _name(self, folder: str, number: int, suffix: str) -> Path:
        path = Path(self.work) / folder / f"{number:05d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class Read(_Stage):
    """Stage 1: reads and fixes rows, and computes their signatures."""

    def __init__(self, files: list[str], work: str) -> None:
        self.files, self.work = files, work

    def __call__(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Read this task's files."""
        for number in range(rank, len(self.files), world_size):
            lines, rejects, signatures, keys = [], [], [], []
            for row, fixed, changes in read_rows(self.files[number], Preparation()):
                if fixed is None:
                    reason = {"code": changes[-1].code, "reason": changes[-1].reason}
                    text = row.raw.decode("utf-8", "backslashreplace")
                    rejects.append(formats.dumps({"file": self.files[number], "line": row.line, **reason, "text": text}))
                    continue
                prompt, answer, context = formats.prompt_of(fixed), formats.answer_of(fixed), surroundings(fixed)
                lines.append(formats.dumps(fixed))
                signatures.append(text_signature(prompt))
                exact, normal = _key(prompt, answer, context), _key(comparable(prompt), context)
                keys.append([exact, normal, _key(comparable(answer)), _key(context)])
            write_lines(self._name("rows", number, ".jsonl"), lines)
            write_lines(self._name("rejects", number, ".jsonl"), rejects)
            stacked = np.array(signatures, dtype=np.uint32).reshape(-1, PERMUTATIONS)
            temporary = self._name("signatures", number, ".part.npz")
            np.savez(temporary, signatures=stacked, keys=np.array(keys, dtype=np.uint64).reshape(-1, 4))
            temporary.replace(self._name("signatures", number, ".npz"))
        yield from ()


class Choose(_Stage):
    """Stage 2: chooses the rows to keep.

    It has the signatures of all rows in memory, but only the texts of the pairs that it verifies.
    """

    def __init__(self, files: int, work: str, threshold: float) -> None:
        self.files, self.work, self.threshold = files, work, threshold

    def __call__(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Choose the rows to keep."""
        loaded = [np.load(self._name("signatures", number, ".npz")) for number in range(self.files)]
        sizes = [len(part["keys"]) for part in loaded]
        keys, signatures = (np.concatenate([part[name] for part in loaded]) for name in ("keys", "signatures"))
        exact, normal, answers, around = keys.T.tolist()
        firsts = first_of_each(normal)
        candidates = [(firsts[i], firsts[j]) for i, j in banded(signatures[firsts])]
        candidates = [(i, j) for i, j in candidates if around[i] == around[j]]
        prompts = {normal[index] for pair in candidates for index in pair}
        distinct = first_of_each(list(zip(normal, answers)))
        texts = self._texts({index for index in distinct if normal[index] in prompts}, sizes)
        sets = {index: shingles(texts[index][0]) for index in {index for pair in candidates for index in pair}}
        pairs = [(i, j, similarity) for i, j in candidates if (similarity := jaccard(sets[i], sets[j])) >= self.threshold]
        result = choose(exact, normal, answers, pairs, texts.__getitem__, threshold=self.threshold)
        kept_rows = np.array(result.kept, dtype=np.int64)
        starts = np.cumsum([0, *sizes])
        for number in range(self.files):
            in_file = kept_rows[(kept_rows >= starts[number]) & (kept_rows < starts[number + 1])] - starts[number]
            np.save(self._name("kept", number, ".npy"), in_file)
        yield from ()

    def _texts(self, indices: set[int], sizes: list[int]) -> dict[int, tuple[str, str]]:
        """Prompt and answer of these rows, from the files of stage 1."""
        texts, start = {}, 0
        for number, size in enumerate(sizes):
            if any(start <= index < start + size for index in indices):
                with self._name("rows", number, ".jsonl").open(encoding="utf-8") as file:
                    for number_in_file, line in enumerate(file):
                        if start + number_in_file in indices:
                            row = json.loads(line)
                            texts[start + number_in_file] = formats.prompt_of(row), formats.answer_of(row)
            start += size
        return texts


class Write(_Stage):
    """Stage 3: writes the chosen rows without personal data."""

    def __init__(self, files: int, work: str, target: str, redactor: Redactor) -> None:
        self.files, self.work, self.target, self.redactor = files, work, target, redactor

    def __call__(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write this task's files."""
        Path(self.target).mkdir(parents=True, exist_ok=True)
        for number in range(rank, self.files, world_size):
            kept_rows = set(np.load(self._name("kept", number, ".npy")).tolist())
            with self._name("rows", number, ".jsonl").open(encoding="utf-8") as file:
                rows = (json.loads(line) for index, line in enumerate(file) if index in kept_rows)
                lines = [formats.dumps(without_customers(self.redactor.row(row).row)) for row in rows]
            write_lines(Path(self.target) / f"{number:05d}.jsonl", lines)
        yield from ()


def _key(*texts: str | bytes) -> int:
    """64 bits: among a hundred million rows, the probability that any two different ones have the same key is 0.03 %."""
    return int.from_bytes(digest(*texts, size=8), "big")
