"""Mathematics as MathML, made when the pages are built: readers need no script and no network."""

from docutils import nodes
from latex2mathml.converter import convert


def inline(translator, node):
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator, node):
    latex = node.astext()
    if r"\\" in latex and r"\begin" not in latex:  # as Sphinx does for its other renderers
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    translator.body.append(f'<div class="math">{convert(latex, display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
