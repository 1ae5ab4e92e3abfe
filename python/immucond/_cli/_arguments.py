"""Parsers and options: near misses are told, and a default stands once, in the settings."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .._format import brief

_EMPTY = "something is needed, got an empty text"
_MOST = 2**31 - 1  # of what is counted: beyond it libraries fail, each in words of its own


class Formatter(argparse.HelpFormatter):
    """Show each default as it would be typed, unless the help says what happens without it.

    Paragraphs stay apart, and names with hyphens, which one has to type, whole.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, [], ()) or isinstance(action.default, bool):
            return action.help
        if action.default == argparse.SUPPRESS:
            return action.help
        return f"{action.help} (default: {_typed(action.default).replace('%', '%%')})"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            "\n".join(indent + line for line in self._split_lines(part, width - len(indent)))
            for part in text.split("\n\n")
        )


def _typed(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_typed, value))
    if isinstance(value, float):
        return brief(value, 3)
    return str(value)


class Parser(argparse.ArgumentParser):
    """A parser that knows how each of its arguments is written."""

    def __init__(self, **keywords: Any) -> None:
        self._written: dict[str, str] = {}
        super().__init__(**keywords)
        self.register("type", Path, _path)

    def add_argument(self, *names: Any, **keywords: Any) -> argparse.Action:
        """Add an argument."""
        action = super().add_argument(*names, **keywords)
        shown = action.option_strings[-1:] or [str(action.metavar or action.dest)]
        self._written[action.dest] = shown[0]
        return action

    def error(self, message: str) -> NoReturn:
        """Show usage and message, with what was perhaps meant, and leave with status 2."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            near = nearest(choice[1], re.findall(r"[^\s,']+", choice[2]))
        else:
            unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
            near = nearest(unknown[1], self._written.values()) if unknown else ""
        super().error(message + near)

    def check(self, args: argparse.Namespace) -> None:
        """Refuse texts that no operating system takes for a path."""
        for name, value in _texts(args):
            if not value and name in self._written:
                self.error(f"argument {self._written[name]}: {_EMPTY}")
            if "\0" in value and name in self._written:
                self.error(f"argument {self._written[name]}: {value!r} has a NUL character")

    def option_of(self, file: str, args: argparse.Namespace) -> str:
        """Return the options that led to a file, with a space after them; "" where none did."""
        path = Path(os.path.abspath(file))
        found = {
            self._written[name]: len(os.path.abspath(value))
            for name, value in _texts(args)
            if name in self._written and value and path.is_relative_to(os.path.abspath(value))
        }
        nearest_to_it = _longest(found)
        return f"{nearest_to_it} " if nearest_to_it else ""

    def option_in(self, text: str, args: argparse.Namespace) -> str:
        """Return what to put before a message that begins with an option's value or quotes it.

        Nothing before one that begins with an option; a file within a folder's value quotes it.
        """
        begun, quoted = {}, {}
        if text.startswith("--"):
            return ""
        for name, value in _texts(args):
            option = self._written.get(name, "")
            if not (value and option.startswith("-")) or option in text:
                continue
            if re.match(rf"{re.escape(value)}(?![\w-])", text):
                begun[option] = len(value)
            elif repr(value) in text or f" {value.rstrip('/')}/" in text:
                quoted[option] = len(value)
        return f"{_longest(begun)} " if begun else f"{_longest(quoted)}: " if quoted else ""


def _longest(options: dict[str, int]) -> str:
    """Return the options with the longest match."""
    return " and ".join(o for o, length in options.items() if length == max(options.values()))


def _path(text: str) -> Path:
    if not text:  # Path takes it for the current folder
        raise argparse.ArgumentTypeError(_EMPTY)
    return Path(text)


def _texts(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Texts and paths among the arguments, by name."""
    return [
        (name, str(value))
        for name, values in vars(args).items()
        for value in (values if isinstance(values, list) else [values])
        if isinstance(value, str | Path)
    ]


def nearest(word: str, known: Any) -> str:
    """Return a question after the known word nearest to one, "" where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


Settings = TypeVar("Settings")


class Whole:
    """Whole number of at least some size, and perhaps of at most another."""

    metavar = "N"

    def __init__(self, least: int, most: float = _MOST) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = self._least - 1
        if not self._least <= value <= self._most:
            obvious = self._most in (_MOST, math.inf) and value < self._least
            and_most = "" if obvious else f" and at most {self._most}"
            raise argparse.ArgumentTypeError(
                f"a whole number of at least {self._least}{and_most} is needed, got {text!r}"
            )
        return value


class Number:
    """Finite number of at least some size, or above it, and perhaps of at most another."""

    metavar = "X"

    def __init__(self, least: float, most: float = math.inf, *, above: bool = False) -> None:
        self._least, self._most, self._above = least, most, above

    def __call__(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        enough = value > self._least if self._above else value >= self._least
        if not (math.isfinite(value) and enough and value <= self._most):
            needed = "above" if self._above else "of at least"
            and_most = "" if self._most == math.inf else f" and at most {self._most:g}"
            raise argparse.ArgumentTypeError(
                f"a finite number {needed} {self._least:g}{and_most} is needed, got {text!r}"
            )
        return value


def add_wholes(parser: argparse.ArgumentParser, *options: tuple[str, int, int, str]) -> None:
    """Add options that are whole numbers: the name, the least, the default, and what it is."""
    for name, least, default, what in options:
        parser.add_argument(
            f"--{name}", type=Whole(least), default=default, metavar="N", help=what
        )  # fmt: skip


def add_number(
    parser: argparse.ArgumentParser, settings: type, name: str, kind: Whole | Number, what: str
) -> None:
    """Add the option of a field of the settings, with its default there."""
    parser.add_argument(
        f"--{name.replace('_', '-')}", type=kind, default=getattr(settings, name),
        metavar=kind.metavar, help=what,
    )  # fmt: skip


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how samples are read: tokens of a text; of images their side, and pixels by channel."""
    parser.add_argument(
        "--max-length", type=Whole(1), default=None, metavar="N",
        help="tokens of a text, 32 by default",
    )  # fmt: skip
    parser.add_argument(
        "--image-size", type=Whole(1), default=None, metavar="N",
        help="side of the images; by default that of preprocessor_config.json",
    )  # fmt: skip
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", type=Number(0.0, 1.0, above=name == "std"), nargs=3, default=None,
            metavar=("R", "G", "B"),
            help="of pixels in [0, 1]; by default that of preprocessor_config.json",
        )  # fmt: skip


def add_output(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """Add how the result is told: alone, and as JSON; a command may have a --json of its own."""
    parser.add_argument(
        "--quiet", action="store_true", help="print the result alone, and no progress"
    )
    if json:
        parser.add_argument(
            "--json", action="store_true",
            help="print the result as JSON instead, the same as is written where files are, and "
            "nothing else; progress still goes to standard error",
        )  # fmt: skip


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
