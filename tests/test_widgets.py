"""The explorer of memory and its plain twin."""

import re

import pytest

from course_utils import memory, widgets
from course_utils.errors import CourseError


def totals(figure):
    """Bar → GB, as the alt text says them."""
    methods = {name: method for method, name in widgets.METHOD_NAMES.items()}
    found = re.findall(rf"({'|'.join(methods)}) ([\d,.]+)[,;]", figure.alt.partition("In GB: ")[2])
    return {methods[name]: float(size.replace(",", "")) for name, size in found}


def test_bars_show_what_the_estimator_says():
    options = {"batch_size": 2, "length": 2048, "checkpointing": True}
    shown = totals(widgets.memory_bars("Llama-3.1-8B", **options))
    assert shown.keys() == {"full", "lora", "qlora"}
    for method, gb in shown.items():
        mixed = {"precision": "amp"} if method == "full" else {}
        assert gb == pytest.approx(memory.estimate("Llama-3.1-8B", method, **options, **mixed).total / 1e9, rel=0.01)
    assert shown["full"] > 16 * 8.03  # bytes for each of 8.03 billion parameters


def test_bars_show_the_cards():
    figure = widgets.memory_bars("SmolLM2-135M", ("lora",), gpus=("l4",))
    assert f"L4 has {memory.GPUS['l4'] / 1e9:.1f}" in figure.alt
    assert figure.png.startswith(b"\x89PNG")


def test_an_unknown_card_is_named():
    with pytest.raises(CourseError, match="unknown GPU 'abacus'"):
        widgets.memory_bars("SmolLM2-135M", gpus=("abacus",))


def test_a_moved_slider_draws_anew():
    pytest.importorskip("ipywidgets")
    explorer = widgets.memory_explorer(model="Llama-3.1-8B", length=512)
    before = totals(explorer.figure)
    explorer.controls["length"].value = 8192
    after = totals(explorer.figure)
    assert before.keys() == after.keys() == {"full", "lora", "qlora"}
    assert all(after[method] > before[method] for method in before)
    assert explorer.picture.value == explorer.figure._repr_html_()
    explorer.controls["method"].value = "qlora"
    assert totals(explorer.figure).keys() == {"qlora"}
    options = {"rank": 16, "batch_size": 1, "length": 8192, "checkpointing": True}
    assert totals(explorer.figure)["qlora"] == pytest.approx(
        memory.estimate("Llama-3.1-8B", "qlora", **options).total / 1e9, rel=0.01
    )


def test_without_a_front_end_the_figure_stands_in():
    """A stored notebook keeps no widgets; the builder takes the view away and leaves the rest."""
    bundle = widgets.memory_explorer()._repr_mimebundle_()
    assert bundle["text/html"].startswith("<img") and "alt=" in bundle["text/html"]
    assert bundle["text/plain"].startswith("Figure: Stacked bars")


def test_without_ipywidgets_it_is_the_figure(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    explorer = widgets.memory_explorer()
    assert explorer.controls == {}
    assert widgets.WIDGET_VIEW not in explorer._repr_mimebundle_()


def test_a_model_of_ones_own_can_be_chosen():
    pytest.importorskip("ipywidgets")
    explorer = widgets.memory_explorer(model="Llama-2-70B", rank=24)
    assert explorer.controls["model"].value == "Llama-2-70B"
    assert explorer.controls["rank"].value == 24


ROWS = [
    {"messages": [{"role": "user", "content": f"message {i} <b>"}, {"role": "assistant", "content": "answer"}]}
    for i in range(4)
]


def test_a_review_is_kept_and_goes_on_where_it_ended(tmp_path):
    pytest.importorskip("ipywidgets")
    labels = tmp_path / "labels.jsonl"
    review = widgets.review(ROWS, labels)
    assert "message 0 &lt;b&gt;" in review.controls["shown"].value
    review.controls["note"].value = "says nothing"
    review.controls["drop"].click()
    assert "message 1" in review.controls["shown"].value
    assert review.controls["note"].value == ""
    review.controls["keep"].click()
    review.controls["back"].click()
    review.controls["drop"].click()  # changed one's mind
    again = widgets.review(ROWS, labels)
    assert again.verdicts == {0: {"keep": False, "note": "says nothing"}, 1: {"keep": False, "note": ""}}
    assert again.index == 2


def test_a_review_without_widgets(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    review = widgets.review(ROWS)
    assert review.controls == {}
    review.mark(True, "fine")
    assert review.plain(0, 2).splitlines() == [
        *("row 0 (keep: fine)", "  user: message 0 <b>", "  assistant: answer"),
        *("row 1", "  user: message 1 <b>", "  assistant: answer"),
    ]
    assert "application/vnd.jupyter.widget-view+json" not in review._repr_mimebundle_()


def test_labels_of_other_rows_are_refused(tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"row": 9, "keep": true, "note": ""}\n')
    with pytest.raises(CourseError, match="belongs to other rows"):
        widgets.review(ROWS, tmp_path / "labels.jsonl")
    (tmp_path / "labels.jsonl").write_text("nonsense\n")
    with pytest.raises(CourseError, match="does not contain labels"):
        widgets.review(ROWS, tmp_path / "labels.jsonl")
    with pytest.raises(CourseError, match="no rows"):
        widgets.review([])


def test_a_changed_assumption_draws_the_costs_anew():
    from course_utils import costs
    from course_utils.evidence import lesson_01

    form = widgets.cost_form(costs.Assumptions(), lesson_01.cost_figure)
    first = form.figure.alt
    form.controls["frontier"].value = "gpt-6-luna"
    assert form.assumptions.frontier == "gpt-6-luna" and form.figure.alt != first
    assert "gpt-6-luna" in form._shown.value and form._repr_mimebundle_()["text/plain"] == repr(form.figure)
