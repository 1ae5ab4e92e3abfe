"""Rerun the paper's House Price experiment, by every method and beside its table.

Predicting LotArea outside zone RL is the primary task, SalePrice within it the harmful one. Each
method immunizes the features on the first rows of either set; condition numbers, losses and linear
probes show what that did, on these and on held-out rows, in the convention of the published code
and in the exact one. Writes results.json, tables.md and curves.png, .svg.
"""

from __future__ import annotations

import argparse

from ..experiments.house_price._methods import DELTA, METHODS
from ._arguments import Number, Whole
from ._experiment import add_common_arguments, run_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_common_arguments(parser, "immucond-house-price", tuple(METHODS), seeds=3)
    parser.add_argument(
        "--rows", type=Whole(2), default=200, metavar="N",
        help="first rows of each set to train on, 200 in the published code; the others are held "
        "out",
    )  # fmt: skip
    parser.add_argument(
        "--delta", type=Number(0.0, above=True), default=DELTA, metavar="X",
        help="added to the diagonals of both Gram matrices for the closed form and its limit",
    )  # fmt: skip
    parser.add_argument(
        "--probe-steps", type=Whole(1), default=10_000, metavar="N",
        help="most steps a linear probe may take",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Run the experiment, or the search."""
    from ..experiments import house_price

    settings = house_price.Settings(
        data_dir=args.data_dir,
        methods=args.methods and tuple(args.methods),
        seeds=args.seeds,
        rows=args.rows,
        delta=args.delta,
        probe_steps=args.probe_steps,
    )
    run_experiment(args, house_price, settings, ["curves"])
