"""Formulas as MathML, written while the book is built: browsers draw it, screen readers read it, nothing is loaded.

latex2mathml is a small library in Python. MathJax and KaTeX would bring a megabyte of script and fonts, would draw each
formula anew on the reader's machine, and need npm or another host to come by.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.writers.html5 import HTML5Translator

_FUNCTION = re.compile(r"<mi>(?:exp|ln|log|max|min)</mi>(?!<mo[^>]*>(?:\(|&#x00028;))")  # needs a gap before its argument


def mathml(latex: str, block: bool = False) -> str:
    """Return a formula as MathML, its LaTeX kept as an annotation, from which it can be copied.

    Args:
        latex: the formula without its dollar signs.
        block: whether it has a line of its own.
    """
    from latex2mathml.converter import convert

    xml = _FUNCTION.sub(r"\g<0><mspace width='0.17em'/>", convert(latex, display="block" if block else "inline"))
    start, end = xml.index(">") + 1, xml.rindex("</math>")
    note = f'<annotation encoding="application/x-tex">{escape(latex.strip(), quote=False)}</annotation>'
    return f"{xml[:start]}<semantics>{xml[start:end]}{note}</semantics></math>"


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write an inline formula."""
    from docutils.nodes import SkipNode

    self.body.append(mathml(node.astext()))
    raise SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own, which scrolls where it is wider than the screen."""
    from docutils.nodes import SkipNode

    frame = '<div class="book-formula" tabindex="0" role="group" aria-label="formula">'
    self.body.append(f"{frame}{mathml(node.astext(), True)}</div>")
    raise SkipNode
