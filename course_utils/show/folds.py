"""Something to look at for those who want to know more: behind a line that opens."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Folded:
    """See `folded`."""

    title: str
    part: Any

    def _repr_html_(self) -> str:
        return f"<details><summary><b>{escape(self.title)}</b></summary>{self.part._repr_html_()}</details>"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.part}"


def folded(title: str, part: Any) -> Folded:
    """Put a table, a figure or a card behind a line that opens.

    Args:
        title: the line.
        part: something that can be shown as HTML.
    """
    return Folded(title, part)
