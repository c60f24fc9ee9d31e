"""Pictures in a training row: what the hosted API accepts.

Limits from OpenAI's vision fine-tuning guide: 10 pictures per example, 10 MB each, as a web address or as base64 data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from course_utils.data_prep.findings import shorten

MAX_PICTURES = 10  # per example
MAX_BYTES = 10_000_000
DETAILS = ("auto", "low", "high")
DATA = re.compile(r"data:image/(?:png|jpe?g|webp|gif);base64,(?P<data>[A-Za-z0-9+/]+={0,2})", re.IGNORECASE)


def faults(picture: dict) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with a picture, the object in `image_url`, as (field, code, message)."""
    url = picture.get("url")
    if not isinstance(url, str):
        yield "url", "content_part", "url is missing" if "url" not in picture else f"url is {shorten(url)}, not text"
    elif url[:5].lower() == "data:":
        match = DATA.fullmatch(url)
        if not match or len(match["data"]) % 4:
            yield "url", "image_url", f"{shorten(url, 40)} is not base64 data of a PNG, JPEG, WEBP or GIF picture"
        elif len(match["data"]) // 4 * 3 - match["data"].count("=") > MAX_BYTES:
            yield "url", "image_too_large", f"{len(match['data']) // 4 * 3:,} bytes"
    elif not _on_the_web(url):
        yield "url", "image_url", f"{shorten(url, 40)} is not a web address"
    if picture.get("detail", "auto") not in DETAILS:
        yield "detail", "content_part", f"detail is {shorten(picture['detail'])}; known: {', '.join(DETAILS)}"


def _on_the_web(url: str) -> bool:
    try:
        address = urlsplit(url)
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.hostname)


def count(messages: list) -> int:
    """Return the number of pictures in all messages."""
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return sum(
        isinstance(part, dict) and part.get("type") == "image_url"
        for content in contents
        if isinstance(content, list)
        for part in content
    )
