"""The site leads on: pages say what next, words have one meaning, examples are real."""

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    DOCS / "start.md",
    DOCS / "glossary.md",
    *(
        page
        for part in ("guide", "theory", "results")
        for page in sorted((DOCS / part).glob("*.md"))
    ),
]
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_page_ends_by_what_next(page):
    *_, last = page.read_text().rstrip().split("\n\n")
    assert last.startswith("**What next:** "), last
    targets = re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", last)
    assert targets, last
    for target in targets:
        here = DOCS / target.lstrip("/") if target.startswith("/") else page.parent / target
        made = DOCS / "examples" / f"{here.name}.py"  # of which the build makes a page
        made = (
            DOCS / "examples" / "GALLERY_HEADER.rst" if target.endswith("gallery/index") else made
        )
        assert here.with_suffix(".md").is_file() or made.is_file(), target


def test_every_page_of_the_guide_is_found_from_the_front():
    front = set(re.findall(r"^(\S+)$", (DOCS / "index.md").read_text(), re.MULTILINE))
    assert {f"guide/{page.stem}" for page in (DOCS / "guide").glob("*.md")} <= front


def test_a_word_of_the_glossary_has_one_meaning_and_a_page():
    (text,) = re.findall(
        r"```\{glossary\}\n(.*?)```", (DOCS / "glossary.md").read_text(), re.DOTALL
    )
    entries = [entry.split("\n  ", 1) for entry in text.strip().split("\n\n")]
    words = [word for names, _ in entries for word in names.split("\n")]
    assert len(set(words)) == len(words)
    first = [re.sub(r"\W", "", names.split("\n")[0]).lower() for names, _ in entries]
    assert first == sorted(first)
    for names, meaning in entries:
        assert re.search(r"\{(?:doc|term)\}`", meaning), names


def test_the_gallery_has_every_example_in_its_place():
    setup = ast.parse((DOCS / "gallery_setup.py").read_text())
    (order,) = (
        ast.literal_eval(node.value)
        for node in setup.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ORDER"
    )
    assert [file.stem for file in EXAMPLES] == sorted(f"plot_{name}" for name in order)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_short_and_says_what_one_sees(file):
    text = file.read_text()
    assert 40 <= text.count("\n") <= 130
    assert "What one sees:" in text
    assert ast.get_docstring(ast.parse(text)).splitlines()[1].startswith("===")
    assert not re.search(r"fetch_|urlopen|download|default_rng\(\)", text)


def test_the_build_runs_all_examples_and_fails_by_any():
    """But those on a network that is not installed."""
    configured = (DOCS / "conf.py").read_text()
    assert '"abort_on_example_error": True' in configured
    assert '"run_stale_examples": True' in configured
