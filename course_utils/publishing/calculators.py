"""What computes in the reader's browser: the files that a page needs, and calculators and exercises as pieces of a page.

    write_static(site, files)   the files, once for a book, below its first folder
    static()                    where pages find them
    fragment("memory")          where the calculator is to stand
    exercise_fragment("lora-3") where the exercise is to stand: an editor, a check, a diagnosis and a hint

It knows nothing of the book that it stands in. The page's Python is started at the first change, in a worker, and runs
`course_utils.in_browser`; the files can lie on any static host. From `file://`, where a browser starts no worker, the answer
stands that was computed when the page was built, and the page says so. A book without Pyodide shows the answers of the build
(`fragment("memory", live=False)`) and needs the style sheet alone (`write_style`).

What the reader of an exercise wrote is kept in the browser's `localStorage`, under `finetuning-course/exercise/ID`: a JSON
object with `source`, `tries` (wrong ones since the last right one), `passed` and `points`.

Script, style, worker and the course's Python lie in a folder that is named after their content, Pyodide in one that is named
after its version. So a browser that kept some of them from an earlier visit never runs old and new ones together, and loads
Pyodide's 14 MB again only when that has changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from course_utils import assets, facts
from course_utils.exercises import EXERCISES
from course_utils.exercises.checking import HINT_FROM
from course_utils.exercises.definitions import strip_solution
from course_utils.publishing import pyodide
from course_utils.publishing.wheel import add_to_zip
from course_utils.show.calculators import CALCULATORS

STATIC = "_static"  # of a website
RUNTIME = f"pyodide-{pyodide.VERSION}"  # Pyodide's files, beside the folder of ours
STYLE, SCRIPT, WORKER = "course.css", "course.js", "worker.mjs"
OWN_FILES = (STYLE, SCRIPT, WORKER)
# Modules that a page's Python starts from; with them comes what they import when they are loaded.
ROOTS = (
    "in_browser",
    "show.calculators",
    "exercises",
    "memory",  # by the challenge qlora-1, when it is checked
)
DATA = ("memory/architectures.json", "memory/shapes.json")


# -- the course, for a page's Python ------------------------------------------------------------------------------------


@cache
def modules() -> list[Path]:
    """Return the files of the package that a page's Python can import, relative to the package, sorted."""
    program = f"import sys, {', '.join(f'course_utils.{root}' for root in ROOTS)}\n"
    program += (
        "print(*(m.__file__ for name, m in sys.modules.items() if name.partition('.')[0] == 'course_utils'), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": import_path()}
    loaded = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return sorted(Path(file).relative_to(assets.PACKAGE) for file in loaded.stdout.splitlines())


def import_path() -> str:
    """Return the `PYTHONPATH` with which another process imports this very copy of the course."""
    others = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(assets.PACKAGE.parent), *filter(None, [others])])


@cache
def archive() -> bytes:
    """Return the zip of the modules and data that a page's Python needs, and of all tables of facts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        names = {f"course_utils/{file.as_posix()}": assets.PACKAGE / file for file in (*modules(), *map(Path, DATA))}
        for table in facts.names():  # where `assets.root` looks for them
            names[f"course_utils/_assets/data/{table}.toml"] = assets.path(f"data/{table}.toml")
        for name, file in names.items():
            add_to_zip(packed, name, file.read_bytes())
    return buffer.getvalue()


def static() -> str:
    """Return the folder of the files that pages load, relative to the website's first folder.

    Its name changes with anything in it: `_static/course-0f3a…`.
    """
    content = hashlib.sha256(archive())
    for name in OWN_FILES:
        content.update(_own(name))
    return f"{STATIC}/course-{content.hexdigest()[:12]}"


def write_static(site: Path, runtime: Path | None) -> list[Path]:
    """Write the files that pages load, 14 MB, and return them.

    Args:
        site: the website's first folder; what is missing is created.
        runtime: the folder with Pyodide's files (`pyodide.prepare`); if None, no page's Python can start.
    """
    written = [_write(site / static() / name, _own(name)) for name in OWN_FILES]
    written.append(_write(site / static() / "course.zip", archive()))
    if runtime is not None:
        names = (*pyodide.FILES, "NOTICE.txt")
        written += [_write(site / STATIC / RUNTIME / name, (runtime / name).read_bytes()) for name in names]
    return written


def write_style(site: Path) -> Path:
    """Write the one file that answers without a form need; `site` is as in `write_static`."""
    return _write(site / static() / STYLE, _own(STYLE))


def _own(name: str) -> bytes:
    """A file of ours as pages load it; the worker knows Pyodide's folder."""
    data = (assets.PACKAGE / "publishing" / "static" / name).read_bytes()
    return data.replace(b"../pyodide/", f"../{RUNTIME}/".encode()) if name == WORKER else data


def _write(file: Path, data: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


# -- pieces of pages ----------------------------------------------------------------------------------------------------


def fragment(id: str, live: bool = True, **choices: Any) -> Markup:
    """Return a calculator with its answer, as HTML. Its heading is the page's own matter.

    Args:
        id: a key of `calculators.CALCULATORS`; at most once on a page.
        live: whether its choices can be changed, for which the page needs Python; if not, they are listed.
        choices: choices to begin with instead of the defaults.

    Raises:
        KeyError: no such calculator.
        ValueError: a choice is not valid.
    """
    calculator = CALCULATORS[id]
    begin = calculator.defaults | choices
    answer = calculator.answer(begin)
    if not answer.valid:
        raise ValueError(answer.summary)
    return Markup(
        assets.render(
            "publishing/templates/calculator.html.j2",
            calculator=calculator,
            live=live,
            begin=begin,
            as_json=json.dumps,
            summary=answer.summary,
            details=Markup(answer.details),
        )
    )


def exercise_fragment(id: str) -> Markup:
    """Return an exercise that needs no library as HTML, without its heading: editor, check, hint; at most once on a page."""
    exercise = EXERCISES[id]
    return Markup(
        assets.render(
            "publishing/templates/exercise.html.j2",
            exercise=exercise,
            stub=strip_solution(exercise.source()).partition("\n")[2],
            hint_from=HINT_FROM,
            hint=" ".join(exercise.hint.split()),
        )
    )
