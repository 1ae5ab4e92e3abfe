"""What the commands that rerun the paper's experiments share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import extra
from .._files import exclusive
from .._output import staged
from .._table import Table
from ._arguments import Whole, add_quiet
from ._progress import progress
from ._versions import versions

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
    add_quiet(parser)


def file_names(figures: Sequence[str] = ()) -> list[str]:
    """Names of what `write_results` writes."""
    drawn = [f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    return ["results.json", "tables.md", *drawn]


def run_experiment(
    args: argparse.Namespace, experiment: Any, settings: Any, figure_names: Sequence[str]
) -> None:
    """Run an experiment, or its search for hyper-parameters, and show what came out."""
    with extra("experiments"):
        import rich.console  # noqa: F401  (missing, it is to be told now)
    kept = args.out / UNITS
    figures: Mapping[str, Figure] = {}
    with ExitStack() as writing:
        out = args.out
        if args.search:
            writing.enter_context(exclusive(args.out))
            out, figure_names = args.out / "search", ()
        folder = writing.enter_context(staged(out, file_names(figure_names)))
        find = experiment.search if args.search else experiment.run
        with progress(args.quiet) as report:
            found = find(settings, kept, jobs=args.jobs, progress=report)
        if args.search:
            numbers = experiment.search_as_json(found, args.command_line, versions())
            tables = [experiment.search_table(searched) for searched in found]
        else:
            numbers = experiment.as_json(found, args.command_line, versions())
            tables, figures = experiment.tables(found), experiment.figures(found)
        written = write_results(folder, tables, figures, numbers)
    show(tables, written, out, args.quiet)


def write_results(
    folder: Path, tables: Sequence[Table], figures: Mapping[str, Figure], numbers: Any
) -> list[str]:
    """Write results.json, tables.md and the figures; return their names."""
    text = json.dumps(numbers, indent=1, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "tables.md").write_text(
        f"`{numbers['command']}`, immucond {numbers['versions']['immucond']}\n\n"
        + "\n".join(table.markdown() for table in tables),
        encoding="utf-8",
        errors="backslashreplace",  # a command may name files in any bytes
    )
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=200)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return ["results.json", "tables.md", *(f"{n}.png, {n}.svg" for n in figures)]


def show(tables: Sequence[Table], written: Sequence[str], out: Path, quiet: bool) -> None:
    """Print tables, and where the files are."""
    with extra("experiments"):
        from rich.console import Console
    console = Console(highlight=False)
    for table in tables:
        table.show(console)
    if not quiet:
        console.print(f"Wrote {', '.join(written)} to {out}", style="bold", markup=False)
