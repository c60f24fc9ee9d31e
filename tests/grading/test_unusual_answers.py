"""Honest work earns its marks, however it is written: in the notebook's check and in grading alike."""

import dataclasses
import json
import math
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from grading_fixtures import code, notebook, with_marker

from course_utils.exercises import EXERCISES, checking
from course_utils.exercises.values import decode, encode
from course_utils.grading import intake, reading


def graded(marker, id, *sources):
    """The mark of a notebook of these cells."""
    text = notebook([code(source) for source in sources])
    found = intake.answers([reading.File("a.ipynb", b"", reading.cells_of(text.encode()))], list(EXERCISES))
    return marker._mark(id, found.cells[id])


@pytest.mark.parametrize(
    "work", ["import time\ntime.sleep(60)", "for step in range(10**12):\n    loss = step", "while True: pass"]
)
def test_a_slow_experiment_below_the_answer_costs_nothing(marker, work):
    mark = graded(marker, "lora-3", f"{EXERCISES['lora-3'].source()}\n{work}")
    assert mark.points == EXERCISES["lora-3"].points, mark.message


def test_a_slow_cell_elsewhere_costs_nothing(marker):
    slow = "import time\ntime.sleep(60)\nscale = 1\nfor step in range(10**12):\n    loss = step"
    answer = with_marker("lora-3", "def adapter_parameters(s, rank):\n    return scale * rank * sum(map(sum, s))")
    mark = graded(marker, "lora-3", slow, answer)
    assert mark.points == EXERCISES["lora-3"].points, mark.message


# What stands around an answer that calls `helper`, which has to give what it is given; None is the answer and its check.
HELPER, CHECK = "def helper(v):\n    return v", '# CHECK: lora-3\nscore = check("lora-3", adapter_parameters)'
AROUND = {
    "below eight experiments without an end": ["while True:\n    pass"] * 8 + [HELPER, None],
    "of two the last above the check": ["def helper(v):\n    return 0", HELPER, None, "def helper(v):\n    return 1"],
    "of two below the check the first": [None, HELPER, "def helper(v):\n    return 1"],
    "above, where an earlier one had failed": ["helper = later(1)", HELPER, None, "def later(v):\n    return lambda v: 0"],
    "made by a function of a cell below": ["helper = later()", None, "def later():\n    return lambda v: v"],
    "with a table filled by calls": [
        "TABLE = {}\ndef fill(n):\n    TABLE[n] = n",
        "for n in range(9):\n    fill(n)",
        "def helper(v):\n    return v if len(TABLE) == 9 else 0",
        None,
        "TABLE.clear()",
    ],
    "below a cell that ends the kernel's work": ["import sys\nsys.exit()", HELPER, None],
}


@pytest.mark.parametrize("where", AROUND)
def test_a_helper_is_the_one_that_the_check_saw(marker, where):
    answer = with_marker("lora-3", "def adapter_parameters(s, rank):\n    return helper(rank) * sum(map(sum, s))")
    cells = [part for cell in AROUND[where] for part in ([answer, CHECK] if cell is None else [cell])]
    mark = graded(marker, "lora-3", *cells)
    assert mark.points == EXERCISES["lora-3"].points, (mark.message, mark.notes)


def several(function, value):
    return type(value)(map(function, value)) if isinstance(value, (list, tuple)) else function(value)


