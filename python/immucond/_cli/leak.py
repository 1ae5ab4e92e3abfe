"""Show how much of a harmful task is read at every cut of a network.

BACKBONE is a folder in Hugging Face's format, one that immucond deep saved, an id, or an import
path package.module:name of either; data sets are those of immucond deep. At every cut, what a block
puts out and what enters the head, a linear probe is trained on the harmful task with a ridge in the
metric of the primary features: no invertible map of the features changes what it shows. Beside it
stand the served logits, which no defence that keeps the outputs goes below, and the same network
with weights drawn anew. Writes leak.json, leak.md, leak.png and leak.svg.
"""

from __future__ import annotations

import argparse

from ._arguments import Whole
from ._release import add_release_arguments, run_on_release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_release_arguments(
        parser, "immucond-leak", 2000, "of the weights that are drawn anew",
        primary="the task that the network is for", harmful="the task that is read",
    )  # fmt: skip
    parser.add_argument(
        "--cuts", nargs="+", default=None, metavar="NAME",
        help="modules whose outputs are the cuts, by names or patterns; by default the blocks and "
        "what enters the head",
    )  # fmt: skip
    parser.add_argument(
        "--test-size", type=Whole(2), default=2000, metavar="N",
        help="most held-out rows of the harmful task",
    )  # fmt: skip
    parser.add_argument(
        "--no-untrained", dest="untrained", action="store_false",
        help="leave out the network with weights drawn anew: half of the time",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Profile the network."""
    run_on_release(args, "leak", "LeakSettings")
