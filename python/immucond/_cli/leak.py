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
from pathlib import Path

from .._errors import extra
from .._files import staged
from ..experiments import deep
from ._arguments import Number, Whole, add_quiet, settings_of
from ._output import progress
from ._results import file_names, show, versions, write_results

_TEXTS = ("leak.json", "leak.md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    for name, metavar, what in (
        ("backbone", "BACKBONE", "the network; a folder may lie within that which IMMUCOND_MODELS "
         "names"),
        ("primary", "DATA", "the task that the network is for"),
        ("harmful", "DATA", "the task that is read"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", required=True, metavar=metavar, help=what)
    parser.add_argument(
        "--data-dir", type=Path, default=None, metavar="FOLDER",
        help="where data sets lie; by default the folder that IMMUCOND_DATA names",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("immucond-leak"), metavar="FOLDER",
        help="where results go, once the whole run has succeeded",
    )  # fmt: skip
    parser.add_argument(
        "--cuts", nargs="+", default=None, metavar="NAME",
        help="modules whose outputs are the cuts, by names or patterns; by default the blocks and "
        "what enters the head",
    )  # fmt: skip
    for name, least, default, what in (
        ("train-size", 2, 2000, "most training rows of each task, drawn at random"),
        ("test-size", 2, 2000, "most held-out rows of the harmful task"),
        ("batch-size", 1, 64, "samples that run at once"),
        ("max-length", 1, 32, "tokens of a text"),
        ("seed", 0, 0, "of the weights that are drawn anew"),
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
    parser.add_argument(
        "--no-untrained", dest="untrained", action="store_false",
        help="leave out the network with weights drawn anew: half of the time",
    )  # fmt: skip
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Profile the network; files appear together at the end."""
    with extra("experiments"):
        import rich.console  # noqa: F401  (missing, it is to be told now)
    with extra("deep"):
        import torch
        import transformers

    settings = settings_of(args, deep.LeakSettings)
    with staged(args.out, file_names(("leak",), _TEXTS)) as folder:
        with progress(args.quiet) as report:
            found = deep.leak(settings, report)
        ran = {"torch": torch.__version__, "transformers": transformers.__version__}
        numbers = found.as_json(args.command_line, {**versions(), **ran})
        tables, figures = [found.table()], {"leak": found.figure()}
        written = write_results(folder, tables, figures, numbers, _TEXTS)
    show(tables, written, args.out, args.quiet)
