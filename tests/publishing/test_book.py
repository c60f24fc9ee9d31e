"""The book: built in time from the stored notebooks, whole, and readable by everybody, on a phone, in the dark, offline."""

import json
import re
import resource
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support import SLOW
from test_style import contrast
from visiting import Visitor, built, in_a_browser, needs_axe, served, violations

from course_utils import glossary, lessons, style
from course_utils.errors import CourseError
from course_utils.in_browser import calculate
from course_utils.publishing import book as publishing_book
from course_utils.publishing import calculators
from course_utils.publishing.book import (
    build_book,
    building,
    conf,
    html_pages,
    lesson_pages,
)
from course_utils.show.calculators import CALCULATORS

HERE = Path(publishing_book.__file__).parent
CSS = (HERE / "static" / "book.css").read_text(encoding="utf-8")
NAMES = [lesson.name for lesson in lessons.NOTEBOOKS.values()]
LESSON_PAGES = [f"notebooks/{name}.html" for name in NAMES]
PAGES = {
    "index.html", "calculators.html",
    "glossary.html", "cheat-sheets.html", "instructors.html", "search.html", *LESSON_PAGES,
}  # fmt: skip
SECONDS, MEGABYTES = 30, 25

browsed = [
    *in_a_browser,
    pytest.mark.soak("test_book_live.py looks at pages of each kind in `make test`"),
]


def stored(name):
    """The learner's notebook as text, and its cells."""
    text = lessons.learner_file(name).read_text(encoding="utf-8")
    return text, json.loads(text)["cells"]


# -- without Sphinx: what becomes of a notebook ---------------------------------------------------------------------------


def test_known_colours_become_variables_and_unknown_pairs_stay():
    assert lesson_pages.exchangeable("color:#1f2933;background:#FFFFFF;border:1px solid #cbd2d9") == (
        "color:var(--text-1f2933,#1f2933);background:var(--fill-ffffff,#ffffff);border:1px solid var(--edge-cbd2d9,#cbd2d9)"
    )
    odd = "color:#1f2933;background:#aa8800"
    assert lesson_pages.exchangeable(odd) == odd  # its letters would turn light on a light ground


DARK = dict(re.findall(r"--((?:text|fill|edge)-\w{6}): (#\w{6});", CSS[CSS.index('[data-theme="dark"]') :]))


@pytest.mark.parametrize("name", style.TONES)
def test_every_tone_has_a_dark_twin_that_can_be_read(name):
    text, fill = (colour.lower().lstrip("#") for colour in style.TONES[name])
    assert contrast(DARK[f"text-{text}"], DARK[f"fill-{fill}"]) >= 4.5
    assert f"edge-{text}" in DARK


def test_a_badge_keeps_its_colours_in_the_dark():
    """Its fill is a tone's text colour, and its letters are white as paper is: neither may be exchanged."""
    assert "text-ffffff" not in DARK
    assert not {f"fill-{text.lower()[1:]}" for text, _ in style.TONES.values()} & set(DARK)


@built
def test_a_picture_becomes_a_file_with_its_size_and_a_link(tmp_path):
    html = next(
        "".join(output["data"]["text/html"])
        for cell in stored("02_lora")[1]
        for output in cell.get("outputs", [])
        if "".join(output.get("data", {}).get("text/html", "")).startswith("<img")
    )
    shown = html_pages.finished(html, {}, tmp_path, "../")
    (file,) = (tmp_path / "_figures").iterdir()
    assert "base64" not in shown and f'href="../_figures/{file.name}"' in shown
    assert {"height", "width", "loading"} <= set(re.findall(r'(\w+)="', shown)) and re.search('alt="[^"]{20,}"', shown)


def test_progress_bars_of_a_run_become_a_sentence():
    bar = "<div><progress value='2' max='2' style='width:3px'></progress>\n [2/2 00:01, Epoch 1/1]</div>"
    assert lesson_pages.dressed(bar) == "<p>[2/2 00:01, Epoch 1/1]</p>"


