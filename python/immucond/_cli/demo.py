"""Immunize handwritten digits and show what it did and what it is worth.

Takes scikit-learn's bundled digits (8 x 8 pixels, no download), one digit as the primary task and
another one as the harmful task, immunizes a linear extractor by Algorithm 1, by the closed form and
by fade, prints what the attacker gets, what the primary task pays and what the measures say, and
writes results.json, norm_ratio.png and loss.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .._files import staged
from .._show import terminal
from ..experiments import digits
from ._arguments import Number, Whole, add_number, add_output, settings_of
from ._output import print_json, progress
from ._results import versions, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo."""
    settings = digits.Settings
    for name, role in (("primary", "stays easy"), ("harmful", "gets hard")):
        parser.add_argument(
            f"--{name}", type=int, choices=range(10), default=getattr(settings, name),
            metavar="DIGIT", help=f"digit whose task {role}, 0 to 9",
        )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("immucond-demo"), metavar="FOLDER",
        help="where results go; nothing is written unless the whole run succeeds",
    )  # fmt: skip
    for name, kind, what in (
        ("seed", Whole(0), "of the split into training and held-out rows and of the first head"),
        ("steps", Whole(1), "steps of Algorithm 1"),
        ("lr", Number(0.0, above=True), "step size of Algorithm 1"),
        ("delta", Number(0.0), "added to the diagonals of both Gram matrices for the limit, the "
         "closed form and fade, in units of squared pixels in [0, 1]; by default what rounding to "
         "16 grey levels adds, number of rows times 1/3072"),
        ("kappa_primary", Number(1.0), "condition number that the closed form gives the primary "
         "task; by default the middle of the frontier, where (i) = 1/(ii)"),
        ("probe_steps", Whole(1), "most steps a linear probe may take"),
    ):  # fmt: skip
        add_number(parser, settings, name, kind, what)
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demo; files appear all together at the end."""
    if args.primary == args.harmful:
        args.parser.error(f"--primary and --harmful must differ, got {args.primary} for both")
    console, settings = terminal(), settings_of(args, digits.Settings)
    names = ["results.json", "norm_ratio.png", "loss.png"]
    with staged(args.out, names) as folder:
        old = any((args.out / name).exists() for name in names)
        if not (args.quiet or args.json):
            console.print(digits.opening(settings) + "\n")
        with progress(args.quiet) as report:
            result = digits.run(settings, report)
        for name, figure in digits.figures(result).items():
            figure.savefig(folder / name, dpi=200)
        numbers = digits.as_json(result, args.command_line, versions())
        write_json(folder / "results.json", numbers)
    if args.json:
        print_json(numbers)
        return
    digits.print_tables(result, console)
    if not args.quiet:
        did = "Replaced" if old else "Wrote"
        console.print(f"{did} {', '.join(names)} in {args.out}\n", style="bold")
    console.print(digits.closing(result))
