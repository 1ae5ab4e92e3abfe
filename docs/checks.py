"""What the pages promise is checked once they are built."""

import re
from pathlib import Path

from sphinx.errors import ExtensionError

LARGEST = 300_000  # bytes of a page
FROM_ELSEWHERE = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=[\"'](?:https?:)?//[^\"']+")
# A docstring's first line up to its colon, taken for a type.
AS_TYPE = re.compile(r"Type:\s+(?:Definition|\(i|Whether|Product|The ).*")
TAG = re.compile(r"<[^>]+>")


def check(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    wrong, pages = [], sorted(Path(app.outdir).rglob("*.html"))
    for page in pages:
        text, name = page.read_text(encoding="utf-8"), page.relative_to(app.outdir)
        wrong += [f"{name} loads {m[0]}" for m in FROM_ELSEWHERE.finditer(text)]
        plain = TAG.sub("", text)
        wrong += [f"{name} takes a docstring for a type: {m[0]}" for m in AS_TYPE.finditer(plain)]
        if re.search(r'class="[^"]*math[^"]*">\s*\\[(\[]', text):
            wrong.append(f"{name} has mathematics that a script would have to typeset")
        if page.stat().st_size > LARGEST and name.name != "genindex.html":
            wrong.append(f"{name} has {page.stat().st_size:,} bytes, over {LARGEST:,}")
    linear = Path(app.outdir) / "api" / "linear.html"
    reference = TAG.sub("", linear.read_text(encoding="utf-8"))
    if "Definition 3.1 (a): the harmful task became" not in reference:
        wrong.append("api/linear.html has lost the text of condition_a")
    if not re.search(r"linear\.immunity_limit\(\s*K_P: ArrayLike \\|", reference):
        wrong.append("api/linear.html shows no types in signatures")
    if wrong:
        raise ExtensionError("\n".join(wrong))


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
