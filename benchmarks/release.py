"""One record of everything that is measured, beside the one before it.

    python benchmarks/release.py                 gather the newest records into release-DATE.json
    python benchmarks/release.py --write         write docs/measured.md, docs/claims.md and the lessons' table of README.md
    python benchmarks/release.py make-test       run `make test` and record how long each of its parts takes

Nothing is measured here but `make test`: each figure is read from the newest dated record of its benchmark, and keeps that
record's day and machine. What a record cannot say of itself (which of its numbers is the one that matters) is in `FIGURES`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RECORDS, write_results
from course_utils import evidence, lessons, memory
from course_utils.evidence import lesson_01
from course_utils.evidence.lesson_04 import with_todays_names
from course_utils.files import write_whole
from course_utils.publishing import builder

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- lessons: begin -->", "<!-- lessons: end -->"


@dataclass(frozen=True)
class Figure:
    """A number of a record that is worth a line.

    Attributes:
        area: the heading under which it is listed.
        name: what it says, with its unit.
        record: name of the benchmark whose dated record has it, or of the lesson whose stored notebook has.
        read: the record → a number, (middle, lowest, highest), or a text.
    """

    area: str
    name: str
    record: str
    read: Callable[[dict[str, Any]], Any]


def over_seeds(shares: list[float]) -> tuple[float, float, float]:
    """Percent: mean over the seeds, lowest, highest."""
    percents = [100 * share for share in shares]
    return statistics.mean(percents), min(percents), max(percents)


def usable(way: str) -> Callable[[dict[str, Any]], Any]:
    """Of lesson 01's ways to ask, the small model: percent of answers with the right fact and the right record."""

    def read(_record: dict[str, Any]) -> Any:
        return over_seeds([statistics.mean(row) for row in lesson_01.right("135M", way)])

    return read


def field(run: str, what: str) -> Callable[[dict[str, Any]], Any]:
    """Of runs named "RUN | SEED": percent of a score."""

    def read(record: dict[str, Any]) -> Any:
        return over_seeds([row["scores"][what][0] for name, row in record["runs"].items() if name.startswith(f"{run} |")])

    return read


def loss(run: str) -> Callable[[dict[str, Any]], Any]:
    """Of runs named "RUN | SEED": validation loss, mean, lowest, highest."""

    def read(record: dict[str, Any]) -> Any:
        losses = [row["validation_loss"] for name, row in record["runs"].items() if name.startswith(f"{run} |")]
        return statistics.mean(losses), min(losses), max(losses)

    return read


def preferred(method: str, measure: str) -> Callable[[dict[str, Any]], Any]:
    """Of lesson 04's methods: percent of answers or pairs, over the seeds."""

    def read(record: dict[str, Any]) -> Any:
        runs = [with_todays_names(with_todays_names(run["methods"])[method]) for run in record["runs"]]
        return over_seeds([statistics.mean(run[measure]) for run in runs])

    return read


def hosted(model: str, what: str) -> Callable[[dict[str, Any]], Any]:
    """Of lesson 06's recorded jobs: percent of answers, over the seeds."""
    return lambda record: over_seeds([run["scores"][model][what][0] for run in record["runs"]])


def repaired(rows: str) -> Callable[[dict[str, Any]], Any]:
    """Of lesson 05's runs on rows with wrong labels: percent of right categories, over the seeds."""
    what = "category"
    return lambda record: over_seeds([run["scores"][what][0] for run in record["runs"][rows]])


def prepared(rows: str) -> Callable[[dict[str, Any]], Any]:
    """Of lesson 05's runs on kinds of rows: percent of answers with both fields right, over the seeds."""
    what = "both"
    return lambda record: over_seeds([run["test"][what][0] for run in record["runs"][rows]])


def faster(record: dict[str, Any], rival: str = "TRL as installed") -> Any:
    """How many times as long the rival takes: median of the rounds, lowest, highest."""
    low, middle, high = record["table"][rival]["times_ours"]
    return middle, low, high


