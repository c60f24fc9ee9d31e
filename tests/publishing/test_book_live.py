"""The book with Python for its pages: calculators where notebooks have widgets, exercises that are solved in place."""

import io
import json
import re
import shutil
import subprocess
import zipfile
from html import unescape

import pytest
from support import wait_until, write_page
from visiting import Visitor, built, in_a_browser, needs_axe, needs_pyodide, served, violations

from course_utils import in_browser, lessons
from course_utils.errors import CourseError
from course_utils.exercises import EXERCISES
from course_utils.exercises.quizzes import questions
from course_utils.in_browser import calculate
from course_utils.publishing import calculators, pyodide
from course_utils.publishing.book import build_book, building, html_pages, lesson_pages
from course_utils.show.calculators import CALCULATORS

MEGABYTES = 30
LESSONS = list(lessons.LESSONS.values())
ON_LESSONS = [("01", "costs"), ("03", "memory")]
STATIC = calculators.static()
PATIENCE = 120  # seconds; a machine that builds notebooks at the same time starts Python in ten

# Files that npm would bring; a test that has none of them says so.
fetched = [pytest.mark.slow, *needs_pyodide]
browsed = [*in_a_browser, *fetched]
finished = [built, *fetched]


def cells_of(lesson, live=True):
    """The sources of a lesson's page, and its outputs as one text."""
    text = lessons.learner_file(lesson.name).read_text(encoding="utf-8")
    cells = json.loads(lesson_pages.lesson_page(text, lesson, live))["cells"]
    return ["".join(cell["source"]) for cell in cells], json.dumps([cell.get("outputs") for cell in cells])


def solved_on(lesson):
    return [id for id in in_browser.on_page() if lesson.has(id)]


# -- without a build ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.number)
def test_an_exercise_without_libraries_has_a_field_and_the_others_say_where(lesson):
    page = "\n".join(cells_of(lesson)[0])
    assert re.findall(r'data-exercise="([\w-]+)"', page) == solved_on(lesson) != []
    everyone = [id for id in EXERCISES if lesson.has(id)]
    assert re.findall(r"book-exercise exercise-([\w-]+)", page) == everyone
    assert page.count(":::{admonition} Your turn") == len(everyone) - len(solved_on(lesson))
    for id in everyone:  # each has its stub once, as code or in its field
        assert page.count(f"def {EXERCISES[id].name}(") == 1 + (f"def {EXERCISES[id].name}(" in EXERCISES[id].statement), id


def test_calculators_stand_where_the_notebook_has_their_widget():
    found = [
        (lesson.number, id)
        for lesson in LESSONS
        for source in cells_of(lesson)[0]
        for id in re.findall(r'data-calculator="(\w+)"', source)
    ]
    assert found == ON_LESSONS


def test_a_calculator_takes_the_place_of_the_stored_answer():
    outputs = cells_of(lessons.LESSONS["01"])[1]
    stored = cells_of(lessons.LESSONS["01"], live=False)[1]
    title = f"<b>{CALCULATORS['costs'].title}</b>"
    assert outputs.count(title) == stored.count(title) - 1
    pictures = [cells_of(lesson, live)[1].count("data:image/") for lesson in LESSONS for live in (True, False)]
    assert pictures[::2] == pictures[1::2]


def test_the_costs_begin_with_the_numbers_of_the_lesson():
    """Its picture says from how many requests training pays; the calculator below it agrees."""
    sources, outputs = cells_of(lessons.LESSONS["01"])
    (here,) = [source for source in sources if 'data-calculator="costs"' in source]
    pays, said = (
        re.search(r"pays from ([\d,]+) requests a day on", here),
        re.search(r"pays against [\w.-]+ from ([\d,]+) requests", outputs),
    )
    assert f"{int(pays[1].replace(',', '')):.2g}" == f"{int(said[1].replace(',', '')):.2g}"
    assert calculate("costs", CALCULATORS["costs"].defaults)["summary"] not in unescape(here)


def test_without_a_stored_answer_costs_begin_with_their_own():
    here = lesson_pages.calculator_at('show.calculator("costs", **vars(chosen))', "")
    assert calculate("costs", CALCULATORS["costs"].defaults)["summary"] in unescape(here)


@built
@pytest.mark.parametrize("id", in_browser.on_page())
def test_a_field_comes_through_the_last_pass_as_it_was(id):
    """Blank lines, indentation, quotes and signs of the stub are what is checked."""
    before = calculators.exercise_fragment(id)
    stub = lambda html: unescape(re.search(r"<textarea[^>]*>(.*?)</textarea>", html, re.DOTALL)[1])
    assert stub(html_pages.finished(before, {})) == stub(before)
    assert EXERCISES[id].name in stub(before)


