"""The installed package, its metadata and the files that pin its surroundings agree."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import immucond

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


FOLDERS = ["python", "cpp", "tests", "benchmarks", "docs", "scripts", ".ci", ".github", "."]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    assert immucond.__version__ == distribution("immucond").version == version
    changes = (ROOT / "CHANGELOG.md").read_text()
    (released,) = re.findall(rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)$", changes, re.M)
    assert f"[{version}]: " in changes
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert {f"version: {version}", f"date-released: {released}"} <= set(citation)


def test_the_extra_all_is_all_that_a_user_may_want() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (requirement,) = map(Requirement, extras["all"])
    assert requirement.name == "immucond"
    assert requirement.extras == set(extras) - {"all", "dev", "docs", "recipes", "test"}


def test_metadata_names_authors_and_a_place_for_bugs() -> None:
    metadata = distribution("immucond").metadata
    assert "The immucond authors" in (metadata["Author"], metadata["Author-email"])
    urls = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL"))
    assert urls == PROJECT["project"]["urls"]
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= set(urls)
    assert urls["Issues"] in (ROOT / "README.md").read_text()


def test_package_is_typed() -> None:
    assert (Path(immucond.__file__).parent / "py.typed").is_file()


def test_numpy_and_scipy_are_the_only_hard_dependencies() -> None:
    required = (Requirement(text) for text in distribution("immucond").requires or [])
    hard = {requirement.name for requirement in required if requirement.marker is None}
    assert hard == {"numpy", "scipy"}


def test_import_needs_no_extra() -> None:
    extras = "torch matplotlib pandas sklearn rich pytest hypothesis mpmath"
    script = f"""
import sys
for name in {extras!r}.split():
    sys.modules[name] = None
import immucond, immucond.linear, immucond.probing, immucond.immunize, immucond.theorems
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_import_needs_no_metadata() -> None:
    """Run from a source tree or bundled, a package has none."""
    code = """
import importlib.metadata as metadata

def missing(name):
    raise metadata.PackageNotFoundError(name)

metadata.version = missing
import immucond
assert immucond.__version__ == "0+unknown", immucond.__version__
assert immucond.condition_number([[2.0, 0.0], [0.0, 1.0]]) == 2.0
from immucond._cli import main
main(["--version"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0+unknown" in done.stdout


def test_constraints_pin_every_requirement() -> None:
    pinned = pins()
    requirements = [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *(r for extra in PROJECT["project"]["optional-dependencies"].values() for r in extra),
    ]
    for requirement in map(Requirement, requirements):
        if requirement.name == "immucond":  # the extra of extras
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} against pinned {version}"


def test_torch_is_pinned_without_a_build_tag() -> None:
    assert pins()["torch"] == "2.13.0"


def test_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="immucond")
    assert command.value == PROJECT["project"]["scripts"]["immucond"]
    for words in (["immucond"], [str(Path(sys.executable).with_name("immucond"))]):
        run = [sys.executable, "-m", *words] if words == ["immucond"] else words
        shown = subprocess.run([*run, "--version"], check=True, capture_output=True, text=True)
        assert shown.stdout.strip() == f"immucond {immucond.__version__}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_project_speaks_of_itself_alone(folder: str) -> None:
    local = re.compile(r"(?<![\w.])/(?:work|tmp|home|root|opt)/\w|pypi\.|pythonhosted|debian\.org")
    kinds = {
        "",
        ".py",
        ".pyi",
        ".cpp",
        ".hpp",
        ".md",
        ".toml",
        ".txt",
        ".sh",
        ".yml",
        ".yaml",
        ".cff",
    }
    files = (ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*")
    read = [file for file in files if file.is_file() and file.suffix in kinds]
    assert read
    for file in read:
        if file != Path(__file__):
            found = local.search(file.read_text())
            assert found is None, f"{file.relative_to(ROOT)}: {found.group() if found else ''}"


@pytest.mark.parametrize("package", ["linear", "probing", "immunize", "theorems"])
def test_only_private_modules_call_the_kernels(package: str) -> None:
    for file in (ROOT / "python" / "immucond" / package).rglob("*.py"):
        assert "_core" not in file.read_text(), file.name
