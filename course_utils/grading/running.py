"""Runs an answer cell in the sandbox as a notebook would, without the parts that grading does not need.

Up to the answer, the cell is run statement by statement; below it only what the answer needs, so that an experiment or a
training run costs nothing. Definitions that the answer needs from other cells of the notebook are taken from there: imports,
functions, classes, constants, and nothing else in those cells.

This file runs inside the sandbox and imports only the standard library. It processes untrusted code, so outside the sandbox
nothing that must stay secure may use it.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import re
import symtable
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

LAZY = __future__.annotations.compiler_flag  # a type hint that cannot be resolved here is not an error
MAGIC = re.compile(r"(%%?[A-Za-z]|!|\?{1,2}\w)|[\w.]+\?{1,2}\s*$")
ASSIGNED = re.compile(r"(\w+)\s*=\s*(%[A-Za-z]|!)")
TIMED = re.compile(r"%time\s+(?!it\b)(.+)")
OTHER_LANGUAGE = re.compile(
    r"\s*%%(bash|sh|script|html|javascript|js|latex|markdown|svg|perl|ruby|writefile|file|cmd|python2|sql)\b"
)
CHANGING = re.compile(
    r"(append|extend|add|update|insert|sort|reverse|remove|discard|pop|clear|register|set|seed|manual_seed)"
)
MOST_NOTES = 3
SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


class CellRun(NamedTuple):
    """The result of running a cell.

    Attributes:
        names: the names that it defined.
        notes: for the learner.
        error: the error that ended it, or "".
    """

    names: dict[str, Any]
    notes: list[str]
    error: str


def run(
    setup: str, cell: str, name: str, others: Callable[[], dict[str, list[str]]], describe: Callable[[BaseException], str]
) -> CellRun:
    """Run a cell.

    Args:
        setup: Python code that runs before it.
        cell: source of the answer cell.
        name: name of the answer's function.
        others: returns the sources of the notebook's other code cells, {"before": ..., "after": ...}; called only if needed.
        describe: turns an error into text.
    """
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins, "display": _shown_nowhere}
    notes: list[str] = []
    try:
        exec(setup, space)
        del setup  # it may hold solutions of earlier exercises, and an answer can look into this frame
        tree, left_out = parsed(cell)
    except BaseException as error:
        return CellRun(space, notes, describe(error))
    if left_out:
        notes.append(f"{left_out} line(s) for IPython only were left out")
    answer_index = max((index for index, statement in enumerate(tree) if name in bound(statement)), default=len(tree) - 1)
    above, below = tree[: answer_index + 1], tree[answer_index + 1 :]
    if missing := lacking(name, tree, set(space)):
        _run_all(definitions(missing, others(), set(space)), space)
    for statement in above:
        try:
            _execute(statement, space)
        except (NameError, ImportError) as error:
            # The name may belong to the lesson, which is not available here, and the answer may not need it.
            if name in bound(statement):
                return CellRun(space, notes, describe(error))
            notes.append(f"line {statement.lineno} was left out, as it raised {describe(error)}")
        except BaseException as error:
            return CellRun(space, notes[:MOST_NOTES], describe(error))
    needed_names = _reached({name}, tree)
    needed_below = [statement for statement in below if (bound(statement) | changed(statement)) & (needed_names - {name})]
    needed_below += [statement for statement in below if statement not in needed_below and name in changed(statement)]
    _run_all(needed_below, space)
    return CellRun(space, notes[:MOST_NOTES], "")


def _shown_nowhere(*_: object, **__: object) -> None:
    """Replaces IPython's `display`."""


def _execute(statement: ast.stmt, space: dict[str, Any]) -> None:
    code = compile(ast.Module([statement], []), "<answer>", "exec", LAZY, dont_inherit=True)
    exec(code, space)


def _run_all(statements: Iterable[ast.stmt], space: dict[str, Any]) -> None:
    """Run definitions, and retry those that fail at the end, because a notebook's cells can be run in any order."""
    failed = []
    for statement in statements:
        try:
            _execute(statement, space)
        except Exception:
            failed.append(statement)
    for statement in failed:
        try:
            _execute(statement, space)
        except Exception:
            continue  # if the answer needs it, calling the answer will raise an error


