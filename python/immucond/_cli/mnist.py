"""Rerun the paper's MNIST experiment on pairs of digits, by every method.

The images of one digit are the primary task, those of another one the harmful task. Each method
immunizes the pixels for each ordered pair; the 10 x 10 grid of log RIR shows where it did, on
training and on held-out images, in the convention of the published code and in the exact one.
Linear probes attack the first pair. Writes results.json, tables.md, curves and grids as .png, .svg.
"""

from __future__ import annotations

import argparse

from .._extras import extra
from ..experiments.mnist._data import ROUNDING_VARIANCE
from ..experiments.mnist._methods import METHODS, NAMES
from ..experiments.mnist._run import ALL_PAIRS, Pair
from ._arguments import Number, Whole
from ._experiment import UNITS, add_common_arguments, write_results
from ._progress import progress_bars
from ._versions import versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_common_arguments(parser, "immucond-mnist", NAMES, seeds=1)
    parser.add_argument(
        "--pairs", nargs="+", type=_pair, default=None, metavar="P-H",
        help="pairs of digits, primary and harmful, such as 0-5; all 90 by default",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", choices=tuple(METHODS), default="full-batch",
        help="30 steps on all images, or 30 epochs of batches of 64 as in the published code",
    )  # fmt: skip
    parser.add_argument(
        "--noise", type=Number(0.0, above=True), default=ROUNDING_VARIANCE, metavar="X",
        help="variance of the noise in a normalized pixel, for the closed form and its limit; the "
        "default is that of rounding to 256 grey levels",
    )  # fmt: skip
    parser.add_argument(
        "--probe-steps", type=Whole(1), default=1000, metavar="N",
        help="most steps a linear probe may take",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Run the experiment, or the search."""
    with extra("experiments"):
        from rich.console import Console
    from ..experiments import mnist

    settings = mnist.Settings(
        data_dir=args.data_dir,
        methods=args.methods and tuple(args.methods),
        pairs=ALL_PAIRS if args.pairs is None else tuple(dict.fromkeys(args.pairs)),
        seeds=args.seeds,
        protocol=args.protocol,
        noise=args.noise,
        probe_steps=args.probe_steps,
    )
    kept = args.out / UNITS
    console = Console(stderr=True)
    if args.search:
        with progress_bars(console) as progress:
            found = mnist.search(settings, kept, jobs=args.jobs, progress=progress)
        numbers = mnist.search_as_json(found, args.command_line, versions())
        tables = [mnist.search_table(searched) for searched in found]
        write_results(args.out / "search", tables, {}, numbers)
        return
    with progress_bars(console) as progress:
        result = mnist.run(settings, kept, jobs=args.jobs, progress=progress)
    numbers = mnist.as_json(result, args.command_line, versions())
    write_results(args.out, mnist.tables(result), mnist.figures(result), numbers)


def _pair(text: str) -> Pair:
    primary, _, harmful = text.partition("-")
    if not (primary in tuple("0123456789") and harmful in tuple("0123456789")):
        raise argparse.ArgumentTypeError(f"two digits such as 0-5 are needed, got {text!r}")
    if primary == harmful:
        raise argparse.ArgumentTypeError(f"two different digits are needed, got {text!r}")
    return int(primary), int(harmful)
