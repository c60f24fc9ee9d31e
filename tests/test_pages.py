"""The pages for a browser: whatever is in them, they stay text; they need nothing else; they can be read on a phone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from data_prep.test_pipeline import rows
from data_prep.test_similarity import chat
from jinja2 import UndefinedError, nodes
from visiting import needs_axe, needs_chromium, violations

import course_utils
from course_utils import assets, data_report
from course_utils.data_prep import prepare
from course_utils.exercises import EXERCISES
from course_utils.grading import release, results, tables
from course_utils.grading.intake import Answers, Submission
from course_utils.grading.marking import Mark

PACKAGE = Path(course_utils.__file__).parent
TEMPLATES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("templates/*.j2"))
NASTY = "<script>alert('x')</script> <img src=x onerror=alert(1)> & \"q\" '> {{ 7 * 7 }} {% raw %} " + "0123456789" * 30
# What is built by us, and goes into a page as markup.
MARKUP = {"templates/data_report.html.j2": 2}


def graded(learner, marks, **problems):
    """Results as grading writes them."""
    submission = Submission(learner, learner, (Path(learner),))
    return results.compose(submission, Answers(**problems), marks, ["02_lora"], "bubblewrap", "digest", 1.0)


def several():
    right = {id: Mark(float(EXERCISES[id].points), "Right.", "right") for id in ("lora-2", "lora-3", "lora-5")}
    mistake = EXERCISES["lora-3"].mistakes[0]
    wrong = {
        "lora-2": Mark(1 / 3, f"{NASTY}\nsecond line", "partly", notes=(NASTY,)),
        "lora-3": Mark(0.0, mistake.diagnosis, "wrong", mistake.diagnosis),
        "lora-5": Mark(0.0, NASTY, "error"),
    }
    return [graded("right", right), graded(NASTY, wrong), graded(NASTY + "2", {}, problems=[NASTY])]


def report(folder):
    person = chat(f"I am Selin Karagöz, selin@example.org, and my {NASTY} hums.", "We send another.", "c-1")
    refused = chat(f"Where is the rug of order 55555? {NASTY}", f"As an AI I cannot say. {NASTY}", "c-2")
    export = folder / f"{NASTY[:20].replace('/', '')}.jsonl"
    again = chat(f"Hello. {refused['messages'][1]['content']}", refused["messages"][2]["content"], "c-2")
    lines = [json.dumps(row) for row in [*rows(), rows()[0], person, refused, again]]
    export.write_text("\n".join([*lines, NASTY]) + "\n")
    return data_report.write_html(prepare(export), folder / "report.html", [(NASTY, NASTY)]).read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Name → HTML of a page of each kind."""
    ids, everybody = ["lora-2", "lora-3", "lora-5"], several()
    return {
        **{f"feedback-{i}": results.feedback(one) for i, one in enumerate(everybody)},
        "class": tables.class_view(ids, everybody),
        "nobody": tables.class_view(ids, []),
        "report": report(tmp_path_factory.mktemp("report")),
        "answers": release._answers(["02_lora"], [EXERCISES[id] for id in ids]),
    }


KINDS = ["feedback-0", "feedback-1", "feedback-2", "class", "nobody", "report", "answers"]


class Page(HTMLParser):
    """Elements as (name, attributes, names of those around it), and the text of each name."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self._open = [], {}, []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [name for name, _ in self._open]))
        if tag not in ("meta", "img", "br"):
            self._open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if self._open:
            self.text.setdefault(self._open[-1][0], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.mark.parametrize("template", TEMPLATES)
def test_only_our_own_markup_is_not_escaped(template):
    environment = assets.templates()
    tree = environment.parse(environment.loader.get_source(environment, template)[0])
    assert not list(tree.find_all((nodes.ScopedEvalContextModifier, nodes.EvalContextModifier)))
    unescaped = [node for node in tree.find_all(nodes.Filter) if node.name in ("safe", "tojson", "urlize", "xmlattr")]
    assert len(unescaped) == MARKUP.get(template, 0)


def test_a_value_that_was_not_passed_is_an_error():
    with pytest.raises(UndefinedError, match="'results' is undefined"):
        assets.render("grading/templates/feedback.html.j2", title="Somebody")


@pytest.mark.parametrize("kind", KINDS)
def test_what_strangers_wrote_stays_text(written, kind):
    page = Page(written[kind])
    assert page.all("script") == []
    assert all(image["src"].startswith("data:image/") and "onerror" not in image for image in page.all("img"))
    if kind in ("feedback-1", "class", "report"):
        assert "alert('x')</script> <img src=x onerror=alert(1)> & \"q\" '> {{ 7 * 7 }} {% raw %}" in " ".join(
            part for parts in page.text.values() for part in parts
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_whole_and_loads_nothing(written, kind):
    html, page = written[kind], Page(written[kind])
    assert html.startswith("<!doctype html>\n") and html.endswith("</html>\n")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert not page.all("link") and not re.search(r"@import|url\(|\bhref=", html.replace(NASTY, ""))
    (title,) = page.text["title"]
    assert [title] == page.text["h1"] and title.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_headings_tables_and_pictures_can_be_followed_without_seeing_them(written, kind):
    page = Page(written[kind])
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels) <= {1, 2}
    assert all(image["alt"].strip() for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    boxes = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table"))
    assert all(box["role"] == "region" and box["aria-label"] and box["tabindex"] == "0" for box in boxes)


@needs_chromium
@needs_axe
def test_pages_fit_a_phone_and_keep_nobody_out(written, tmp_path, browser):
    phone = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True)
    dialogs, page = [], phone.new_page()
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for kind, html in written.items():
        (tmp_path / f"{kind}.html").write_text(html)
        page.goto((tmp_path / f"{kind}.html").as_uri())
        assert violations(page) == [], kind
        assert page.evaluate("document.documentElement.scrollWidth") == 390, kind
    phone.close()
    assert dialogs == []