def figures() -> Iterator[Figure]:
    """Everything that the release records, in the order of the table."""
    for lesson in lessons.LESSONS.values():
        name = lesson.name
        yield Figure("lessons, Run all on a CPU", f"{name}, seconds", name, lambda r: r["seconds"])
        yield Figure("lessons, Run all on a CPU", f"{name}, GB at the peak", name, lambda r: r["peak_mb"] / 1000)
    area = "`make test`"
    yield Figure(area, "minutes, with installation", "make-test", lambda r: r["seconds"] / 60)
    yield Figure(area, "tests passed", "make-test", lambda r: r["passed"])
    area = "training beside TRL"
    # Apart, because products are faster in 16 bits, and then everything else counts for more.
    for kind, dtype in itertools.product(("sft", "dpo"), ("bfloat16", "float32")):
        name, words = f"speed-{kind}-{dtype}", f"{kind.upper()} in {dtype}"
        yield Figure(area, f"{words}, TRL as installed, times ours", name, faster)
        yield Figure(area, f"{words}, TRL at its best, times ours", name, lambda r: faster(r, "TRL at its best"))
        yield Figure(
            area, f"{words}, ours, % of the matrix products' peak", name, lambda r: 100 * r["table"]["ours"]["share_of_peak"]
        )
        yield Figure(area, f"{words}, ours, memory added, MB", name, lambda r: r["table"]["ours"]["peak_mb"])
    area = "estimating memory, % off"
    for way in ("formula", "trace", "accelerate", "fitcheck-llm"):
        yield Figure(
            area,
            f"{way}, worst row",
            "estimates",
            lambda r, way=way: r["summary"]["all"][way]["worst"],
        )
    area = "preparing data"
    yield Figure(area, "100,000 rows, seconds", "data-prep", lambda r: sum(r["sizes"]["100000"]["seconds"].values()))
    yield Figure(area, "100,000 rows, GB at the peak", "data-prep", lambda r: r["sizes"]["100000"]["peak_mb"] / 1000)
    area = "grading"
    # Not in the README until it is measured with today's challenges, which really train.
    yield Figure(area, "whole courses a minute", "grading", lambda r: r["submissions a minute"]["all"])
    yield Figure(area, "nbgrader's time, times ours", "grading", lambda r: r["nbgrader over ours"])
    area = "serving, tokens a second"
    for many in ("1", "4", "16"):
        yield Figure(
            area, f"{many} at once, ours", "serving",
            lambda r, many=many: r["median_min_max"]["ours, adapter apart"][many]["tokens_per_second"][0],
        )  # fmt: skip
    yield Figure(
        area, "16 at once, transformers' continuous batching", "serving",
        lambda r: r["median_min_max"]["transformers serve, continuous batching"]["16"]["tokens_per_second"][0],
    )  # fmt: skip
    yield Figure("power cuts", "services that kept all, of 20", "service-kills", lambda r: r["kept_all"])
    yield Figure("power cuts", "training runs with the same bytes, of 4", "kills", lambda r: r["same_bytes"])
    area = "lesson 01, usable answers, %"
    for way in lesson_01.WAYS:
        yield Figure(area, way, "framework", usable(way))
    area = "lesson 02"
    yield Figure(
        area, "540 examples, category right, %", "lora-seeds",
        lambda r: over_seeds([run["scores"]["category: exact match"][0] for run in r["runs"]]),
    )  # fmt: skip
    for run in ("LoRA", "rank 1", "full, rate 0.0001"):
        yield Figure(area, f"120 examples, validation loss, {run}", "lora-sweep", loss(run))
    yield Figure("lesson 03", "120 examples, validation loss, QLoRA", "qlora-seeds", loss("QLoRA"))
    area = "lesson 04, %"
    for method in ("SFT on chosen", "DPO", "DPO + SFT"):
        for measure in ("step first", "right step", "all five"):
            yield Figure(area, f"{method}: {measure}", "preferences", preferred(method, measure))
    area = "lesson 05, %"
    for rows in ("raw", "cleaned"):
        yield Figure(area, f"both fields right, trained on rows {rows}", "data-quality", prepared(rows))
    for rows in ("forty wrong | as they are", "forty wrong | first 60 suspects read"):
        yield Figure(area, f"categories right, {rows}", "label-noise", repaired(rows))
    area = "lesson 06, both fields right, %"
    for model in ("base, told and 8 examples", "tuned, not told", "distilled from its answers"):
        yield Figure(area, model, "hosted", hosted(model, "both"))


