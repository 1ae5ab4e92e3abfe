"""Check a source distribution and a wheel: python scripts/check_dist.py FOLDER.

What is in them and what is not, and their metadata by the rules that a package index goes by.
"""

import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("CMakeLists.txt", "LICENSE", "README.md", "cpp/src/gram.cpp", "pyproject.toml",
          "python/immucond/py.typed", "tests/conftest.py")  # fmt: skip
# Products of builds and runs, other repositories' data, and what serves this one alone.
UNWANTED = re.compile(
    r"\.(so|o|a|pyc|whl|npy|npz|safetensors|pt)$|(^|/)(build|dist|\.git|\.github|\.ci|\.venv"
    r"|__pycache__|_build|shared|immucond-[a-z-]+)/"
)


def wrong_in_sdist(names: list[str]) -> list[str]:
    """What is missing or too much; the first folder is the name and version."""
    inner = [name.partition("/")[2] for name in names]
    missing = [f"sdist: no {name}" for name in NEEDED if name not in inner]
    return missing + [f"sdist: {name}" for name in inner if UNWANTED.search(name)]


def wrong_in_wheel(names: list[str]) -> list[str]:
    """One extension and Python's files; nothing vendored, nothing of CUDA or of the tests."""
    binaries = [name for name in names if ".so" in name]
    core = [name for name in binaries if re.fullmatch(r"immucond/_core\.[\w-]+\.so", name)]
    wrong = [f"wheel: {name}" for name in binaries if name not in core]
    wrong += [] if len(core) == 1 else [f"wheel: {len(core)} extensions _core"]
    package = re.compile(r"immucond/.*\.(py|pyi|typed|so)|immucond-[\w.]+\.dist-info/.+")
    return wrong + [f"wheel: {name}" for name in names if not package.fullmatch(name)]


def wrong_in_metadata(text: bytes, version: str) -> list[str]:
    """Validated as on an upload; the version is the project's, the page of it is not empty."""
    found = Metadata.from_email(text, validate=True)
    wrong = [] if str(found.version) == version else [f"version {found.version}, not {version}"]
    page = found.description and found.description_content_type == "text/markdown"
    return wrong if page else [*wrong, "no description in Markdown"]


def main(folder: Path) -> int:
    """Print what is wrong; 1 if anything is."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    wrong: list[str] = []
    with tarfile.open(sdist) as archive:
        names = [member.name for member in archive.getmembers() if member.isfile()]
        about = archive.extractfile(f"immucond-{version}/PKG-INFO")
        assert about is not None
        wrong += wrong_in_sdist(names) + wrong_in_metadata(about.read(), version)
    with zipfile.ZipFile(wheel) as archive:
        inside = [name for name in archive.namelist() if not name.endswith("/")]
        text = archive.read(f"immucond-{version}.dist-info/METADATA")
        wrong += wrong_in_wheel(inside) + wrong_in_metadata(text, version)
    for line in wrong:
        print(line)
    print(f"{sdist.name}: {len(names)} files; {wheel.name}: {len(inside)} files")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
