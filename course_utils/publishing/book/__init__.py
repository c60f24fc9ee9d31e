"""The book: all lessons as a website that needs no server and asks no other host; `build_book` makes it, in seconds.

Nothing is executed. The stored notebooks are read as they are, the other pages are written from what the course knows
(glossary, lessons, recorded times, exercises), and Sphinx turns both into HTML. What is where:

- `sources` lays out what Sphinx reads, with the pages that come from templates (`templates/`);
- `lesson_pages` turns a stored notebook into a page, `outputs` dresses its stored outputs, `twins` gives what needs a kernel
  in a notebook a form that works without one;
- `html_pages` goes over each finished page: tables as cards on a phone, terms with their meaning;
- `extension` connects these with Sphinx and writes formulas as MathML, `conf` has Sphinx's settings, `static/` the style
  sheet and the one script.
"""

from course_utils.publishing.book.building import Book, build_book

__all__ = ["Book", "build_book"]
