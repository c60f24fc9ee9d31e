"""How long Python takes to start in a page of the book: cold, warm, and once it runs.

A reader changes a field of a calculator; what is measured is the time until the new answer appears. Cold is a browser that
has never seen the book, warm the same browser after it has loaded the page again, running a second change on that page. The
book is on loopback, so a network's time is not in it: the sizes say what a network would have to carry. Of each time, 0.2 s
are a pause that the page waits for while somebody types. Processor seconds are those of all of the browser's processes: what
else the machine does, the record's load, multiplies the time and leaves them nearly as they are.

    python benchmarks/page_python.py build/book     # a live book: course book --live --out build/book
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import http.server
import json
import os
import shutil
import statistics
import threading
import time
from pathlib import Path

from common import write_results
from course_utils.in_browser import calculate
from course_utils.publishing import calculators, pyodide
from course_utils.show.calculators import CALCULATORS

import psutil

PAGE = "calculators.html"
PATIENCE = 300_000  # milliseconds


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static host that prints nothing."""

    def log_message(self, *_):
        """Nothing."""


def processor_seconds() -> float:
    """Processor time of this process's descendants, the browser among them."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def to_answer(page, method: str) -> tuple[float, float]:
    """Seconds from a change of the method until the page shows the answer, this Python's; and of processors."""
    expected = calculate("memory", CALCULATORS["memory"].defaults | {"method": method})["summary"]
    room = page.locator("[data-calculator=memory]")
    spent, began = processor_seconds(), time.perf_counter()
    room.get_by_label("Method").select_option(json.dumps(method))
    room.locator(".course-summary", has_text=expected).wait_for()
    return time.perf_counter() - began, processor_seconds() - spent


def one_round(browser, address: str) -> dict[str, tuple[float, float]]:
    """Both times of a first answer, of the first on the next page, and of one from Python that runs already."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{address}/{PAGE}")
    found = {"cold": to_answer(page, "lora")}
    page.goto(f"{address}/{PAGE}?again")  # another address: a new page, which a browser does not bring back whole
    found["warm"] = to_answer(page, "lora")
    found["running"] = to_answer(page, "full")
    context.close()
    return found


def sizes(book: Path) -> dict[str, float]:
    """MB that a first answer loads, as they are and compressed."""
    files = [book / calculators.STATIC / calculators.RUNTIME / name for name in pyodide.FILES]
    files += [book / calculators.static() / name for name in (*calculators.OWN_FILES, "course.zip")]
    whole = [file.read_bytes() for file in files]
    packed = (len(gzip.compress(data, 6)) for data in whole)
    return {"as they are": round(sum(map(len, whole)) / 1e6, 2), "gzip": round(sum(packed) / 1e6, 2)}


def main() -> None:
    """Measure, print and record."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("book", type=Path, help="folder of a live book")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(options.book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = os.getloadavg()[0]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        rounds = [one_round(browser, f"http://127.0.0.1:{server.server_port}") for _ in range(options.rounds)]
        version = browser.version
        browser.close()
    server.shutdown()
    loads = (before, os.getloadavg()[0])
    seconds, processor = ({name: [round(one[name][which], 2) for one in rounds] for name in rounds[0]} for which in (0, 1))
    results = {
        "browser": f"Chromium {version}, headless",
        "pyodide": pyodide.VERSION,
        "load_average": [round(load, 1) for load in loads],
        "loaded_mb": sizes(options.book),
        "seconds_to_answer": seconds,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "processor_seconds": processor,
        "median_processor_seconds": {name: statistics.median(values) for name, values in processor.items()},
    }
    print(json.dumps(results, indent=1))
    write_results("page-python", results)


if __name__ == "__main__":
    main()
