"""Attack every release of a toy network by every attacker, and show what each one pays.

A small network learns readouts of eight exclusive ors; the primary task needs five of them, the
harmful one five, two of both. It is released as it is, locked, mapped, scaled, compressed and
erased; from each release all attackers start, plain, with inserted layers frozen, and from the
canonical form. What a defence is worth against each of them is one table. Needs the extras deep and
lora. Writes results.json, tables.md, and toy and toy-ceiling as .png and .svg.
"""

from __future__ import annotations

import argparse

from .._errors import extra
from ..experiments import toy
from ._arguments import Number, Whole, add_number, add_output, settings_of
from ._results import add_folder, run_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    settings = toy.Settings
    add_folder(parser, "immucond-toy")
    parser.add_argument(
        "--releases", nargs="+", choices=tuple(toy.RELEASES), default=tuple(toy.RELEASES),
        metavar="NAME", help=f"of {', '.join(toy.RELEASES)}; all by default",
    )  # fmt: skip
    for name, kind, what in (
        ("rows", Whole(20), "of the harmful task that attackers have"),
        ("target", Number(0.0, above=True), "held-out cross-entropy in nats at which one is there"),
        ("steps", Whole(1), "of a trial, at most"),
        ("trials", Whole(1), "of an attacker at a start, at most"),
        ("seeds", Whole(1), "networks and tasks: 0 to N - 1"),
    ):
        add_number(parser, settings, name, kind, what)
    parser.add_argument(
        "--jobs", type=Whole(1), default=1, metavar="N",
        help="processes at a time; each gets its share of the processors",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Run the attacks."""
    with extra("deep"):
        import torch
    versions = {"torch": torch.__version__}
    run_experiment(args, toy, settings_of(args, toy.Settings), ["toy", "toy-ceiling"], versions)