def parsed(cell: str) -> tuple[list[ast.stmt], int]:
    """Statements of a cell, and the number of IPython-only lines that were removed.

    Raises:
        SyntaxError: it is not Python even without those lines.
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
    return [statement for statement in tree.body if not _awaits(statement)]


def _awaits(statement: ast.stmt) -> bool:
    """Whether a statement awaits at the top level of the cell, which works in a notebook but not in a plain process."""
    return any(isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)) for node in _outside_functions(statement))


def without_magics(cell: str) -> tuple[str, int]:
    """A cell without the lines that only IPython understands, and their number. `%time f()` is kept as `f()`."""
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
    """Names that a top-level statement defines; "*" for a star import."""
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


def changed(statement: ast.stmt) -> set[str]:
    """Names whose objects a statement changes: `x[0] = 1`, `x.y = 1`, `x += 1`, `x.append(1)`."""
    names = set()
    for node in _outside_functions(statement):
        target: ast.AST | None = None
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            target = node
        elif isinstance(node, ast.AugAssign):
            target = node.target
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            target = node.value.func if CHANGING.match(node.value.func.attr) else None
        while isinstance(target, (ast.Subscript, ast.Attribute)):
            target = target.value
        if isinstance(target, ast.Name):
            names.add(target.id)
    return names


def used(statement: ast.stmt) -> set[str]:
    """Global names that a statement reads, including in the functions that it defines."""
    try:
        top = symtable.symtable(ast.unparse(statement), "<answer>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return set()
    names = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    tables = top.get_children()
    while tables:
        table = tables.pop()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        tables += table.get_children()
    return names


def _reached(names: set[str], statements: list[ast.stmt]) -> set[str]:
    """The names, all names that their definitions among the statements use, and so on transitively."""
    reached, pending = set(names), list(names)
    definitions_of = [(bound(statement) | changed(statement), statement) for statement in statements]
    while pending:
        name = pending.pop()
        for defined, statement in definitions_of:
            if name in defined:
                pending += (new_names := used(statement) - reached)
                reached |= new_names
    return reached


def lacking(name: str, statements: list[ast.stmt], defined: set[str]) -> set[str]:
    """Names that the answer uses, including its own, that are not defined by its cell, by Python or in `defined`."""
    own_names = {other for statement in statements for other in bound(statement)}
    return _reached({name}, statements) - own_names - defined - set(dir(builtins))


def definitions(missing: set[str], others: dict[str, list[str]], defined: set[str]) -> list[ast.stmt]:
    """Statements of other cells that define the missing names and everything these need in turn, in the notebook's order.

    If there are several definitions, the last one above the answer counts, otherwise the first one below it.
    """
    cells = [(index, _read(source)) for index, source in enumerate([*others["before"], *others["after"]])]
    above = len(others["before"])
    nearest = [*cells[:above][::-1], *cells[above:]]
    builtin = set(dir(builtins))
    picked: dict[tuple[int, int], ast.stmt] = {}
    pending, requested = list(missing), set(missing)
    while pending:
        name = pending.pop()
        for index, statements in nearest:
            bound_and_changed = [(bound(s), changed(s)) for s in statements]
            if not any(name in defines for defines, _ in bound_and_changed):
                continue
            for number, (statement, (defines, changes)) in enumerate(zip(statements, bound_and_changed)):
                if name in defines or name in changes:
                    picked[index, number] = statement
                    new_names = used(statement) - requested - defined - builtin
                    requested |= new_names
                    pending += new_names
            break
        else:
            for index, statements in cells:
                picked |= {(index, number): s for number, s in enumerate(statements) if "*" in bound(s)}
    return [picked[where] for where in sorted(picked)]


def _read(source: str) -> list[ast.stmt]:
    if OTHER_LANGUAGE.match(source):
        return []
    try:
        return parsed(source)[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
