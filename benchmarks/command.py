"""What the benchmarks' commands are asked: which, how often, up to what size, where to draw."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path


def asked(
    module: str, text: str, kind: str, least: Mapping[str, int], runs: int,
    given: Sequence[str] | None,
) -> argparse.Namespace:  # fmt: skip
    """Parse the command line; `least` is the smallest ``--most`` of each that may be named."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=text.partition("\n")[0]
    )
    of = ", ".join(least)
    parser.add_argument("names", nargs="*", metavar=kind, help=f"of {of}; all by default")
    parser.add_argument("--runs", type=int, default=runs, help=f"of each (default: {runs})")
    parser.add_argument("--most", type=int, metavar="SIZE", help="no size above it")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw what was measured, SVGs")
    args = parser.parse_args(given)
    args.names = args.names or [*least]
    for name in args.names:
        if name not in least:
            parser.error(f"{kind} must be of {of}, and is {name}")
    smallest = max(least[name] for name in args.names)
    if args.runs < 1:
        parser.error(f"--runs must be at least 1, and is {args.runs}")
    if args.most is not None and args.most < smallest:
        parser.error(f"--most must be at least {smallest}, and is {args.most}")
    return args
