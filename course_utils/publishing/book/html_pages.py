"""The last pass over a page's HTML: tables that become cards on a phone, pictures as files, terms with their meaning."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import glossary

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

Tag = Any  # Beautiful Soup's, whose types do not have the attributes that a tag has

PICTURES = "_figures"  # folder of the website
LONGEST_NAME, LONGEST_VALUE = 70, 16  # characters in a row that a phone shows as one
LONGEST_FIRST, LONGEST_SHORT = 80, 24  # characters of cells in a table that a phone shows as one, by the column
AFTER_A_FORMULA = tuple(".,;:!?)")
ROLES = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}


def finished(html: str, terms: Mapping[str, str], site: Path | None = None, up: str = "") -> str:
    """Return the body of a page, gone over.

    Args:
        html: as Sphinx wrote it.
        terms: anchor on the glossary's page → name of the term.
        site: the website's first folder, into which pictures are written; None for a page without any.
        up: path from the page to that folder.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for table in soup.find_all("table"):
        if not table.find_parent(class_="course-room"):  # an answer, which looks the same after each change
            _table(soup, table)
    _tell_apart(soup.select(".book-table"))
    for link in soup.select('a[href*="#term-"]'):
        _term(link, terms)
    if site is not None:
        for image in soup.select('img[src^="data:image/"]'):
            _picture(soup, image, site, up)
    for formula in soup.find_all("math"):
        _keep_together(soup, formula)
    for choice in soup.select(".book-quiz details"):
        right = choice.find("b")
        is_right = right is not None and right.get_text() == "Right."
        choice["class"] = "book-right" if is_right else "book-wrong"
    return str(soup.decode(formatter="html5"))


def _table(soup: BeautifulSoup, table: Tag) -> None:
    """Name each cell by its column, and say in roles what the layout as cards would make a browser forget."""
    rows = table.find_all("tr")
    top = table.select("thead tr") or rows[:1]
    spread = [
        [
            " ".join(cell.get_text(" ").split())
            for cell in row.find_all(["th", "td"])
            for _ in range(int(cell.get("colspan", 1)))
        ]
        for row in top
    ]
    heads = [" ".join(filter(None, column)) for column in zip(*spread)]  # a title above several columns names each
    for cell in rows[0].find_all("th") if rows else []:
        if not cell.get_text().strip():  # a name for screen readers
            cell.append(soup.new_tag("span", attrs={"class": "visually-hidden"}, string="row"))
    for cell in (cell for row in rows[1:] for cell in row.find_all("th") if not cell.get_text().strip()):
        cell.name = "td"  # beside the name of pandas' index
    for name, role in ROLES.items():
        for part in [table, *table.find_all(name)] if name == "table" else table.find_all(name):
            part["role"] = role
    for head in table.find_all("th"):
        head["role"] = "rowheader" if head.get("scope") == "row" else "columnheader"
    for row in rows[len(top) :]:
        for title, cell in zip(heads, row.find_all(["th", "td"])):
            cell["data-label"] = title
    del table["border"]
    _frame(soup, table, heads)


def _frame(soup: BeautifulSoup, table: Tag, heads: list[str]) -> None:
    """Put a table into a region that scrolls and can be reached by keyboard, unless it is in one."""
    frame = table.parent
    if not (frame and frame.get("role") == "region"):
        caption = table.find("caption")
        name = caption.get_text(" ", strip=True) if caption else f"table: {', '.join(filter(None, heads))}"
        table.wrap(soup.new_tag("div", attrs={"role": "region", "tabindex": "0", "aria-label": name}))
        frame = table.parent
    frame["class"] = [*frame.get("class", []), "book-table", *_layout(table)]
    if (caption := table.find("caption")) and caption.find("a"):  # a table with a role may own no links
        caption.name = "p"
        table.insert_before(caption)


def _layout(table: Tag) -> list[str]:
    """The class of a table that a phone shows as one, and not as cards.

    Cards of a list of names with a short value each would fill screens. Where all cells beside the first column are short,
    figures and their intervals above all, somebody compares, and looks up and down a column, which cards would take apart.
    """
    rows = [[len(cell.get_text(" ", strip=True)) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
    if rows and all(len(row) == 2 and row[0] <= LONGEST_NAME and row[1] <= LONGEST_VALUE for row in rows):
        return ["book-pairs"]
    others = [length for row in rows[1:] for length in row[1:]]
    compared = others and max(row[0] for row in rows[1:] if row) <= LONGEST_FIRST and max(others) <= LONGEST_SHORT
    return ["book-compared"] if compared else []


def _picture(soup: BeautifulSoup, image: Tag, site: Path, up: str) -> None:
    """Make a stored picture a file that loads when it is scrolled to, within a link to its full size."""
    kind, _, encoded = image["src"].removeprefix("data:image/").partition(",")
    data = base64.b64decode(encoded)
    address = f"{PICTURES}/{hashlib.sha256(data).hexdigest()[:12]}.{re.split(r'[+;]', kind)[0]}"
    (site / PICTURES).mkdir(exist_ok=True)
    (site / address).write_bytes(data)
    width, height = _size(data)
    across = int(image.get("width", width))
    image["width"], image["height"] = across, round(height * across / width)
    image["src"], image["loading"], image["decoding"] = up + address, "lazy", "async"
    del image["style"]
    image.wrap(soup.new_tag("a", attrs={"class": "book-figure", "href": up + address}))


def _size(data: bytes) -> tuple[int, int]:
    """Pixels across and down."""
    from PIL import Image

    if drawing := re.match(rb'<svg[^>]* width="(\d+)" height="(\d+)"', data):
        return int(drawing[1]), int(drawing[2])
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def _keep_together(soup: BeautifulSoup, formula: Tag) -> None:
    """Keep the sign after a formula in its line: a browser may break there, as it may beside a picture."""
    from bs4 import NavigableString

    after = formula.next_sibling
    if formula.get("display") == "block" or not isinstance(after, NavigableString) or after[:1] not in AFTER_A_FORMULA:
        return
    sign, rest = after[0], after[1:]
    frame = formula.wrap(soup.new_tag("span", attrs={"class": "book-together"}))
    after.replace_with(rest)
    frame.append(sign)


def _tell_apart(frames: Iterable[Tag]) -> None:
    """Number tables of one name, since a list of a page's regions shows nothing but names."""
    counts: dict[str, int] = {}
    for frame in frames:
        name = frame["aria-label"]
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            frame["aria-label"] = f"{name} ({counts[name]})"


def _term(link: Tag, terms: Mapping[str, str]) -> None:
    """Attach a term's meaning to a link into the glossary."""
    name = terms.get(link["href"].partition("#")[2])
    if name is None:
        return
    link["class"] = [*link.get("class", []), "book-term"]
    link["data-term"], link["data-meaning"] = name, glossary.terms()[name].meaning
