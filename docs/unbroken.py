"""Numbers such as 1e-6 stay on one line: a browser would break them at the hyphen."""

import re

from docutils import nodes

NUMBER = re.compile(r"(-?\d[\d.,]*e-\d+)")
AS_THEY_ARE = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)


def unbroken(app, doctree, docname):
    if app.builder.format == "html":
        for text in list(doctree.findall(nodes.Text)):
            if not NUMBER.search(text) or isinstance(text.parent, AS_THEY_ARE):
                continue
            parts = [
                nodes.inline("", part, classes=["number"]) if odd % 2 else nodes.Text(part)
                for odd, part in enumerate(NUMBER.split(text))
                if part
            ]
            text.parent.replace(text, parts)


def setup(app):
    app.connect("doctree-resolved", unbroken)
    app.add_css_file("numbers.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
