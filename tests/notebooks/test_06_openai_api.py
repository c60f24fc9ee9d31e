"""Lesson 06: its cells run with a tiny model, and no answer to an exercise takes the place of one of its names."""

import ast
import re
from datetime import date

import pytest

from course_utils.evidence import lesson_06
from course_utils.exercises import lesson_06 as exercises
from course_utils.lessons import source_file
from course_utils.openai_server import HOSTS

CODE = [
    cell.partition("\n")[2].strip("\n")
    for cell in source_file("06_openai_api").read_text(encoding="utf-8").split("\n# %%")[1:]
    if not cell.startswith(" [markdown]") and "# INSTALL" not in cell and "# EXERCISE:" not in cell
]


def test_no_answer_takes_the_place_of_a_name_of_the_lesson():
    defined = set()
    for node in ast.walk(ast.parse("\n".join(CODE))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                defined |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
    assert not defined & {exercise.name for exercise in exercises.EXERCISES}


@pytest.mark.slow
@pytest.mark.soak("`make test-notebooks` runs the same cells on the real model")
def test_the_cells_run_from_top_to_bottom(tiny_model, tmp_path, monkeypatch, capsys):
    """With random weights, so what the model answers is noise; every call, table, figure and card is made."""
    from course_utils import models, openai_server

    real = openai_server.local_server
    monkeypatch.setattr(openai_server, "local_server", lambda *a, **o: real(*a, **({"model": tiny_model} | o)))
    loaded = models.load(tiny_model)
    monkeypatch.setattr(models, "load", lambda *a, **o: loaded)
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    try:
        for code in CODE:
            tree = ast.parse(code)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "lesson 06", "exec"), space)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), "lesson 06", "eval"), space)
                assert value is None or repr(value)
                if hasattr(value, "_repr_html_"):
                    assert value._repr_html_()
    finally:
        if "server" in space:
            space["server"].stop()
    printed = capsys.readouterr().out
    assert space["failed"].error.code == "invalid_n_examples" and "training_not_available" in printed
    assert lesson_06.metrics(space["pair_events"])[0]["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert space["preferred"].model == space["job"].fine_tuned_model
    assert re.search("the same to the letter: [678] of 8", printed)  # other batches round otherwise
    assert "eq: method_not_available" in printed and "equals: invalid_value" in printed
    assert "reward 1.0" in printed and "reward 0.3" in printed
    assert [space["job"].status, space["greedy"].status] == ["succeeded"] * 2 and len(space["losses"]) == 6
    assert lesson_06.days_left(HOSTS["openai"], date(2027, 1, 1)) == 13
