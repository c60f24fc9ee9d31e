import re

import pytest

from course_utils import claims, figures
from course_utils.errors import CourseError
from course_utils.evaluation import proportion
from course_utils.training import History, Settings


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(claims, "_checked", {})


def test_a_verdict_follows_from_the_comparison():
    assert claims.check("L6", "1.00", holds=True).verdict == "holds"
    assert claims.check("L3", "80 MB", holds=True, when="r=16").verdict == "holds when"
    assert claims.check("L4", "0.5758 %", holds=False, because="the total is too high").verdict == "does not hold"
    table = claims.table()
    assert [claim.id for claim in table] == ["L3", "L4", "L6"]
    assert "r=16" in repr(table)
    assert "<b>does not hold</b> the total is too high" in table._repr_html_()


def test_a_later_check_replaces_the_earlier():
    claims.check("L6", "a", holds=True)
    claims.check("L6", "b", holds=True)
    assert [claim.measured for claim in claims.table()] == ["b"]


def test_a_failed_claim_needs_a_reason_and_an_id_must_exist():
    with pytest.raises(CourseError, match="say because of what"):
        claims.check("L1", "x", holds=False)
    with pytest.raises(CourseError, match="unknown claim 'Z9'"):
        claims.check("Z9", "x", holds=True)


def test_measured_text_is_escaped():
    claims.check("L1", "<script>", holds=True)
    assert "<script>" not in claims.table()._repr_html_()


def _history():
    history = History(Settings())
    history.steps, history.losses = [1, 2, 3], [3.0, 2.0, 1.0]
    history.validation_steps, history.validation_losses = [0, 3], [3.1, 1.2]
    return history


FIGURES = {
    "curve": lambda: figures.learning_curve({"run": _history()}),
    "intervals": lambda: figures.intervals({"base": {"valid": proportion([True, False])}}, "t"),
    "lines": lambda: figures.lines({"a": ([1, 2, 4], [3, 2, 1])}, "t", "x", "y", log_x=True),
    "points": lambda: figures.points({"a": ([1, 2, 4], [3, 2, 1])}, "t", "x", "y", log_x=True),
    "bars": lambda: figures.bars({"a": 1.5, "b": 2.5}, "t", "GB", limits={"T4": 15}),
    "diagram": figures.lora_diagram,
    "three roads": figures.alignment_diagram,
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_picture_and_an_alt_text_that_tells_it(name):
    figure = FIGURES[name]()
    assert figure.png.startswith(b"\x89PNG")
    assert len(figure.png) < 60_000
    assert len(figure.alt) > 40
    html = figure._repr_html_()
    assert re.search(r'<img src="data:image/png;base64,[^"]+" alt="[^"]{40,}"', html)
    assert repr(figure).startswith("Figure: ")


def test_alt_texts_give_the_values():
    assert "a: 1.5; b: 2.5" in FIGURES["bars"]().alt
    assert "training loss from 3.00 to 1.00" in FIGURES["curve"]().alt
    assert "4 → 1" in FIGURES["lines"]().alt
    assert "a: 3 points from 1 to 3" in FIGURES["points"]().alt
    assert "50.0 % [9.5, 90.5]" in FIGURES["intervals"]().alt


def test_a_figure_without_alt_text_is_refused():
    from matplotlib.figure import Figure as Canvas

    with pytest.raises(ValueError, match="alt text"):
        figures.Figure(Canvas(), "  ")


def test_the_colours_can_be_told_apart_in_grey_by_dash_and_marker():
    assert len(set(figures.DASHES)) == 4
    assert len(set(figures.MARKERS)) == len(figures.COLOURS) == 7
