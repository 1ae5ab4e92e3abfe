"""Find the most that any extractor can immunize, for two data files.

PRIMARY and HARMFUL hold one row a sample and as many columns: .npy, .npz (FILE.npz:KEY where it
holds several arrays), .csv (with or without a header) or .parquet. They may be larger than memory:
each is read once, block by block. Prints ranks, condition numbers, the limit RIR*, the frontier and
what feature noise leaves of the limit, and writes limit.json and limit.png. Columns are taken as
they are, neither centred nor standardized.
"""

from __future__ import annotations

import argparse
import errno
import os
from pathlib import Path

from .. import limit
from .._files import staged
from .._show import terminal
from ._arguments import Number, Whole, add_number, add_output, settings_of
from ._output import print_json, progress
from ._results import versions, write_json

FILES = ("limit.json", "limit.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files and the options."""
    parser.add_argument("primary", metavar="PRIMARY", help="rows of the task that stays easy")
    parser.add_argument("harmful", metavar="HARMFUL", help="rows of the task that gets hard")
    parser.add_argument(
        "--out", type=Path, default=Path("immucond-limit"), metavar="FOLDER",
        help="where limit.json and limit.png go, once the whole run has succeeded",
    )  # fmt: skip
    parser.add_argument(
        "--delta", type=Number(0.0), nargs="+", default=[limit.Settings.delta[0]], metavar="X",
        help="added to the diagonals of both Gram matrices, or two numbers, one for each",
    )  # fmt: skip
    parser.add_argument(
        "--through", choices=("gram", "qr"), default=limit.Settings.through,
        help="sum Gram matrices, or merge QR factors: twice the digits, several times the work",
    )  # fmt: skip
    parser.add_argument(
        "--computed-in", choices=("float64", "float32", "float16", "bfloat16"), default=None,
        help="precision in which the numbers were computed, which decides ranks; by default that "
        "in which they are stored",
    )  # fmt: skip
    for task in ("primary", "harmful"):
        parser.add_argument(
            f"--rank-{task}", type=Whole(1), default=None, metavar="K",
            help=f"known rank of the {task} task; decided from the numbers by default",
        )  # fmt: skip
    add_number(
        parser, limit.Settings, "points", Whole(2, 10**6),
        "points of the frontier and of the noise-floor curve",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace limit.json and limit.png of an earlier run",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Run the report; files appear together at the end."""
    if len(args.delta) > 2:
        args.parser.error(f"--delta takes one or two numbers, got {len(args.delta)}")
    console = terminal()
    settings = settings_of(
        args,
        limit.Settings,
        delta=(args.delta[0], args.delta[-1]),
        ranks=(args.rank_primary, args.rank_harmful),
    )
    with staged(args.out, FILES) as folder:
        old = [name for name in FILES if os.path.lexists(args.out / name)]
        if old and not args.overwrite:
            told = f"it holds {' and '.join(old)}: give another folder, or --overwrite"
            raise FileExistsError(errno.EEXIST, told, str(args.out))
        with progress(args.quiet) as report:
            result = limit.run(settings, report)
        limit.figure(result).savefig(folder / "limit.png", dpi=200)
        numbers = limit.as_json(result, args.command_line, versions())
        write_json(folder / "limit.json", numbers)
    if args.json:
        print_json(numbers)
        return
    limit.print_tables(result, console)
    if not args.quiet:
        console.print(f"\nWrote {' and '.join(FILES)} to {args.out}", style="bold")
