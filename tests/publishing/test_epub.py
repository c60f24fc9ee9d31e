"""The ePub: whole, valid XHTML, and nothing in it that waits for a script or a click."""

import json
import re
import zipfile
from posixpath import dirname, join, normpath
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from visiting import built

from course_utils import cli, lessons
from course_utils.exercises.quizzes import QUIZZES, quiz
from course_utils.languages import speaking
from course_utils.publishing.book import Epub, epub, html_pages, paper

XHTML, OPF = "{http://www.w3.org/1999/xhtml}", "{http://www.idpf.org/2007/opf}"


# -- a page, without Sphinx -----------------------------------------------------------------------------------------------


def on_paper(html):
    return paper.on_paper(html_pages.finished(html, {}))


@pytest.mark.parametrize("code", ["en", "es"])
def test_a_quiz_gives_its_answers_after_its_last_question(code):
    with speaking(code):
        shown = on_paper(f'<div class="book-quiz">{quiz("03")._repr_html_()}</div>')
    tree = ElementTree.fromstring(shown)
    assert not list(tree.iter("details"))
    questions, answers = shown.split('class="paper-answers"')
    with speaking(code):
        texts = [html for html in (quiz("03")._repr_html_(),)]
    reasons = re.findall(r'<p style="margin-left:1em"><b>[^<]*</b> (.*?)</p>', texts[0])
    assert len(reasons) == sum(len(question.choices) for question in QUIZZES["03"])
    plain = "".join(ElementTree.fromstring(f"<p>{'|'.join(reasons)}</p>").itertext()).split("|")
    rest = "".join(ElementTree.fromstring(f'<div class="{answers.rpartition("</div>")[0].join(["", ""])[:0]}"/>').itertext())
    assert rest == ""
    *_, last = tree.iter("div")
    assert last.get("class") == "paper-answers"
    answered = "".join(last.itertext())
    assert all(reason in answered for reason in plain)
    assert not [reason for reason in plain if reason in "".join(tree.itertext()).removesuffix(answered)]
