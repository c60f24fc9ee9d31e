"""Runs an answer cell in the sandbox as a notebook would, without the parts that grading does not need.

Up to the answer, the cell is run statement by statement; below it only what the answer needs, so that an experiment or a
training run costs nothing. From the notebook's other cells come the definitions that the answer needs, whatever fills or
changes what they define, and modules written with `%%writefile`; nothing else in those cells is run.

What counts is what the notebook's check saw: of several definitions the last one above the check.

This file runs inside the sandbox and imports only the standard library. It processes untrusted code, so outside the sandbox
nothing that must stay secure may use it.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import linecache
import re
import signal
import symtable
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import FrameType, ModuleType
from typing import Any, NamedTuple

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
CHANGING = re.compile(
    r"(append|extend|add|update|insert|sort|reverse|remove|discard|pop|clear|register|set|seed|manual_seed)"
)
LOOKING = frozenset("print display check help repr len type id isinstance vars dir".split())  # calls that change nothing
MOST_NOTES = 3
# What the statements of other cells, and those below the answer, may take together: of processor time and by the clock.
EXTRA_SECONDS, EXTRA_CLOCK_SECONDS = 2.0, 5.0
SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
BLOCKS = ast.For, ast.While, ast.With, ast.If, ast.Try, ast.Match
Cells = dict[str, list[str]]


class CellRun(NamedTuple):
    """The result of running a cell.

    Attributes:
        names: the names that it defined, with their values.
        notes: notes for the learner.
        error: the error that ended it, or "".
    """

    names: dict[str, Any]
    notes: list[str]
    error: str


class TooLong(Exception):
    """A statement that may not even be needed took too long and was stopped."""


def run(
    setup: str,
    cell: str,
    name: str,
    between: list[str],
    others: Callable[[], Cells],
    describe: Callable[[BaseException], str],
) -> CellRun:
    """Run an answer cell, and whatever it needs from other cells.

    Args:
        setup: Python code that runs before it.
        cell: source of the answer cell.
        name: name of the answer's function.
        between: sources of the code cells between the answer and its check.
        others: returns the sources of the notebook's other code cells, {"before": ..., "after": ...}; called only if needed.
        describe: turns an error into text.
    """
    space = _main_module()
    notes: list[str] = []
    try:
        exec(setup, space)
        del setup  # it may hold solutions of earlier exercises, and an answer can look into this frame
        tree, left_out = parsed(cell)
    except BaseException as error:
        return CellRun(space, notes, describe(error))
    _show_source("<answer>", cell)
    if left_out:
        notes.append(f"{left_out} line(s) for IPython only were left out")
    notebook = Notebook(tree, {"before": [], "after": []}, between)
    selection = notebook.select(name, set(space))
    if selection.missing or not all(map(_importable, tree)):
        around = others()
        sys.meta_path.insert(0, WrittenModules([*around["before"], *between], around["after"]))
        notebook = Notebook(tree, around, between)
        selection = notebook.select(name, set(space))
    notebook.show_sources()
    answer_index = max((index for index, statement in enumerate(tree) if name in bound(statement)), default=len(tree) - 1)
    clock = Clock()
    failures = _run_all(selection.above, space, clock, describe)
    for statement in tree[: answer_index + 1]:
        try:
            _execute(statement, space, "<answer>")
        except Exception as error:
            # The answer may not need it. Where a name is missing or a package, it may belong to the lesson, which is not
            # available here, and the answer may only seem to need it.
            seems_needed = statement in selection.own and not isinstance(error, (NameError, ImportError))
            if seems_needed or name in bound(statement) or isinstance(error, MemoryError):  # which may not be free again
                return CellRun(space, notes[:MOST_NOTES], describe(error))
            notes.append(f"line {statement.lineno} was left out, as it raised {describe(error)}")
        except BaseException as error:
            return CellRun(space, notes[:MOST_NOTES], describe(error))
    below = [("<answer>", statement) for statement in tree[answer_index + 1 :] if statement in selection.own]
    _run_all(below, space, clock, describe)
    failures += _run_all(selection.below, space, clock, describe)
    notes += [f"`{names}` of another cell is missing, as that cell raised {error}" for names, error in failures]
    return CellRun(space, notes[:MOST_NOTES], "")


def _main_module() -> dict[str, Any]:
    """The names of a new module that takes the place of `__main__`, where pickle and others look for what a cell defines."""
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    space |= {"__builtins__": builtins, "display": _shown_nowhere}
    return space


def _shown_nowhere(*_: object, **__: object) -> None:
    """Replaces IPython's `display`."""


