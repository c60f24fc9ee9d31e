"""The map in README.md is the house: every room stands in it, and imports only from rooms above it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "course_utils"


def mapped():
    """Rooms as the map lists them, from the top; and what stands inside the rooms that are folders."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = re.search(r"^    course_utils/ .*\n((?:     .*\n)+)", text, re.MULTILINE)[1]
    rooms, inside = [], {}
    for line in drawn.splitlines():
        if found := re.match(r"( {6}| {8})([\w/]+(?:, [\w/]+)*) ", line):
            names = [name.rstrip("/") for name in found[2].split(", ")]
            if len(found[1]) == 6:
                rooms += names
            elif len(found[1]) == 8:
                inside.setdefault(rooms[-1], []).extend(names)
    return rooms, inside


ROOMS, INSIDE = mapped()


def room_of(parts):
    """The room of a module, given as the parts of its name below course_utils."""
    return next((room for room in ("/".join(parts[:2]), parts[0]) if room in ROOMS), parts[0])


def imports(file):
    """Modules of the course that a file imports, anywhere in it, as parts of their names."""
    yield from imports_in(ast.parse(file.read_text(encoding="utf-8")))


def imports_in(tree):
    """The same of a file that has been parsed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "course_utils":
            inner = node.module.split(".")[1:]
            yield from ([*inner, alias.name] for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("course_utils."))


def test_every_room_is_on_the_map():
    assert len(ROOMS) == len(set(ROOMS)) > 20
    there = {path.stem for path in HOUSE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    assert {room.split("/")[0] for room in ROOMS} == there
    for room, names in INSIDE.items():
        assert [name for name in names if not list((HOUSE / room).glob(f"{name}*"))] == [], room


@pytest.mark.parametrize("file", sorted(HOUSE.rglob("*.py")), ids=lambda file: str(file.relative_to(HOUSE)))
def test_a_room_imports_only_from_rooms_above_it(file):
    here = room_of(file.relative_to(HOUSE).with_suffix("").parts)
    if here == "__init__":
        return
    for parts in imports(file):
        there = room_of(parts)
        if there in ROOMS:  # else a name of the package itself, its version
            assert ROOMS.index(there) <= ROOMS.index(here), f"{here} imports {'.'.join(parts)}"


def graph():
    """File → files of the course that it imports, anywhere in it, also for type checkers only."""
    modules = {".".join(file.relative_to(HOUSE).with_suffix("").parts): file for file in HOUSE.rglob("*.py")}
    modules |= {name.removesuffix(".__init__"): file for name, file in modules.items() if name.endswith(".__init__")}
    edges = {}
    for file in set(modules.values()):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        targets = set()
        for parts in imports_in(tree):
            # `from package import name`: a module of that name, else the package itself
            found = modules.get(".".join(parts)) or modules.get(".".join(parts[:-1]))
            if found is not None and found != HOUSE / "__init__.py":
                targets.add(found)
        edges[file] = targets - {file}
    return edges


def circles(edges):
    """Groups of nodes that reach each other."""

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for target in edges[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        return seen

    reach = {node: reached(node) for node in edges}
    return {
        frozenset({node} | {other for other in reach[node] if node in reach[other]}) for node in edges if node in reach[node]
    }


def test_no_files_import_each_other_in_a_circle():
    found = circles(graph())
    assert not found, [sorted(str(file.relative_to(HOUSE)) for file in circle) for circle in found]


def test_no_packages_import_each_other_in_a_circle():
    files = graph()
    package = lambda file: file.relative_to(HOUSE).parts[0]
    edges = {package(file): set() for file in files}
    for file, targets in files.items():
        edges[package(file)] |= {package(target) for target in targets} - {package(file)}
    assert not circles(edges)


def test_a_circle_would_be_seen():
    assert circles({1: {2}, 2: {3}, 3: {1}, 4: {1}}) == {frozenset({1, 2, 3})}
    assert len(graph()) > 100 and sum(map(len, graph().values())) > 300


# What the field calls otherwise: gamma, gae_lambda, max_..., micro_batch, normalizers.
NOT_THE_FIELDS_WORDS = {"discount", "trace", "most", "micro", "normalisers"}


def test_arguments_have_the_fields_names():
    found = set()
    for file in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                found |= {(file.name, node.name, name) for name in arguments & NOT_THE_FIELDS_WORDS}
    assert not found, found
