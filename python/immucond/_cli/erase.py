"""Take out of a network what its primary task does not use, and show what is left to read.

BACKBONE is a folder in Hugging Face's format, one that immucond deep saved, an id, or an import
path package.module:name of either; data sets are those of immucond deep, and DATA[a,b] is those of
its classes that are named, DATA[-a,-b] of all others. For each tolerance a network is made whose
layers keep the directions that the primary task needs and, of the others, none: nothing is
inserted, and nothing brings them back. Beside it stand its accuracy on fresh rows and the leak
profile's ceiling. Writes erase.json, erase.md, erase.png and erase.svg, and each network into the
subfolder releases, for immucond leak and attack.
"""

from __future__ import annotations

import argparse

from ._arguments import Number, add_wholes
from ._release import add_release_arguments, run_on_release

RELEASES = "releases"  # subfolder of --out
METHODS = (
    "erase", "leace-erase", "primary", "pca",
    "leace", "graddiff", "npo", "tar", "collapse", "cir", "repselect",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_release_arguments(
        parser, "immucond-erase", 2000, "of rows and draws", kept=RELEASES,
        primary="the task that is kept", harmful="the task that is to go",
    )  # fmt: skip
    parser.add_argument(
        "--tols", nargs="+", type=Number(0.0, 1.0), default=[0.003, 0.01, 0.03], metavar="SHARE",
        help="how much of the primary accuracy may be lost, each for a network of its own",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["erase"], metavar="NAME",
        help="erase, with harmful rows; leace-erase, their labels first within half of what may be "
        "lost; primary, without them; pca, the principal components; and those of "
        f"immucond.deep.unlearn, to compare with: {', '.join(METHODS[4:])}",
    )  # fmt: skip
    parser.add_argument(
        "--transfer", default=None, metavar="DATA",
        help="another benign task, which a probe learns from the features before and after",
    )  # fmt: skip
    parser.add_argument(
        "--metric", choices=("fisher", "gram"), default="fisher",
        help="what a change of the logits counts: by Fisher's information, or by its square",
    )  # fmt: skip
    add_wholes(
        parser,
        ("test-size", 8, 2000, "most held-out rows of each task; half of the primary choose"),
        ("rounds", 1, 1, "how often everything is measured anew"),
        ("recover", 0, 0, "steps of distillation on the primary task after each round"),
        ("steps", 1, 200, "of a trial of what the methods after pca train"),
        ("trials", 1, 8, "settings that they try"),
    )
    parser.add_argument(
        "--no-untrained", dest="untrained", action="store_false",
        help="do not profile the network with weights drawn anew",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Erase."""
    run_on_release(
        args, "erase", "EraseSettings", function="erase_release", folder=args.out / RELEASES
    )
