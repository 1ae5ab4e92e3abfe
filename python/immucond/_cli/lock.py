"""Lock a network as others do, to measure defences against: a baseline, and no defence.

BACKBONE is a folder in Hugging Face's format, one that immucond deep saved, an id, or an import
path package.module:name of either; data sets are those of immucond deep. SpecDef multiplies the
largest singular values of every linear layer and undoes that in a layer after it; random gauges
are invertible maps between layers and their inverses, within the same modules. The outputs stay.
Whoever merges, freezes, whitens or solves is not slowed. Writes lock.json and lock.md, and the
network into the subfolder release, for immucond leak and attack.
"""

from __future__ import annotations

import argparse

from ._arguments import Number, add_wholes
from ._release import add_release_arguments, run_on_release

RELEASE = "release"  # subfolder of --out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_release_arguments(
        parser, "immucond-lock", 2000, "of rows and random maps",
        primary="the task that it is for, on which its outputs are compared",
    )  # fmt: skip
    parser.add_argument(
        "--kind", choices=("specdef", "gauges"), default="specdef",
        help="singular values and inserted layers, or random invertible maps",
    )  # fmt: skip
    parser.add_argument(
        "--strength", type=Number(1.0), default=1e3, metavar="X",
        help="SpecDef's alpha, or the condition number of the random maps",
    )  # fmt: skip
    add_wholes(
        parser,
        ("top", 1, 2, "singular values of a layer that SpecDef multiplies"),
        ("test-size", 2, 1000, "most held-out rows"),
    )


def run(args: argparse.Namespace) -> None:
    """Lock."""
    run_on_release(
        args, "lock", "LockSettings", function="lock_release", folder=args.out / RELEASE, drawn=()
    )
