"""What commands run and leave: experiments by units, results as JSON with what made them."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from .. import __version__
from .._errors import extra
from .._files import exclusive, staged
from .._show import Table, print_style, terminal
from ._arguments import Whole, add_number, add_output
from ._output import json_text, print_json, progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = "units"  # subfolder of --out that keeps what is finished
SEEDS = "runs of each method that depends on a seed: 0 to N - 1"


def add_folder(parser: argparse.ArgumentParser, out: str) -> None:
    """Add where results go."""
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="FOLDER",
        help=f"where results go; its subfolder {UNITS} keeps what is finished, and an interrupted "
        "run goes on from there",
    )  # fmt: skip


def add_common_arguments(
    parser: argparse.ArgumentParser, out: str, methods: Sequence[str], settings: type
) -> None:
    """Add where data come from, where results go, and what is run."""
    parser.add_argument(
        "--data-dir", type=Path, default=None, metavar="FOLDER",
        help="where the data lie; by default the folder that IMMUCOND_DATA names, and without it "
        "a download from OpenML",
    )  # fmt: skip
    add_folder(parser, out)
    parser.add_argument(
        "--methods", nargs="+", choices=tuple(methods), default=None, metavar="NAME",
        help=f"methods to run, of {', '.join(methods)}; all by default",
    )  # fmt: skip
    add_number(parser, settings, "seeds", Whole(1), SEEDS)
    parser.add_argument(
        "--jobs", type=Whole(1), default=1, metavar="N",
        help="processes at a time; each gets its share of the processors",
    )  # fmt: skip
    parser.add_argument(
        "--search", action="store_true",
        help="search hyper-parameters of the methods instead, on training rows, and show the best",
    )  # fmt: skip
    add_output(parser)


def run_experiment(
    args: argparse.Namespace,
    experiment: Any,
    settings: Any,
    figure_names: Sequence[str],
    others: Mapping[str, str] | None = None,
) -> None:
    """Run an experiment, or its search for hyper-parameters, and show what came out.

    Parameters
    ----------
    args : Namespace
        With ``out``, ``jobs``, ``quiet``, and ``search`` where there is one.
    experiment
        A package of :mod:`immucond.experiments`.
    settings
        Its settings.
    figure_names : sequence of str
        Of the figures that a run draws.
    others : mapping, optional
        Further versions for the record.
    """
    with extra("experiments"):
        import rich.console  # noqa: F401  (missing, it is to be told now)
    searching = getattr(args, "search", False)
    find = experiment.search if searching else experiment.run
    figures: Mapping[str, Figure] = {}
    with ExitStack() as writing:
        out = args.out
        if searching:
            writing.enter_context(exclusive(args.out))
            out, figure_names = args.out / "search", ()
        folder = writing.enter_context(staged(out, file_names(figure_names)))
        with progress(args.quiet) as report:
            found = find(settings, args.out / UNITS, jobs=args.jobs, progress=report)
        record = args.command_line, {**versions(), **(others or {})}
        if searching:
            numbers = experiment.search_as_json(found, *record)
            tables = [experiment.search_table(searched) for searched in found]
        else:
            numbers = experiment.as_json(found, *record)
            tables, figures = experiment.tables(found), experiment.figures(found)
        written = write_results(folder, tables, figures, numbers)
    show(args, numbers, tables, written, out)


def versions() -> dict[str, str]:
    """Versions of what ran, by name."""
    return {
        "immucond": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def write_json(path: Path, numbers: Any) -> None:
    """Write numbers, none of which is NaN."""
    path.write_text(json_text(numbers), encoding="utf-8")


RESULTS = ("results.json", "tables.md")


def file_names(figures: Sequence[str] = (), texts: Sequence[str] = RESULTS) -> list[str]:
    """Names of what `write_results` writes."""
    drawn = [f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    return [*texts, *drawn]


def write_results(
    folder: Path, tables: Sequence[Table], figures: Mapping[str, Figure], numbers: Any,
    texts: Sequence[str] = RESULTS,
) -> list[str]:  # fmt: skip
    """Write numbers and tables to the files of these names, and the figures; return all names."""
    write_json(folder / texts[0], numbers)
    (folder / texts[1]).write_text(
        f"`{numbers['command']}`, immucond {numbers['versions']['immucond']}\n\n"
        + "\n".join(table.markdown() for table in tables),
        encoding="utf-8",
        errors="backslashreplace",  # a command may name files in any bytes
    )
    with print_style():  # names within an SVG are of when it is written, not of when it is drawn
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=200)
            figure.set_layout_engine("none")  # where things lie is known, and slow to find
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return [*texts, *(f"{n}.png, {n}.svg" for n in figures)]


def show(
    args: argparse.Namespace, numbers: Any, tables: Sequence[Table], written: Sequence[str],
    out: Path,
) -> None:  # fmt: skip
    """Print tables, and where the files are; or the numbers as JSON, where that was asked for."""
    if args.json:
        print_json(numbers)
        return
    console = terminal()
    for table in tables:
        table.show(console)
    if not args.quiet:
        console.print(f"Wrote {', '.join(written)} to {out}", style="bold")