def newest(name: str, before: str = "9999") -> tuple[dict[str, Any], str] | None:
    """The newest record of a benchmark, or of a lesson's run, measured before a day; and that day."""
    if name in lessons.NAMES:  # the stored notebook has its own record, and no older one
        run = builder.recorded_run(name)
        return (run, run["date"]) if before == "9999" and "date" in run else None
    dated = re.compile(rf"{re.escape(name)}-(\d{{4}}-\d\d-\d\d)\.json")
    days = sorted(match[1] for match in map(dated.fullmatch, (f.name for f in RECORDS.iterdir())) if match)
    days = [day for day in days if day < before]
    return (json.loads((RECORDS / f"{name}-{days[-1]}.json").read_text(encoding="utf-8")), days[-1]) if days else None


def gather() -> dict[str, Any]:
    """All figures with their days and machines; those whose record is older or missing have None."""
    rows = []
    for figure in figures():
        found = newest(figure.record)
        row: dict[str, Any] = {"area": figure.area, "figure": figure.name, "record": figure.record}
        try:
            assert found is not None
            record, day = found
            machine = ", ".join(record[key] for key in ("machine", "dtype") if key in record)
            value = figure.read(record)
            row |= {"value": list(value) if isinstance(value, tuple) else value, "date": day, "machine": machine}
        except (AssertionError, KeyError, IndexError):
            row |= {"value": None}
        if found is not None and (older := newest(figure.record, found[1])) is not None:
            try:
                value = figure.read(older[0])
                row["before"] = {"value": list(value) if isinstance(value, tuple) else value, "date": older[1]}
            except (KeyError, IndexError):  # an older record of another form
                pass
        rows.append(row)
    return {"figures": rows}


def written(value: Any) -> str:
    """A number as the table has it: three digits, and lowest to highest in brackets."""
    if value is None:
        return "–"
    if isinstance(value, list):
        middle, low, high = map(written, value)
        return f"{middle} ({low} to {high})" if low != high else middle
    if isinstance(value, str):
        return value
    number = float(value)
    digits = 0 if abs(number) >= 100 or number == int(number) else 1 if abs(number) >= 10 else 2
    return f"{number:,.{digits}f}"


def release_records() -> list[Path]:
    """Release records, oldest first."""
    return sorted(RECORDS.glob("release-*.json"))


def table() -> str:
    """The newest release record beside the one before, or where that has no such figure, beside the benchmark's own."""
    *older, last = [json.loads(file.read_text(encoding="utf-8")) for file in release_records()]
    known = {(row["area"], row["figure"]): row for row in (older[-1]["figures"] if older else ())}
    lines = ["| figure | now | measured | before | measured |", "| --- | --- | --- | --- | --- |"]
    area = ""
    for row in last["figures"]:
        if row["area"] != area:
            area = row["area"]
            lines.append(f"| **{area}** | | | | |")
        before = known.get((row["area"], row["figure"]), row.get("before") or {})
        now = (written(row["value"]), row.get("date", ""))
        then = (written(before.get("value")), before.get("date", ""))
        lines.append(f"| {row['figure']} | {' | '.join(now)} | {' | '.join(then)} |")
    return "\n".join(lines)


def measured_page() -> str:
    """docs/measured.md."""
    newest_release = release_records()[-1].stem.removeprefix("release-")
    head = (
        "# Measured\n\nWhat the course measures of itself. Each figure has the day of its record in `benchmarks/records/`;\n"
        "the record names the machine. Brackets hold the lowest and the highest of several seeds or rounds. Written\n"
        f"by `make readme` from the release record of {newest_release}."
    )
    return f"{head}\n\n{table()}\n"


