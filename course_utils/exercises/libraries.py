"""Which libraries an answer may use, and which others it does use.

An exercise is done by hand: a library that does it, and happens to be on the instructor's machine, earns nothing. The check
in the notebook and the grading ask the same function, so that nobody learns of the rule from a mark. In grading the sandbox
shows no other library either, so an answer that hides its import finds nothing.

This file is shown to the sandbox too and imports only the standard library.
"""

from __future__ import annotations

import dis
import functools
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

# Tools that any answer may need and that do no exercise. Where one is missing, an answer that uses it fails.
GENERAL = ("numpy", "torch", "pandas", "scipy", "sympy", "networkx", "matplotlib", "tqdm", "sortedcontainers")
_ALLOWED = frozenset(sys.stdlib_module_names) | frozenset(GENERAL)
_MOST_OBJECTS = 1000


def allowed(library: str) -> bool:
    """Whether answers may use a library of this name."""
    return library in _ALLOWED


def refusal(library: str) -> str:
    """What to tell the learner of a library that answers may not use."""
    return (
        f"The answer uses {library}. An exercise is done by hand: answers may use Python's standard library, "
        f"{', '.join(GENERAL[:-1])} and {GENERAL[-1]}, and no other library."
    )


def foreign(answer: object) -> str:
    """Name of a library that an answer uses and may not; "" if there is none.

    Only the code is read: what its functions import, and the modules, functions and classes that they use by name.
    """
    try:
        return _search(answer)
    except Exception:  # the learner's own objects may raise anything; calling the answer will say so
        return ""


def _search(answer: object) -> str:
    while isinstance(answer, functools.partial):
        answer = answer.func
    course = _root(_search)
    own_course = _root(answer) == course  # the course checks its own solutions
    pending, visited = [answer], set[int]()
    while pending and len(visited) < _MOST_OBJECTS:
        value = pending.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        roots = []
        if isinstance(value, types.ModuleType | type | types.FunctionType | types.BuiltinFunctionType):
            roots = [_root(value)]
        elif not _is_library(_root(type(value))):
            pending.append(type(value))
        elif callable(value) and not allowed(_root(type(value))):  # what a library's decorator makes of a function
            roots = [_root(type(value))]
        # A function that was run from text, as in a sandbox or a test, may seem to be one of Python's own.
        is_own = not roots or not allowed(roots[0]) or (roots[0] == "builtins" and isinstance(value, types.FunctionType))
        if isinstance(value, types.FunctionType) and is_own:
            roots += [name.partition(".")[0] for name in _imports(value)]
        for root in roots:
            if not allowed(root) and (not own_course if root == course else _is_library(root)):
                return root
        if is_own:
            pending += _used_by(value)
    return ""


@functools.lru_cache
def _is_library(root: str) -> bool:
    """Whether it is installed as a library, and not the learner's own file or a name that somebody made up for a class."""
    try:
        module = sys.modules.get(root)
        spec = importlib.util.find_spec(root) if module is None and root else getattr(module, "__spec__", None)
    except (ImportError, ValueError):
        return False
    return "-packages" in str(getattr(spec, "origin", None) or getattr(spec, "submodule_search_locations", None))


def _imports(function: types.FunctionType) -> Iterator[str]:
    """Names of the modules that a function imports when it is called."""
    for code in _codes(function.__code__):
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                yield str(instruction.argval)


def _root(value: Any) -> str:
    """First part of the name of a module, or of the module that something comes from."""
    name = getattr(value, "__name__" if isinstance(value, types.ModuleType) else "__module__", "")
    return name.split(".")[0] if isinstance(name, str) else ""


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and the code of the functions that it defines."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _globals_read(function: types.FunctionType) -> Iterator[str]:
    """Names that a function looks up among its module's, and not those of attributes: `text.split` reads no global `split`."""
    for code in _codes(function.__code__):
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                yield str(instruction.argval)


def _used_by(value: Any) -> list[Any]:
    """Objects that a function or a class of the learner's uses."""
    if isinstance(value, types.FunctionType):
        names = set(_globals_read(value))
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
        return [*(value.__globals__[name] for name in names if name in value.__globals__), *cells]
    if isinstance(value, type):
        return [*vars(value).values(), *value.__bases__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args]
    if isinstance(value, types.MethodType):
        return [value.__func__, type(value.__self__)]
    if isinstance(value, classmethod | staticmethod):
        return [value.__func__]
    wrapped = inspect.getattr_static(value, "__wrapped__", None)  # of lru_cache and other decorators
    return [wrapped] if wrapped is not None else []
