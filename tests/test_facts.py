"""Every dated fact has a source and a date, and one check finds the old ones, in whatever table they stand."""

import ast
import re
from datetime import date, timedelta

import pytest

from course_utils import assets, facts
from course_utils.errors import CourseError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Writes a table in place of the course's."""
    monkeypatch.setattr(assets, "root", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    facts.table.cache_clear()

    def write(name, text):
        (tmp_path / "data" / f"{name}.toml").write_text(text, encoding="utf-8")

    yield write
    facts.table.cache_clear()


def test_every_table_of_the_course_can_be_read():
    for name in facts.names():
        assert facts.table(name), name


def test_old_facts_are_found_in_any_table_and_within_rows(data):
    data("prices", '[new]\nsource = "s"\ndate = 2026-11-01\n[old]\nsource = "s"\ndate = 2025-07-08\n')
    data("gpus", '[L4]\nsource = "s"\ndate = 2026-11-01\n[L4.price]\nhour = 1.0\nsource = "s"\ndate = 2025-01-01\n')
    found = facts.stale(date(2026, 11, 29))
    assert found == [
        "data/gpus.toml, [L4.price] is dated 2025-01-01",
        "data/prices.toml, [old] is dated 2025-07-08",
    ]


def test_a_year_is_not_too_old_and_tomorrow_is_not_the_future(data):
    today = date(2026, 11, 29)
    for days, is_stale in ((365, False), (366, True), (-1, False), (-2, True)):
        facts.table.cache_clear()
        data("prices", f'[x]\nsource = "s"\ndate = {today - timedelta(days)}\n')
        assert bool(facts.stale(today)) == is_stale, days


def test_the_command_names_them_and_fails_only_if_it_shall(data, capsys):
    data("prices", '["gpt-4.1"]\nsource = "s"\ndate = 2025-07-08\n')
    assert facts.main([], date(2026, 11, 29)) == 0
    assert "data/prices.toml, [gpt-4.1] is dated 2025-07-08" in capsys.readouterr().out
    assert facts.main(["--strict"], date(2026, 11, 29)) == 1
    assert facts.main(["--strict"], date(2025, 11, 29)) == 0


def test_no_dated_fact_stands_in_a_module():
    """There the check for old facts would not find it."""
    package = assets.PACKAGE
    for file in package.rglob("*.py"):
        name = file.relative_to(package).as_posix()
        if name.startswith("exercises/"):  # whose data are invented
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        literals = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose]
        dated = [node.lineno for node in literals if re.search(r"20\d\d-\d\d-\d\d", str(node.value))]
        assert not dated, f"{name}, lines {dated}: move what is dated to data/*.toml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x]\ndate = 2026-11-01\n", r"\[x\]: add source"),
        ('[x]\nsource = "s"\n', r"\[x\]: add date"),
        ('[x]\nsource = "s"\ndate = "2026-11-01"\n', r"\[x\]: add date"),
        ('[x]\nsource = "s"\ndate = 2026-11-01\n[x.y]\ndate = "soon"\n', r"\[x\.y\]: add date"),
        ("x = 1\n", "x: a row is a table"),
        ("[x\n", "data/prices.toml: "),
    ],
)
def test_a_row_without_source_or_date_is_refused(data, text, message):
    data("prices", text)
    with pytest.raises(CourseError, match=message):
        facts.table("prices")
