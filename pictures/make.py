"""Makes the pictures of README.md and docs/instructors.md. Needs chromium and a book (`make book`).

    python pictures/make.py build/book

The answers before and after training are lesson 02's, as a page of the book shows them; the graded notebook is what `course
grade` writes for an answer to lesson 01 with one right function and one typical mistake.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from course_utils.exercises import EXERCISES
from course_utils.files import write_whole
from course_utils.grading.batch import grade
from course_utils.lessons import LESSONS, learner_file

HERE = Path(__file__).parent
LESSON = LESSONS["02"]
NAMES = ["before-after", "grading"]
# Picture → page, the element that it begins with, and its size in the page's pixels; without a height it is the element.
SHOTS = {
    "before-after": (f"notebooks/{LESSON.name}.html", '.cell_output:has-text("strimmer") >> nth=0', 840, None),
    "grading": ("feedback.html", "h1", 760, 390),
}
SHARPNESS = 1.5  # pixels of the picture for one of the page


def graded(folder: Path) -> Path:
    """The feedback page of a learner who has solved the first exercise, and looked one place too far in the second."""
    import nbformat

    notebook = nbformat.read(learner_file(LESSONS["01"].name), 4)
    answers = {
        "frame-1": EXERCISES["frame-1"].source(),
        "frame-2": EXERCISES["frame-2"].source().replace("[:k]", "[: k + 1]"),
    }
    assert "k + 1" in answers["frame-2"]
    for cell in notebook.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if id in answers:
            cell.source = answers[id]
    inbox = folder / "inbox"
    inbox.mkdir()
    nbformat.write(notebook, inbox / "ada.ipynb")
    grade("01", inbox, folder / "results", seed=1, progress=False)
    return next((folder / "results").rglob("feedback.html"))


def shoot(browser: Any, page_file: Path, name: str) -> bytes:
    """A picture of a page from one of its elements on, as PNG."""
    _, element, width, height = SHOTS[name]
    context = browser.new_context(
        viewport={"width": width, "height": 1000},
        color_scheme="light",
        device_scale_factor=SHARPNESS,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('img[loading]').forEach(image => image.loading = 'eager')")
    page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => 0)))")
    there = page.locator(element).first
    there.evaluate("element => window.scrollTo(0, element.getBoundingClientRect().top + scrollY - 70)")
    picture: bytes = (
        page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height}) if height else there.screenshot()
    )
    context.close()
    return picture


def small(png: bytes) -> bytes:
    """The same picture as WebP without loss, in as many colours as a page has."""
    from PIL import Image

    found = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE).convert("RGB")
    written = io.BytesIO()
    found.save(written, "WEBP", lossless=True, quality=100, method=6)
    return written.getvalue()


def main() -> None:
    """Make all pictures, or those that are named."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("book", type=Path, help="folder of a live book")
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in options.names:
            page = graded(Path(scratch)) if name == "grading" else options.book.resolve() / SHOTS[name][0]
            picture = small(shoot(browser, page, name))
            write_whole(HERE / f"{name}.webp", picture)
            print(f"{name}.webp: {len(picture) / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
