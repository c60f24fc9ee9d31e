"""Lessons on paper: a PDF of each lesson's page, printed by Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from course_utils import lessons
from course_utils.errors import CourseError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 600  # for one lesson, which takes seconds where the machine does nothing else


def print_lessons(book: Path, out: Path) -> list[Path]:
    """Print the lessons of a finished book, each into a PDF of its own; returns the files.

    Args:
        book: folder of the book.
        out: folder for the PDFs, created if missing; those of an earlier call are replaced.

    Raises:
        CourseError: there is no Chromium, it stopped, or the folder cannot be written.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise CourseError("lessons are printed by Chromium, which is not installed (Debian: apt-get install chromium)")
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [_print(browser, book / "notebooks" / f"{name}.html", out / f"{name}.pdf") for name in lessons.NAMES]
    except OSError as error:
        raise CourseError(f"{out} cannot be written: {error}; name another folder") from error


def _print(browser: str, page: Path, pdf: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix=".print-", dir=pdf.parent) as scratch:
        # Beside the page, so that its links hold; paper has no scrolling after which a picture would load.
        whole = page.with_name(f".{page.name}")
        whole.write_text(page.read_text(encoding="utf-8").replace(' loading="lazy"', ""), encoding="utf-8")
        draft = Path(scratch) / pdf.name
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={scratch}/profile", "--no-pdf-header-footer"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
        try:
            done = subprocess.run(
                [*command, f"--print-to-pdf={draft}", whole.as_uri()], capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise CourseError(f"Chromium has not printed {page.name} within {SECONDS // 60} minutes") from None
        finally:
            whole.unlink()
        if done.returncode or not draft.exists():
            last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CourseError(f"Chromium has not printed {page.name}: {last_line}")
        draft.replace(pdf)
    return pdf
