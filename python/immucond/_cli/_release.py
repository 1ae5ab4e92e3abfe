"""Arguments of commands that measure one released network on data."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._arguments import Number, Whole, add_quiet


def add_release_arguments(
    parser: argparse.ArgumentParser, out: str, rows: int, seed: str, **data: str
) -> None:
    """Add the network, each data set by its name and what it is, and how both are read."""
    parser.add_argument(
        "--backbone", required=True, metavar="BACKBONE",
        help="the network; a folder may lie within that which IMMUCOND_MODELS names",
    )  # fmt: skip
    for name, what in data.items():
        parser.add_argument(f"--{name}", required=True, metavar="DATA", help=what)
    parser.add_argument(
        "--data-dir", type=Path, default=None, metavar="FOLDER",
        help="where data sets lie; by default the folder that IMMUCOND_DATA names",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="FOLDER",
        help="where results go, once the whole run has succeeded",
    )  # fmt: skip
    for name, least, default, what in (
        ("train-size", 2, rows, "most training rows of each task, drawn at random"),
        ("batch-size", 1, 64, "samples that run at once"),
        ("max-length", 1, 32, "tokens of a text"),
        ("seed", 0, 0, seed),
    ):  # fmt: skip
        parser.add_argument(
            f"--{name}", type=Whole(least), default=default, metavar="N", help=what
        )  # fmt: skip
    parser.add_argument(
        "--image-size", type=Whole(1), default=None, metavar="N",
        help="side of the images; by default that of preprocessor_config.json",
    )  # fmt: skip
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", type=Number(0.0, above=name == "std"), nargs=3, default=None,
            metavar=("R", "G", "B"),
            help="of pixels in [0, 1]; by default that of preprocessor_config.json",
        )  # fmt: skip
    add_quiet(parser)
