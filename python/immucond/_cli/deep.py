"""Immunize a deep network against a harmful task, by every method, and measure what it did.

BACKBONE is a folder in Hugging Face's format, an id, or an import path package.module:name of
either. Texts take an encoder, and a head is fitted to the primary task; images take a classifier.
A data set is a folder, a .zip of images, a .csv or .json of texts, or an import path (see the
documentation). Only the last blocks are trained; what comes before them runs once. Attackers on the
harmful task, the primary task, the label alignment and condition numbers, on held-out samples and
the network as it is read back, show what that did. Writes results.json, tables.md, attackers.png,
probe.png, alignment.png, spectra.png (and .svg), and the networks of --save.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._errors import extra
from ..experiments import deep
from ._arguments import Number, Whole, add_number, add_output, add_reading, settings_of
from ._results import SEEDS, UNITS, add_folder, run_experiment

SAVED = ["algorithm1", "closed-form", "fade", "fade-distilled"]  # by default, of those that run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--backbone", default=None,
        help="the pre-trained network; a folder may lie within that which IMMUCOND_MODELS names",
    )  # fmt: skip
    parser.add_argument("--primary", default=None, metavar="DATA", help="the task that stays easy")
    parser.add_argument("--harmful", default=None, metavar="DATA", help="the task that gets hard")
    parser.add_argument(
        "--preset", choices=tuple(deep.PRESETS), default=None, metavar="NAME",
        help="the paper's settings (ImageNet against Stanford Cars or Country211), where the data "
        f"and the weights are there: one of {', '.join(deep.PRESETS)}",
    )  # fmt: skip
    parser.add_argument(
        "--trainable", nargs="+", default=argparse.SUPPRESS, metavar="BLOCK",
        help="names of the blocks to train, or one number: so many of the last ones; "
        f"{deep.Settings.trainable[0]} by default, or as in the preset",
    )  # fmt: skip
    parser.add_argument(
        "--method", dest="methods", nargs="+", choices=tuple(deep.METHODS), default=None,
        metavar="NAME",
        help=f"methods to run, of {', '.join(deep.METHODS)}; all by default",
    )  # fmt: skip
    parser.add_argument(
        "--data-dir", type=Path, default=None, metavar="FOLDER",
        help="where data sets lie; by default the folder that IMMUCOND_DATA names",
    )  # fmt: skip
    add_folder(parser, "immucond-deep")
    parser.add_argument(
        "--save", nargs="*", choices=tuple(deep.METHODS), default=SAVED, metavar="NAME",
        help=f"methods whose network (of seed 0) goes to {UNITS}/models, as save_pretrained does; "
        "without a NAME none",
    )  # fmt: skip
    add_number(parser, deep.Settings, "seeds", Whole(1), SEEDS)
    parser.add_argument("--jobs", type=Whole(1), default=1, metavar="N", help="processes at a time")
    parser.add_argument(
        "--defender-rows", type=Whole(2), nargs="+", default=(), metavar="N",
        help="harmful training samples that immunization sees, one half by default; "
        f"{' and '.join(deep.BY_ROWS)} run with each of several numbers, the other methods with "
        "the largest; attackers train on the other half, or on what the largest leaves",
    )  # fmt: skip
    parser.add_argument(
        "--train-size", type=Whole(1), nargs="+", default=(), metavar="N",
        help="most training samples of each task, drawn at random, or of the primary and of the "
        "harmful one; all by default",
    )  # fmt: skip
    parser.add_argument(
        "--transfer", default=None, metavar="DATA",
        help="another benign task, which a linear probe learns from scratch",
    )  # fmt: skip
    parser.add_argument(
        "--fine-tune", action="store_true",
        help="let attackers train the last blocks too, as they are and by LoRA (needs PEFT)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=Whole(2), default=argparse.SUPPRESS, metavar="N",
        help=f"samples of each task in a step; {deep.Settings.batch_size} by default, or as in the "
        "preset",
    )  # fmt: skip
    for name, least, what in (
        ("probe_epochs", 1, "epochs of the attackers"),
        ("probe_steps", 1, "most steps of an attacker under the squared loss"),
        ("groups", 2, "groups of test samples for the RIR"),
        ("group_size", 2, "test samples in a group"),
        ("test_size", 1, "most test samples of each task, drawn at random; all by default"),
    ):
        add_number(parser, deep.Settings, name, Whole(least), what)
    parser.add_argument(
        "--epochs", type=Whole(1), default=None, metavar="N",
        help="passes over the primary task, for all methods that train",
    )  # fmt: skip
    add_reading(parser)
    parser.add_argument(
        "--lr", type=Number(0.0, above=True), default=None, metavar="X",
        help="step size, for all methods that train",
    )  # fmt: skip
    parser.add_argument(
        "--lambdas", type=Number(0.0), nargs=2, default=None, metavar=("P", "H"),
        help="weights of R_well and R_ill in Algorithm 1, instead of --terms",
    )  # fmt: skip
    parser.add_argument(
        "--terms", type=Number(0.0), nargs=2, default=None, metavar=("P", "H"),
        help="what R_well and R_ill amount to at the start in Algorithm 1, in units of the loss",
    )  # fmt: skip
    parser.add_argument(
        "--terms-opt-kappa", type=Number(0.0), nargs=2, default=None, metavar=("P", "H"),
        help="the same of both condition numbers in Opt kappa",
    )  # fmt: skip
    parser.add_argument(
        "--tau", type=Number(1.0), default=None, metavar="X",
        help="how slow fade makes the harmful labels; their part in the features shrinks by its "
        "square root",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Run the experiment."""
    if args.preset is None:
        missing = [name for name in ("backbone", "primary", "harmful") if not getattr(args, name)]
        if missing:
            args.parser.error(f"give {', '.join('--' + name for name in missing)}, or --preset")
    if args.lambdas is not None and args.terms is not None:
        args.parser.error("--lambdas takes the place of --terms: give one of them")
    with extra("experiments"):
        import rich.console  # noqa: F401  (missing, it is to be told now)
    with extra("deep"):
        import torch
        import transformers

    run_methods = args.methods or deep.METHODS
    saved = [name for name in SAVED if name in run_methods] if args.save is SAVED else args.save
    settings = settings_of(args, deep.Settings, parameters=_parameters(args), save=tuple(saved))
    if args.preset is not None:
        settings = deep.preset_settings(args.preset, settings, given=vars(args))
    ran = {"torch": torch.__version__, "transformers": transformers.__version__}
    run_experiment(args, deep, settings, ("attackers", "probe", "alignment", "spectra"), ran)


def _parameters(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    everywhere = {
        name: value
        for name, value in (("epochs", args.epochs), ("lr", args.lr))
        if value is not None
    }
    given: dict[str, dict[str, Any]] = {"": everywhere} if everywhere else {}
    for method, name, values in (
        ("algorithm1", "lambdas", args.lambdas),
        ("algorithm1", "terms", args.terms),
        ("opt-kappa", "terms", args.terms_opt_kappa),
    ):
        if values is not None:
            given.setdefault(method, {})[name] = tuple(values)
    if args.tau is not None:
        given |= {name: {"tau": args.tau} for name in ("fade", "fade-distilled")}
    return given
