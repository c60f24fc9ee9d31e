"""Pages driven in a real browser: what their Python says is what this Python says, with no other host to ask."""

import json

import pytest
from drawn import choices
from support import wait_until, write_page
from visiting import Visitor, needs_chromium, needs_pyodide, served

from course_utils import in_browser
from course_utils.exercises import EXERCISES, checking
from course_utils.exercises.definitions import Draws
from course_utils.in_browser import calculate
from course_utils.show.calculators import CALCULATORS

pytestmark = [needs_chromium, *needs_pyodide]
PATIENCE = 120  # seconds; a machine that builds notebooks at the same time starts Python in ten


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with the page and all it needs."""
    folder = tmp_path_factory.mktemp("page")
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with served(folder) as address:
        yield address


def watched(browser, address):
    """Somebody on the page who must ask no other host and find no complaint in the console."""
    someone = Visitor(browser, address, complaints=("error", "warning"))
    someone.go("index.html")
    return someone


@pytest.fixture(scope="module")
def shared(browser, address):
    """A page for tests that only ask its Python."""
    someone = watched(browser, address)
    yield someone.page
    someone.context.close()
    assert someone.wrong == []


@pytest.fixture
def fresh(browser, address):
    """A page on which nothing has been changed."""
    someone = watched(browser, address)
    yield someone.page
    someone.context.close()
    assert someone.wrong == []


def ask(page, requests):
    """What the page's Python says to [(call, arguments), ...]."""
    return page.evaluate("requests => Promise.all(requests.map(([call, args]) => coursePython.ask(call, args)))", requests)


def room(page, kind, id):
    return page.locator(f"[data-{kind}={id}]")


def says(page, kind, id, text, wrong=False):
    """The text comes to stand as the summary of a calculator or an exercise."""
    there = room(page, kind, id)
    wait_until(lambda: there.locator(".course-summary").inner_text() == text, PATIENCE)
    wait_until(lambda: ("course-wrong" in there.get_attribute("class")) == wrong)
    assert there.get_attribute("aria-busy") is None


# -- the same answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", CALCULATORS)
def test_a_hundred_drawn_choices_have_the_same_answer_as_in_this_python(shared, id):
    drawn = choices(id, 100)
    found = ask(shared, [("calculate", {"id": id, "choices": choice}) for choice in drawn])
    assert found == [calculate(id, choice) for choice in drawn]
    assert len({json.dumps(answer) for answer in found}) > 50 and all(answer["valid"] for answer in found)


def typed(id, number):
    """A cell that gives an exercise's solution (number -1) or one of its mistakes the name that is asked for."""
    which = "solution" if number < 0 else f"mistakes[{number}].function"
    return f"from course_utils.exercises import EXERCISES\n{EXERCISES[id].name} = EXERCISES[{id!r}].{which}"


@pytest.mark.parametrize("id", in_browser.on_page())
def test_solution_and_mistakes_have_the_same_verdict_as_in_this_python(shared, id, monkeypatch):
    exercise = EXERCISES[id]
    cells = [exercise.source(), *(typed(id, number) for number in range(-1, len(exercise.mistakes)))]
    asked = [{"id": id, "source": cell, "seed": seed} for cell in cells for seed in (1, 2)]
    found = ask(shared, [("check", arguments) for arguments in asked])
    monkeypatch.setattr(checking, "generator", Draws)  # cases as on a page, where there is no NumPy
    checking._common_keys.cache_clear()
    assert found == [in_browser.check(**arguments) for arguments in asked]
    checking._common_keys.cache_clear()
    assert [result["passed"] for result in found] == [True] * 4 + [False] * 2 * len(exercise.mistakes)
    for result, mistake in zip(found[4::2], exercise.mistakes, strict=True):
        assert mistake.diagnosis in result["message"]


# -- calculators, by hand -------------------------------------------------------------------------------------------------


