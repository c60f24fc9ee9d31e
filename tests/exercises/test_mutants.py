"""The solution with one small change gets no full marks, but for the changes that the exercise lists as equivalent."""

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
    """(description, source) of the solution with one change, for each place where one can be made."""
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
            yield f"{what}: {before}{again}", ast.unparse(changed)


def has_full_marks(exercise, source):
    import numpy
    import torch

    space = {"torch": torch, "np": numpy}
    try:
        exec(source, space)
    except Exception:
        return False
    return all(check(exercise.id, space[exercise.name], seed).passed for seed in range(3))  # until one says no


@pytest.mark.parametrize("id", ORDINARY)
def test_no_changed_solution_gets_full_marks(id, monkeypatch):
    monkeypatch.setattr(checking, "_tries", checking.Counter())
    exercise = EXERCISES[id]
    changed = dict(mutants(exercise))
    assert changed and set(exercise.equivalent) <= set(changed)
    full = [what for what, source in changed.items() if has_full_marks(exercise, source)]
    assert set(full) <= set(exercise.equivalent)
