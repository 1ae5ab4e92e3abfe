"""Attack the toy's releases and write docs/results/attacks.md.

toy_results.py [--work FOLDER] [--jobs N] [--releases NAME ...]

Runs ``immucond toy`` into the work folder, going on from what it holds, and writes the page's table
from its results.json and tables.md; the plot is copied.
"""

import argparse
import json
import shutil
from pathlib import Path
from tempfile import gettempdir

from page import ROOT, commit, write

from immucond._cli import main as immucond

PLOTS = {
    "toy": "Steps of every attacker by release",
    "toy-ceiling": "Steps of the strongest attacker against the ceiling of the leak profile",
}
PAGE = ROOT / "docs" / "results" / "attacks.md"


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "immucond-toy")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--releases", nargs="+", default=[], help="some of them; all by default")
    given = parser.parse_args()
    words = ["toy", "--jobs", str(given.jobs)]
    words += ["--releases", *given.releases] if given.releases else []
    if immucond([*words, "--out", str(given.work)]):
        raise SystemExit("immucond toy failed")
    results = json.loads((given.work / "results.json").read_text(encoding="utf-8"))
    units = [unit for release in results["releases"].values() for unit in release["seeds"]]
    seconds = sum(unit["unit_seconds"] for unit in units)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    _, _, tables = (given.work / "tables.md").read_text(encoding="utf-8").partition("\n\n")
    for name in PLOTS:
        shutil.copyfile(given.work / f"{name}.svg", ROOT / "docs" / "images" / f"{name}.svg")
    seeds = results["settings"]["seeds"]
    lines = [
        f"`immucond {' '.join(words)}`, commit {commit()}, seeds 0 to {seeds - 1}: "
        f"{len(units)} units of work, {seconds:.0f} s of computing, {versions}.",
        "",
        *tables.rstrip().split("\n"),
        *(f"\n![{caption}](../images/{name}.svg)" for name, caption in PLOTS.items()),
    ]
    write(PAGE, Path(__file__).name, lines)


if __name__ == "__main__":
    main()