def test_a_change_is_answered_a_wrong_one_named_and_the_start_comes_back(fresh):
    defaults, there = CALCULATORS["memory"].defaults, room(fresh, "calculator", "memory")
    at_build = calculate("memory", defaults)
    says(fresh, "calculator", "memory", at_build["summary"])
    assert fresh.evaluate("coursePython.worker") is None  # Python starts at the first change
    there.get_by_label("Method").select_option(label="LoRA")
    says(fresh, "calculator", "memory", calculate("memory", defaults | {"method": "lora"})["summary"])
    there.get_by_label("Length, tokens").fill("4096")
    there.get_by_label("Gradient checkpointing").uncheck()
    changed = defaults | {"method": "lora", "length": 4096, "checkpointing": False}
    says(fresh, "calculator", "memory", calculate("memory", changed)["summary"])
    assert there.locator("table").count() == 1
    there.get_by_label("Length, tokens").fill("")
    says(fresh, "calculator", "memory", calculate("memory", changed | {"length": None})["summary"], wrong=True)
    there.get_by_role("button", name="Back to the start").click()
    says(fresh, "calculator", "memory", at_build["summary"])
    assert there.get_by_label("Length, tokens").input_value() == "1024"
    assert there.get_by_role("status").count() == 1  # what changes is read aloud


def test_of_two_quick_changes_the_later_one_is_answered(fresh):
    there = room(fresh, "calculator", "decision")
    for number in ("5", "50", "500"):
        there.get_by_label("How many good, checked examples").fill(number)
        fresh.wait_for_timeout(250)
    there.get_by_label("What is missing?").select_option(label="knowledge")
    answered = CALCULATORS["decision"].defaults | {"examples": 500, "gap": "knowledge"}
    says(fresh, "calculator", "decision", calculate("decision", answered)["summary"])


def test_a_start_that_failed_is_said_and_tried_again(browser, address):
    context = browser.new_context()
    page, lost = context.new_page(), [True]
    context.route("**/course.zip", lambda route: route.abort() if lost else route.continue_())
    page.goto(f"{address}/index.html")
    there = room(page, "calculator", "memory")
    there.get_by_label("Method").select_option(label="LoRA")
    wait_until(lambda: "could not be started" in there.locator(".course-summary").inner_text(), PATIENCE)
    lost.clear()
    there.get_by_label("Method").select_option(label="full fine-tuning")
    says(page, "calculator", "memory", calculate("memory", CALCULATORS["memory"].defaults | {"method": "full"})["summary"])
    context.close()


# -- exercises, by hand ---------------------------------------------------------------------------------------------------

WRONG = "def adapter_parameters(shapes, rank):\n    print('here')\n    return sum(rank * a for _, a in shapes)"
RIGHT = "def adapter_parameters(shapes, rank):\n    return sum(rank * (a + b) for a, b in shapes)"


def checked(page, source):
    """Types an answer to lora-3, checks it and waits."""
    there = room(page, "exercise", "lora-3")
    there.get_by_role("textbox").fill(source)
    there.get_by_role("button", name="Check").click()
    wait_until(lambda: there.locator(".course-summary").inner_text().startswith("lora-3:"), PATIENCE)
    return there


def test_an_answer_gets_its_diagnosis_the_hint_and_is_kept(fresh):
    hint = EXERCISES["lora-3"].hint
    for number in (1, 2, 3):
        there = checked(fresh, WRONG)
        summary = there.locator(".course-summary")
        wait_until(lambda summary=summary: "Only A is counted" in summary.inner_text())
        assert there.get_by_text(hint).is_visible() == (number == 3)
    assert there.locator(".course-printed").inner_text().startswith("here\nhere")
    fresh.reload()
    there = room(fresh, "exercise", "lora-3")
    assert there.get_by_role("textbox").input_value() == WRONG and there.get_by_text(hint).is_visible()
    there = checked(fresh, RIGHT)
    wait_until(lambda: "2 of 2 points (passed)" in there.locator(".course-summary").inner_text(), PATIENCE)
    assert not there.get_by_text(hint).is_visible()
    fresh.reload()
    kept = fresh.evaluate("JSON.parse(localStorage.getItem('finetuning-course/exercise/lora-3'))")
    assert kept == {"source": RIGHT, "tries": 0, "passed": True, "points": 2}
    assert "passed before" in room(fresh, "exercise", "lora-3").locator(".course-summary").inner_text()
    room(fresh, "exercise", "lora-3").get_by_role("button", name="Start again").click()
    assert "YOUR CODE HERE" in room(fresh, "exercise", "lora-3").get_by_role("textbox").input_value()