def _show_source(filename: str, source: str) -> None:
    """Let `inspect` and TorchScript read a cell's source, as they can in a notebook."""
    plain = without_magics(source)[0]
    linecache.cache[filename] = (len(plain), None, [f"{line}\n" for line in plain.split("\n")], filename)


def _execute(statement: ast.stmt, space: dict[str, Any], filename: str) -> None:
    code = compile(ast.Module([statement], []), filename, "exec", LAZY, dont_inherit=True)
    exec(code, space)


class Clock:
    """Keeps the time that is left for statements that may not even be needed."""

    def __init__(self) -> None:
        self._computing, self._waiting = EXTRA_SECONDS, EXTRA_CLOCK_SECONDS

    def run(self, statement: ast.stmt, space: dict[str, Any], filename: str) -> None:
        """Execute a statement within the time that is left.

        Raises:
            TooLong: the time is up. The statement may have caught this error; then the limit on the whole cell ends it.
        """
        if isinstance(statement, (ast.Import, ast.ImportFrom)):  # stopped halfway, a package cannot be imported again
            _execute(statement, space, filename)
            return
        started_at, used_before = time.monotonic(), time.process_time()
        try:
            if self._computing <= 0 or self._waiting <= 0:
                raise TooLong
            before = [(number, signal.signal(number, _stop)) for number in (signal.SIGPROF, signal.SIGALRM)]
            signal.setitimer(signal.ITIMER_PROF, self._computing)
            signal.setitimer(signal.ITIMER_REAL, self._waiting)
            try:
                _execute(statement, space, filename)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
                for number, handler in before:
                    signal.signal(number, handler)
        finally:
            self._computing -= time.process_time() - used_before
            self._waiting -= time.monotonic() - started_at


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TooLong(f"more than {EXTRA_SECONDS:g} s of work around the answer")


def _run_all(
    statements: Iterable[tuple[str, ast.stmt]], space: dict[str, Any], clock: Clock, describe: Callable[[BaseException], str]
) -> list[tuple[str, str]]:
    """Run statements, and retry those that fail at the end, because a notebook's cells can be run in any order.

    Returns:
        Of each that failed again and defines something: its names, and the error.
    """
    failed, failures = [], []
    for filename, statement in statements:
        try:
            clock.run(statement, space, filename)
        except Exception:
            failed.append((filename, statement))
    for filename, statement in failed:
        try:
            clock.run(statement, space, filename)
        except Exception as error:  # if the answer needs it, calling the answer will raise an error
            if names := bound(statement):
                failures.append((", ".join(sorted(names)[:3]), describe(error)))
    return failures


def _importable(statement: ast.stmt) -> bool:
    """Whether every module is there that a statement imports."""
    modules = []
    for node in _outside_functions(statement):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    try:
        return all(root in sys.modules or find_spec(root) for root in (module.split(".")[0] for module in modules))
    except Exception:
        return False


class WrittenModules:
    """Finds and loads the modules that cells write with `%%writefile`; they are kept in memory."""

    def __init__(self, above: list[str], below: list[str]) -> None:
        """Collect the modules that cells write.

        Args:
            above: sources of the cells that were run before the check; of a module that they write twice, the last version
                counts.
            below: sources of the other cells; of a module that they write twice, the first version counts.
        """
        self._sources: dict[str, str] = {}
        later: dict[str, str] = {}
        for cells, into in ((above, self._sources), (below, later)):
            for cell in cells:
                if written := WRITTEN_MODULE.match(cell):
                    append, path, text = written.groups()
                    module = ".".join(part for part in path.split("/") if part != ".").removesuffix(".__init__")
                    if append:
                        into[module] = into.get(module, "") + text
                    elif into is self._sources or module not in into:
                        into[module] = text
        self._sources = later | self._sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find a module that a cell has written; Python's `import` calls this."""
        is_package = any(other.startswith(f"{name}.") for other in self._sources)
        return ModuleSpec(name, self, is_package=is_package) if is_package or name in self._sources else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module; `import` calls this."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module's code; `import` calls this."""
        filename, source = f"<{module.__name__}.py>", self._sources.get(module.__name__, "")
        _show_source(filename, source)
        exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)


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
    return [statement for statement in tree.body if not _awaits(statement)]