def stored(value, as_):
    """Numbers, bools and texts in another form; what has no such form stays."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len({isinstance(part, (str, type(None))) for part in value}) > 1:
        return value  # of several kinds, which an array does not hold
    try:
        return as_(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def record(value):
    made = dataclasses.make_dataclass("Record", [f"part{n}" for n in range(len(value))])
    return made(*value)


AS = {
    "as it is": lambda v: v,
    "array": lambda v: np.asarray(v) if not hasattr(v, "detach") else v.numpy(),
    "tensor": torch.as_tensor,
    "float32": lambda v: torch.as_tensor(v).to(torch.float32) if torch.as_tensor(v).is_floating_point() else v,
    "half": lambda v: torch.as_tensor(v).to(torch.float16),
    "scalars": lambda v: several(lambda part: np.asarray(part)[()], v),
    "tuple": lambda v: tuple(v) if isinstance(v, list) else v,
    "list": lambda v: v.tolist() if hasattr(v, "tolist") else list(v) if isinstance(v, tuple) else v,
    "generator": lambda v: (part for part in v) if isinstance(v, (list, tuple)) else v,
    "record": lambda v: record(v) if isinstance(v, tuple) else v,
    "text": str,
    "object": lambda v: object(),
    "set": lambda v: set(v) if isinstance(v, list) else v,
    "bytes": lambda v: str(v).encode(),
    "complex": lambda v: np.asarray(v) + 1j if not isinstance(v, (str, list, tuple)) else v,
}
ALWAYS = {"as it is", "array", "tensor", "float32", "scalars", "tuple", "list", "generator", "record"}


class Refuses:
    def __float__(self):
        raise ValueError("no number")


def first(value, part):
    """A list with another first part; what is no list stays."""
    return [part, *value[1:]] if isinstance(value, list) and value else value


def deep(levels):
    nested = []
    for _ in range(levels):
        nested = [nested]
    return nested


ODD = {
    "inf": lambda v: math.inf,
    "minus inf": lambda v: -math.inf,
    "nan": lambda v: math.nan,
    "inf of numpy": lambda v: np.float32("inf"),
    "nan of torch": lambda v: torch.tensor(math.nan),
    "inf in half precision": lambda v: torch.tensor(math.inf).half(),
    "minus inf in bfloat16": lambda v: torch.tensor(-math.inf, dtype=torch.bfloat16),
    "all nan": lambda v: v * math.nan if hasattr(v, "detach") else [math.nan] * len(v) if isinstance(v, list) else math.nan,
    "all inf": lambda v: v.abs() / 0 if hasattr(v, "detach") else [math.inf] * len(v) if isinstance(v, list) else math.inf,
    "first nan": lambda v: first(v, math.nan),
    "first inf": lambda v: first(v, -math.inf),
    "nan from a generator": lambda v: (part for part in (math.nan, math.inf)),
    "nan in a set": lambda v: {math.nan},
    "nan as a key": lambda v: {math.nan: math.nan},
    "minus zero": lambda v: -0.0,
    "first minus zero": lambda v: first(v, -0.0),
    "2**63": lambda v: 2**63,
    "2**64": lambda v: -(2**64),
    "over the largest float": lambda v: 10**400,
    "too long to be shown": lambda v: -(10**5000),
    "too long to be sent": lambda v: 10**30_000,
    "first over the largest float": lambda v: first(v, 10**400),
    "first too long to be sent": lambda v: first(v, 10**30_000),
    "array of long ints": lambda v: np.array([10**400]),
    "complex": lambda v: 1j,
    "complex without an imaginary part": lambda v: complex(v) if isinstance(v, (int, float)) else v,
    "nan with an imaginary part": lambda v: complex(math.nan, 1),
    "first complex": lambda v: first(v, 1j),
    "list of complex": lambda v: [1j, 2j],
    "complex of numpy": lambda v: np.complex64(1j),
    "complex of torch": lambda v: torch.as_tensor(v).to(torch.complex64) if hasattr(v, "detach") else torch.tensor(1j),
    "half complex of torch": lambda v: torch.ones(2).to(torch.complex32),
    "digits": lambda v: "123",
    "its own digits": lambda v: str(v) if isinstance(v, (int, float)) else v,
    "first digits": lambda v: first(v, "12"),
    "array of digits": lambda v: np.array(["1", "2"]),
    "digits as bytes": lambda v: b"12",
    "decimal": lambda v: Decimal(str(v)) if type(v) in (int, float) else v,
    "decimal nan": lambda v: Decimal("nan"),
    "signalling nan": lambda v: Decimal("snan"),
    "decimal inf": lambda v: Decimal("inf"),
    "first decimal": lambda v: first(v, Decimal("nan")),
    "long fraction": lambda v: Fraction(10**400),
    "long double": lambda v: np.longdouble(v) if type(v) in (int, float) else np.longdouble("inf"),
    "array of long doubles": lambda v: np.asarray(v).astype(np.longdouble) if hasattr(v, "detach") else v,
    "complex long double": lambda v: np.clongdouble(1j),
    "date": lambda v: np.datetime64("2026-11-27"),
    "not a time": lambda v: np.datetime64("NaT"),
    "record of numpy": lambda v: np.zeros(1, dtype=[("a", "i4")])[0],
    "masked": lambda v: np.ma.masked,
    "nothing masked": lambda v: np.ma.array(np.asarray(v)) if hasattr(v, "detach") else v,
    "some masked": lambda v: np.ma.array([1.0, 2.0], mask=[True, False]),
    "sparse": lambda v: v.to_sparse() if hasattr(v, "detach") else torch.eye(2).to_sparse(),
    "without data": lambda v: torch.empty(2, device="meta"),
    "eight bits": lambda v: torch.ones(2).to(torch.float8_e4m3fn),
    "unsigned": lambda v: torch.ones(2, dtype=torch.uint16),
    "no float after all": lambda v: Refuses(),
    "frozen set": lambda v: frozenset([1]),
    "error as a value": lambda v: ValueError("returned, not raised"),
    "class": lambda v: int,
    "in itself": lambda v: (nested := [], nested.append(nested))[0],
    "deep": lambda v: deep(100),
    "many parts": lambda v: [0] * 150_000,
    "many parts from a range": lambda v: range(150_000),
}


def outcome(made, in_grading):
    """What a marker has of a call: the value, on its way out of the sandbox in grading, or the error of reading it."""
    try:
        encoded = encode(made())
        return decode(json.loads(json.dumps(encoded)) if in_grading else encoded)
    except Exception as error:
        return checking.Raised(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("id", [id for id, exercise in EXERCISES.items() if not exercise.challenge])
def test_check_and_grading_say_the_same_of_every_value(id):
    """No value makes either of them raise, and the learner reads the same words in the notebook and in the feedback."""
    exercise = EXERCISES[id]
    asked = checking.CaseSet.of(exercise, np.random.default_rng(3))
    for name, form in (AS | ODD).items():
        for values in (asked.expected, *(asked.mistake_outputs[:3] if name in AS else ())):
            made = [partial(stored, value, form) if name in AS else partial(form, value) for value in values]
            outputs = [[outcome(one, in_grading) for one in made] for in_grading in (False, True)]
            verdicts = [checking.judge(exercise, asked, one) for one in outputs]
            assert verdicts[0] == verdicts[1], name
            if values is asked.expected and name in ALWAYS:
                assert verdicts[0][0] == exercise.points, (name, verdicts[0][1])


def test_a_missing_name_is_explained(marker):
    cell = "# EXERCISE: lora-3\ndef adapter_parameters(shapes, rank):\n    return nowhere(shapes, rank)"
    message = graded(marker, "lora-3", cell).message
    assert "NameError" in message and "no cell of the notebook defines it" in message
