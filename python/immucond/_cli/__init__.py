"""The ``immucond`` command: each module here whose name starts with a letter is a subcommand.

Its name is the module's, with hyphens for underscores.

Such a module has a docstring (the help), ``add_arguments(parser)`` and ``run(args)``.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from .. import __version__
from .._errors import ImmucondError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show each default, unless it is None and the help says what happens instead."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command, one subparser a module."""
    parser = argparse.ArgumentParser(
        prog="immucond",
        description="Model immunization through the condition number.",
        epilog="immucond COMMAND --help explains every option with its default.",
    )
    parser.add_argument("--version", action="version", version=f"immucond {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for found in pkgutil.iter_modules(__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{found.name}")
        doc = (module.__doc__ or "").strip()
        command = commands.add_parser(
            found.name.replace("_", "-"),
            help=doc.partition("\n")[0].rstrip("."),
            description=doc,
            formatter_class=_Formatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; wrong input ends with one line on stderr and exit status 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = "immucond"
    try:
        with _unwinding_on_terminate():  # before anything that takes time
            args = build_parser().parse_args(words)
            args.command_line = shlex.join(["immucond", *words])
            name = args.parser.prog
            args.run(args)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except (ArithmeticError, ImmucondError, ImportError, OSError, ValueError) as error:
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def _unwinding_on_terminate() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that files in the making are removed."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