@built
def test_an_answers_table_is_left_as_the_pages_python_writes_it():
    html = html_pages.finished(str(calculators.fragment("memory")) + "<table><tr><th>a</th></tr></table>", {})
    assert html.count("book-table") == 1 and html.count("<table") == 2


@pytest.mark.parametrize("id", CALCULATORS)
def test_without_python_the_choices_are_listed_and_nothing_can_be_changed(id):
    text = calculators.fragment(id, live=False)
    assert not re.search("<(form|input|select|button|noscript)", text) and "role=" not in text.partition("course-details")[0]
    assert text.count("<dt>") == len(CALCULATORS[id].fields)
    answer = calculate(id, CALCULATORS[id].defaults)
    assert answer["summary"] in unescape(text) and answer["details"] in text


def test_a_list_names_its_choices():
    text = calculators.fragment("memory", live=False, length=4096, checkpointing=False)
    assert "<dt>Length, tokens</dt><dd>4,096</dd>" in text and "<dt>Gradient checkpointing</dt><dd>no</dd>" in text
    assert "<dt>Method</dt><dd>QLoRA (4-bit base)</dd>" in text


# -- where Python comes from ----------------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, an npm that must not be called, and a Sphinx that only remembers with what it was asked."""
    asked = []

    def no_program(*arguments, **_):
        raise AssertionError(f"called {arguments}")

    def run(work, runtime, language):
        asked.append(runtime)
        (work / "html").mkdir()
        return []

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COURSE_PYODIDE", raising=False)
    monkeypatch.setattr(subprocess, "run", no_program)
    monkeypatch.setattr(building, "_run_sphinx", run)
    return asked


def filled(cache):
    folder = cache / f"pyodide-{pyodide.VERSION}"
    folder.mkdir(parents=True)
    for name in pyodide.FILES:
        (folder / name).write_bytes(b"x" * 500_000)
    return folder


@built
def test_a_build_fetches_nothing_unless_it_is_asked_to(tmp_path, offline, monkeypatch):
    assert not build_book(tmp_path / "book").live and not build_book(tmp_path / "book", live=False).live
    assert offline == [None, None] and not (tmp_path / "cache").exists()
    with pytest.raises(AssertionError, match="npm"):
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        build_book(tmp_path / "book", live=True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match="npm is not installed"):
        build_book(tmp_path / "another", live=True)
    assert len(offline) == 2 and not (tmp_path / "another").exists()


@built
def test_what_was_fetched_before_is_taken_unless_it_is_not_wanted(tmp_path, offline):
    folder = filled(tmp_path / "cache")
    assert build_book(tmp_path / "book").live and build_book(tmp_path / "book", live=True).live
    assert not build_book(tmp_path / "book", live=False).live
    assert offline == [folder, folder, None]
    assert pyodide.megabytes(folder) == pytest.approx(0.5 * len(pyodide.FILES))


@pytest.mark.parametrize("name", [*calculators.OWN_FILES, "course.zip"])
def test_a_changed_file_changes_the_address_of_all(name, monkeypatch):
    before = calculators.static()
    own, packed = calculators._own, calculators.archive()
    monkeypatch.setattr(calculators, "_own", lambda asked: own(asked) + b" " * (asked == name))
    monkeypatch.setattr(calculators, "archive", lambda: packed + b" " * (name == "course.zip"))
    assert calculators.static() != before
    monkeypatch.undo()
    assert calculators.static() == before


# -- the finished book ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return build_book(tmp_path_factory.mktemp("site") / "book", live=True)


@pytest.fixture(scope="module")
def address(book):
    with served(book.folder) as address:
        yield address


def page_of(number):
    return f"notebooks/{lessons.LESSONS[number].name}.html"


class TestTheFinishedBook:
    pytestmark = finished

    def test_it_has_what_its_pages_load_and_no_warning(self, book):
        assert book.live and book.warnings == () and book.bytes < MEGABYTES * 1e6
        runtime = (f"../{calculators.RUNTIME}/{name}" for name in (*pyodide.FILES, "NOTICE.txt"))
        for name in (*calculators.OWN_FILES, "course.zip", *runtime):
            assert (book.folder / STATIC / name).stat().st_size > 0

    def test_only_pages_that_compute_load_the_script(self, book):
        for name in book.pages:
            text = (book.folder / name).read_text(encoding="utf-8")
            computes = 'class="course-room' in text
            assert computes == (name == "calculators.html" or name.startswith("notebooks/")), name
            loads = re.findall(rf'(?:src|href)="(?:\.\./)*{STATIC}/course\.(js|css)\?v=\w+"', text)
            assert sorted(loads) == (["css", "js"] if computes else []), name

    def test_the_answers_of_the_build_stand_on_the_page_of_calculators(self, book):
        text = unescape((book.folder / "calculators.html").read_text(encoding="utf-8"))
        for id, calculator in CALCULATORS.items():
            assert calculate(id, calculator.defaults)["summary"] in text
            assert f"<h2>{calculator.title}<a" in text
        links = re.findall(r'href="(notebooks/\w+\.html)(?:#[\w-]*)?">\s*(?:<[^>]*>)*lesson', text)
        assert links == [page_of("03"), page_of("01")]

    def test_the_first_page_leads_to_the_calculators(self, book):
        text = (book.folder / "index.html").read_text(encoding="utf-8")
        assert text.count('href="calculators.html"') >= 2  # in the list and in the navigation
        assert f"{len(in_browser.on_page())} exercises that you solve on the page" in " ".join(text.split())


