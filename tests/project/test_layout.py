"""Arrows between the packages point one way, and nobody reaches into another package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import immucond

ROOT = Path(immucond.__file__).resolve().parent
# The modules of a package import those of the packages named here; all import the modules of
# immucond itself, which import no package.
ARROWS: dict[str, set[str]] = {
    "": set(),
    "_card": set(),
    "cuda": set(),
    "linear": set(),
    "probing": {"linear"},
    "immunize": {"linear"},
    "theorems": {"linear", "probing", "immunize"},
    "torch": {"cuda"},
    "deep": {"torch", "linear", "probing", "_card"},
    "limit": {"linear"},
    "experiments": {"linear", "probing", "immunize", "torch", "deep", "limit"},
    "_cli": {"linear", "probing", "immunize", "theorems", "cuda", "limit", "experiments", "_card"},
}
# The estimator is a module, and stands on these packages.
ESTIMATOR = {"linear", "immunize"}


def package_of(module: str) -> str:
    """Package that a module belongs to; experiments are packages within theirs."""
    folder = ROOT.joinpath(*module.split("."))
    return module if folder.is_dir() else module.rpartition(".")[0]


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Module of immucond and name, of all that a file imports from the library."""
    here = ["immucond", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.startswith("immucond."))
        elif isinstance(node, ast.ImportFrom):
            parts = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*parts, *([node.module] if node.module else [])])
            if module.split(".")[0] == "immucond":
                yield from ((module, alias.name) for alias in node.names)


def edges() -> Iterator[tuple[str, str, str, str]]:
    """File, its package, the package that it imports from, and the path there with the name."""
    for file in sorted(ROOT.rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        mine = ".".join(file.relative_to(ROOT).parent.parts)
        for module, item in imports(file):
            path = module.removeprefix("immucond").lstrip(".")
            full = f"{path}.{item}".strip(".")
            theirs = package_of(full if ROOT.joinpath(*full.split(".")).is_dir() else path)
            yield name, mine, theirs, full


def test_arrows_point_one_way() -> None:
    seen = 0
    for file, mine, theirs, full in edges():
        source, target = mine.split(".")[0], theirs.split(".")[0]
        if source == target or target == "":
            continue
        seen += 1
        if file in ("__init__.py", "__main__.py"):  # the doors of the house
            continue
        allowed = ESTIMATOR if file == "sklearn.py" else ARROWS[source]
        assert target in allowed, f"{file} imports {full}"
    assert seen > 50


def test_nobody_imports_private_names_of_another_package() -> None:
    for file, mine, theirs, full in edges():
        if theirs in ("", mine) or mine.startswith(f"{theirs}.") or file == "__init__.py":
            continue
        inner = full.removeprefix(theirs).lstrip(".").split(".")
        assert not any(re.match("_(?!_)", part) for part in inner), f"{file} imports {full}"


def test_no_experiment_imports_another() -> None:
    for file, mine, theirs, full in edges():
        if mine.startswith("experiments.") and theirs.startswith("experiments."):
            assert mine == theirs, f"{file} imports {full}"
