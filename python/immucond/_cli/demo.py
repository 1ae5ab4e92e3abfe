"""Immunize handwritten digits and show what it did and what it is worth.

Takes scikit-learn's bundled digits (8 x 8 pixels, no download), one digit as the primary task and
another one as the harmful task, immunizes a linear extractor by Algorithm 1 and by the closed
form, prints tables and writes results.json, norm_ratio.png and loss.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .._extras import extra
from .._output import staged
from ._arguments import Number, Whole, add_quiet
from ._progress import progress
from ._versions import versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo."""
    for name, default, role in (("primary", 0, "stays easy"), ("harmful", 5, "gets hard")):
        parser.add_argument(
            f"--{name}", type=int, choices=range(10), default=default, metavar="DIGIT",
            help=f"digit whose task {role}, 0 to 9",
        )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("immucond-demo"), metavar="FOLDER",
        help="where results go; nothing is written unless the whole run succeeds",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=Whole(0), default=0, metavar="N",
        help="of the split into training and held-out rows and of the first head",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=Whole(1), default=1000, metavar="N", help="steps of Algorithm 1"
    )
    parser.add_argument(
        "--lr",
        type=Number(0.0, above=True),
        default=0.005,
        metavar="X",
        help="step size of Algorithm 1",
    )
    parser.add_argument(
        "--delta", type=Number(0.0), default=None, metavar="X",
        help="added to the diagonals of both Gram matrices for the limit and the closed form, in "
        "units of squared pixels in [0, 1]; by default what rounding to 16 grey levels adds, "
        "number of rows times 1/3072",
    )  # fmt: skip
    parser.add_argument(
        "--kappa-primary", type=Number(1.0), default=None, metavar="X",
        help="condition number that the closed form gives the primary task; by default the middle "
        "of the frontier, where (i) = 1/(ii)",
    )  # fmt: skip
    parser.add_argument(
        "--probe-steps", type=Whole(1), default=200_000, metavar="N",
        help="most steps a linear probe may take",
    )  # fmt: skip
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demo; files appear all together at the end."""
    if args.primary == args.harmful:
        args.parser.error(f"--primary and --harmful must differ, got {args.primary} for both")
    with extra("experiments"):
        from rich.console import Console
    from ..experiments import digits

    settings = digits.Settings(
        primary=args.primary,
        harmful=args.harmful,
        seed=args.seed,
        steps=args.steps,
        lr=args.lr,
        delta=args.delta,
        kappa_primary=args.kappa_primary,
        probe_steps=args.probe_steps,
    )
    console = Console(highlight=False)
    names = ["results.json", "norm_ratio.png", "loss.png"]
    with staged(args.out, names) as folder:
        old = any((args.out / name).exists() for name in names)
        if not args.quiet:
            console.print(digits.opening(settings) + "\n")
        with progress(args.quiet) as report:
            result = digits.run(settings, report)
        for name, figure in digits.figures(result).items():
            figure.savefig(folder / name, dpi=200)
        numbers = digits.as_json(result, args.command_line, versions())
        text = json.dumps(numbers, indent=1, allow_nan=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    digits.print_tables(result, console)
    if not args.quiet:
        did = "Replaced" if old else "Wrote"
        console.print(f"\n{did} {', '.join(names)} in {args.out}", style="bold", markup=False)
    console.print("\n" + digits.closing(result))
