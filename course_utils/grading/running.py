"""Runs an answer cell in the sandbox as a notebook would.

A cell that has every name it uses is run alone. Otherwise the notebook's other code cells are run too, from the first to the
last: what raises an error, as the lesson's own cells do for want of the course's package, is passed over, and what takes
long, such as an experiment, is stopped. Modules that cells write with `%%writefile` can be imported.

What counts is what the notebook's check saw: of several definitions the last one above the check.

This file runs inside the sandbox and imports only the standard library. It processes untrusted code, so outside the sandbox
nothing that must stay secure may use it.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import linecache
import os
import re
import signal
import symtable
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from types import FrameType, ModuleType
from typing import Any

LAZY = __future__.annotations.compiler_flag  # a type hint that cannot be resolved here is not an error
MAGIC = re.compile(r"(%%?[A-Za-z]|!|\?{1,2}\w)|[\w.]+\?{1,2}\s*$")
ASSIGNED = re.compile(r"(\w+)\s*=\s*(%[A-Za-z]|!)")
TIMED = re.compile(r"%time\s+(?!it\b)(.+)")
OTHER_LANGUAGE = re.compile(
    r"\s*%%(bash|sh|script|html|javascript|js|latex|markdown|svg|perl|ruby|writefile|file|cmd|python2|sql)\b"
)
WRITTEN_MODULE = re.compile(
    r"\s*%%(?:writefile|file)[ \t]+(-a[ \t]+|--append[ \t]+)?[\"']?([\w./-]+)\.py[\"']?[ \t]*\n(.*)", re.DOTALL
)
MOST_NOTES = 3
# Seconds of processor time, and by the clock, that one statement of another cell, or below the answer, may take; that all of
# them may take; and that each still gets after that, which is enough for a definition.
ONE, ALL, AFTER = (0.5, 1.5), (2.0, 5.0), (0.02, 0.3)
SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
BLOCKS = ast.For, ast.While, ast.With, ast.If, ast.Try, ast.Match
Cells = dict[str, list[str]]
Space = dict[str, Any]


class TooLong(Exception):
    """A statement that may not even be needed took too long and was stopped."""


def run(
    setup: str,
    cell: str,
    name: str,
    between: list[str],
    others: Callable[[], Cells],
    describe: Callable[[BaseException], str],
) -> tuple[Space, list[str], str]:
    """Run an answer cell, and the notebook's other cells if it uses what they define.

    Args:
        setup: Python code that runs before it; the names that it defines are no other cell's.
        cell: source of the answer cell.
        name: name of the answer's function.
        between: sources of the code cells between the answer and its check.
        others: returns the sources of the notebook's other code cells, {"before": ..., "after": ...}; called only if needed.
        describe: turns an error into text.

    Returns:
        The names that the cell defined, with their values; notes for the learner; and the error that ended the cell, or "".
    """
    space = _main_module()
    notes: list[str] = []
    try:
        exec(setup, space)
        del setup  # it may hold solutions of earlier exercises, and an answer can look into this frame
        tree, left_out = parsed(cell)
    except BaseException as error:
        return space, notes, describe(error)
    _show_source("<answer>", cell)
    if left_out:
        notes.append(f"{left_out} line(s) for IPython only were left out")
    surroundings = Surroundings(space, describe)
    in_between = [pair for number, source in enumerate(between) for pair in _cell(f"<between {number}>", source)]
    own = [*tree, *(statement for _, statement in in_between)]
    if missing(own, {*space, *dir(builtins)}) or not all(map(_importable, tree)):
        around = others()
        write_modules([*around["after"], *around["before"], *between])
        surroundings.run_around(around["before"], around["after"], set().union(*map(bound, own)))
    answer_index = max((index for index, statement in enumerate(tree) if name in bound(statement)), default=len(tree) - 1)
    for index, statement in enumerate(tree[: answer_index + 1]):
        try:
            _execute(statement, space, "<answer>")
        except Exception as error:
            # The answer may not need it. Where a name is missing or a package, it may belong to the lesson, which is not
            # available here, and the answer may only seem to need it.
            is_read = any(bound(statement) & names for other in tree[index + 1 :] for names in used(other))
            seems_needed = is_read and not isinstance(error, (NameError, ImportError))
            if seems_needed or name in bound(statement) or isinstance(error, MemoryError):  # which may not be free again
                return space, notes[:MOST_NOTES], describe(error)
            notes.append(f"line {statement.lineno} was left out, as it raised {describe(error)}")
        except BaseException as error:
            return space, notes[:MOST_NOTES], describe(error)
    surroundings.run([*(("<answer>", statement) for statement in tree[answer_index + 1 :]), *in_between])
    notes += surroundings.notes(own)
    return space, notes[:MOST_NOTES], ""


class Surroundings:
    """Runs statements that the answer may not even need: they may fail, and take little time."""

    def __init__(self, space: Space, describe: Callable[[BaseException], str]) -> None:
        """Take the names that the statements share with the answer, and what turns an error into text."""
        self._space, self._describe, self._left = space, describe, ALL
        self._failed: list[tuple[ast.stmt, str]] = []

    def run_around(self, before: list[str], after: list[str], own: set[str]) -> None:
        """Run the notebook's other cells.

        Args:
            before: sources of the cells above the answer.
            after: sources of those below its check, from which only what nothing else defines is taken.
            own: names that the answer's own cells define.
        """
        fixed, failed = dict(self._space), []
        for number, source in enumerate([*before, *after]):
            statements = _cell(f"<cell {number}>", source)
            if number >= len(before):
                new = set().union(*(bound(statement) for _, statement in statements)) - own - self._space.keys()
                statements = [pair for pair in statements if (bound(pair[1]) or used(pair[1])[0]) & new]
            failed += self.run(statements)
            self._space |= fixed
        # A notebook's cells can be run in any order.
        self._failed = []
        self.run([pair for pair in failed if not bound(pair[1]) & self._space.keys()])

    def run(self, statements: Iterable[tuple[str, ast.stmt]]) -> list[tuple[str, ast.stmt]]:
        """Run statements, given with the names of their files; returns those that failed."""
        failed = []
        for filename, statement in statements:
            try:
                self._run_briefly(statement, filename)
            except BaseException as error:  # if the answer needs it, calling the answer will raise an error
                failed.append((filename, statement))
                self._failed.append((statement, self._describe(error)))
        return failed

    def notes(self, own: list[ast.stmt]) -> list[str]:
        """Notes on statements that failed and define what the answer's own cells use."""
        names = set[str]().union(*(part for statement in own for part in used(statement)))
        missing_names = ((sorted(bound(statement) & names - self._space.keys()), error) for statement, error in self._failed)
        return [
            f"`{', '.join(n)}` of another cell is missing, as that cell raised {error}" for n, error in missing_names if n
        ]

    def _run_briefly(self, statement: ast.stmt, filename: str) -> None:
        """Execute a statement within the time that is left.

        Raises:
            TooLong: the time is up. The statement may have caught this error; then the limit on the whole cell ends it.
        """
        if isinstance(statement, (ast.Import, ast.ImportFrom)):  # stopped halfway, a package cannot be imported again
            _execute(statement, self._space, filename)
            return
        started_at = time.process_time(), time.monotonic()
        handlers = [(number, signal.signal(number, _stop)) for number in (signal.SIGPROF, signal.SIGALRM)]
        try:
            for timer, one, left, after in zip((signal.ITIMER_PROF, signal.ITIMER_REAL), ONE, self._left, AFTER):
                signal.setitimer(timer, min(one, max(left, after)))
            _execute(statement, self._space, filename)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in handlers:
                signal.signal(number, handler)
            used_now = time.process_time() - started_at[0], time.monotonic() - started_at[1]
            self._left = self._left[0] - used_now[0], self._left[1] - used_now[1]


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TooLong(f"more than {ONE[0]:g} s of work around the answer")