@pytest.mark.parametrize("lesson", lessons.NOTEBOOKS.values(), ids=lambda lesson: lesson.number)
def test_a_lessons_page_has_all_of_the_lesson_and_nothing_that_needs_a_kernel(lesson):
    text, cells = stored(lesson.name)
    page = json.loads(lesson_pages.lesson_page(text, lesson))["cells"]
    shown = json.dumps(page)
    assert "Open in Colab](https" not in shown and "#Words-of-this-lesson" not in shown
    assert "<progress" not in shown and "widget-view" not in shown
    guesses = sum("".join(output.get("data", {}).get("text/plain", "")).startswith("Your guess") for output in outs(cells))
    assert shown.count('class=\\"book-predict\\"') == guesses
    assert shown.count('class=\\"book-reveal\\"') >= guesses
    exercises = [cell for cell in cells if cell["metadata"].get("nbgrader", {}).get("grade")]
    assert shown.count("book-exercise") == len(exercises) > 0
    assert "(not yet)" not in shown
    code = [cell for cell in cells if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", [])]
    assert len([cell for cell in page if cell["cell_type"] == "code"]) == len(code) - len(exercises)


def test_a_page_begins_with_the_lesson_and_its_pictures_stand_without_their_calls():
    """A notebook needs its imports first; somebody who reads does not, nor the name of the function that draws."""
    drawings = 0
    for lesson in lessons.NOTEBOOKS.values():
        page = json.loads(lesson_pages.lesson_page(stored(lesson.name)[0], lesson))["cells"]
        code = [("".join(cell["source"]), cell["metadata"]["tags"]) for cell in page if cell["cell_type"] == "code"]
        assert "import" in code[0][0] and "hide-input" in code[0][1], lesson.number
        for source, tags in code:
            called = re.fullmatch(r"show\.drawing\([^()]*\)|quiz\(.*\)", source.strip())
            assert ("remove-input" in tags) == bool(called), source
            drawings += "remove-input" in tags
    assert drawings >= 6


def outs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_every_reveal_belongs_to_a_guess():
    """A measured value knows which guess it answers; lesson 01 asks about its companies one by one."""
    for lesson in lessons.NOTEBOOKS.values():
        shown = lesson_pages.lesson_page(stored(lesson.name)[0], lesson)
        asked = re.findall(r'book-predict\\" data-key=\\"([\w/-]+)', shown)
        revealed = re.findall(r'book-reveal\\" data-key=\\"([\w/-]*)', shown)
        assert len(asked) == len(set(asked)) and set(asked) <= set(revealed), lesson.number


def test_every_widget_that_a_lesson_shows_has_a_note_for_readers_without_a_kernel():
    shown = set()
    for lesson in lessons.NOTEBOOKS.values():
        shown |= set(re.findall(r"show\.\w+\(", lessons.source_file(lesson.name).read_text(encoding="utf-8")))
    widgets = {f"show.{name}(" for name in ("calculator", "sort")}
    assert widgets <= shown and widgets == set(lesson_pages.LIVE)
    assert lesson_pages.calculator_for('show.calculator(\n    "memory", model=name)') == "memory"


def test_terms_lead_into_the_glossary_by_their_meaning():
    meaning = glossary.find("logits").meaning.replace("'", "&#x27;")
    text = lesson_pages.page_text(f'the *[raw scores](#Words-of-this-lesson "{meaning}")* of a model')
    assert text == "the *{term}`raw scores <logits>`* of a model"
    assert lesson_pages.page_text('a *[gone](#Words-of-this-lesson "No longer there.")* word') == "a *gone* word"


@built
def test_every_formula_of_the_lessons_becomes_mathml():
    count = 0
    for name in NAMES:
        prose = "\n".join(lesson_pages.markdown_of(stored(name)[0]))
        for block in (True, False):
            pattern = r"\$\$(.+?)\$\$" if block else r"(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\d$])"
            for latex in re.findall(pattern, prose, re.DOTALL):
                xml = conf.mathml(latex, block)
                shown = re.sub(r"<annotation.*?</annotation>", "", xml, flags=re.DOTALL)
                assert "\\" not in re.sub(r"<[^>]*>", "", shown), latex
                assert "merror" not in xml and xml.endswith("</semantics></math>")
                count += 1
    assert count > 60


@built
def test_tables_name_their_cells_their_regions_and_their_empty_headers():
    table = (
        '<table><caption>Prices, <a href="https://example.org">source</a></caption><thead><tr><th scope="col"></th>'
        '<th scope="col">per token</th></tr></thead><tbody><tr><th scope="row">A</th><td>2</td></tr></tbody></table>'
    )
    html = html_pages.finished(table * 2, {})
    assert html.count('data-label="per token"') == 2 and html.count('role="rowheader"') == 2
    assert re.findall(r'aria-label="([^"]*)"', html) == ["Prices, source", "Prices, source (2)"]
    assert '<span class="visually-hidden">row</span>' in html
    assert re.search(r"<p>Prices, <a [^>]*>source</a></p><table", html) and "<caption" not in html


@built
def test_a_title_above_several_columns_names_each_of_them():
    head = '<tr><th></th><th colspan="2">small</th><th>large</th></tr>'
    head += "<tr><th></th><th>right</th><th>time</th><th>right</th></tr>"
    cells = "<tr><th>DPO</th><td>9 %</td><td>2.4</td><td>16 %</td></tr>"
    html = html_pages.finished(f"<table><thead>{head}</thead><tbody>{cells}</tbody></table>", {})
    assert re.findall('data-label="([^"]+)"', html) == ["small right", "small time", "large right"]


@built
def test_a_list_of_values_stays_a_table_on_a_phone():
    row = "<tr><th scope='row'>{}</th><td>{}</td></tr>"
    html = lambda *rows: html_pages.finished(f"<table>{''.join(row.format(*cells) for cells in rows)}</table>", {})
    assert "book-pairs" in html(("what", "bytes"), ("its gradient", "4"))
    assert "book-pairs" not in html(("what", "why"), ("its gradient", "because each weight needs one of its own"))
    assert "book-pairs" not in html_pages.finished("<table><tr><th>a</th><th>b</th><th>c</th></tr></table>", {})


@built
def test_a_table_of_figures_stays_a_table_on_a_phone():
    """So that columns can be compared; of sentences, each row becomes a card."""

    def html(cell):
        rows = [("rank", "8", "64"), ("loss", "0.41 (0.39-0.43)", cell)]
        body = "".join(
            "<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in [("", "LoRA", "full"), *rows]
        )
        return html_pages.finished(f"<table>{body}</table>", {})

    assert "book-compared" in html("0.40") and "book-compared" not in html("lower, but it forgets more of what it knew")


@pytest.mark.parametrize("source", ["lesson.kinds_table(pairs.train)", 'evidence.card("L5")', 'show.drawing("lora")'])
def test_a_call_that_only_shows_something_is_told_from_code(source):
    """Its code is folded: it teaches nothing. Code that a reader could use is not, whatever it calls."""
    starts = ("lesson.", "evidence.", "show.drawing")
    assert lesson_pages.is_call_of(source, starts)
    assert not lesson_pages.is_call_of(f"rank = 8\n{source}", starts)
    assert not lesson_pages.is_call_of(f"table = {source}", starts) and not lesson_pages.is_call_of("%pip list", starts)


@built
def test_a_sign_after_a_formula_stays_in_its_line():
    x, y = "<math><mi>x</mi></math>", '<math display="block"><mi>y</mi></math>'
    html = html_pages.finished(f"<p>a {x}. Then {x} and {y}.</p>", {})
    assert html == f'<p>a <span class="book-together">{x}.</span> Then {x} and {y}.</p>'


@built
def test_terms_and_choices_know_what_they_are():
    html = html_pages.finished(
        '<a href="glossary.html#term-x">word</a><div class="book-quiz"><details><summary>a</summary><b>Right.</b></details>'
        "<details><summary>b</summary><b>Not this one.</b></details></div>",
        {"term-x": "logits"},
    )
    assert f'data-meaning="{glossary.find("logits").meaning}"' in html
    assert re.findall(r'<details class="(book-\w+)"', html) == ["book-right", "book-wrong"]


def test_every_lesson_has_a_cheat_sheet():
    for step in building.learning_path():
        assert step["cheat_sheet"].startswith(("| ", "- ")) and step["cheat_sheet"].count("\n") >= 3, step["lesson"].number
    assert building.cheat_sheet(["## 3 · What you can do now\n\nNothing yet."]) == ""


def test_a_missing_library_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "NEEDED", ("no_such_library",))
    with pytest.raises(CourseError, match=r"no_such_library: pip install '.*\[book\]'"):
        build_book(tmp_path / "book")


