"""Numbers on the command line, checked as they are parsed."""

from __future__ import annotations

import argparse
import math


class Whole:
    """Whole number of at least some size."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = self._least - 1
        if value < self._least:
            raise argparse.ArgumentTypeError(
                f"a whole number of at least {self._least} is needed, got {text!r}"
            )
        return value


class Number:
    """Finite number of at least some size, or above it."""

    def __init__(self, least: float, *, above: bool = False) -> None:
        self._least, self._above = least, above

    def __call__(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        enough = value > self._least if self._above else value >= self._least
        if not (math.isfinite(value) and enough):
            needed = "above" if self._above else "of at least"
            raise argparse.ArgumentTypeError(
                f"a finite number {needed} {self._least:g} is needed, got {text!r}"
            )
        return value


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the option to say nothing but the result."""
    parser.add_argument(
        "--quiet", action="store_true", help="print the result alone, and no progress"
    )
