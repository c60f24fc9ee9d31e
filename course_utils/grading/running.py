"""Runs an answer cell in the sandbox as a notebook would, less what grading has no use for.

Up to the answer, statement by statement, what stands in the cell is run; below it only what the answer needs, so that an
experiment or a training run costs nothing. Definitions that the answer needs and that stand in other cells of the notebook
are taken from there: imports, functions, classes, constants, and nothing else of those cells.

This file runs inside the sandbox and imports the standard library alone. It reads what strangers wrote, so nothing that has
to be safe from them runs it elsewhere.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import re
import symtable
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

LAZY = __future__.annotations.compiler_flag  # a type hint that cannot be looked up here is no error
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


class Ran(NamedTuple):
    """What became of a cell.

    Attributes:
        names: defined in it.
        notes: for the learner.
        error: what ended it, or "".
    """

    names: dict[str, Any]
    notes: list[str]
    error: str


def run(
    setup: str, cell: str, name: str, others: Callable[[], dict[str, list[str]]], describe: Callable[[BaseException], str]
) -> Ran:
    """Run a cell.

    Args:
        setup: Python that comes before it.
        cell: source of the answer cell.
        name: of the answer.
        others: gives sources of the notebook's other code cells as {"before": ..., "after": ...}; asked only if needed.
        describe: text of an error.
    """
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins, "display": _shown_nowhere}
    notes: list[str] = []
    try:
        exec(setup, space)
        del setup  # it may hold solutions of earlier exercises, and an answer can look into this frame
        tree, left_out = parsed(cell)
    except BaseException as error:
        return Ran(space, notes, describe(error))
    if left_out:
        notes.append(f"{left_out} line(s) for IPython only were left out")
    last = max((place for place, statement in enumerate(tree) if name in bound(statement)), default=len(tree) - 1)
    above, below = tree[: last + 1], tree[last + 1 :]
    if missing := lacking(name, tree, set(space)):
        _run_all(definitions(missing, others(), set(space)), space)
    for statement in above:
        try:
            _execute(statement, space)
        except (NameError, ImportError) as error:
            # It may be of the lesson, which is not here, and need not matter to the answer.
            if name in bound(statement):
                return Ran(space, notes, describe(error))
            notes.append(f"line {statement.lineno} was left out, as it raised {describe(error)}")
        except BaseException as error:
            return Ran(space, notes[:MOST_NOTES], describe(error))
    wanted = _reached({name}, tree)
    kept = [statement for statement in below if (bound(statement) | changed(statement)) & (wanted - {name})]
    kept += [statement for statement in below if statement not in kept and name in changed(statement)]
    _run_all(kept, space)
    return Ran(space, notes[:MOST_NOTES], "")


def _shown_nowhere(*_: object, **__: object) -> None:
    """Stands for IPython's `display`."""


def _execute(statement: ast.stmt, space: dict[str, Any]) -> None:
    code = compile(ast.Module([statement], []), "<answer>", "exec", LAZY, dont_inherit=True)
    exec(code, space)


def _run_all(statements: Iterable[ast.stmt], space: dict[str, Any]) -> None:
    """Run definitions; those that fail once more at the end, since a notebook's cells can be run in any order."""
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
            continue  # if the answer needs it, its call will say so


def parsed(cell: str) -> tuple[list[ast.stmt], int]:
    """Statements of a cell, and how many lines were taken out that only IPython reads.

    Raises:
        SyntaxError: it is not Python either way.
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
    compile(
        source, "<answer>", "exec", LAZY | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )  # what the parser lets pass
    return [statement for statement in tree.body if not _awaits(statement)]


def _awaits(statement: ast.stmt) -> bool:
    """Whether it waits at the top of the cell, which a notebook can and a plain process cannot."""
    return any(isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)) for node in _outside_functions(statement))


def without_magics(cell: str) -> tuple[str, int]:
    """A cell without the lines that only IPython reads, and their number. `%time f()` stays as `f()`."""
    kept, left_out, going_on = [], 0, False
    for line in cell.split("\n"):
        text = line.lstrip()
        indent = line[: len(line) - len(text)]
        if going_on or MAGIC.match(text):
            going_on = text.endswith("\\")
            timed = TIMED.match(text)
            left_out += 1
            if timed:
                kept.append(indent + timed[1])
            else:
                kept.append(f"{indent}pass" if indent and text else "")
        elif assigned := ASSIGNED.match(text):
            going_on = text.endswith("\\")
            left_out += 1
            kept.append(f"{indent}{assigned[1]} = None")
        else:
            kept.append(line)
    return "\n".join(kept), left_out


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is below it, not entering what has names of its own."""
    yield node
    if isinstance(node, SCOPES):
        return
    for child in ast.iter_child_nodes(node):
        yield from _outside_functions(child)


def bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at the top of a cell defines; "*" if it imports everything."""
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
    """Names of the module that a statement reads, in the functions that it defines too."""
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
    """The names and all that their definitions among the statements use, and so on."""
    reached, left = set(names), list(names)
    about = [(bound(statement) | changed(statement), statement) for statement in statements]
    while left:
        name = left.pop()
        for defined, statement in about:
            if name in defined:
                left += (more := used(statement) - reached)
                reached |= more
    return reached


def lacking(name: str, statements: list[ast.stmt], known: set[str]) -> set[str]:
    """Names that the answer uses, itself included, and that neither its cell nor Python nor what is `known` defines."""
    here = {other for statement in statements for other in bound(statement)}
    return _reached({name}, statements) - here - known - set(dir(builtins))


def definitions(missing: set[str], others: dict[str, list[str]], known: set[str]) -> list[ast.stmt]:
    """Statements of other cells that define the missing names and what these need in turn, in the notebook's order.

    Of several definitions the last one above the answer counts, else the first one below it.
    """
    cells = [(place, _read(source)) for place, source in enumerate([*others["before"], *others["after"]])]
    above = len(others["before"])
    nearest = [*cells[:above][::-1], *cells[above:]]
    builtin = set(dir(builtins))
    picked: dict[tuple[int, int], ast.stmt] = {}
    left, asked = list(missing), set(missing)
    while left:
        name = left.pop()
        for place, statements in nearest:
            about = [(bound(s), changed(s)) for s in statements]
            if not any(name in defines for defines, _ in about):
                continue
            for number, (statement, (defines, changes)) in enumerate(zip(statements, about)):
                if name in defines or name in changes:
                    picked[place, number] = statement
                    more = used(statement) - asked - known - builtin
                    asked |= more
                    left += more
            break
        else:
            for place, statements in cells:
                picked |= {(place, number): s for number, s in enumerate(statements) if "*" in bound(s)}
    return [picked[where] for where in sorted(picked)]


def _read(source: str) -> list[ast.stmt]:
    if OTHER_LANGUAGE.match(source):
        return []
    try:
        return parsed(source)[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
