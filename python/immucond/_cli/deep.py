"""Immunize a deep network against a harmful task, by every method, and measure what it did.

BACKBONE is a folder in Hugging Face's format, an id, or an import path package.module:name of
either. Texts take an encoder, and a head is fitted to the primary task; images take a classifier.
A data set is a folder, a .zip of images, a .csv or .json of texts, or an import path (see the
documentation). Only the last blocks are trained; what comes before them runs once. Condition
numbers, primary accuracy and harmful linear probes on held-out samples show what that did. Writes
results.json, tables.md, probe.png, spectra.png (and .svg), and the networks of --save.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._extras import extra
from .._output import staged
from ..experiments.deep._methods import METHODS
from ..experiments.deep._presets import PRESETS
from ._arguments import Number, Whole, add_quiet
from ._experiment import UNITS, file_names, show, write_results
from ._progress import progress
from ._versions import versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--backbone", default=None,
        help="the pre-trained network; a folder may lie within that which IMMUCOND_MODELS names",
    )  # fmt: skip
    parser.add_argument("--primary", default=None, metavar="DATA", help="the task that stays easy")
    parser.add_argument("--harmful", default=None, metavar="DATA", help="the task that gets hard")
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), default=None, metavar="NAME",
        help="the paper's settings (ImageNet against Stanford Cars or Country211), where the data "
        f"and the weights are there: one of {', '.join(PRESETS)}",
    )  # fmt: skip
    parser.add_argument(
        "--trainable", nargs="+", default=["1"], metavar="BLOCK",
        help="names of the blocks to train, or one number: so many of the last ones",
    )  # fmt: skip
    parser.add_argument(
        "--method", nargs="+", choices=tuple(METHODS), default=None, metavar="NAME",
        help=f"methods to run, of {', '.join(METHODS)}; all by default",
    )  # fmt: skip
    parser.add_argument(
        "--data-dir", type=Path, default=None, metavar="FOLDER",
        help="where data sets lie; by default the folder that IMMUCOND_DATA names",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("immucond-deep"), metavar="FOLDER",
        help=f"where results go; its subfolder {UNITS} keeps what is finished, and an interrupted "
        "run goes on from there",
    )  # fmt: skip
    parser.add_argument(
        "--save", nargs="+", choices=tuple(METHODS), default=["algorithm1", "closed-form"],
        metavar="NAME",
        help=f"methods whose network (of seed 0) goes to {UNITS}/models, as save_pretrained does",
    )  # fmt: skip
    for name, what in (
        ("--seeds", "runs of each method that depends on a seed: 0 to N - 1"),
        ("--jobs", "processes at a time"),
        ("--batch-size", "samples of each task in a step"),
        ("--max-length", "tokens of a text"),
        ("--probe-epochs", "epochs of the harmful linear probes"),
        ("--probe-steps", "most steps of an attacker under the squared loss"),
        ("--groups", "groups of test samples for the RIR"),
        ("--group-size", "test samples in a group"),
    ):
        default = {"--seeds": 3, "--jobs": 1, "--batch-size": 64, "--max-length": 32,
                   "--probe-epochs": 20, "--probe-steps": 2000, "--groups": 20,
                   "--group-size": 100}[name]  # fmt: skip
        least = 2 if name in ("--batch-size", "--group-size", "--groups") else 1
        parser.add_argument(name, type=Whole(least), default=default, metavar="N", help=what)
    for name, what in (
        ("--train-size", "most training samples of each task, drawn at random; all by default"),
        ("--test-size", "most test samples of each task, drawn at random; all by default"),
        ("--epochs", "passes over the primary task, for all methods that train"),
        ("--image-size", "side of the images; by default that of preprocessor_config.json"),
    ):
        parser.add_argument(name, type=Whole(1), default=None, metavar="N", help=what)
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", type=Number(0.0, above=name == "std"), nargs=3, default=None,
            metavar=("R", "G", "B"),
            help="of pixels in [0, 1]; by default that of preprocessor_config.json",
        )  # fmt: skip
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
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Run the experiment."""
    if args.preset is None:
        missing = [name for name in ("backbone", "primary", "harmful") if not getattr(args, name)]
        if missing:
            args.parser.error(f"give {', '.join('--' + name for name in missing)}, or --preset")
    with extra("experiments"):
        import rich.console  # noqa: F401  (missing, it is to be told now)
    with extra("deep"):
        import torch
        import transformers
    from ..experiments import deep

    chosen = None if args.method is None else tuple(args.method)
    settings = deep.Settings(
        backbone=args.backbone,
        primary=args.primary,
        harmful=args.harmful,
        data_dir=args.data_dir,
        trainable=tuple(args.trainable),
        max_length=args.max_length,
        image_size=args.image_size,
        mean=args.mean and tuple(args.mean),
        std=args.std and tuple(args.std),
        methods=chosen,
        parameters=_parameters(args),
        seeds=args.seeds,
        batch_size=args.batch_size,
        train_size=args.train_size,
        test_size=args.test_size,
        probe_epochs=args.probe_epochs,
        probe_steps=args.probe_steps,
        groups=args.groups,
        group_size=args.group_size,
        save=tuple(name for name in args.save if chosen is None or name in chosen),
    )
    if args.preset is not None:
        settings = deep.preset_settings(args.preset, settings)
    with staged(args.out, file_names(("probe", "spectra"))) as folder:
        with progress(args.quiet) as report:
            result = deep.run(settings, args.out / UNITS, jobs=args.jobs, progress=report)
        found = {**versions(), "torch": torch.__version__, "transformers": transformers.__version__}
        numbers = deep.as_json(result, args.command_line, found)
        tables = deep.tables(result)
        written = write_results(folder, tables, deep.figures(result), numbers)
    show(tables, written, args.out, args.quiet)


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
    return given
