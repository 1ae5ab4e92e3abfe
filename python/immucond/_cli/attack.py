"""Attack a released network by every attacker, and show what the strongest one pays.

BACKBONE is a folder in Hugging Face's format, one that immucond deep saved, an id, or an import
path package.module:name of either; data sets are those of immucond deep. Descents on the whole
network, adapters beside it, heads on its features and what solves for them at once start from the
network as it is, with inserted layers frozen, and from its canonical form; each has a budget of
trials. The unprotected network and weights drawn anew are attacked alike. Writes attack.json,
attack.md, attack.png and attack.svg.
"""

from __future__ import annotations

import argparse

from .._errors import extra
from ..experiments import deep
from ._arguments import Number, add_wholes
from ._release import add_release_arguments, run_on_release

TRIALS = "trials"  # subfolder of --out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_release_arguments(
        parser, "immucond-attack", 600, "of rows, orders and draws; the first of --seeds",
        kept=TRIALS, harmful="the task that is learned",
    )  # fmt: skip
    for name, kind, what in (
        ("primary", "DATA", "the task that must stay: trials that spoil it do not count"),
        ("reference", "BACKBONE", "the unprotected network, attacked in the same way"),
    ):
        parser.add_argument(f"--{name}", default=None, metavar=kind, help=what)
    parser.add_argument(
        "--attackers", nargs="+", default=["standard"], metavar="NAME",
        help="standard, or of gd, momentum, adam, adamw, muon, lbfgs, kfac (each also after "
        "probe-, for the head alone), lora-8, dora-8, loha-8, lokr-8, lstsq, logistic, whitening",
    )  # fmt: skip
    parser.add_argument(
        "--target", type=Number(0.0), default=None, metavar="NATS",
        help="held-out cross-entropy that is aimed at; by default half of the classes' entropy",
    )  # fmt: skip
    add_wholes(
        parser,
        ("test-size", 1, 1000, "most held-out rows of each task"),
        ("steps", 1, 200, "of a trial, at most"),
        ("trials", 1, 20, "of an attacker at a start, at most"),
        ("seeds", 1, 1, "runs, with other rows each where there are more"),
    )
    parser.add_argument(
        "--max-utility-drop", type=Number(0.0, 1.0), default=0.1, metavar="SHARE",
        help="of the primary task's accuracy, that an attacker may spoil",
    )  # fmt: skip
    parser.add_argument(
        "--no-scratch", dest="scratch", action="store_false", default=argparse.SUPPRESS,
        help="do not attack weights drawn anew",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Attack."""
    standard = args.attackers == ["standard"]
    with extra("deep"):
        import torch  # noqa: F401  (missing, it is to be told now)
    deep.parse_attackers("standard" if standard else args.attackers)
    run_on_release(
        args, "attack", "AttackSettings", function="attack_release", folder=args.out / TRIALS
    )
