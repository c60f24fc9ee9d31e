"""Right answers as whole notebooks of honest students, in unusual but legitimate forms: the files in `corpus/honest`.

Most were written by a reader who had seen neither the exercises' definitions nor the grading. Run as a program, this prints
a line of JSON for each: what the notebook's check says after IPython has run the cells.
"""

from __future__ import annotations

import ast
import asyncio
import copy
import importlib
import json
import os
import re
import sys
import tempfile
import types
from pathlib import Path

from answer_files import AnswerFile, read

ANSWERS = read("honest")
LESSONS = {"frame": "01", "lora": "02", "qlora": "03", "align": "04", "data": "05", "api": "06"}
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def text_of(cell) -> str:
    return "".join(cell["source"])


def build(answer: AnswerFile) -> dict:
    """The notebook that the student hands in, as JSON in which `run` says of a cell what was done with it."""
    (path,) = NOTEBOOKS.glob(f"{LESSONS[answer.ids[0].split('-')[0]]}_*.ipynb")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first, places, out = answer.ids[0], {}, []
    for cell in answer.cells:
        places.setdefault(cell.at or first, []).append(cell)
    moved = {cell.at or first for cell in answer.cells if cell.word == "check"}
    checks_moved = {id for id in answer.ids if id in moved or (id == first and moved)}

    def code(source, run):
        made = {"cell_type": "code", "execution_count": None, "id": f"own-{len(out)}", "metadata": {}, "outputs": []}
        return made | {"source": source, "run": run}

    def put(cells, answer_cell, check_cell):
        """What stands at a place; the answer's metadata goes to the cell with the marker, else to the first with code."""
        codes = [cell.source for cell in cells if cell.is_code]
        marked = next((source for source in codes if "# EXERCISE: " in source), codes[0] if codes else None)
        for cell in cells:
            if cell.word == "[markdown]":
                out.append({"cell_type": "markdown", "id": f"own-{len(out)}", "metadata": {}, "source": cell.source})
            elif cell.word == "check":
                out.append(code(cell.source, "check") if cell.source else copy.deepcopy(check_cell) | {"run": "check"})
            elif cell.word == "stub":
                out.append(copy.deepcopy(answer_cell) | {"run": "yes"})
            elif cell.word == "interrupted":
                out.append(code(cell.source, "no"))
            elif cell.is_code:
                out.append(code(cell.source, "fails" if cell.word == "fails" else "yes"))
                if answer_cell is not None and cell.source is marked:
                    out[-1] |= {"metadata": copy.deepcopy(answer_cell["metadata"]), "id": answer_cell["id"]}
                    marked = None

    cells = notebook["cells"]
    checks = {id: next(cell for cell in cells if text_of(cell).startswith(f"# CHECK: {id} ")) for id in answer.ids}
    answers = {id: next(cell for cell in cells if text_of(cell).startswith(f"# EXERCISE: {id}\n")) for id in answer.ids}
    wanted = answer.several("lesson")
    for cell in cells:
        answered = next((id for id in answers if cell is answers[id]), None)
        checked = next((id for id in checks if cell is checks[id]), None)
        if answered:
            put(places.get(answered, []), cell, checks[answered])
        elif checked:
            if checked not in checks_moved:
                out.append(cell | {"run": "check"})
        else:
            run = cell["cell_type"] == "code" and any(text in text_of(cell) for text in wanted)
            out.append(cell | {"run": "lesson" if run else "no"})
            if "from course_utils.exercises import check" in text_of(cell):
                out[-1]["run"] = "imports"
                put(places.get("imports", []), None, None)
    put(places.get("end", []), answers[first] if first not in places else None, checks[first])
    notebook["cells"] = out
    return notebook


def stored(answer: AnswerFile) -> bytes:
    """The bytes of the file, which may be without metadata ("bare"), written on Windows ("crlf") or by Colab ("colab")."""
    form, notebook = answer.about.get("stored"), build(answer)
    for cell in notebook["cells"]:
        cell.pop("run", None)
        if form == "bare":
            cell["metadata"] = {}
            cell.pop("id", None)
        elif form == "crlf":
            cell["source"] = text_of(cell).replace("\n", "\r\n")
        elif form == "colab":
            of_code = {"outputId": "0f", "colab": {"base_uri": "https://localhost:8080/"}}
            cell["metadata"] = {"id": cell.pop("id", "x"), **(of_code if cell["cell_type"] == "code" else {})}
    if form == "bare":
        notebook |= {"nbformat_minor": 4, "metadata": {"language_info": {"name": "python"}}}
    if form == "colab":
        metadata = {"colab": {"provenance": [], "gpuType": "T4"}, "accelerator": "GPU"}
        notebook |= {
            "nbformat_minor": 0,
            "metadata": metadata | {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        }
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    return b"\xef\xbb\xbf" + text.encode() if form == "crlf" else text.encode()


def imports_for(answer: AnswerFile, source: str) -> str:
    """Of a lesson's cell of imports those whose names the student's cells mention: all of them would take a minute."""
    run = [text_of(cell) for cell in build(answer)["cells"] if cell.get("run") not in ("no", "imports")]
    words = set(re.findall(r"\w+", " ".join(run)))
    lines = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [name for name in node.names if (name.asname or name.name).split(".")[0] in words]
            lines += [ast.unparse(node)] if node.names else []
    return "\n".join(lines + [cell.source for cell in answer.cells if cell.word == "given"])


def is_definition(node: ast.stmt) -> bool:
    """True for a function, and for a constant as the lessons write them: `WAITING = …`."""
    named = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()
    return named or isinstance(node, ast.FunctionDef)


def checked(answer: AnswerFile) -> dict:
    """What the notebook's checks say: IPython runs the student's cells, in an event loop as in a kernel."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    os.chdir(tempfile.mkdtemp())
    sys.path.insert(0, "")  # as in a kernel
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.enable_gui = lambda gui=None: None  # %matplotlib asks for it
    passed, trouble = {}, []
    if package := answer.about.get("package"):
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__getattr__ = lambda name: lambda *a, **k: None

    async def run_all():
        for cell in build(answer)["cells"]:
            source, how = text_of(cell).replace("\r\n", "\n"), cell.get("run", "no")
            if how == "no":
                continue
            if how == "imports":
                source = imports_for(answer, source)
            if how == "lesson" and (found := [node for node in ast.parse(source).body if is_definition(node)]):
                source = "\n".join(map(ast.unparse, found))  # the rest of the cell needs a model
            result = await shell.run_cell_async(source, store_history=False, transformed_cell=shell.transform_cell(source))
            error = result.error_before_exec or result.error_in_exec
            if error is not None and how != "fails":
                trouble.append(f"{how}: {type(error).__name__}: {error}")
            if (score := shell.user_ns.get("score")) is not None:
                passed[str(score).split(":")[0]] = score.passed or str(score)

    asyncio.run(run_all())
    return {"passed": passed, "trouble": trouble}


def main() -> None:
    for name in ("course_utils.exercises", "IPython.core.interactiveshell", "numpy", "pandas", "torch"):
        importlib.import_module(name)  # before the forks: faster

    for number, answer in enumerate(ANSWERS):
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            for descriptor in (1, 2):  # a student's cells print, and so do programs that they start
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            try:
                found = checked(answer)
            except BaseException as error:
                found = {"passed": {}, "trouble": [repr(error)]}
            os.write(writing, json.dumps(found).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, encoding="utf-8") as replied:
            print(number, replied.read(), flush=True)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
