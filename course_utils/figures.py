"""A finished picture with its alt text: a chart of `charts`, or one of the drawings in `course_utils/drawings`."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from html import escape, unescape
from typing import TYPE_CHECKING

from course_utils.assets import PACKAGE
from course_utils.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

DRAWINGS = PACKAGE / "drawings"


@dataclass(frozen=True, repr=False)
class Figure:
    """A picture; a notebook shows it, other places show the alt text.

    Attributes:
        data: the picture's file.
        alt: description of the picture, at most two sentences.
        kind: "png" or "svg+xml".
        width: CSS pixels across where there is room for them; None: as many as the picture has.
    """

    data: bytes
    alt: str
    kind: str = "png"
    width: int | None = None

    def save(self, file: str) -> None:
        """Write the picture as a file."""
        with open(file, "wb") as out:
            out.write(self.data)

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.data).decode()
        width = f' width="{self.width}"' if self.width else ""
        alt = escape(self.alt, quote=True)
        return f'<img src="data:image/{self.kind};base64,{data}" alt="{alt}"{width} style="max-width:100%">'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def drawing(name: str) -> Figure:
    """Return a drawing of the course: an idea as a picture, not data.

    Args:
        name: of a file in `course_utils/drawings`, such as "lora". Its `<desc>` is the alt text.

    Raises:
        CourseError: there is no such drawing; the message lists those that there are.
    """
    file = DRAWINGS / f"{name}.svg"
    if not file.is_file():
        names = ", ".join(sorted(other.stem for other in DRAWINGS.glob("*.svg")))
        raise CourseError(f"there is no drawing {name!r}; there are {names}")
    svg = file.read_text(encoding="utf-8")
    description = re.search(r"<desc>(.*?)</desc>", svg, re.DOTALL)
    width = re.search(r'<svg[^>]* width="(\d+)"', svg)
    if description is None or width is None:
        raise CourseError(f"{file.name} needs a <desc>, which is its alt text, and a width")
    return Figure(svg.encode(), " ".join(unescape(description[1]).split()), "svg+xml", int(width[1]))


def from_canvas(canvas: Canvas, alt: str) -> Figure:
    """Return a matplotlib figure as a PNG of few colours, a third of the usual size.

    Raises:
        ValueError: the alt text is empty.
    """
    from PIL import Image

    if not alt.strip():
        raise ValueError("a figure needs an alt text")
    drawn, out = io.BytesIO(), io.BytesIO()
    canvas.savefig(drawn, format="png", bbox_inches="tight", metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return Figure(out.getvalue(), " ".join(alt.split()))
