"""Rerun the paper's MNIST experiment on pairs of digits, by every method.

The images of one digit are the primary task, those of another one the harmful task. Each method
immunizes the pixels for each ordered pair; 10 x 10 grids show by how much the harmful labels moved
to slower directions (rho), and the log RIR in the published code's convention and in the exact one.
Linear probes attack the first pair. Writes results.json, tables.md, curves and grids as .png, .svg.
"""

from __future__ import annotations

import argparse

from ..experiments import mnist
from ._arguments import Number, Whole, add_number, settings_of
from ._results import add_common_arguments, run_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    settings = mnist.Settings
    add_common_arguments(parser, "immucond-mnist", mnist.NAMES, settings)
    parser.add_argument(
        "--pairs", nargs="+", type=_pair, default=None, metavar="P-H",
        help="pairs of digits, primary and harmful, such as 0-5; all 90 by default",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", choices=tuple(mnist.METHODS), default=settings.protocol,
        help="30 steps on all images, or 30 epochs of batches of 64 as in the published code",
    )  # fmt: skip
    add_number(
        parser, settings, "noise", Number(0.0, above=True),
        "variance of the noise in a normalized pixel, for the closed form, its limit and fade; "
        "the default is that of rounding to 256 grey levels",
    )  # fmt: skip
    add_number(parser, settings, "probe_steps", Whole(1), "most steps a linear probe may take")


def run(args: argparse.Namespace) -> None:
    """Run the experiment, or the search."""
    settings = settings_of(args, mnist.Settings, pairs=args.pairs and [*dict.fromkeys(args.pairs)])
    names = settings.methods or mnist.METHODS[settings.protocol]
    grids = [f"{kind}-{name}" for kind in ("grid", "rho") for name in names]
    run_experiment(args, mnist, settings, ["curves", *grids])


def _pair(text: str) -> mnist.Pair:
    primary, _, harmful = text.partition("-")
    if not (primary in tuple("0123456789") and harmful in tuple("0123456789")):
        raise argparse.ArgumentTypeError(f"two digits such as 0-5 are needed, got {text!r}")
    if primary == harmful:
        raise argparse.ArgumentTypeError(f"two different digits are needed, got {text!r}")
    return int(primary), int(harmful)