def _main_module() -> Space:
    """The names of a new module that takes the place of `__main__`, where pickle and others look for what a cell defines."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    space |= {"__builtins__": builtins, "display": lambda *_, **__: None}
    return space


def _show_source(filename: str, source: str) -> None:
    """Let `inspect` and TorchScript read a cell's source, as they can in a notebook."""
    plain = without_magics(source)[0]
    linecache.cache[filename] = (len(plain), None, [f"{line}\n" for line in plain.split("\n")], filename)


def _cell(filename: str, source: str) -> list[tuple[str, ast.stmt]]:
    """The statements of another cell, each with the file's name."""
    _show_source(filename, source)
    return [(filename, statement) for statement in statements_of(source)]


def _execute(statement: ast.stmt, space: Space, filename: str) -> None:
    code = compile(ast.Module([statement], []), filename, "exec", LAZY, dont_inherit=True)
    exec(code, space)


def _importable(statement: ast.stmt) -> bool:
    """Whether every module is there that a statement imports."""
    roots = set()
    for node in _outside_functions(statement):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.split(".")[0])
    try:
        return all(root in sys.modules or find_spec(root) for root in roots)
    except Exception:
        return False


def write_modules(cells: Iterable[str]) -> None:
    """Let Python import the modules that cells write with `%%writefile`; of one that they write twice, the last counts."""
    written = [match.groups() for match in map(WRITTEN_MODULE.match, cells) if match]
    if not written:
        return
    folder = tempfile.mkdtemp()
    for append, path, text in written:
        file = folder + os.path.normpath(f"/{path}.py")
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "a" if append else "w", encoding="utf-8") as handle:
            handle.write(text)
    sys.path.insert(0, folder)


