"""Rerun the paper's House Price experiment, by every method and beside its table.

Predicting LotArea outside zone RL is the primary task, SalePrice within it the harmful one. Each
method immunizes the features on the first rows of either set; condition numbers, losses and linear
probes show what that did, on these and on held-out rows, in the convention of the published code
and in the exact one. Writes results.json, tables.md and curves.png, .svg.
"""

from __future__ import annotations

import argparse

from ..experiments import house_price
from ._arguments import Number, Whole, add_number, settings_of
from ._results import add_common_arguments, run_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    settings = house_price.Settings
    add_common_arguments(parser, "immucond-house-price", tuple(house_price.METHODS), settings)
    for name, kind, what in (
        ("rows", Whole(2), "first rows of each set to train on, 200 in the published code; the "
         "others are held out"),
        ("delta", Number(0.0, above=True), "added to the diagonals of both Gram matrices for the "
         "closed form and its limit, and to the primary one for fade"),
        ("probe_steps", Whole(1), "most steps a linear probe may take"),
    ):  # fmt: skip
        add_number(parser, settings, name, kind, what)


def run(args: argparse.Namespace) -> None:
    """Run the experiment, or the search."""
    run_experiment(args, house_price, settings_of(args, house_price.Settings), ["curves"])
