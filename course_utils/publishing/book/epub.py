"""The book as one ePub file: lessons with their stored results, cheat sheets and glossary, to be read without a network.

Sphinx builds it from the sources that the website is built from. `paper` has gone over each page by then, so that nothing in
it waits for a script; here the files are picked that pages refer to, the package document says what is in them, and all
becomes one file.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse
from uuid import NAMESPACE_URL, uuid5
from xml.etree import ElementTree

from course_utils import __version__, assets
from course_utils.errors import CourseError
from course_utils.files import write_whole
from course_utils.lessons import LESSONS
from course_utils.publishing.book.building import HERE, NEEDED, import_path, last_lines
from course_utils.publishing.book.sources import write_paper_sources

EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's own; the same book gives the same file
COVER, COVER_SIZE = "_static/cover.png", (6, 8)  # inches
COVER_PAGE = "book-cover.html"  # template
UID = "course"  # of the element that has the identifier
STYLES = ("_static/pygments.css", "_static/paper.css")

OPF, DC = "http://www.idpf.org/2007/opf", "http://purl.org/dc/elements/1.1/"
XHTML = "http://www.w3.org/1999/xhtml"
MATHML, SVG = "http://www.w3.org/1998/Math/MathML", "http://www.w3.org/2000/svg"
_ADDRESS = re.compile(r"""url\(\s*["']?(?P<url>[^"')]+)|@import\s+["'](?P<imported>[^"']+)""")


@dataclass(frozen=True)
class Epub:
    """A finished ePub.

    Attributes:
        file: where it is.
        pages: XHTML pages in the order of reading, as paths within it.
        bytes: size of the file.
        seconds: how long the build took.
        warnings: what Sphinx found wrong, a line each; the pages are there all the same.
    """

    file: Path
    pages: tuple[str, ...]
    bytes: int
    seconds: float
    warnings: tuple[str, ...]


def write_epub(file: str | Path) -> Epub:
    """Write the book as an ePub from the stored notebooks, without running anything.

    Args:
        file: the file to write; one that is there is replaced when the new one is whole.

    Raises:
        CourseError: a library is missing (extra `book`), Sphinx stopped, or the file cannot be written.
    """
    start = time.monotonic()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise CourseError(f"the ePub needs {', '.join(missing)}: pip install '{assets.DISTRIBUTION}[book]'")
    file = Path(file).resolve()
    if file.is_dir():
        raise CourseError(f"{file} is a folder; name a file, such as course.epub")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".epub-") as work:
            warnings = _run_sphinx(Path(work))
            pages = _describe(Path(work) / "epub")
            write_whole(file, _packed(Path(work) / "epub"))
    except OSError as error:
        raise CourseError(f"{file} cannot be written: {error}; name another file") from error
    return Epub(file, tuple(pages), file.stat().st_size, time.monotonic() - start, tuple(warnings))


def _run_sphinx(work: Path) -> list[str]:
    """Lay out the sources and build them into `work/epub`; return Sphinx's warnings, without paths of this machine."""
    source, out, warned = work / "source", work / "epub", work / "warnings"
    write_paper_sources(source)
    _draw_cover(out / COVER)
    settings = {
        "epub_basename": "course",
        "epub_show_urls": "no",  # a reader follows links, and does not type them
        "epub_tocdepth": "2",
        "epub_tocdup": "0",
        "epub_tocscope": "includehidden",
        "epub_use_index": "0",
        "epub_uid": UID,
        "epub_identifier": f"urn:uuid:{uuid5(NAMESPACE_URL, f'{assets.repository_url()}/en')}",
        "epub_description": _description(),
        "epub_contributor": "the authors of the course",
        "version": __version__,
        "pygments_style": "a11y-high-contrast-light",
        "nb_code_prompt_show": "The code",
        "nb_code_prompt_hide": "The code",
    }
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "epub", "-c", str(HERE), "-d", str(work / "doctrees")]
    for name, value in settings.items():
        command += ["-D", f"{name}={value}"]
    command += ["-w", str(warned), str(source), str(out)]
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": import_path(),
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise CourseError(f"Sphinx stopped: {last_lines(run.stderr or run.stdout)}")
    text = warned.read_text(encoding="utf-8") if warned.exists() else ""
    return [line.replace(f"{source}/", "") for line in text.splitlines() if line.strip()]


def _description() -> str:
    titles = "; ".join(f"{lesson.number} {lesson.title}" for lesson in LESSONS.values())
    return f"A course on fine-tuning language models in which everything runs. {titles}."