def test_an_answer_that_never_ends_can_be_stopped_and_the_next_one_is_checked(fresh):
    there = room(fresh, "exercise", "lora-3")
    there.get_by_role("textbox").fill("while True: pass")
    there.get_by_role("button", name="Check").click()
    wait_until(lambda: there.locator(".course-summary").inner_text() == "Checking …", PATIENCE)
    there.get_by_role("button", name="Stop").click()
    wait_until(lambda: there.locator(".course-summary").inner_text().startswith("Stopped."))
    assert not there.get_by_role("button", name="Stop").is_visible()
    assert "2 of 2 points" in checked(fresh, RIGHT).locator(".course-summary").inner_text()


def test_two_answers_do_not_see_each_other(shared):
    first = {"id": "lora-3", "source": RIGHT + "\nsecret = 1"}
    second = {"id": "lora-3", "source": "secret\n" + RIGHT}
    found = ask(shared, [("check", first), ("check", second)])
    assert found[0]["passed"] and "NameError" in found[1]["message"]


# -- for everybody --------------------------------------------------------------------------------------------------------


def test_everything_can_be_reached_and_used_with_the_keyboard_alone(fresh):
    expected = fresh.evaluate(
        "[...document.querySelectorAll('input, select, textarea, button, [role=region]')]"
        ".filter(e => !e.hidden && !e.disabled).length"
    )
    seen = []
    for _ in range(expected):
        fresh.keyboard.press("Tab")
        seen.append(
            fresh.evaluate("""() => {
                const at = document.activeElement, look = getComputedStyle(at);
                return [at.tagName, at.labels?.[0]?.textContent.trim() || at.textContent.trim(), look.outlineStyle];
            }""")
        )
    assert len(seen) == expected > 70
    assert {tag for tag, _, _ in seen} == {"INPUT", "SELECT", "TEXTAREA", "BUTTON", "DIV"}  # tables, which may scroll
    assert all(name for _, name, _ in seen) and {outline for _, _, outline in seen} == {"solid"}
    # An answer, typed and checked: a line begins where the last one did, and Tab leaves the editor.
    room(fresh, "exercise", "lora-3").get_by_role("textbox").focus()
    fresh.keyboard.press("Control+A")
    for line in RIGHT.split("\n"):
        fresh.keyboard.type(line.strip())
        fresh.keyboard.press("Enter")
    fresh.keyboard.press("Tab")
    fresh.keyboard.press("Enter")
    summary = room(fresh, "exercise", "lora-3").locator(".course-summary")
    wait_until(lambda: "2 of 2 points (passed)" in summary.inner_text(), PATIENCE)


def test_controls_are_large_enough_for_a_finger(fresh):
    """Contrast, names and widths of pages are looked at in tests/publishing, on the book's own."""
    small = fresh.evaluate(
        "[...document.querySelectorAll('.course-room :is(button, select, input, textarea)')]"
        ".filter(e => e.checkVisibility())"
        ".map(e => [e.id || e.textContent, e.getBoundingClientRect()]).filter(([_, r]) => r.width < 20 || r.height < 20)"
    )
    assert small == []


def test_a_request_to_another_host_would_be_seen(browser, address):
    someone = watched(browser, address)
    someone.page.evaluate("fetch('http://192.0.2.1/').catch(() => 0)")  # an address kept for documentation: nobody is there
    wait_until(lambda: any("192.0.2.1" in line for line in someone.wrong))
    someone.context.close()
