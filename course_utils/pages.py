"""Pages from Jinja2 templates, which are in the folder `templates/` next to the module that fills them.

Most are HTML; those named `.md.j2` are Markdown, which the book is made of.
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def environment() -> Environment:
    """Return the environment that reads templates: values are escaped for HTML, and one that was not passed is an error.

    A template is named by its path below the package, such as "grading/templates/class.html.j2". Filters of our own:
    `thousands` (12,345) and `points` (a number without needless zeros). In a Markdown template nothing is escaped: it
    takes the course's own words only, never a stranger's.
    """
    environment = Environment(
        loader=PackageLoader("course_utils", "."),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"thousands": "{:,}".format, "points": "{:g}".format}
    return environment


def render(template: str, **values: object) -> str:
    """Return the page that a template makes of these values.

    Args:
        template: path of the template below the package.
        values: what the template shows, as text: escaping is the template's work.
    """
    return environment().get_template(template).render(values)
