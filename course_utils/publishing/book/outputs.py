"""Stored outputs, dressed for a website: pictures as files, colours that a dark theme may exchange."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html import escape, unescape

from course_utils.style import LINE, TONES

PICTURES = "_figures"  # folder of the website

_PICTURE = re.compile(r'<img src="data:image/(?P<kind>\w+)[^,"]*;base64,(?P<data>[^"]+)"(?P<rest>[^>]*)>')
_STYLE = re.compile(r'style=(?P<quote>["\'])(?P<css>.*?)(?P=quote)', re.DOTALL)
_COLOUR = re.compile(r"(?P<property>[\w-]+)\s*:(?P<before>[^;:]*?)(?P<colour>#[0-9a-fA-F]{6})\b")
_BAR = re.compile(r"<div>\s*(?:<style>.*?</style>)?\s*<progress[^>]*>\s*</progress>\s*(?P<text>.*?)\s*</div>", re.DOTALL)

# Fills for which the style sheet has a dark twin: those of all tones, and of badges, whose fill is a tone's text.
KNOWN = {colour.lower() for pair in TONES.values() for colour in pair} | {LINE.lower()}


def dressed(html: str, pictures: dict[str, bytes], up: str = "../") -> str:
    """Return an output's HTML as the website shows it.

    Args:
        html: what the notebook stored.
        pictures: name → bytes; the output's pictures are added to it.
        up: path from the page to the website's first folder.
    """
    html = _BAR.sub(lambda bar: f"<p>{escape(unescape(' '.join(bar['text'].split())))}</p>", html)
    html = _PICTURE.sub(lambda picture: _linked(picture, pictures, up), html)
    return _STYLE.sub(lambda style: f'style="{exchangeable(style["css"]).replace(chr(34), chr(39))}"', html)


def exchangeable(css: str) -> str:
    """Return a style whose colours are variables, so that a theme can exchange them: `var(--fill-fdf5dc,#fdf5dc)`.

    The variable's name says where the colour is used, since white as paper turns dark and white as a badge's letters does
    not. A style with a fill that the style sheet does not know stays as it is: only the pair of both colours is legible.
    """
    colours = list(_COLOUR.finditer(css))
    if any(_role(match["property"]) == "fill" and match["colour"].lower() not in KNOWN for match in colours):
        return css
    return _COLOUR.sub(_variable, css)


def _variable(match: re.Match[str]) -> str:
    colour = match["colour"].lower()
    return f"{match['property']}:{match['before']}var(--{_role(match['property'])}-{colour[1:]},{colour})"


def _role(name: str) -> str:
    """What a property colours: text, fill or edge."""
    return {"color": "text", "background": "fill", "background-color": "fill"}.get(name, "edge")


def _linked(picture: re.Match[str], pictures: dict[str, bytes], up: str) -> str:
    """A picture as a file that loads when it is scrolled to, within a link to its full size."""
    data = base64.b64decode(picture["data"])
    name = f"{hashlib.sha256(data).hexdigest()[:12]}.{picture['kind']}"
    pictures[name] = data
    alt = re.search(r'alt="([^"]*)"', picture["rest"])
    width, height = _size(data)
    shown = re.search(r'width="(\d+)"', picture["rest"])
    across = int(shown[1]) if shown else width
    size = f'width="{across}" height="{round(height * across / width)}"'
    address = f"{up}{PICTURES}/{name}"
    return (
        f'<a class="book-figure" href="{address}"><img src="{address}" alt="{alt[1] if alt else ""}" {size} '
        'loading="lazy" decoding="async"></a>'
    )


def _size(data: bytes) -> tuple[int, int]:
    """Pixels across and down."""
    from PIL import Image

    if drawing := re.match(rb'<svg[^>]* width="(\d+)" height="(\d+)"', data):
        return int(drawing[1]), int(drawing[2])
    with Image.open(io.BytesIO(data)) as image:
        return image.size
