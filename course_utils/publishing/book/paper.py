"""A page for readers that run no script and follow no click: the last pass over a page of the ePub, which is XHTML.

What asks to be clicked on the website says here what to do instead: guesses are written down, the answers of a quiz come
after its questions, an answer that waits behind a fold is shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

Tag = Any  # Beautiful Soup's, whose types do not have the attributes that a tag has

INK = "#1f2933"
_VARIABLE = re.compile(r"var\(--[\w-]+,\s*(#[0-9a-fA-F]{3,8})\)")
_GONE = ("loading", "decoding", "tabindex", "data-label", "data-term", "data-meaning", "data-key")


def on_paper(html: str) -> str:
    """Return the body of a page, as `html_pages.finished` leaves it, for a reader without scripts."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for unwanted in soup.select("script, style, noscript, .book-overview"):
        unwanted.decompose()
    for form in soup.select(".book-predict form"):
        form.replace_with(_note(soup, "Write your guess down, then read on."))
    for fold in soup.select("details.book-reveal"):
        _unfold(fold)
    for summary in soup.select("summary:has(.admonition-title)"):  # myst-nb says it twice, in paragraphs
        summary.string = summary.select_one("p").get_text()  # type: ignore[union-attr]  # that of `:has`
        del summary["aria-label"]
    for quiz in soup.select(".book-quiz"):
        _quiz(soup, quiz)
    for link in soup.select("a.book-figure"):  # a picture is no page that one can go to
        link.unwrap()
    for element in soup.find_all(True):
        for name in _GONE:
            del element[name]
        if "style" in element.attrs:
            element["style"] = paper_style(str(element["style"]))
    return str(soup.decode(formatter="minimal"))


def paper_style(css: str) -> str:
    """Return a style whose colours can be read on any paper, since a reader may choose its own, black included.

    Letters keep a colour only together with what is behind them; where only the ground is coloured, letters are dark.
    """
    parts = [part.strip() for part in _VARIABLE.sub(r"\1", css).split(";") if part.strip()]
    names = [part.partition(":")[0].strip().lower() for part in parts]
    has_ground = any(name in ("background", "background-color") for name in names)
    if not has_ground:
        parts = [part for name, part in zip(names, parts) if name != "color"]
    elif "color" not in names:
        parts.append(f"color:{INK}")
    return ";".join(parts)


def _note(soup: BeautifulSoup, text: str) -> Tag:
    note = soup.new_tag("p", attrs={"class": "paper-note"})
    note.string = text
    return note


def _unfold(fold: Tag) -> None:
    """Show what is behind a fold, without the words that invited to open it."""
    fold.find("summary").decompose()
    for offer in fold.select(".book-said"):
        offer.decompose()
    fold.name = "div"
    del fold["open"]


def _quiz(soup: BeautifulSoup, quiz: Tag) -> None:
    """The questions with their choices, then all answers, so that no answer stands beside its question."""
    answers = soup.new_tag("ol")
    for question in quiz.find_all("p", recursive=False):
        choices, reasons = soup.new_tag("ul", attrs={"class": "paper-choices"}), soup.new_tag("ul")
        for fold in _folds_after(question):
            offered, reason = soup.new_tag("li"), soup.new_tag("li")
            letter = fold.find("summary").get_text()[:2]  # "a)"
            reason.append(f"{letter} ")
            reason.extend(list(fold.find("p").contents))
            offered.extend(list(fold.find("summary").contents))
            choices.append(offered)
            reasons.append(reason)
            fold.decompose()
        question.insert_after(choices)
        item = soup.new_tag("li")
        item.append(reasons)
        answers.append(item)
    title = soup.new_tag("p", attrs={"class": "paper-title"})
    title.string = "Answers"
    frame = soup.new_tag("div", attrs={"class": "paper-answers"})
    frame.extend([title, answers])
    quiz.append(frame)


def _folds_after(question: Tag) -> list[Tag]:
    """The folds of a question's choices, up to the next question."""
    folds = []
    for sibling in question.find_next_siblings():
        if sibling.name != "details":
            break
        folds.append(sibling)
    return folds