def parsed(cell: str) -> tuple[list[ast.stmt], int]:
    """Return the statements of a cell, and the number of IPython-only lines that were removed.

    Raises:
        SyntaxError: the cell is not Python even without those lines.
    """
    try:
        return _statements(cell), 0
    except SyntaxError as error:
        plain, left_out = without_magics(cell)
        try:
            return _statements(plain), left_out
        except SyntaxError:
            raise error from None


def _statements(source: str) -> list[ast.stmt]:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, "<answer>", "exec", flags, dont_inherit=True)
    # The compiler finds syntax errors that the parser does not.
    compile(source, "<answer>", "exec", LAZY | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    # What awaits at the top level of the cell works in a notebook, but not in a plain process.
    waits = ast.Await, ast.AsyncFor, ast.AsyncWith
    return [s for s in tree.body if not any(isinstance(node, waits) for node in _outside_functions(s))]


def without_magics(cell: str) -> tuple[str, int]:
    """Return a cell without the lines that only IPython understands, and their number. `%time f()` is kept as `f()`."""
    plain_lines, left_out, continued = [], 0, False
    for line in cell.split("\n"):
        text = line.lstrip()
        indent = line[: len(line) - len(text)]
        if continued or MAGIC.match(text):
            continued = text.endswith("\\")
            timed = TIMED.match(text)
            left_out += 1
            if timed:
                plain_lines.append(indent + timed[1])
            else:
                plain_lines.append(f"{indent}pass" if indent and text else "")
        elif assigned := ASSIGNED.match(text):
            continued = text.endswith("\\")
            left_out += 1
            plain_lines.append(f"{indent}{assigned[1]} = None")
        else:
            plain_lines.append(line)
    return "\n".join(plain_lines), left_out


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all nodes below it, without entering those that have a scope of their own."""
    yield node
    if isinstance(node, SCOPES):
        return
    for child in ast.iter_child_nodes(node):
        yield from _outside_functions(child)


def bound(statement: ast.stmt) -> set[str]:
    """Return the names that a top-level statement defines; "*" for a star import."""
    names: set[str] = set()
    for node in _outside_functions(statement):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def used(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the global names that a statement reads when it is executed, and those read in functions that it defines."""
    try:
        top = symtable.symtable(ast.unparse(statement), "<answer>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return set(), set()
    at_once = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        at_once.add(statement.target.id)
    later: set[str] = set()
    tables = top.get_children()
    while tables:
        table = tables.pop()
        later |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        tables += table.get_children()
    return at_once, later


def missing(statements: list[ast.stmt], available: set[str]) -> set[str]:
    """Return the names that statements read and that neither `available` has nor they define, by then if read at once."""
    everything, earlier, unknown = available.union(*map(bound, statements)), set(available), set[str]()
    for statement in statements:
        at_once, later = used(statement)
        own = bound(statement) if isinstance(statement, BLOCKS) else set[str]()
        unknown |= (at_once - earlier - own) | (later - everything)
        earlier |= bound(statement)
    return unknown


def statements_of(source: str) -> list[ast.stmt]:
    """Return the statements of a cell; none if it is not Python."""
    if OTHER_LANGUAGE.match(source):
        return []
    try:
        return parsed(source)[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
