"""Options and the settings they make: a default stands once, in the settings' dataclass."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


class Whole:
    """Whole number of at least some size."""

    metavar = "N"

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

    metavar = "X"

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


def add_number(
    parser: argparse.ArgumentParser, settings: type, name: str, kind: Whole | Number, what: str
) -> None:
    """Add the option of a field of the settings, with its default there."""
    parser.add_argument(
        f"--{name.replace('_', '-')}", type=kind, default=getattr(settings, name),
        metavar=kind.metavar, help=what,
    )  # fmt: skip


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the option to say nothing but the result."""
    parser.add_argument(
        "--quiet", action="store_true", help="print the result alone, and no progress"
    )


def settings_of(
    args: argparse.Namespace, settings: Callable[..., Settings], **others: Any
) -> Settings:
    """Make settings of the options that bear the names of their fields, and of others.

    Where an option was not given and says None, the field has its default.
    """
    given = vars(args) | others
    values = {
        field.name: given[field.name]
        for field in fields(settings)  # type: ignore[arg-type]
        if field.name in given and (given[field.name] is not None or field.default is MISSING)
    }
    return settings(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
