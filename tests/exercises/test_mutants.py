"""Solutions with one small change: none gets full marks, but for changes that change nothing, which are listed."""

import ast
import copy
import inspect
import textwrap

import pytest

from course_utils.exercises import EXERCISES, check, checking

# A challenge's answer is run, not compared: every answer that reaches the bar is right, so constants earn there.
ORDINARY = {id: exercise for id, exercise in EXERCISES.items() if not exercise.challenge}

BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Pow: ast.Mult}
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
TURNED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
CALLED = {"sum": "mean", "mean": "sum", "exp": "expm1", "lower": "upper"}
CALLED |= {one: other for pair in (("max", "min"), ("any", "all"), ("ceil", "floor")) for one, other in (pair, pair[::-1])}


def _drop_sign(node):
    if isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    else:
        node.operand = ast.UnaryOp(ast.Not(), node.operand)


def _rename(node, name):
    setattr(node.func, "attr" if isinstance(node.func, ast.Attribute) else "id", name)


def changes(node):
    """Ways to change a node, as (what, function that does it in place)."""
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        yield "operator", lambda n: setattr(n, "op", BINARY[type(n.op)]())
        yield "left operand only", lambda n: n.__dict__.update(op=ast.Add(), right=ast.Constant(0))
    if isinstance(node, ast.Compare):
        if type(node.ops[0]) in COMPARED:
            yield "comparison", lambda n: n.ops.__setitem__(0, COMPARED[type(n.ops[0])]())
        if type(node.ops[0]) in TURNED:
            yield "comparison turned", lambda n: n.ops.__setitem__(0, TURNED[type(n.ops[0])]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        # a large one is a unit: one more would lie within the tolerance
        yield "constant", lambda n: setattr(n, "value", n.value + 1 if abs(n.value) < 1000 else 2 * n.value)
    if isinstance(node, ast.BoolOp):
        yield "and/or", lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "sign or not dropped", _drop_sign
    if isinstance(node, ast.Call):
        place = node.func
        name = place.attr if isinstance(place, ast.Attribute) else getattr(place, "id", "")
        if name in CALLED:
            yield f"{name} → {CALLED[name]}", lambda n: _rename(n, CALLED[name])
    if isinstance(node, ast.IfExp | ast.If):
        yield "condition turned", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))


def mutants(exercise):
    """(description, source) of every solution with one change."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(exercise.solution)))
    tree.body[0].body = tree.body[0].body[1:]  # the docstring

    def nodes(tree):
        return [node for statement in tree.body[0].body for node in ast.walk(statement)]  # not the stub's default arguments

    told: dict[tuple, int] = {}
    for place, original in enumerate(nodes(tree)):
        for which in range(len(list(changes(original)))):
            changed = copy.deepcopy(tree)
            node = nodes(changed)[place]
            what, change = list(changes(node))[which]
            before = ast.unparse(node)
            change(node)
            ast.fix_missing_locations(changed)
            told[before, what] = told.get((before, what), 0) + 1
            again = f" ({told[before, what]})" if told[before, what] > 1 else ""
            yield f"{exercise.id} {what}: {before}{again}", ast.unparse(changed)


# Changes after which a solution still computes the same, each with the reason.
EQUIVALENT = {
    "frame-3 lower → upper: text.strip().lower()": "case is taken off either way",
    "data-2 lower → upper: text.lower()": "case is taken off either way",
    "data-5 lower → upper: text.lower()": "case is taken off either way",
    "align-5 comparison: a < b": "equal distances are dealt with before",
    "align-5 constant: 1 (2)": "beyond the longest reply no number ranks more pairs right",
    "align-6 constant: 1 (4)": "what groups of equal rewards are divided by does not matter",
    "data-6 constant: 1.0": "below every probability, as before",
    "data-6 comparison: reached[i].max() >= 0": "no probability is 0",
    "align-7 constant: 0.0 (2)": "a place in a list that is written before it is read",
    "data-3 comparison: 2 * digit > 9": "an even number is never 9",
}


def marks(exercise, source):
    import numpy
    import torch

    space = {"torch": torch, "np": numpy}
    try:
        exec(source, space)
        answer = space[exercise.name]
    except Exception:
        return 0.0
    return min(float(check(exercise.id, answer)) for _ in range(3))


@pytest.mark.parametrize("id", ORDINARY)
def test_no_changed_solution_gets_full_marks(id, monkeypatch):
    monkeypatch.setattr(checking, "_tries", checking.Counter())
    exercise, full = EXERCISES[id], []
    for what, source in mutants(exercise):
        if marks(exercise, source) >= exercise.points and what not in EQUIVALENT:
            full.append(what)
    assert full == []


def test_there_are_many_and_what_is_listed_exists():
    made = [what for exercise in ORDINARY.values() for what, _ in mutants(exercise)]
    assert len(made) >= 50
    assert set(EQUIVALENT) <= set(made)
