"""What a kernel says after a restart, of a name that no cell has made yet, and after an interrupt."""

from __future__ import annotations

import ast
import json
import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

RUN_ABOVE = "Run the cells above first: Run > Run All Above Selected Cell."


def names_made(source: str) -> set[str]:
    """Return the names that a cell assigns, defines or imports at its top level; IPython's own lines are left out."""
    python = re.sub(r"(?m)^\s*[%!].*$", "", source)
    try:
        statements = ast.parse(python).body
    except SyntaxError:
        return set()
    made = set()
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            made.update((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
        else:
            stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            made.update(node.id for node in stored if isinstance(node.ctx, ast.Store))
    return made


def where_made(name: str, notebook: Mapping[str, Any]) -> str:
    """Return the heading above the first cell that makes a name; "" if no cell does, or if it stands above any heading."""
    heading = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#{1,3} (.+)$", source, re.MULTILINE)
            heading = found[-1] if found else heading
        elif cell["cell_type"] == "code" and name in names_made(source):
            return heading
    return ""


def explain_name_error(
    shell: InteractiveShell, kind: type, error: NameError, trace: Any, tb_offset: int | None = None
) -> None:
    """Show a NameError as IPython does, then say where the notebook makes the name."""
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    place = Path(os.environ.get("JPY_SESSION_NAME", ""))  # the notebook, by Jupyter's server
    try:
        heading = where_made(error.name or "", json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return
    if heading:
        print(f"`{error.name}` is made by a cell below the heading “{heading}”. {RUN_ABOVE}")


def report_interrupt(
    shell: InteractiveShell, kind: type, error: KeyboardInterrupt, trace: Any, tb_offset: int | None = None
) -> list[str]:
    """Show where the cell stood when it was interrupted, and that it can be run again; return what was shown.

    A hundred lines of the libraries' own calls would stand above it otherwise.
    """
    own = [frame for frame in traceback.extract_tb(trace) if "ipykernel_" in frame.filename]
    where = f" in line {own[-1].lineno}: {own[-1].line}" if own else ""
    shown = [f"KeyboardInterrupt{where}", "The cell was interrupted. Run it again to do all of it."]
    shell._showtraceback(kind, error, shown)
    return shown


def explain_errors(shell: InteractiveShell) -> None:
    """Have a kernel explain its NameErrors, and interrupts in a line; `kernel_startup` calls it."""

    def explain_either(shell: InteractiveShell, kind: type, error: Any, trace: Any, tb_offset: int | None = None) -> Any:
        explained = report_interrupt if isinstance(error, KeyboardInterrupt) else explain_name_error
        return explained(shell, kind, error, trace, tb_offset)

    shell.set_custom_exc((NameError, KeyboardInterrupt), explain_either)
