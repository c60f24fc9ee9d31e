"""What Sphinx's theme says in English whatever the language of the book is, translated in the finished pages.

The theme has catalogues of its own, which lack these, or writes the words into its templates; so there is no place in
Sphinx at which all of them could be translated.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from course_utils.languages import later, say

# Names of buttons and regions, as titles, labels and alternative texts.
NAMES = (
    later("Repository"), later("Suggest edit"), later("Source repositories"), later("Toggle primary sidebar"),
    later("Toggle secondary sidebar"), later("Page"), later("Launch interactive content"), later("Launch on Binder"),
    later("Launch on Colab"), later("Binder logo"), later("Colab logo"), later("Link to this heading"),
    later("Link to this term"), later("Link to this definition"), later("Toggle hidden content"),
)  # fmt: skip

_NAME = re.compile(r'(?P<before>\s(?:title|aria-label|alt|data-bs-title)=")(?P<text>[^"]+)(?=")')
_BUTTON = re.compile(r'(?P<before><span class="btn__text-container">)(?P<text>[^<]+)(?=</span>)')


def translate_theme(folder: Path) -> None:
    """Translate what the theme says, in all pages of a folder, into the language that is spoken now."""
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(_BUTTON.sub(_said, _NAME.sub(_said, text)), encoding="utf-8")


def _said(match: re.Match[str]) -> str:
    text = match["text"].strip()
    return match["before"] + (escape(say(text)) if text in NAMES else match["text"])
