"""What commands that measure one released network on data share: their arguments, their run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import extra
from .._files import staged
from ..experiments import deep
from ._arguments import Whole, add_output, add_reading, add_wholes, settings_of
from ._output import progress
from ._results import file_names, show, versions, write_results

_SEED = Whole(0, 2**32 - 1)  # more is beyond scikit-learn's


def add_release_arguments(
    parser: argparse.ArgumentParser,
    out: str,
    rows: int,
    seed: str,
    *,
    kept: str = "",
    **data: str,
) -> None:
    """Add the network, each data set by its name and what it is, and how both are read.

    `kept` is the subfolder in which an interrupted run leaves what is done.
    """
    whole = "where results go, once the whole run has succeeded"
    parts = f"; its subfolder {kept} keeps what is done, and an interrupted run goes on from there"
    parser.add_argument(
        "--backbone", required=True, metavar="BACKBONE",
        help="the network; a folder may lie within that which IMMUCOND_MODELS names",
    )  # fmt: skip
    for name, what in data.items():
        parser.add_argument(f"--{name}", required=True, metavar="DATA", help=what)
    parser.add_argument(
        "--data-dir", type=Path, default=None, metavar="FOLDER",
        help="where data sets lie; by default the folder that IMMUCOND_DATA names",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="FOLDER",
        help=whole + (parts if kept else ""),
    )  # fmt: skip
    add_wholes(
        parser,
        ("train-size", 2, rows, "most training rows of each task, drawn at random"),
        ("batch-size", 1, 64, "samples that run at once"),
    )
    parser.add_argument("--seed", type=_SEED, default=0, metavar="N", help=seed)
    add_reading(parser)
    add_output(parser)


def run_on_release(
    args: argparse.Namespace, name: str, settings: str, *, function: str = "",
    drawn: Sequence[str] | None = None, **more: Any,
) -> None:  # fmt: skip
    """Measure by :mod:`immucond.experiments.deep`; files appear together at the end.

    `name` is that of the files and, without another one, of the function there; `settings` is that
    of what it takes, with whatever else is given; `drawn` names the figures, by default one of
    the files' name.
    """
    with extra("experiments"):
        import rich.console  # noqa: F401  (missing, it is to be told now)
    with extra("deep"):
        import torch
        import transformers

    given, texts = settings_of(args, getattr(deep, settings)), (f"{name}.json", f"{name}.md")
    names = (name,) if drawn is None else drawn
    with staged(args.out, file_names(names, texts)) as folder:
        with progress(args.quiet) as report:
            found = getattr(deep, function or name)(given, report, **more)
        ran = {"torch": torch.__version__, "transformers": transformers.__version__}
        numbers = found.as_json(args.command_line, {**versions(), **ran})
        tables, figures = [found.table()], {each: found.figure() for each in names}
        written = write_results(folder, tables, figures, numbers, texts)
    show(args, numbers, tables, written, args.out)
