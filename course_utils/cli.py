"""The command `course`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import __version__, assets
from course_utils.errors import CourseError
from course_utils.memory.plan import CHOICES, StepPlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Options of `course estimate`; their types, defaults and choices are those of `memory.StepPlan`.
PLAN_HELP = {
    "method": "what is trained",
    "rank": "rank of the adapter",
    "target_modules": "all-linear, or names separated by commas",
    "batch_size": "sequences (pairs for DPO) per micro-batch on each device",
    "length": "tokens per sequence",
    "accumulation": "micro-batches per optimiser step",
    "precision": "number format; amp is float32 weights and bf16 products",
    "optimizer": "optimiser",
    "attention": "attention kernel",
    "checkpointing": "gradient checkpointing",
    "objective": "training objective",
    "separate_reference": "the reference model of DPO or PPO is a separate copy",
    "processes": "devices that train together",
    "sharding": "what each device holds",
    "loop": "training loop: that of transformers (also used by TRL) or the course's training.fit",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0 on success, 1 if a check found something, 2 if the command failed."""
    parser = argparse.ArgumentParser(prog="course", description="Teaching models new behaviours: the course's tools.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    lab = commands.add_parser("lab", help="open the course in JupyterLab; further options go to jupyter lab")
    lab.set_defaults(run=_lab)

    run = commands.add_parser("run", help="run notebooks from top to bottom and say whether they pass")
    run.add_argument("lessons", nargs="+", metavar="lesson", help="02, 02_lora, a notebook file, or all")
    run.add_argument("--cells", type=int, default=0, metavar="N", help="list the N slowest cells of each")
    run.set_defaults(run=_run)

    build = commands.add_parser("build", help="build the notebooks from their sources (needs a checkout)")
    build.add_argument("lessons", nargs="*", metavar="lesson", help="lessons to build; all if none is named")
    build.add_argument("--check", action="store_true", help="build nothing; exit 1 if a notebook is stale")
    build.set_defaults(run=_build)

    linting = commands.add_parser("lint-lessons", help="how lessons read: words beside code, raw reprs, undefined terms")
    linting.add_argument("lessons", nargs="*", metavar="lesson", help="02 or 02_lora; all if none is named")
    linting.add_argument("--where", action="store_true", help="list every place that a rule found, with cell and line")
    linting.add_argument("--strict", action="store_true", help="exit 1 if a lesson breaks the limits for one that is read")
    linting.add_argument("--json", action="store_true", help="for programs")
    linting.set_defaults(run=_lint_lessons)

    fetch = commands.add_parser("fetch", help="fetch and convert the CPU model; after that no network is needed")
    fetch.set_defaults(run=_fetch)

    estimate = commands.add_parser("estimate", help="will it fit? predict the memory of a training step before it runs")
    estimate.add_argument(
        "--model", required=True, help="a known name, a folder, or owner/model on the hub; its weights are not loaded"
    )
    estimate.add_argument("--gpu", help="say whether it fits on this card, and if not, what to change")
    for name, text in PLAN_HELP.items():
        default = StepPlan.__dataclass_fields__[name].default
        kind: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        choices = f": {' or '.join(CHOICES[name])}" if name in CHOICES else ""
        shown = "" if default is False else f" (default {default})"
        estimate.add_argument(f"--{name.replace('_', '-')}", help=f"{text}{choices}{shown}", **kind)
    estimate.add_argument(
        "--trace", action="store_true", help="compute it exactly by tracing the step; takes seconds to minutes"
    )
    estimate.add_argument("--json", action="store_true", help="for programs")
    estimate.set_defaults(run=_estimate)

    data = commands.add_parser(
        "check-data",
        help="check a training file; with --fix, write a clean one",
        epilog="exit status: 0 if the file is correct or a clean one was written; 1 if the file has errors; 2 if the "
        "command failed; 3 if --fix wrote a clean file with fewer than half of the lines",
    )
    data.add_argument("file", help="JSONL, JSON, CSV or Parquet, optionally compressed (.gz); - for standard input")
    data.add_argument(
        "--kind", help="chat, preference, prompt_completion or unpaired_preference; guessed from the rows if not given"
    )
    data.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="rename a field: --map question=prompt; may be repeated",
    )
    data.add_argument("--target", default="openai", help="openai, or trl for a trainer of your own")
    data.add_argument(
        "--tokenizer",
        help="count tokens with this model's tokenizer: cpu (the course's), a folder, or owner/model on the hub",
    )
    data.add_argument("--max-tokens", type=int, default=65536, help="maximum number of tokens in an example")
    data.add_argument(
        "--fix", metavar="FOLDER", help="write clean train and validation files, rejects, changes and a report to FOLDER"
    )
    data.add_argument(
        "--overwrite", action="store_true", help="with --fix: replace files of an earlier run, but never the input file"
    )
    data.add_argument("--test", metavar="FILE", help="with --fix: drop rows that resemble rows of this file")
    data.add_argument(
        "--production", metavar="FILE", help="with --fix: prompts from production, one per line, or JSONL with `message`"
    )
    data.add_argument("--schema", metavar="FILE", help="with --fix: JSON Schema of the answers")
    data.add_argument(
        "--drop",
        default="",
        metavar="CODES",
        help="with --fix: drop rows that would otherwise only be flagged, such as refusal,language,conflict",
    )
    data.add_argument(
        "--language", default="any", help="with --fix: expected language of all messages and answers, such as en"
    )
    data.add_argument("--redact", default="label", help="with --fix: label, mask, pseudonym or none")
    data.add_argument(
        "--allow", action="append", default=[], metavar="TEXT", help="with --fix: text to keep, such as your own address"
    )
    data.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="with --fix: number of processes")
    data.add_argument("--json", action="store_true", help="for programs")
    data.set_defaults(run=_check_data)

    serve = commands.add_parser("serve", help="run a fine-tuning service for any OpenAI client on this machine")
    serve.add_argument("--folder", default="fine-tuning-service", help="folder for files, jobs, models and its key")
    serve.add_argument(
        "--model", help="base model: a name, a folder, or owner/model on the hub; default: the model of this machine's tier"
    )
    serve.add_argument(
        "--name", action="append", default=[], help="another name for it, such as gpt-4.1-mini, so that code runs unchanged"
    )
    serve.add_argument("--host", default="127.0.0.1", help="this machine only: 127.0.0.1, localhost or ::1")
    serve.add_argument("--port", type=int, default=8399, help="0 for any free one")
    serve.add_argument("--key", help="API key; by default one is created and kept in the folder")
    serve.add_argument("--context", type=int, default=2048, help="maximum tokens of prompt and answer together")
    serve.add_argument("--rows", type=int, default=16, help="answers generated at once")
    serve.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another host name to accept, such as a proxy's"
    )
    serve.add_argument("--refuse", action="store_true", help="refuse jobs as OpenAI refuses them to new organisations")
    serve.add_argument("--raw-results", action="store_true", help="return result files as CSV instead of base64 of the CSV")
    serve.add_argument("--requests-per-minute", type=int, help="answer further requests with error 429")
    serve.add_argument(
        "--token-budget", type=int, help="tokens trained and answered with, after which all requests get error 429"
    )
    serve.set_defaults(run=_serve)

    grade = commands.add_parser("grade", help="grade submissions in a sandbox; a repeated run grades only what has changed")
    grade.add_argument("assignment", help="a section, several separated by commas, or all")
    grade.add_argument("inbox", help="folder with a notebook, or a folder of notebooks, for each learner")
    grade.add_argument("--out", required=True, metavar="FOLDER", help="folder for feedback, results and the class's tables")
    grade.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="submissions to grade at once")
    grade.add_argument("--trust", action="store_true", help="run submissions without a sandbox if none is available")
    grade.add_argument(
        "--seed", type=int, help="seed of the random cases; default: that of earlier results in FOLDER, else a new one"
    )
    grade.add_argument("--roster", metavar="FILE", help="CSV with a header: learners with e-mail addresses and ID numbers")
    grade.add_argument("--canvas", metavar="FILE", help="CSV exported by Canvas, to be filled in")
    grade.add_argument("--column", metavar="TITLE", help="title of the column to fill, if the choice is ambiguous")
    grade.add_argument("--scheduler", metavar="ADDRESS", help="Dask cluster whose workers do the marking: tcp://HOST:8786")
    grade.set_defaults(run=_grade)

    nbgrader = commands.add_parser(
        "nbgrader", help="write the course as nbgrader assignments, or adapt submissions to nbgrader"
    )
    nbgrader.add_argument("assignment", help="a section, several separated by commas, or all")
    nbgrader.add_argument("folder", help="folder of the nbgrader course; created if missing")
    nbgrader.add_argument(
        "--inbox", metavar="FOLDER", help="copy the answers of these submissions into clean notebooks, in submitted/"
    )
    nbgrader.set_defaults(run=_nbgrader)

    packs = commands.add_parser(
        "release", help="write the learners' pack and the instructor's: answers, rubric, slides, hidden cases"
    )
    packs.add_argument("assignment", help="a section, several separated by commas, or all")
    packs.add_argument("--out", required=True, metavar="FOLDER", help="folder for learner/ and instructor/")
    packs.add_argument("--seed", type=int, help="seed of the hidden cases; default: that of an earlier pack, else a new one")
    packs.set_defaults(run=_release)

    doctor = commands.add_parser("doctor", help="what this machine is, what fits, and what to fix")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(run=_doctor)

    options, extra_arguments = parser.parse_known_args(arguments)
    if extra_arguments and options.command != "lab":
        parser.error(f"unknown: {' '.join(extra_arguments)}")
    options.extra_arguments = extra_arguments
    try:
        return options.run(options) or 0
    except CourseError as error:
        print(f"course {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _lab(options: argparse.Namespace) -> int:
    from course_utils import models

    if importlib.util.find_spec("jupyterlab") is None:
        raise CourseError(f"JupyterLab is not installed: pip install '{assets.DISTRIBUTION}[lab]'")
    models.prepare_packaged_model()
    folder = _working_copies()
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command += ["--allow-root"]  # in a container root is often the only user, and Jupyter would refuse to start
    command += options.extra_arguments
    os.execv(sys.executable, command)


def _working_copies() -> Path:
    """Folder of the notebooks to open: those of the checkout, or copies of those in the wheel, made in this folder."""
    notebooks = assets.path("notebooks")
    if (assets.root() / "pyproject.toml").exists():
        return notebooks
    folder = Path.cwd() / "finetuning-course"
    folder.mkdir(exist_ok=True)
    for notebook in notebooks.glob("*.ipynb"):
        if not (folder / notebook.name).exists():  # never over a learner's work
            shutil.copy(notebook, folder)
    return folder


def _run(options: argparse.Namespace) -> int:
    from course_utils import lessons, publishing

    names = lessons.NAMES if options.lessons == ["all"] else options.lessons
    files = [Path(name) if name.endswith(".ipynb") else lessons.learner_file(lessons.find(name).name) for name in names]
    for file in files:
        if not file.exists():
            raise CourseError(f"no such notebook: {file}")
    for file in files:
        publishing.run(file, costliest=options.cells)
    return 0


def _build(options: argparse.Namespace) -> int:
    from course_utils import lessons, publishing

    if importlib.util.find_spec("jupytext") is None:
        raise CourseError(f"building needs jupytext: pip install '{assets.DISTRIBUTION}[lab]'")
    lessons_to_build = options.lessons or list(lessons.LESSONS)
    if options.check:
        stale_lessons = [lesson for lesson in lessons_to_build if publishing.is_stale(lesson)]
        for lesson in stale_lessons:
            print(f"{lesson}: the notebook is older than its source; run `course build {lesson}`")
        return 1 if stale_lessons else 0
    for lesson in lessons_to_build:
        publishing.build(lesson)
    return 0


def _lint_lessons(options: argparse.Namespace) -> int:
    from course_utils import lessons
    from course_utils.publishing.lesson_linter import lint

    reports = [lint(lesson) for lesson in options.lessons or lessons.LESSONS]
    if options.json:
        print(json.dumps([report.as_dict() for report in reports], ensure_ascii=False, allow_nan=False))
    for report in reports if not options.json else ():
        print(report)
        for place in report.places if options.where else ():
            print(f"  {place}")
        for limit in report.broken() if options.strict else ():
            print(f"  limit broken: {limit}")
    return 1 if options.strict and any(report.broken() for report in reports) else 0


def _estimate(options: argparse.Namespace) -> int:
    from course_utils import memory

    plan_options = {name: value for name, value in vars(options).items() if name in memory.StepPlan.__dataclass_fields__}
    if plan_options["target_modules"] != "all-linear":
        plan_options["target_modules"] = tuple(name.strip() for name in plan_options["target_modules"].split(","))
    estimate = memory.estimate(options.model, way="trace" if options.trace else "formula", **plan_options)
    advice = memory.advice(estimate, options.model, options.gpu) if options.gpu else None
    if options.json:
        print(
            json.dumps(
                estimate.as_dict()
                | ({"gpu": options.gpu, "fits": estimate.fits(options.gpu), "advice": advice} if advice else {})
            )
        )
    else:
        print(estimate)
        if advice:
            print(f"  {advice}")
    return 0


def _check_data(options: argparse.Namespace) -> int:
    """Return 0 without errors or if a clean file was written, 1 with errors, 3 if fewer than half of the lines are left."""
    with contextlib.ExitStack() as stack:
        if options.file == "-":
            options.file = _standard_input(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        return _fix_data(options) if options.fix else _report_data(options)


def _report_data(options: argparse.Namespace) -> int:
    from course_utils.data_prep.validation import validate

    tokenizer = _tokenizer(options.tokenizer) if options.tokenizer else None
    columns = _columns(options.map)
    report = validate(options.file, options.kind, options.target, tokenizer, options.max_tokens, columns)
    print(json.dumps(report.as_dict(), ensure_ascii=False) if options.json else report)
    return 0 if report.ok else 1


def _fix_data(options: argparse.Namespace) -> int:
    from course_utils import data_report
    from course_utils.data_prep import pipeline, writing
    from course_utils.data_prep.validation import guess_kind

    # Checked first, so that nobody waits for the work only to be refused.
    writing.may_write(options.fix, (*writing.PREPARED, writing.REPORT), options.file, options.overwrite)
    tokenizer = _tokenizer(options.tokenizer) if options.tokenizer else None
    production = _prompts(options.production) if options.production else []
    columns = _columns(options.map)
    prepared = pipeline.prepare(
        options.file,
        kind=options.kind or guess_kind(options.file, columns),
        steps=[step for step in pipeline.STEPS if step != "redact" or options.redact != "none"],
        test=pipeline.rows_of(options.test) if options.test else (),
        production=production,
        drop=[code.strip() for code in options.drop.split(",") if code.strip()],
        language=None if options.language == "any" else options.language,
        schema=_json_file(options.schema) if options.schema else None,
        redaction="label" if options.redact == "none" else options.redact,
        allow=options.allow,
        target=options.target,
        tokenizer=tokenizer,
        max_tokens=options.max_tokens,
        workers=options.workers,
        columns=columns,
    )
    files = prepared.write(options.fix, options.overwrite)
    expected = data_report.cost_table(prepared, tokenizer) if tokenizer and prepared.kind == "chat" else ()
    files.append(data_report.write_html(prepared, Path(options.fix) / writing.REPORT, production, expected))
    if options.json:
        print(pipeline.report_json(prepared))
    else:
        print(f"{prepared}\n  written: {', '.join(map(str, files))}\n  {prepared.last_word()}")
    return 0 if prepared.share_left >= pipeline.ENOUGH else 3


def _standard_input(folder: Path) -> Path:
    """Standard input as a file, since it is read more than once."""
    data = sys.stdin.buffer.read()
    start = data.lstrip(b"\xef\xbb\xbf").lstrip()[:1]
    ending = {b"{": "jsonl", b"[": "json"}.get(start, "parquet" if data.startswith(b"PAR1") else "csv")
    ending = "jsonl.gz" if data.startswith(b"\x1f\x8b") else ending
    file = folder / f"stdin.{ending}"
    file.write_bytes(data)
    return file


def _columns(maps: list[str]) -> dict[str, str]:
    columns = {}
    for entry in maps:
        old, equals, new = entry.partition("=")
        if not (old and equals and new):
            raise CourseError(f"--map needs OLD=NEW, such as question=prompt, not {entry!r}")
        columns[old] = new
    return columns


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    from course_utils import models

    return models.load_tokenizer(None if name == "cpu" else name, tier="cpu" if name == "cpu" else None)


def _prompts(file: str) -> list[str]:
    """Prompts from production: lines of text, or JSONL rows with `message` or messages."""
    from course_utils.data_prep import formats, reading

    if Path(file).suffix == ".txt":
        try:
            return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise CourseError(f"cannot read {file}: {error}") from error
    prompts = []
    for row in reading.read(file):
        value = row.value
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            prompts.append(value["message"])
        elif formats.shape_of(value) == "messages":
            prompts.append(formats.prompt_of(value))
        else:
            raise CourseError(f"{file}, line {row.line}: expected a row with `message` or messages")
    return prompts


def _json_file(file: str) -> dict[str, Any]:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"cannot read {file}: {error}") from error


def _fetch(options: argparse.Namespace) -> int:
    from course_utils import models

    print(f"the CPU model is in {models.prepare_packaged_model()}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from course_utils.openai_server.serving import Options, base_name, serve

    service_arguments = {name: value for name, value in vars(options).items() if name in Options.__dataclass_fields__}
    service_options = Options(**{**service_arguments, "names": tuple(options.name), "allow_host": tuple(options.allow_host)})
    model = base_name(options.model)

    def ready(base_url: str, key: str) -> None:
        print(f"A fine-tuning service that really trains, on {model}. Point any OpenAI client at it:\n")
        print(f"    export OPENAI_BASE_URL={base_url}\n    export OPENAI_API_KEY={key}\n")
        print(f"or  OpenAI(base_url={base_url!r}, api_key={key!r}), model={model!r}.")
        print(
            f"Behind a proxy also set NO_PROXY=127.0.0.1. Its data is in {Path(options.folder).resolve()}. Ctrl-C stops it."
        )
        sys.stdout.flush()

    serve(service_options, ready)
    return 0


def _grade(options: argparse.Namespace) -> int:
    """Return 0 if everything was graded, 1 if a person must look at something."""
    from course_utils.grading.batch import grade

    names = ("assignment", "inbox", "out", "jobs", "trust", "seed", "roster", "canvas", "column", "scheduler")
    result = grade(**{name: getattr(options, name) for name in names})
    sandbox = "WITHOUT a sandbox, as trusted" if result.isolation == "none" else f"in {result.isolation}"
    print(f"{result.new} graded {sandbox}, {result.unchanged} unchanged, in {result.seconds:.1f} s; seed {result.seed}")
    print(
        f"  written: {', '.join(map(str, result.files))}, and a folder for each learner in {Path(options.out) / 'learners'}"
    )
    if result.problems:
        print(f"  {result.problems} for a person to look at: {Path(options.out) / 'needs-a-person.csv'}")
    return 1 if result.problems else 0


def _nbgrader(options: argparse.Namespace) -> int:
    """Return 0 if everything was handed in, 1 if a person must look at something."""
    from course_utils.grading import nbgrader_course

    if options.inbox is None:
        try:
            names = nbgrader_course.write_course(options.folder, options.assignment)
        except OSError as error:
            raise CourseError(f"{options.folder} cannot be written: {error}; name another folder") from error
        print(f"in {options.folder}: nbgrader_config.py and source/ with {', '.join(names)}")
        print(f"  next, in that folder: nbgrader generate_assignment {names[0]}")
        return 0
    result = nbgrader_course.hand_in(options.folder, options.assignment, options.inbox)
    print(f"{len(result.learners)} learners in {Path(options.folder) / 'submitted'}")
    for learner, problems in result.problems.items():
        print(f"  for a person to look at: {learner}: {'; '.join(problems)}")
    return 1 if result.problems else 0


def _release(options: argparse.Namespace) -> int:
    from course_utils.assets import PLACEHOLDER, repository_url
    from course_utils.release import release

    try:
        packs = release(options.assignment, options.out, options.seed)
    except OSError as error:
        raise CourseError(f"{options.out} cannot be written: {error}; name another folder") from error
    print(f"for learners: {packs.learner}; for you alone: {packs.instructor} (start with its README.md)")
    if PLACEHOLDER in repository_url():
        print(
            f"note: the notebooks' buttons lead to {repository_url()}, which does not exist; put your repository's address "
            "into pyproject.toml, then run `pip install -e .` and `course build`",
            file=sys.stderr,
        )
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from course_utils.doctor import examine

    diagnosis = examine()
    print(json.dumps(diagnosis.as_dict(), indent=1) if options.json else diagnosis)
    return 0


if __name__ == "__main__":
    sys.exit(main())
