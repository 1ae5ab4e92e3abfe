"""Forecast what fine-tuning a network on a harmful task costs, without fine-tuning it.

BACKBONE is a folder in Hugging Face's format, one that immucond deep saved, an id, or an import
path package.module:name of either; data sets are those of immucond deep. Around its start a
network is linear in its parameters: a few products with its Jacobian bracket the loss of gradient
descent at every step, for the whole network, for LoRA and for its head, and a few real steps tell
how far that is to be trusted. Writes cost.json, cost.md, cost.png and cost.svg.
"""

from __future__ import annotations

import argparse

from .._errors import extra
from ..experiments import deep
from ._arguments import add_wholes
from ._release import add_release_arguments, run_on_release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_release_arguments(
        parser, "immucond-cost", 128, "of the new head and the adapters",
        harmful="the task that it is fine-tuned on",
    )  # fmt: skip
    parser.add_argument(
        "--reference", default=None, metavar="BACKBONE",
        help="another network to put beside it, such as the unprotected one",
    )  # fmt: skip
    parser.add_argument(
        "--params", nargs="+", choices=deep.PARAMS, default=["full", "head"], metavar="NAME",
        help=f"what is trained beside a new head, of {', '.join(deep.PARAMS)} (lora needs PEFT)",
    )  # fmt: skip
    add_wholes(
        parser,
        ("rank", 1, 8, "of LoRA's adapters"),
        ("products", 1, 40, "products with the Jacobian and with its transpose"),
        ("steps", 1, 20, "steps of the real run"),
    )


def run(args: argparse.Namespace) -> None:
    """Forecast."""
    if "lora" in args.params:
        with extra("lora"):
            import peft  # noqa: F401  (missing, it is to be told now)
    run_on_release(args, "cost", "CostSettings")
