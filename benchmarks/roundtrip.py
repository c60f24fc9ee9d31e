"""Adapters of lesson 02 on their way to a server: the same hundred test messages at each stage, scores paired by message.

    python benchmarks/roundtrip.py 135M=ticket-adapter 0.5B=ticket-adapter-0.5B

Each adapter is what lesson 02's program saved. Goes on where it was cut off; exported files stay in build/roundtrip.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from common import run_missing
from course_utils.roundtrip import roundtrip

TYPES = ("q8_0", "q4_0")
LONGEST = 56  # tokens of an answer, as in lesson 02


def measured(name: str, adapter: str) -> dict:
    """What each stage answers: scores, and how many prompts and answers are those of the first stage."""
    found = roundtrip(adapter, types=TYPES, max_tokens=LONGEST, out=Path("build/roundtrip") / name)
    print(found, flush=True)
    document = found.as_dict()
    reference = list(document["stages"][0]["prompts"])
    for stage in document["stages"]:
        stage["same_prompts"] = sum(a == b for a, b in zip(stage["prompts"], reference))
        stage["ended"] = sum(stage["ended"])
        for part in ("answers", "prompts", "probe", "lengths"):
            del stage[part]
    return document | {"adapter": Path(adapter).name}


if __name__ == "__main__":
    pairs = [argument.partition("=") for argument in sys.argv[1:]]
    run_missing("roundtrip", {name: partial(measured, name, adapter) for name, _, adapter in pairs}, {"types": TYPES})
