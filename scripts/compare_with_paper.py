"""Run the paper's experiments and write docs/results/comparison.md with its pictures.

compare_with_paper.py [RUN ...] [--data-dir FOLDER] [--work FOLDER] [--jobs N]

Runs ``immucond house-price`` and ``immucond mnist``, in both protocols, into the work folder, going
on from what it holds, and writes every figure of the page from their results.json. Sections of runs
that are not named stay as they are.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from page import ROOT, commit, git, write
from paper_house_price import house_price, short_of_table
from paper_mnist import TITLES, mnist, pictures, short_of_grid
from paper_tables import CURVES, load

from immucond._cli import main as immucond
from immucond.experiments.mnist import SEARCH_PAIRS

# Folder of each run under the work folder, with its command.
RUNS = {
    "house-price": ("house-price",),
    "mnist-pairs": ("mnist", "--pairs", *(f"{P}-{H}" for P, H in SEARCH_PAIRS)),
    "mnist": ("mnist",),
    "mnist-mini-batch": (
        *("mnist", "--protocol", "mini-batch"),
        *("--methods", "identity", "algorithm1"),
    ),
    "mnist-mini-batch-pairs": (
        *("mnist", "--protocol", "mini-batch"),
        *("--methods", "identity", "published", "algorithm1"),
        *("--pairs", *(f"{P}-{H}" for P, H in SEARCH_PAIRS)),
    ),
}
PAGE, SCRIPT = ROOT / "docs" / "results" / "comparison.md", Path(__file__).name


def shortfalls(run: str, results: dict[str, Any]) -> Iterator[str]:
    """Say where we stay behind the paper, or a method does harm, from the numbers themselves."""
    if run == "house-price":
        yield from sorted(short_of_table(results), key=lambda line: "held-out rows" not in line)
    else:
        for name, method in results["methods"].items():
            yield from (f"- MNIST, {TITLES[run]}, {line}" for line in short_of_grid(name, method))


def commit_of_tree() -> str:
    """The commit, and whether the code differs from it; this page itself does when it is new."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "cpp", "python", "scripts")
    return commit() + (" with local changes" if changed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; all by default"
    )
    parser.add_argument("--data-dir", type=Path, help="as of the commands; IMMUCOND_DATA otherwise")
    parser.add_argument("--work", type=Path, default=Path("immucond-comparison"))
    parser.add_argument("--jobs", default="1")
    args = parser.parse_args()
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"there is no run {min(unknown)!r}, only {', '.join(RUNS)}")
    if args.data_dir is not None:  # not by an option: commands are shown as they were given
        os.environ["IMMUCOND_DATA"] = str(args.data_dir)
    code = commit_of_tree()  # before the page itself changes it
    for name in args.runs or RUNS:
        words = RUNS[name]
        if immucond([*words, "--out", str(args.work / name), "--jobs", args.jobs]):
            raise SystemExit(f"immucond {shlex.join(words)} failed")
        results = load(args.work / name / "results.json")
        shown = pictures(name, results) if name in TITLES else CURVES
        for picture in shown:
            to = ROOT / "docs" / "images" / f"{name}-{picture}"
            shutil.copyfile(args.work / name / picture, to)
        told = mnist(name, results, code) if name in TITLES else house_price(results, code)
        write(PAGE, f"{SCRIPT} {name}", [*told][:-1])
        if shown.keys() >= CURVES.keys():
            write(PAGE, f"{SCRIPT} {name}, short", [*shortfalls(name, results)])


if __name__ == "__main__":
    sys.exit(main())