# -- in a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def visitor(browser, address):
    """A desk's screen with light colours; nothing has gone wrong when it is left."""
    someone = Visitor(browser, address)
    yield someone
    someone.context.close()
    assert someone.wrong == []


def room(page, kind, id):
    return page.locator(f"[data-{kind}={id}]")


def says(there, text):
    """The summary of a calculator or an exercise comes to contain a text."""
    summary = there.locator(".course-summary")
    try:
        wait_until(lambda: text in summary.inner_text(), PATIENCE)
    except AssertionError as error:
        raise AssertionError(f"waited for {text!r}; it says {summary.inner_text()!r}") from error
    return summary.inner_text()


def solution(id):
    return EXERCISES[id].source()


def mistake(id):
    """A cell in which the asked-for name is a typical mistake."""
    return f"from course_utils.exercises import EXERCISES\n{EXERCISES[id].name} = EXERCISES[{id!r}].mistakes[0].function"


def solve(page, id):
    """A typical mistake gets its diagnosis, the solution its points, as in this Python."""
    there = room(page, "exercise", id)
    diagnosis = EXERCISES[id].mistakes[0].diagnosis
    for source, passed in ((mistake(id), False), (solution(id), True)):
        found = in_browser.check(id, source)
        assert found["passed"] == passed and (diagnosis in found["message"]) == (not passed)
        there.get_by_role("textbox").fill(source)
        there.get_by_role("button", name="Check").click()
        said = says(there, "(passed)" if passed else "(not yet)")
        assert (diagnosis in said) == (not passed)
        assert ("course-wrong" in there.get_attribute("class")) == (not passed)
    assert f"{EXERCISES[id].points} of {EXERCISES[id].worth}" in said


def change(page, id):
    """An answer after a change is this Python's, in summary and table; the start comes back."""
    there, choices = room(page, "calculator", id), CALCULATORS[id].defaults
    numbers = [f for f in CALCULATORS[id].fields if not f.options and not isinstance(f.default, bool)]
    choices |= {f.name: f.checked(float(there.get_by_label(f.label, exact=True).input_value())) for f in numbers}
    at_build = calculate(id, choices)
    assert there.locator(".course-summary").inner_text() == at_build["summary"]
    field = next(field for field in CALCULATORS[id].fields if field.options and len(field.options) > 1)
    other = next(option for option, _ in field.options if option != choices[field.name])
    there.get_by_label(field.label).select_option(json.dumps(other))
    answer = calculate(id, choices | {field.name: other})
    assert answer["summary"] != at_build["summary"]
    says(there, answer["summary"])
    shown = there.locator(".course-details").evaluate("details => details.textContent")
    assert shown == unescape(re.sub("<[^>]*>", "", answer["details"]))
    there.get_by_role("button", name="Back to the start").click()
    says(there, at_build["summary"])


