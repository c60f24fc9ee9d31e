"""Keeps the sizes of the models that the course knows, so that `memory.estimate` needs no torch for them.

    python benchmarks/shapes.py

Run it after a change to architectures.json or to `memory.shape.Shape`; `test_kept_shapes_are_what_the_configurations_give`
says when that is due.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple

from course_utils.files import write_whole
from course_utils.memory.shape import ARCHITECTURES, KEPT_SHAPES, read_shape


def kept(name: str) -> dict:
    """The sizes of one model as shapes.json has them: a list for each layer; without its name, which is the key."""
    shape = read_shape(name)
    sizes = asdict(shape) | {name: [list(astuple(x)) for x in getattr(shape, name)] for name in ("linears", "experts")}
    usual = {"name": shape.name, "experts": [], "active": 0, "sdpa": True}
    return {key: value for key, value in sizes.items() if usual.get(key) != value}


def main() -> None:
    """Write shapes.json, a line for each model."""
    lines = [f" {json.dumps(name)}: {json.dumps(kept(name))}" for name in ARCHITECTURES]
    write_whole(KEPT_SHAPES, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    print(f"written to {KEPT_SHAPES}")


if __name__ == "__main__":
    main()
