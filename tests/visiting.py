"""What tests that look at pages in a browser share."""

import contextlib
import functools
import http.server
import importlib.util
import os
import shutil
import threading

import pytest

from course_utils.publishing.book import building

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name in building.NEEDED if importlib.util.find_spec(name) is None]

built = pytest.mark.skipif(bool(MISSING), reason="needs the extra `book`")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="needs chromium (see README) and the extra `test`",
)
needs_jupyterlab = pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="needs the extra `lab`")
needs_pyodide = [
    pytest.mark.index,
    pytest.mark.skipif(
        shutil.which("npm") is None and "COURSE_PYODIDE" not in os.environ,
        reason="needs npm, which brings Pyodide (see README)",
    ),
]
in_a_browser = [built, pytest.mark.slow, needs_chromium]
needs_axe = pytest.mark.skipif(importlib.util.find_spec("axe_playwright_python") is None, reason="needs the extra `test`")


@contextlib.contextmanager
def served(folder, keep=""):
    """Where a folder is served on loopback, by a host that can do nothing but hand out files.

    `keep` is what it says to browsers about keeping everything but pages.
    """

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def end_headers(self):
            if keep:
                self.send_header("Cache-Control", keep if "/_static/" in self.path else "no-cache")
            super().end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Visitor:
    """A page of a browser that can reach nothing but what is visited, and remembers what went wrong."""

    def __init__(self, browser, address, width=1280, theme="light", complaints=("error",)):
        self.context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=theme)
        self.context.set_default_timeout(120_000)
        self.page, self.address, self.wrong = self.context.new_page(), address, []
        self.context.route(lambda url: not url.startswith((address, "data:", "blob:")), self._refuse)
        self.page.on("console", lambda message: message.type in complaints and self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def _refuse(self, route):
        self.wrong.append(f"asked for {route.request.url}")
        route.abort()

    def go(self, page):
        self.page.goto(f"{self.address}/{page}")
        return self.page


def violations(page):
    """What axe-core finds on a page with everything unfolded, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    found = []
    for violation in Axe().run(page).response["violations"]:
        places = [node["html"][:160] for node in violation["nodes"][:3]]
        found.append(f"{violation['id']} ({len(violation['nodes'])}): {places}")
    return found
