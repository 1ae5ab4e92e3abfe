"""Put the raw runs of leak, cost and attack together to a release card.

RUN is leak.json, cost.json or attack.json, or a folder that holds them; attacks of several seeds
may stand in several files. Writes card.json and card.md, a section of a model card with Hugging
Face's metadata at its top: the same bytes each time for the same runs. The card says what it lacks.
Runs that contradict one another, of another release or other data, are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .._card import as_json, card
from .._files import staged
from ._arguments import add_output

FILES = ("card.json", "card.md")
TAMPERBENCH = "tamperbench.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="raw runs, in any order",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("immucond-card"), metavar="FOLDER",
        help="where the card goes",
    )  # fmt: skip
    parser.add_argument(
        "--name", default=None, help="of the release; by default that of its folder"
    )
    parser.add_argument(
        "--tamperbench", action="store_true",
        help=f"write {TAMPERBENCH} too: each attack as TamperBench records a sweep's best trial",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Make the card."""
    found = card(*args.runs, name=args.name)
    texts = dict(zip(FILES, (found.json(), found.markdown()), strict=True))
    if args.tamperbench:
        texts[TAMPERBENCH] = as_json(found.tamperbench())
    with staged(args.out, texts) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    print(texts[FILES[0]] if args.json else found, end="" if args.json else "\n")
    if not (args.quiet or args.json):
        print(f"Wrote {', '.join(texts)} to {args.out}")