def _draw_cover(file: Path) -> None:
    """Draw the picture that a reader's shelf shows: title, what it is, the lessons."""
    import textwrap

    from matplotlib.figure import Figure

    figure = Figure(figsize=COVER_SIZE, dpi=200, facecolor="#0b4f79")
    title = textwrap.fill("Teaching models new behaviours", 16)
    figure.text(0.09, 0.9, title, color="white", fontsize=34, fontweight="bold", va="top", linespacing=1.15)
    what = textwrap.fill("A course on fine-tuning language models in which everything runs.", 36)
    figure.text(0.09, 0.56, what, color="#cfe6f5", fontsize=15, va="top", linespacing=1.4)
    for place, lesson in enumerate(LESSONS.values()):
        height = 0.4 - 0.053 * place
        figure.text(0.09, height, lesson.number, color="#9fd3f7", fontsize=14, fontweight="bold")
        figure.text(0.19, height, lesson.title, color="white", fontsize=14)
    file.parent.mkdir(parents=True)
    figure.savefig(file)


# -- from Sphinx's folder to one file -------------------------------------------------------------------------------------


def _describe(folder: Path) -> list[str]:
    """Let the package document list what pages refer to and nothing else, and say what pages have; return the pages.

    Sphinx lists every file of its folder, scripts of the website's theme among them, and does not say which pages have
    formulas.
    """
    for prefix, address in (("", OPF), ("dc", DC)):
        ElementTree.register_namespace(prefix, address)
    file = folder / "content.opf"
    document = ElementTree.parse(file)
    manifest, spine = document.getroot().find(f"{{{OPF}}}manifest"), document.getroot().find(f"{{{OPF}}}spine")
    if manifest is None or spine is None:
        raise CourseError("Sphinx has written an ePub without a manifest or a spine")
    guide = document.getroot().find(f"{{{OPF}}}guide")
    if guide is not None:  # of ePub 2, whose titles Sphinx leaves in English
        document.getroot().remove(guide)
    items = {unquote(item.attrib["href"]): item for item in manifest}
    linear_ids = {ref.attrib["idref"] for ref in spine if ref.get("linear") != "no"}
    pages = [name for name, item in items.items() if item.attrib["id"] in linear_ids]
    used = {"toc.ncx", "nav.xhtml", COVER, *pages}
    for page in pages:
        tree = ElementTree.parse(folder / page)
        used |= _referred(folder, page, tree)
        namespaces = {element.tag.partition("}")[0][1:] for element in tree.iter() if isinstance(element.tag, str)}
        properties = [name for name, address in (("mathml", MATHML), ("svg", SVG)) if address in namespaces]
        if properties:
            items[page].set("properties", " ".join(properties))
    items[COVER].set("properties", "cover-image")
    for name, item in items.items():
        if name not in used:
            manifest.remove(item)
    manifest_ids = {item.attrib["id"] for item in manifest}
    for ref in [ref for ref in spine if ref.attrib["idref"] not in manifest_ids]:
        spine.remove(ref)
    document.write(file, encoding="utf-8", xml_declaration=True)
    contents = folder / "toc.ncx"  # of ePub 2, for old readers; Sphinx does not give it the book's name
    text = contents.read_text(encoding="utf-8")
    contents.write_text(text.replace(f'content="{UID}"', f'content="{_identifier(document)}"'), encoding="utf-8")
    order = [ref.attrib["idref"] for ref in spine]
    return sorted(pages, key=lambda name: order.index(items[name].attrib["id"]))


def _identifier(document: ElementTree.ElementTree[ElementTree.Element]) -> str:
    return document.getroot().findtext(f".//{{{DC}}}identifier", "")


def _referred(folder: Path, page: str, tree: ElementTree.ElementTree[ElementTree.Element]) -> set[str]:
    """Files that a page shows or is shown with, as paths within the folder."""
    files = set[str]()
    for element in tree.iter():
        for name in ("src", "href"):
            address = element.get(name, "")
            if element.tag != f"{{{XHTML}}}a" and address:
                files |= set(_reached(folder, page, address))
    return files


def _reached(folder: Path, start: str, address: str) -> Iterator[str]:
    """A file, and what its style sheet loads."""
    parts = urlparse(address)
    if parts.scheme or not parts.path:
        return
    name = os.path.normpath(os.path.join(os.path.dirname(start), unquote(parts.path))).replace(os.sep, "/")
    yield name
    if name.endswith(".css"):
        for loaded in _ADDRESS.finditer((folder / name).read_text(encoding="utf-8")):
            yield from _reached(folder, name, loaded["url"] or loaded["imported"])


def _packed(folder: Path) -> bytes:
    """The file: its type first and as it is, as the format asks, then what the package document lists."""
    items = ElementTree.parse(folder / "content.opf").iter(f"{{{OPF}}}item")
    names = ["META-INF/container.xml", "content.opf", *sorted(unquote(item.attrib["href"]) for item in items)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(zipfile.ZipInfo("mimetype", EPOCH), b"application/epub+zip")
        for name in names:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, (folder / name).read_bytes())
    return buffer.getvalue()