def _awaits(statement: ast.stmt) -> bool:
    """Whether a statement awaits at the top level of the cell, which works in a notebook but not in a plain process."""
    return any(isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)) for node in _outside_functions(statement))


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


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all nodes below it that are executed with it: all but the bodies of functions."""
    yield node
    if isinstance(node, ast.Lambda):
        return
    entered = [*node.decorator_list, node.args] if isinstance(node, FUNCTIONS) else ast.iter_child_nodes(node)
    for child in entered:
        yield from _executed(child)


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


def _root(node: ast.AST, calls: bool = True) -> set[str]:
    """The name that an expression such as `x.y[0].z(1)` starts with, if it is one; `calls`: also where a call is in it."""
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Starred)) or (calls and isinstance(node, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _changed_by(node: ast.AST, calls: bool = True) -> set[str]:
    """The name whose object a node changes: `x[0] = 1`, `x.y = 1`, `x += 1`, `x.append(1)`; `calls`: `x.y().append(1)`."""
    if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        return _root(node, calls)
    if isinstance(node, ast.AugAssign):
        return _root(node.target, calls)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and CHANGING.match(node.func.attr):
        return _root(node.func, calls)
    return set()


def used(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the global names that a statement reads when it is executed, and those read in functions that it defines."""
    try:
        top = symtable.symtable(ast.unparse(statement), "<answer>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return set(), set()
    at_once = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    if isinstance(statement, ast.AugAssign):
        at_once |= _root(statement.target)
    later: set[str] = set()
    tables = top.get_children()
    while tables:
        table = tables.pop()
        later |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        tables += table.get_children()
    return at_once, later


class Selection(NamedTuple):
    """The statements that an answer needs.

    Attributes:
        above: (file name, statement) from other cells, to be run before the answer cell.
        own: statements of the answer cell.
        below: (file name, statement) from the cells between the answer and its check, to be run after the answer cell.
        missing: names that no cell and nothing else defines.
    """

    above: list[tuple[str, ast.stmt]]
    own: set[ast.stmt]
    below: list[tuple[str, ast.stmt]]
    missing: set[str]


class Notebook:
    """The cells of a notebook around one answer, and what their statements define and change."""

    def __init__(self, tree: list[ast.stmt], around: Cells, between: list[str]) -> None:
        """Analyse the cells.

        Args:
            tree: the statements of the answer cell.
            around: sources of the other code cells, before and after the answer.
            between: sources of the cells between the answer and its check.
        """
        self._sources = sources = [*around["before"], "", *between, *around["after"]]
        self._cells = [_read(source) for source in sources]
        self._own, self._check = len(around["before"]), len(around["before"]) + len(between)
        self._cells[self._own] = tree
        self._names = [_filename(index) for index in range(len(sources))]
        self._names[self._own] = "<answer>"
        self._imported: set[str] = set()
        self._functions: dict[str, list[ast.stmt]] = {}
        self._bound: dict[ast.stmt, set[str]] = {}
        for cell in self._cells:
            for statement in cell:
                self._bound[statement] = bound(statement)
                for node in _outside_functions(statement):
                    if isinstance(node, (ast.Import, ast.ImportFrom)):
                        self._imported |= bound(node)
                    elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                        self._functions.setdefault(node.name, []).append(node)
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
                    for name in self._bound[statement]:
                        self._functions.setdefault(name, []).append(statement)
        self._changes_of: dict[str, set[str]] = {}

    def show_sources(self) -> None:
        """Let `inspect` and TorchScript read the other cells' sources."""
        for name, source in zip(self._names, self._sources):
            if source:
                _show_source(name, source)

    def select(self, name: str, defined: set[str]) -> Selection:
        """Return the statements that the answer `name` needs beyond the names in `defined` and Python's own."""
        available = defined | set(dir(builtins))
        self._changes_of = {name: set()}  # what the answer changes when it is called is not needed before
        changed = {statement: self._changed(statement) for cell in self._cells for statement in cell}
        picked: dict[tuple[int, int], ast.stmt] = {}
        missing: set[str] = set()
        pending: list[tuple[str, int | None]] = [(name, None)]  # (name, cell above which it must be defined, if any)
        requested = set(pending)
        while pending:
            needed, limit = pending.pop()
            where = self._place(needed, limit, available)
            if where is None:
                if needed not in available:
                    missing.add(needed)
                continue
            last = max(where, self._check) if where <= self._check else where
            for index in range(where, last + 1):
                for number, statement in enumerate(self._cells[index]):
                    defines = index == where and needed in self._bound[statement]
                    if (index, number) in picked or not (defines or needed in changed[statement]):
                        continue
                    picked[index, number] = statement
                    at_once, later = used(statement)
                    requests: set[tuple[str, int | None]] = {(other, None) for other in at_once | later}
                    if not isinstance(statement, BLOCKS):  # such as f = timed(f): another f must be there before
                        earlier = {n for other in self._cells[index][:number] for n in self._bound[other]}
                        here = {n for other in self._cells[index] for n in self._bound[other]}
                        requests |= {(other, index) for other in at_once & here - earlier}
                    pending += requests - requested
                    requested |= requests
        if missing:
            for index, cell in enumerate(self._cells):
                picked |= {(index, number): s for number, s in enumerate(cell) if "*" in self._bound[s]}
        order = [(index, self._names[index], picked[index, number]) for index, number in sorted(picked)]
        return Selection(
            [(filename, s) for index, filename, s in order if index < self._own or index > self._check],
            {s for index, _, s in order if index == self._own},
            [(filename, s) for index, filename, s in order if self._own < index <= self._check],
            missing,
        )

    def _place(self, name: str, limit: int | None, available: set[str]) -> int | None:
        """The cell whose definition of a name counts: the last one above the check, else the first one below it."""
        up_to_check = range(self._check, -1, -1) if limit is None else range(limit - 1, -1, -1)
        for index in [*up_to_check, *range(self._check + 1, len(self._cells))]:
            if name in available and not self._own <= index <= self._check:
                continue
            if any(name in self._bound[statement] for statement in self._cells[index]):
                return index
        return None

    def _changed(self, statement: ast.stmt) -> set[str]:
        """Names whose objects change, or may change, when a statement is executed."""
        direct: set[str] = set()
        names: set[str] = set()  # of objects of the notebook; modules are changed only by calls such as torch.manual_seed(0)
        for node in _executed(statement):
            direct |= _changed_by(node, calls=False)
            names |= _changed_by(node)
            if isinstance(node, ast.Call):
                names |= self._changes(_root(node.func))
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                for decorator in node.decorator_list:
                    names |= self._changes(_root(decorator))
                    function = decorator.func if isinstance(decorator, ast.Call) else decorator
                    if isinstance(function, ast.Attribute):  # such as @registry.register
                        names |= _root(function)
            if isinstance(node, ast.ClassDef):  # a class knows its subclasses
                for base in (*node.bases, *(keyword.value for keyword in node.keywords)):
                    names |= _root(base) | self._changes(_root(base))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):  # called for what it does
                call = node.value
                if isinstance(call.func, ast.Name) and call.func.id in LOOKING:
                    continue
                if isinstance(call.func, ast.Attribute):
                    names |= _root(call.func)
                for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
                    names |= _root(argument) - set(self._functions)
        return direct | (names - self._imported)

    def _changes(self, functions: set[str]) -> set[str]:
        """Names whose objects change when these functions or classes are called."""
        changes: set[str] = set()
        for name in functions:
            if name not in self._changes_of:
                self._changes_of[name] = set()  # for functions that call each other
                for definition in self._functions.get(name, ()):
                    self._changes_of[name] |= self._changes_in(definition)
            changes |= self._changes_of[name]
        return changes

    def _changes_in(self, definition: ast.stmt) -> set[str]:
        declared, local, changed = set[str](), set[str](), set[str]()
        for node in ast.walk(definition):
            if isinstance(node, ast.Global):
                declared |= set(node.names)
            elif isinstance(node, ast.arg):
                local.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                local.add(node.id)
            elif isinstance(node, ast.Call):
                changed |= self._changes(_root(node.func))
            changed |= _changed_by(node)
        return declared | (changed - local)


def _filename(index: int) -> str:
    return f"<cell {index}>"


def _read(source: str) -> list[ast.stmt]:
    if OTHER_LANGUAGE.match(source):
        return []
    try:
        return parsed(source)[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
