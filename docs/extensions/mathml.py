"""Equations as MathML, made when the site is built: browsers draw it without a script or a font from elsewhere."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml import converter
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

# what browsers do not infer: the space between a function's name and its argument, and that a minus is a sign
FUNCTION = re.compile(r"(<mi>(?:log|sin|cos|exp|max|min|det)</mi>)(?=<m[insr])")
# a prime is raised already, and would be raised twice
PRIME = re.compile(r"<msup>(<mi>[^<]*</mi>)<mi>&#x02032;</mi></msup>")
SIGN = re.compile(r"(<mo[^>]*>(?:&#x0003D;|=|\(|&#x00028;|\[|&#x0005B;|,|&#x0002C;)</mo>)<mo>(?=&#x02212;)")


def convert(equation: str, node: nodes.Node, display: str) -> str:
    try:
        found = converter.convert(equation.replace(r"\operatorname", r"\mathrm"), display=display)
        found = PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>', found)
        return SIGN.sub(r'\1<mo form="prefix">', FUNCTION.sub(r'\1<mspace width="0.17em"/>', found))
    except Exception as error:
        logger.warning("no equation in LaTeX: %r in %s", error, equation, location=node)
        return equation


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(convert(node.astext(), node, "inline"))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    # paragraphs are equations of their own; napoleon leaves an empty one at the end
    for equation in filter(str.strip, node.astext().split("\n\n")):
        number = get_node_equation_number(writer, node) if node["number"] else ""
        writer.body.append(writer.starttag(node, "div", CLASS="math"))
        writer.body.append(convert(equation, node, "block"))
        writer.body.append(f'<span class="eqno">({number})</span></div>\n' if number else "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
