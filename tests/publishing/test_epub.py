"""The ePub: whole, valid XHTML, and nothing in it that waits for a script or a click."""

import re
import zipfile
from posixpath import dirname, join, normpath
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from visiting import built

from course_utils import cli, lessons
from course_utils.exercises.quizzes import questions, quiz
from course_utils.publishing.book import epub, html_pages, paper, write_epub

XHTML, OPF, MATHML = (
    f"{{{address}}}"
    for address in ("http://www.w3.org/1999/xhtml", "http://www.idpf.org/2007/opf", "http://www.w3.org/1998/Math/MathML")
)


# -- a page, without Sphinx -----------------------------------------------------------------------------------------------


def on_paper(html):
    return paper.on_paper(html_pages.finished(html, {}))


def words(element):
    return " ".join("".join(element.itertext()).split())


def test_a_quiz_gives_its_answers_after_its_last_question():
    tree = ElementTree.fromstring(on_paper(f'<div class="book-quiz">{quiz("03")._repr_html_()}</div>'))
    assert not list(tree.iter("details"))
    answers = tree[-1]
    assert answers.get("class") == "paper-answers"
    told = words(answers)
    tree.remove(answers)
    asked = words(tree)
    for question in questions("03"):
        for choice, _, why in question.choices:
            choice, why = (" ".join(re.sub(r"[`*]", "", text).split()) for text in (choice, why))
            assert choice in asked and why in told and why not in asked
    assert told.count("Right.") == len(questions("03")) and "Right." not in asked


def test_a_guess_is_written_down_and_an_answer_shown():
    shown = on_paper(
        '<div class="book-predict" data-key="1"><p>How many?</p><form hidden><input type="text"><button>Keep</button></form>'
        '</div><details class="book-reveal" data-key="1"><summary>Show the answer</summary><p class="book-said" hidden></p>'
        "<p>Measured: 17</p></details>"
    )
    assert "<form" not in shown and "<details" not in shown and "hidden" not in shown and "Show the answer" not in shown
    assert "Write your guess down, then read on." in shown and "Measured: 17" in shown


@pytest.mark.parametrize(
    "css, shown",
    [
        ("color:var(--text-52606d,#52606d);margin:0", "margin:0"),  # letters alone: a reader's paper may be black
        ("background:var(--fill-ffffff,#ffffff)", "background:#ffffff;color:#1f2933"),  # a ground alone: so may its letters
        ("color:var(--text-0b4f79,#0b4f79);background:#e3f0f8", "color:#0b4f79;background:#e3f0f8"),
    ],
)
def test_colours_can_be_read_on_any_paper(css, shown):
    assert paper.paper_style(css) == shown


def test_a_page_is_xhtml_and_its_pictures_are_no_links():
    shown = on_paper(
        '<p>a&nbsp;b<br>c</p><a class="book-figure" href="x.png"><img src="x.png" alt="a line" loading="lazy"></a>'
    )
    tree = ElementTree.fromstring(f"<div>{shown}</div>")
    assert not list(tree.iter("a")) and tree.find("img").attrib == {"src": "x.png", "alt": "a line"}


@pytest.mark.parametrize(
    "arguments, told",
    [
        ((), "--out FOLDER, --epub FILE or both"),
        (("--pdf", "P", "--epub", "E"), "--out FOLDER"),
        (("--epub", "E", "--language", "en", "--language", "es"), "an ePub has one language"),
    ],
)
def test_the_command_says_what_is_missing(arguments, told, capsys):
    assert cli.main(["book", *arguments]) != 0
    assert told in capsys.readouterr().err


# -- the file -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["en", "es"])
def finished(request, tmp_path_factory):
    """An ePub, and what is in it: name → bytes, in the order of the file."""
    made = write_epub(tmp_path_factory.mktemp("epub") / "course.epub", request.param)
    with zipfile.ZipFile(made.file) as packed:
        assert packed.infolist()[0].filename == "mimetype" and packed.infolist()[0].compress_type == zipfile.ZIP_STORED
        return made, {name: packed.read(name) for name in packed.namelist()}


def listed(files):
    """Path → item of the manifest."""
    package = ElementTree.fromstring(files["content.opf"])
    return package, {unquote(item.attrib["href"]): item for item in package.iter(f"{OPF}item")}


