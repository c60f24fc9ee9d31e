"""Calculators as forms: what the controls do, and what stands there without them."""

import sys

import pytest

from course_utils import costs, show
from course_utils.errors import CourseError
from course_utils.in_browser import calculate
from course_utils.show.calculators import CALCULATORS
from course_utils.show.widgets import VIEW


@pytest.mark.parametrize("id", CALCULATORS)
def test_a_form_gives_the_same_answer_as_a_page(id):
    pytest.importorskip("ipywidgets")
    form = show.calculator(id)
    assert list(form.controls) == [field.name for field in CALCULATORS[id].fields]
    for field in CALCULATORS[id].fields:
        control = form.controls[field.name]
        if field.options:
            control.value = field.options[-1][0]
        else:
            control.value = not field.default if isinstance(field.default, bool) else field.default + 7
        assert vars(form.answer) == calculate(id, form.choices)
    assert form.choices != CALCULATORS[id].defaults and form.answer.valid
    shown = form._view.children[-1].value
    assert form.answer.details in shown and form.answer.summary in shown


@pytest.mark.parametrize("id", CALCULATORS)
def test_without_a_front_end_the_first_answer_stands_in(id):
    """A stored notebook keeps no widgets; the builder takes the view away and leaves the rest."""
    bundle = show.calculator(id)._repr_mimebundle_()
    answer = calculate(id, CALCULATORS[id].defaults)
    assert answer["details"] in bundle["text/html"] and answer["summary"] in bundle["text/plain"]


def test_without_ipywidgets_there_are_no_controls(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    form = show.calculator("memory")
    assert form.controls == {} and VIEW not in form._repr_mimebundle_()


def test_a_model_of_ones_own_can_be_chosen():
    form = show.calculator("memory", model="Llama-2-70B", rank=24)
    assert form.choices["rank"] == 24 and "Rank of the adapter: 24" in str(form)
    assert form.answer.summary.startswith("QLoRA")


def test_what_a_lesson_has_measured_goes_into_every_answer():
    never = costs.Assumptions(frontier="gpt-6-luna", message=5000, instructions=1, completion=1)
    form = show.calculator("costs", **vars(never))
    assert "never pays" in form.answer.summary
    form = show.calculator("decision", assumptions=never)
    form.controls["prompt_reaches"].value = 0.9
    form.controls["requests_a_day"].value = 10**9
    assert "the rest rarely pays" in form.answer.details


def test_what_a_calculator_does_not_know_is_named():
    with pytest.raises(CourseError, match="no calculator 'price'; there are memory, costs, decision"):
        show.calculator("price")
    with pytest.raises(CourseError, match="'memory' has no modell; it has model, method"):
        show.calculator("memory", modell="Llama-2-7B")
    with pytest.raises(CourseError, match="Days over which it has to pay: a whole number from 1"):
        show.calculator("costs", days=0)
