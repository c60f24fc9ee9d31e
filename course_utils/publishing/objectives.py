"""What a lesson promises: the items under "By the end you will be able to", which programs read too."""

from __future__ import annotations

import re
from collections.abc import Iterable

from course_utils.errors import CourseError

_HEADING = "By the end you will be able to"
_ITEMS = r"\n\n((?:-.*\n(?:  .*\n)*)+)"


def objectives_in(texts: Iterable[str], name: str = "the lesson") -> list[str]:
    """Return the objectives in a lesson's Markdown cells, one line each.

    Args:
        texts: Markdown cells in the order of the page; terms of the glossary may be written out as links.
        name: full name of the lesson.

    Raises:
        CourseError: the lesson has no such list.
    """
    text = re.sub(r"\*\[([^\]]*)\]\(#[^)]*\)\*", r"\1", "\n".join(texts))  # terms of the glossary, which are links
    section = re.search(re.escape(_HEADING) + _ITEMS, text + "\n")
    if not section:
        raise CourseError(f"{name} does not say what a learner will be able to do")
    return [" ".join(item.split()).rstrip(",.") for item in re.split(r"^- ", section[1], flags=re.MULTILINE)[1:]]