def test_nobodys_folder_is_replaced(tmp_path):
    mine = tmp_path / "thesis.txt"
    mine.write_text("two years")
    with pytest.raises(CourseError, match="has files and is no book"):
        build_book(tmp_path)
    with pytest.raises(CourseError, match="is a file"):
        build_book(mine)
    assert mine.read_text() == "two years" and list(tmp_path.iterdir()) == [mine]


@built
def test_a_second_build_replaces_the_first_as_a_whole_and_a_failed_one_leaves_it(tmp_path, monkeypatch):
    def write(page):
        def run(work, runtime, language):
            (work / "html" / "_static").mkdir(parents=True)
            (work / "html" / page).write_text("<p>")
            return []

        return run

    out = tmp_path / "deep" / "book"
    for page in ("one.html", "two.html"):
        monkeypatch.setattr(building, "_run_sphinx", write(page))
        assert build_book(out, live=False).pages == (page,)

    def fail(work, runtime, language):
        write("three.html")(work, runtime, language)
        raise CourseError("Sphinx stopped")

    monkeypatch.setattr(building, "_run_sphinx", fail)
    with pytest.raises(CourseError, match="stopped"):
        build_book(out, live=False)
    assert [file.name for file in out.glob("*.html")] == ["two.html"] and list(out.parent.iterdir()) == [out]


