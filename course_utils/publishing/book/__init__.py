"""The book: all lessons as a website that needs no server and asks no other host; `build_book` makes it, in seconds.

Nothing is executed. The stored notebooks are read as they are, the other pages are written from what the course knows
(glossary, lessons, recorded times, exercises), and Sphinx turns both into HTML. What is where:

- `building` lays out what Sphinx reads, with the pages that come from templates (`templates/`), and runs Sphinx;
- `lesson_pages` turns a stored notebook into a page, and gives what needs a kernel there a form that works without one;
- `html_pages` goes over each finished page: tables as cards on a phone, pictures as files, terms with their meaning;
- `conf` has Sphinx's settings, connects these parts with Sphinx and writes formulas as MathML, `static/` has the style sheet
  and the one script.
"""

from course_utils.publishing.book.building import Book, build_book

__all__ = ["Book", "build_book"]
