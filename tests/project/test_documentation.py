"""What README.md, docs/ and the docstrings show runs, and says what is true."""

import doctest
import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import immucond
from immucond._cli import main

ROOT = Path(__file__).resolve().parents[2]
SUBPACKAGES = ("cuda", "deep", "deep.gauge", "linear", "immunize", "probing", "theorems", "torch")
PACKAGES = ["immucond", *(f"immucond.{p}" for p in SUBPACKAGES)]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def modules() -> Iterator[str]:
    yield "immucond"
    for found in pkgutil.walk_packages(immucond.__path__, "immucond."):
        if found.name != "immucond.__main__":
            yield found.name


def docstrings() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in modules():
        module = importlib.import_module(name)
        yield from (test for test in finder.find(module, name) if test.examples)


def run_doctest(test: doctest.DocTest) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=lambda page: page.name)
def test_snippets_run(page: Path) -> None:
    shared: dict[str, object] = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets(page), 1):
        name = f"{page.name}, snippet {number}"
        if ">>> " in snippet:
            test = doctest.DocTestParser().get_doctest(snippet, {}, name, str(page), 0)
            test.globs = shared
            run_doctest(test)
        else:
            exec(compile(snippet, name, "exec"), shared)


def test_the_readme_immunizes_what_it_trains() -> None:
    pytest.importorskip("torch", reason="the extra torch is not installed")
    (training,) = (text for text in snippets(PAGES[0]) if "icd.immunize" in text)
    shared: dict[str, Any] = {}
    exec(compile(training, "README.md", "exec"), shared)
    report = shared["found"]
    assert report.rows == "held-out"
    assert report.kappa_H > 10.0 * report.reference_kappa_H
    assert all(after < before - 0.1 for before, after in report.probes.values())


@pytest.mark.parametrize("number", range(1, 1 + len(snippets(PAGES[0]))))
def test_a_snippet_of_the_readme_runs_alone(number: int) -> None:
    snippet = snippets(PAGES[0])[number - 1]
    exec(compile(snippet, f"README.md, snippet {number}", "exec"), {"__name__": "__main__"})


def test_readme_and_start_lead_to_one_command_for_ones_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for page in (ROOT / "README.md", ROOT / "docs" / "start.md"):
        text = page.read_text()
        (section,) = re.findall(r"^## Your own model$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
        blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        install, *runs = "".join(blocks).replace("\\\n", "").splitlines()
        assert install == 'pip install ".[experiments,deep]"'
        assert 1 <= len(runs) == len(blocks)
        for run in runs:
            # All of it is understood; what is missing here is what the reader brings.
            assert main(shlex.split(run)[1:]) == 2
            assert re.search("my-model|my-task|their-task", capsys.readouterr().err)
        for file in ("config.json", "model.safetensors", "preprocessor_config.json", "tables.md"):
            assert file in section, (page.name, file)


def test_no_page_installs_from_a_release_that_is_not_there() -> None:
    for page in PAGES:
        for line in page.read_text().splitlines():
            if "pip install" in line and "immucond[" in line:
                assert "There is no release yet" in page.read_text(), (page.name, line)


@pytest.mark.parametrize("test", list(docstrings()), ids=lambda test: test.name)
def test_docstring_examples(test: doctest.DocTest) -> None:
    run_doctest(test)


def test_public_callables_have_an_example() -> None:
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for name in importlib.import_module(package).__all__
        if callable(item := getattr(importlib.import_module(package), name))
        and not isinstance(item, type)
        and ">>> " not in (item.__doc__ or "")
    ]
    assert missing == []


def test_reference_lists_every_public_name() -> None:
    page = "".join(part.read_text() for part in (ROOT / "docs" / "api").glob("*.md"))
    listed = set(re.findall(r"auto(?:function|class|data|exception):: (\w+)", page))
    modules = set(re.findall(r"automodule:: immucond\.(\w+)", page))
    assert set(immucond.__all__) - {"__version__"} <= listed | modules


def test_ci_takes_its_commands_from_the_readme() -> None:
    marked = re.findall(r"^<!-- ci: (\w+) -->\n```sh\n.+\n```$", PAGES[0].read_text(), re.MULTILINE)
    run = re.findall(r"run_readme_command (\w+)", (ROOT / ".ci" / "run").read_text())
    assert sorted(marked) == sorted(run) == ["demo", "test"]


def test_relative_links_resolve() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