class TestInABrowser:
    pytestmark = browsed

    def test_a_lessons_page_computes_and_keeps_an_answer(self, visitor):
        """One calculator, one exercise, one start of Python, and the keyboard; tests/in_browser asks about all of them."""
        page = visitor.go(page_of("03"))
        assert page.evaluate("coursePython.worker") is None
        change(page, "memory")
        solve(page, "qlora-4")
        page.reload()
        editor = room(page, "exercise", "qlora-4").get_by_role("textbox")
        assert editor.input_value() == solution("qlora-4")
        assert "passed before" in room(page, "exercise", "qlora-4").locator(".course-summary").inner_text()
        assert page.evaluate("coursePython.worker") is None  # and reading starts none
        for key in ("Tab", "Escape"):
            editor.focus()
            page.keyboard.press(key)
            assert page.evaluate("document.activeElement.textContent") == "Check", key
        described = editor.get_attribute("aria-describedby")
        assert page.locator(f"#{described}").inner_text().startswith("Tab or Escape leaves the field.")

    def test_a_lesson_can_be_quizzed_by_keyboard_alone(self, visitor):
        page = visitor.go(page_of("02"))
        choices = sum(len(question.choices) for question in questions("02"))
        page.locator(".book-quiz summary").first.focus()
        seen = 0
        for number in range(choices):
            assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
            page.keyboard.press("Enter" if number % 2 else "Space")
            reason = page.evaluate("document.activeElement.nextElementSibling.checkVisibility()")
            seen += bool(reason)
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none"
            page.keyboard.press("Tab")
        assert seen == choices
        assert page.locator(".book-quiz details.book-right").count() == len(questions("02"))

    @needs_axe
    @pytest.mark.parametrize("theme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 390])
    def test_the_page_of_calculators_keeps_nobody_out_and_fits(self, browser, address, width, theme):
        someone = Visitor(browser, address, width, theme)
        page = someone.go("calculators.html")
        assert page.evaluate("document.scrollingElement.scrollWidth <= document.documentElement.clientWidth")
        assert someone.wrong == []  # axe-core itself asks for style sheets that it looks for in the wrong place
        assert violations(page) == []
        someone.context.close()

    def test_from_a_file_it_shows_its_answers_and_says_why_no_others(self, browser, book):
        someone = Visitor(browser, book.folder.as_uri())
        page = someone.go("calculators.html")
        there = room(page, "calculator", "memory")
        assert (
            there.locator(".course-summary").inner_text() == calculate("memory", CALCULATORS["memory"].defaults)["summary"]
        )
        there.get_by_label("Method").select_option('"lora"')
        says(there, "If you opened it as a file, serve its folder instead")
        someone.context.close()

    def test_without_any_script_the_answer_stands_and_no_button_promises_more(self, browser, address):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"{address}/{page_of('03')}")
        assert (
            calculate("memory", CALCULATORS["memory"].defaults)["summary"]
            in room(page, "calculator", "memory").locator(".course-summary").inner_text()
        )
        assert page.locator(".course-room button:visible").count() == 0
        context.close()


def archive_that_answers(summary):
    """The course for a page's Python, as it would be after a change: each calculator says one thing."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(calculators.archive())) as packed, zipfile.ZipFile(changed, "w") as written:
        for name in packed.namelist():
            text = packed.read(name)
            if name.endswith("course_utils/in_browser.py"):
                answer = f"{{**_was(**given), 'summary': {summary!r}}}"
                text += f"\n_was = calculate\ndef calculate(**given):\n    return {answer}\n".encode()
            written.writestr(name, text)
    return changed.getvalue()


class TestAReturningVisitor:
    pytestmark = browsed

    def test_never_runs_files_of_two_versions(self, browser, tmp_path, monkeypatch):
        """The host lets browsers keep files for a year; the page's Python is the one that the page was built with."""
        site, versions = tmp_path / "site", {name: archive_that_answers(name) for name in ("the first", "the second")}
        asked = []
        with served(site, keep="max-age=31536000, immutable") as address:
            someone = Visitor(browser, address)
            someone.page.on("request", lambda request: asked.append(request.url.removeprefix(f"{address}/")))
            for name, archive in versions.items():
                monkeypatch.setattr(calculators, "archive", lambda archive=archive: archive)
                shutil.rmtree(site, ignore_errors=True)
                write_page(site)
                asked.clear()
                there = room(someone.go("index.html"), "calculator", "memory")
                there.get_by_label("Method").select_option('"lora"')
                assert says(there, name) == name
                folders = {path.rpartition("/")[0] for path in asked if path.startswith("_static/")}
                assert folders == {calculators.static(), f"{calculators.STATIC}/{calculators.RUNTIME}"}
            someone.context.close()
        assert someone.wrong == []


@pytest.mark.soak("the ordinary run looks at the page of calculators")
class TestEveryPlace:
    pytestmark = browsed

    @needs_axe
    @pytest.mark.parametrize("theme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 390])
    def test_keeps_nobody_out(self, browser, address, width, theme):
        """axe-core finds nothing on lessons either, with everything unfolded, a wrong answer and a hint."""
        someone, found = Visitor(browser, address, width, theme), []
        for number in lessons.LESSONS:
            page = someone.go(page_of(number))
            page.evaluate("""() => document.querySelectorAll('[data-exercise]').forEach((room, number) => {
                room.classList.add(number % 2 ? 'course-wrong' : 'course-passed');
                room.querySelector('.course-summary').textContent = 'said';
                for (const hidden of room.querySelectorAll('[hidden]')) hidden.hidden = false;
                room.querySelector('.course-printed').textContent = 'printed';
            })""")
            assert page.evaluate("document.scrollingElement.scrollWidth <= document.documentElement.clientWidth"), number
            found += [f"{number}: {violation}" for violation in violations(page)]
        someone.context.close()
        assert found == []
