"""Imports go one way: no module and no package imports another in a circle, imports for type checkers included."""

import ast
import re
from pathlib import Path

HOUSE = Path(__file__).parents[1] / "course_utils"


def imports_in(file):
    """Modules of the course that a file imports, anywhere in it, as parts of their names."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "course_utils":
            inner = node.module.split(".")[1:]
            yield from ([*inner, alias.name] for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("course_utils."))


def graph():
    """File → files of the course that it imports."""
    modules = {".".join(file.relative_to(HOUSE).with_suffix("").parts): file for file in HOUSE.rglob("*.py")}
    modules |= {name.removesuffix(".__init__"): file for name, file in modules.items() if name.endswith(".__init__")}
    edges = {}
    for file in set(modules.values()):
        # `from package import name`: a module of that name, else the package itself
        targets = {modules.get(".".join(parts)) or modules.get(".".join(parts[:-1])) for parts in imports_in(file)}
        edges[file] = targets - {file, None, HOUSE / "__init__.py"}
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


def packages():
    """Package or module at the top → those that it imports."""
    package = lambda file: file.relative_to(HOUSE).parts[0].removesuffix(".py")
    edges = {package(file): set() for file in graph()}
    for file, targets in graph().items():
        edges[package(file)] |= {package(target) for target in targets} - {package(file)}
    return edges


def test_the_picture_of_the_house_is_true():
    """CONTRIBUTING.md: everything stands in one line, above whatever it imports."""
    text = (HOUSE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split("The house from the roof down")[1]
    floors = [line.strip().split("  ")[0].split(", ") for line in re.findall(r"^    (.+)$", text.split("\n## ")[0], re.M)]
    floor = {name: number for number, names in enumerate(floors) for name in names}
    edges = packages()
    assert sorted(floor) == sorted(set(edges) - {"__init__"})
    assert not [(name, other) for name in floor for other in edges[name] if floor[other] <= floor[name]]


def test_a_circle_would_be_seen():
    assert circles({1: {2}, 2: {3}, 3: {1}, 4: {1}}) == {frozenset({1, 2, 3})}
    assert len(graph()) > 100 and sum(map(len, graph().values())) > 300
