"""Print the oldest version of each dependency that pyproject.toml admits, as requirements."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("torch", "experiments", "deep", "sklearn", "test")


def oldest(pyproject: str) -> dict[str, str]:
    """Each name and its bound; where two extras name one, the first counts."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    found: dict[str, str] = {}
    for requirement in [*project["dependencies"], *(r for e in EXTRAS for r in extras[e])]:
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()
        found.setdefault(name, bound)
    return found


if __name__ == "__main__":
    for name, bound in oldest((ROOT / "pyproject.toml").read_text()).items():
        print(f"{name}=={bound}.*")