def gains() -> dict[str, str]:
    """Lesson's number → what the learner's model gains in it, from the newest records."""
    read = {
        name: newest(name)[0]
        for name in ("framework", "data-quality", "laptop-tickets", "laptop-service", "laptop-house-style")
    }

    def right(record: str, way: str, measure: str) -> float:
        """Mean over the seeds of the 0.5B in percent."""
        runs = read[record]["runs"]
        named = [runs[name]["right"][measure] for seed in range(3) if (name := f"{way} | {seed}") in runs]
        return 100 * statistics.mean(map(statistics.mean, named))

    shown, eighty, all_tickets = (
        right("laptop-tickets", f"0.5B | {way}", "all fields")
        for way in ("rules + 8 of 80 retrieved", "LoRA, 80", "LoRA, 540")
    )
    told, tuned = (
        right("laptop-service", f"0.5B | {way}", "all fields") for way in ("told and 8 retrieved, form forced", "tuned")
    )
    prompted, together = (usable(s)(read["framework"])[0] for s in ("a passage and past answers", "fine-tuned, a passage"))
    house = read["laptop-house-style"]["runs"]
    start, imitated, with_pairs = (
        100 * statistics.mean(statistics.mean(house[f"seed {seed} | {name}"]["right"]["all rules"]) for seed in range(3))
        for name in ("start", "SFT", "DPO + SFT")
    )
    raw, cleaned = (prepared(rows)(read["data-quality"])[0] for rows in ("raw", "cleaned"))
    step = {"length": 1024, "accumulation": 8, "checkpointing": True}
    lora = memory.estimate("Llama-3.1-8B", "lora", **step).total / 1e9
    qlora = memory.estimate("Llama-3.1-8B", "qlora", embeddings="float32", **step).total / 1e9
    return {
        "01": f"usable answers: {prompted:.0f} % with a prompt and retrieval, {together:.0f} % with training and retrieval",
        "02": f"records wholly right, on 0.5 billion parameters: {shown:.0f} % with 80 solved tickets to pick from "
        f"in the prompt, {eighty:.0f} % trained on them, {all_tickets:.0f} % on 540",
        "03": f"memory to train an 8B model: {lora:.1f} → {qlora:.1f} GB",
        "04": f"replies that keep all five rules, on 0.5 billion parameters: {start:.0f} % → {imitated:.0f} % by imitating "
        f"the better ones, {with_pairs:.0f} % with pairs",
        "05": f"both fields right: {raw:.0f} % trained on the raw export, {cleaned:.0f} % on the prepared one",
        "06": f"both fields right, on 0.5 billion parameters: {told:.0f} % with eight examples in the prompt, "
        f"{tuned:.0f} % after a job",
    }


def lessons_table() -> str:
    """What README.md shows between its two marks; with links to Colab once the course has an address."""
    lines = ["| lesson | what you do | what your model gains | Run All, minutes |", "| --- | --- | --- | --- |"]
    for number, gain in gains().items():
        lesson = lessons.LESSONS[number]
        colab = f" ([Colab]({builder.colab_url(lesson.name)}))" if builder.is_published() else ""
        minutes = max(1, builder.recorded_run(lesson.name)["seconds"] / 60)
        link = f"[{number} {lesson.title}](notebooks/{lesson.name}.ipynb){colab}"
        lines.append(f"| {link} | {lesson.promise} | {gain} | {minutes:.0f} |")
    return "\n".join(lines)


def write_pages() -> None:
    """Put the newest figures into README.md and docs/measured.md, and the claims into docs/claims.md."""
    readme = ROOT / "README.md"
    start, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    write_whole(readme, f"{start}{BEGIN}\n{lessons_table()}\n{END}{rest.split(END)[1]}".encode())
    write_whole(ROOT / "docs" / "measured.md", measured_page().encode())
    write_whole(ROOT / "docs" / "claims.md", evidence.claims_page().encode())


def make_test() -> None:
    """Run `make test` and record its wall time and what passed; fails if a test does."""
    started = time.perf_counter()
    run = subprocess.run(["make", "test"], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    print(run.stdout[-3000:], run.stderr[-3000:], sep="\n")
    run.check_returncode()
    passed = sum(int(number) for number in re.findall(r"(\d+) passed", run.stdout))
    write_results("make-test", {"seconds": seconds, "passed": passed})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["make-test"])
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    if chosen.what:
        make_test()
    elif chosen.write:
        write_pages()
    else:
        write_results("release", gather())