def targets(page, files, names=("src", "href")):
    """What a page refers to within the file: path, anchor."""
    for element in ElementTree.fromstring(files[page]).iter():
        for name in names:
            address = element.get(name, "")
            if address and not re.match(r"\w+:", address):
                path, _, anchor = address.partition("#")
                yield normpath(join(dirname(page), unquote(path))) if path else page, anchor


@built
@pytest.mark.slow
class TestTheFile:
    def test_container_manifest_and_spine_agree_with_what_is_there(self, finished):
        made, files = finished
        assert made.warnings == () and files["mimetype"] == b"application/epub+zip"
        (root,) = re.findall(rb'full-path="([^"]+)"', files["META-INF/container.xml"])
        assert root == b"content.opf"
        package, items = listed(files)
        assert set(items) == set(files) - {"mimetype", "content.opf", "META-INF/container.xml"}
        paths = {item.attrib["id"]: path for path, item in items.items()}
        spine = [paths[ref.attrib["idref"]] for ref in package.iter(f"{OPF}itemref") if ref.get("linear") != "no"]
        chapters = [f"notebooks/{name}.xhtml" for name in lessons.NAMES]
        assert spine == ["epub-cover.xhtml", "index.xhtml", *chapters, "cheat-sheets.xhtml", "glossary.xhtml"]
        assert tuple(spine) == made.pages
        assert [path for path, item in items.items() if item.get("properties") == "cover-image"] == [epub.COVER]
        assert package.findtext(".//{http://purl.org/dc/elements/1.1/}language") == made.language
        identifier = package.findtext(".//{http://purl.org/dc/elements/1.1/}identifier")
        assert f'content="{identifier}"'.encode() in files["toc.ncx"]

    def test_every_page_is_xhtml_without_anything_that_needs_a_script(self, finished):
        made, files = finished
        _, items = listed(files)
        for page in made.pages:
            tree = ElementTree.fromstring(files[page])
            assert tree.get("lang") == made.language, page
            tags = {element.tag.removeprefix(XHTML) for element in tree.iter() if isinstance(element.tag, str)}
            assert not tags & {"script", "style", "form", "input", "button", "textarea", "select", "iframe"}, page
            assert not [e for e in tree.iter() for name in e.attrib if name.startswith("on") or name == "hidden"], page
            has_formulas = any(tag.startswith(MATHML) for tag in tags)
            assert ("mathml" in items[page].get("properties", "")) == has_formulas, page
            assert all(image.get("alt") is not None for image in tree.iter(f"{XHTML}img")), page

    def test_links_lead_somewhere(self, finished):
        made, files = finished
        for page in (*made.pages, "nav.xhtml"):
            for path, anchor in targets(page, files):
                assert path in files, f"{page} refers to {path}"
                assert not anchor or f'id="{anchor}"'.encode() in files[path], f"{page} refers to {path}#{anchor}"

    def test_the_contents_have_lessons_and_their_sections(self, finished):
        _, files = finished
        contents = ElementTree.fromstring(files["nav.xhtml"]).find(f".//{XHTML}nav/{XHTML}ol")
        entries = [entry.find(f"{XHTML}a").get("href") for entry in contents]
        assert [f"notebooks/{name}.xhtml" for name in lessons.NAMES] == [e for e in entries if e.startswith("notebooks/")]
        for entry in contents:
            if entry.find(f"{XHTML}a").get("href").startswith("notebooks/"):
                assert len(entry.findall(f"{XHTML}ol/{XHTML}li")) >= 8
        assert {"cheat-sheets.xhtml", "glossary.xhtml"} <= set(entries)

    def test_results_are_there_and_what_a_reader_cannot_do_is_said(self, finished):
        made, files = finished
        text = files[made.pages[3]].decode()  # lesson 02
        assert text.count("<img ") > 5 and text.count('class="paper-note"') == text.count('class="book-predict"') > 2
        said = {"en": ("Write your guess down", "Your turn"), "es": ("Anota tu predicción", "Te toca")}[made.language]
        assert all(sentence in text for sentence in said)
        assert text.count('class="paper-answers"') == 1
