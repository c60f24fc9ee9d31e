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
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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