def test_the_command_says_what_it_built(tmp_path, monkeypatch, capsys):
    from course_utils import cli

    asked = []

    def build(out, live, language):
        asked.append(live)
        return publishing_book.Book(tmp_path, ("index.html",), 1_500_000, 2.0, warnings, live=bool(live))

    monkeypatch.setattr(publishing_book, "build_book", build)
    warnings = ()
    assert cli.main(["book", "--out", str(tmp_path), "--live", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    size = {"bytes": 1_500_000, "seconds": 2.0}
    assert told == {
        "folder": str(tmp_path),
        "pages": ["index.html"],
        **size,
        "warnings": [],
        "live": True,
    }
    warnings = ("a.md: wrong",)
    assert cli.main(["book", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "warning: a.md: wrong" in said[-1]
    assert sum("without live Python" in line for line in said) == 1
    assert cli.main(["book", "--out", str(tmp_path), "--no-live"]) == 1
    assert asked == [True, None, False]


# -- the finished book ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A book without Python for its pages, and the seconds of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = build_book(tmp_path_factory.mktemp("site") / "book", live=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return finished, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@built
@pytest.mark.slow
def test_it_is_built_in_time_and_small_without_a_warning(book):
    finished, seconds = book
    assert seconds < SECONDS * SLOW
    assert finished.bytes < MEGABYTES * 1e6
    assert finished.warnings == ()


@built
@pytest.mark.slow
def test_it_has_every_page_and_can_be_served_anywhere(book):
    finished, _ = book
    assert set(finished.pages) >= PAGES
    assert (finished.folder / ".nojekyll").exists() and not list(finished.folder.rglob("*.map"))
    assert not [path for path in finished.folder.parent.iterdir() if path != finished.folder]  # no work left behind


@built
@pytest.mark.slow
def test_without_python_the_answers_of_the_build_stand_and_nothing_that_computes_is_loaded(book):
    text = (book[0].folder / "calculators.html").read_text(encoding="utf-8")
    for id, calculator in CALCULATORS.items():
        assert calculate(id, calculator.defaults)["summary"] in unescape(text)
    assert "was built without Python for its pages" in text and f"{calculators.static()}/course.css" in text
    assert [file.name for file in (book[0].folder / calculators.static()).iterdir()] == ["course.css"]
    assert not list((book[0].folder / "_static").glob("pyodide*"))
    assert not [page for page in book[0].pages if "course.js" in (book[0].folder / page).read_text(encoding="utf-8")]


@built
@pytest.mark.slow
def test_the_download_is_the_stored_notebook(book):
    for name in NAMES:
        assert (book[0].folder / "_sources" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8") == stored(name)[0]


LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Loaded(HTMLParser):
    """Addresses that a page makes a browser load, and those that it links to."""

    def __init__(self, html):
        super().__init__()
        self.loaded, self.links = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in LOADING and given.get(LOADING[tag]):
            self.loaded.append(given[LOADING[tag]])
        if tag == "a":
            self.links.append(given.get("href") or "")


@built
@pytest.mark.slow
def test_no_page_loads_anything_from_another_host(book):
    for page in book[0].pages:
        loaded = Loaded((book[0].folder / page).read_text(encoding="utf-8")).loaded
        assert loaded and not [address for address in loaded if re.match(r"(\w+:)?//", address)], page
    for sheet in book[0].folder.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']+", text), sheet.name


@built
@pytest.mark.slow
def test_links_within_the_book_lead_somewhere(book):
    folder = book[0].folder
    for page in book[0].pages:
        for link in Loaded((folder / page).read_text(encoding="utf-8")).links:
            file, _, anchor = link.partition("#")
            if re.match(r"\w+:|//", link) or not file:
                continue
            target = (folder / page).parent / file.partition("?")[0]
            assert target.exists(), f"{page} links to {link}"
            if anchor and target.suffix == ".html":
                assert f'id="{anchor}"' in target.read_text(encoding="utf-8"), f"{page} links to {link}"


@built
@pytest.mark.slow
def test_every_term_of_the_glossary_is_there_and_lessons_explain_theirs_in_place(book):
    text = (book[0].folder / "glossary.html").read_text(encoding="utf-8")
    assert len(set(re.findall(r'<dt id="(term-[^"]+)"', text))) == len(glossary.terms())
    lesson = (book[0].folder / LESSON_PAGES[1]).read_text(encoding="utf-8")
    assert len(re.findall(r'class="[^"]*book-term[^"]*"[^>]*data-meaning="[^"]{10,}', lesson)) > 25


# -- in a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(book):
    with served(book[0].folder) as address:
        yield address


@pytest.fixture
def visitor(browser, address):
    """A desk's screen with light colours."""
    someone = Visitor(browser, address)
    yield someone
    someone.context.close()


# Words of letters and digits whose parts are on two lines; heads of tables that a phone only reads out are no lines.
BROKEN_WORDS = """() => {
    document.querySelectorAll('details').forEach(details => details.open = true);
    const found = [], range = document.createRange();
    const walk = document.createTreeWalker(document.querySelector('.bd-article') ?? document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const text = walk.currentNode, parent = text.parentElement;
        if (!parent.checkVisibility() || parent.closest('thead, math, .visually-hidden, svg, textarea, option')) continue;
        for (const word of text.data.matchAll(/[\\p{L}\\p{N}]{2,}/gu)) {
            const run = /\\S*$/.exec(text.data.slice(0, word.index))[0] + /^\\S*/.exec(text.data.slice(word.index))[0];
            if (run.length > 28) continue; // no line of a phone has room for it
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            const lines = new Set([...range.getClientRects()].filter(box => box.width).map(box => Math.round(box.top)));
            if (lines.size > 1) found.push(`${word[0]} in ${parent.textContent.slice(0, 60)}`);
        }
    }
    return found;
}"""


@pytest.mark.parametrize("width", [1280, 390])
class TestEveryPage:
    pytestmark = browsed

    def test_asks_nobody_else_has_no_error_and_fits_the_screen(self, browser, address, book, width):
        someone = Visitor(browser, address, width)
        wide = []
        for name in book[0].pages:
            page = someone.go(name)
            page.evaluate("document.querySelectorAll('img[loading]').forEach(image => image.loading = 'eager')")
            page.wait_for_load_state("networkidle")
            if page.evaluate("document.scrollingElement.scrollWidth > document.documentElement.clientWidth"):
                wide.append(name)
            broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
            assert broken == [], name
        someone.context.close()
        assert someone.wrong == [] and wide == []

    def test_breaks_no_word_that_fits_on_a_line(self, browser, address, book, width):
        someone, broken = Visitor(browser, address, width), []
        for name in book[0].pages:
            broken += [f"{name}: {word}" for word in someone.go(name).evaluate(BROKEN_WORDS)]
        someone.context.close()
        assert broken == []

    @needs_axe
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_keeps_nobody_out(self, browser, address, book, width, theme):
        """axe-core finds nothing, with everything unfolded."""
        someone, found = Visitor(browser, address, width, theme), []
        for name in book[0].pages:
            found += [f"{name}: {violation}" for violation in violations(someone.go(name))]
        someone.context.close()
        assert found == []


class TestALesson:
    pytestmark = browsed

    def test_is_marked_as_read_and_stays_so(self, visitor):
        page = visitor.go(LESSON_PAGES[1])
        mark = page.locator(".book-read button")
        assert mark.inner_text() == "Mark as read"
        mark.click()
        page.reload()
        assert page.locator(".book-read button").get_attribute("aria-pressed") == "true"
        assert page.locator(".bd-sidebar-primary .book-is-read").count() == 1
        page = visitor.go("index.html")
        assert "You have read 1 of 6 lessons. Next: 01" in page.locator(".book-overview").inner_text()
        assert page.locator(".book-step-02 .book-tick").count() == 1 and page.locator(".book-tick").count() == 2
        page.get_by_role("button", name="Forget all marks").click()
        page.reload()
        assert page.locator(".book-tick").count() == 0 and page.locator(".book-overview").is_hidden()

    def test_goes_on_where_it_was_left(self, visitor):
        page = visitor.go(LESSON_PAGES[1])
        assert page.locator(".book-continue").count() == 0
        heading = page.locator("section > h2", has_text="4 · ")
        heading.scroll_into_view_if_needed()
        page.wait_for_function("JSON.parse(localStorage.getItem('finetuning-course') || '{}').places?.['02']")
        page = visitor.go(LESSON_PAGES[1])
        link = page.locator(".book-continue a")
        assert link.inner_text().startswith("Go on at “4 · LoRA")
        link.click()
        page.wait_for_function("document.querySelectorAll('section > h2')[3].getBoundingClientRect().top < innerHeight")
        page.reload()
        assert page.locator(".book-continue").count() == 0  # the address says where

    def test_is_reached_from_the_first_page_by_keyboard_alone(self, visitor):
        page = visitor.go("index.html")
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent.trim()") == "Start reading":
                break
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/{LESSON_PAGES[0]}")

    @pytest.mark.parametrize("width", [390, 1000, 1280])
    def test_menus_open_where_they_are_folded_away(self, browser, address, width):
        """The list of lessons by its button, on a phone over the page; beside the page it folds away and comes back."""
        someone = Visitor(browser, address, width)
        page = someone.go(LESSON_PAGES[1])
        here = page.evaluate("document.querySelector('#pst-primary-sidebar').getBoundingClientRect().left >= 0")
        assert here == (width >= 992)
        button = page.locator("button.primary-toggle:visible")
        assert button.count() == 1
        button.click()
        shown = "document.querySelector('a.reference[href*=\"03_\"]').getBoundingClientRect().left >= 0"
        page.wait_for_function(shown if not here else f"!({shown})")
        if not here:
            page.keyboard.press("Escape")
            page.locator("button.secondary-toggle:visible").click()
            page.locator("dialog[open] a.reference", has_text="3 · ").first.click()
            page.wait_for_url("**#*")
            assert page.locator("dialog[open]").count() == 0
            page.locator("a.book-home").click()
            page.wait_for_url("**/index.html")
        someone.context.close()
        assert someone.wrong == []

    def test_keeps_a_guess_and_shows_it_beside_the_answer(self, visitor):
        page = visitor.go(LESSON_PAGES[1])
        box = page.locator(".book-predict").first
        key = box.get_attribute("data-key")
        answer = page.locator(f'.book-reveal[data-key="{key}"]')
        assert not answer.get_by_text("Measured").is_visible()
        box.locator("input").fill("about ten")
        page.keyboard.press("Enter")
        assert "A number, please" in box.locator("output").inner_text()
        box.locator("input").fill("17")
        page.keyboard.press("Enter")
        page.reload()
        assert box.locator("input").input_value() == "17"
        answer.locator("summary").click()
        assert "You said 17." in answer.inner_text() and "Measured" in answer.inner_text()

    def test_explains_a_word_in_place_and_gives_the_focus_back(self, visitor):
        page = visitor.go(LESSON_PAGES[1])
        word = page.locator("a.book-term").nth(3)
        word.focus()
        page.keyboard.press("Enter")
        card = page.locator("#book-meaning")
        assert word.get_attribute("data-meaning") in card.inner_text()
        page.keyboard.press("Escape")
        assert card.is_hidden() and word.evaluate("word => word === document.activeElement")
        page.keyboard.press("Enter")
        card.get_by_role("link").click()
        page.wait_for_url("**/glossary.html#term-*")

    def test_opens_a_picture_in_full_size(self, visitor):
        page = visitor.go(LESSON_PAGES[1])
        picture = page.locator("a.book-figure").first
        picture.focus()
        page.keyboard.press("Enter")
        dialog = page.locator("dialog.book-zoom")
        assert dialog.is_visible() and len(dialog.inner_text()) > 40
        assert dialog.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
        page.keyboard.press("Escape")
        assert dialog.is_hidden() and picture.evaluate("picture => picture === document.activeElement")

    def test_shows_tables_as_cards_on_a_phone(self, browser, address):
        someone = Visitor(browser, address, 390)
        page = someone.go(LESSON_PAGES[1])
        row = page.locator(".book-table tbody tr").first
        assert row.evaluate("row => getComputedStyle(row).display") == "block"
        assert row.locator("td").last.evaluate("cell => getComputedStyle(cell, '::before').content") not in ("none", '""')
        someone.context.close()

    def test_folds_long_cells_on_a_phone(self, browser, address):
        someone = Visitor(browser, address, 390)
        page = someone.go(LESSON_PAGES[1])
        folded = page.locator(".book-folded").count()
        assert folded > 5
        cell = page.locator(".book-folded").first.element_handle()
        before = cell.evaluate("cell => cell.offsetHeight")
        page.locator(".book-unfold").first.click()
        assert page.locator(".book-folded").count() == folded - 1
        assert cell.evaluate("cell => cell.offsetHeight") > before
        someone.context.close()

    def test_has_buttons_for_colab_binder_and_download(self, visitor):
        page = visitor.go(LESSON_PAGES[1])
        links = page.eval_on_selector_all(".bd-header-article a", "links => links.map(link => link.getAttribute('href'))")
        name = lessons.NAMES[1]
        for part in ("colab.research.google.com", "mybinder.org", f"_sources/notebooks/{name}.ipynb"):
            assert [link for link in links if link and part in link], part
        assert page.locator(".cell_input button.copybtn").count() > 20

    def test_works_without_any_script(self, browser, address):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"{address}/{LESSON_PAGES[1]}")
        assert page.locator(".book-predict form").first.is_hidden()
        assert page.locator("a.book-figure").first.get_attribute("href").endswith(".png")
        page.locator(".book-reveal summary").first.click()
        assert page.locator(".book-reveal").first.get_by_text("Measured").is_visible()
        context.close()


class TestFromAFile:
    pytestmark = browsed

    def test_it_reads_and_searches(self, browser, book):
        someone = Visitor(browser, book[0].folder.as_uri())
        page = someone.go("search.html?q=quantization")
        page.locator("#search-results li a").first.wait_for()
        assert page.locator("#search-results li a").count() > 3
        page = someone.go(LESSON_PAGES[2])
        page.locator(".book-read button").click()
        page.reload()
        assert page.locator(".book-read button").get_attribute("aria-pressed") == "true"
        someone.context.close()
        assert someone.wrong == []
