"""What the commands that rerun the paper's experiments share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import extra
from ..experiments._output import staged
from ..experiments._table import Table
from ._arguments import Whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = "units"  # subfolder of --out that keeps what is finished


def add_common_arguments(
    parser: argparse.ArgumentParser, out: str, methods: Sequence[str], seeds: int
) -> None:
    """Add where data come from, where results go, and what is run."""
    parser.add_argument(
        "--data-dir", type=Path, default=None, metavar="FOLDER",
        help="where the data lie; by default the folder that IMMUCOND_DATA names, and without it "
        "a download from OpenML",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="FOLDER",
        help=f"where results go; its subfolder {UNITS} keeps what is finished, and an interrupted "
        "run goes on from there",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", choices=tuple(methods), default=None, metavar="NAME",
        help=f"methods to run, of {', '.join(methods)}; all by default",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=Whole(1), default=seeds, metavar="N",
        help="runs of each method that depends on a seed: 0 to N - 1",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=Whole(1), default=1, metavar="N",
        help="processes at a time; each gets its share of the processors",
    )  # fmt: skip
    parser.add_argument(
        "--search", action="store_true",
        help="search hyper-parameters of the methods instead, on training rows, and show the best",
    )  # fmt: skip


def write_results(
    out: Path, tables: Sequence[Table], figures: Mapping[str, Figure], numbers: Any
) -> None:
    """Write results.json, tables.md and the figures, all together; print the tables."""
    with extra("experiments"):
        from rich.console import Console
    with staged(out) as folder:
        text = json.dumps(numbers, indent=1, allow_nan=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
        (folder / "tables.md").write_text(
            f"`{numbers['command']}`, immucond {numbers['versions']['immucond']}\n\n"
            + "\n".join(table.markdown() for table in tables),
            encoding="utf-8",
        )
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=200)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    console = Console(highlight=False)
    for table in tables:
        table.show(console)
    names = ", ".join(["results.json", "tables.md", *(f"{n}.png, {n}.svg" for n in figures)])
    console.print(f"Wrote {names} to {out}", style="bold")
