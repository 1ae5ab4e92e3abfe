"""The ``immucond`` command: each module here whose name starts with a letter is a subcommand.

Its name is the module's, with hyphens for underscores.

Such a module has a docstring (the help), ``add_arguments(parser)`` and ``run(args)``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from .. import __version__, _interrupt
from .._errors import ImmucondError
from ._arguments import Formatter, Parser
from ._output import OutputError, checked_output

EPILOG = """immucond COMMAND --help explains every option with its default.

Exit status: 0, done; 1, standard output is full or closed, or a fault of immucond's, which leaves a
traceback; 2, wrong input, or no result from it, in one line that says why; 130, interrupted; 143,
ended by SIGTERM; 141, whoever read the output left. With any but 0 no file is half-written."""


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C, by a name of its own.

    Under ``python -m`` the interpreter ends by the signal where KeyboardInterrupt itself once left
    an `exec` of text (making a dataclass is one), though it was caught long since.
    """


def build_parser() -> Parser:
    """Parser of the whole command, one subparser a module."""
    parser = Parser(
        prog="immucond",
        description="Model immunization through the condition number.",
        epilog=EPILOG,
        formatter_class=Formatter,
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
            formatter_class=Formatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; wrong input ends with one line on stderr and exit status 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(parser=Parser(prog="immucond"))
    try:
        with _unwinding_on_terminate(), checked_output():  # before anything that takes time
            args = _parsed(words)
            args.run(args)
    except KeyboardInterrupt:
        return _told("interrupted", args, 130, "\n")
    except OutputError as error:
        return 141 if error.status == 141 else _told(f"error: {error}", args, error.status)
    except (ArithmeticError, ImmucondError, ImportError, MemoryError, OSError, ValueError) as error:
        return _told(f"error: {_one_line(error, args)}", args, 2)
    return 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    args, unknown = build_parser().parse_known_args(words)
    if unknown:  # told with the usage of the subcommand
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    args.parser.check(args)
    args.command_line = shlex.join(["immucond", *words])
    return args


def _told(message: str, args: argparse.Namespace, status: int, before: str = "") -> int:
    with suppress(OSError):  # nobody reads it
        print(f"{before}{args.parser.prog}: {message}", file=sys.stderr)
    return status


@contextmanager
def _unwinding_on_terminate() -> Iterator[None]:
    """Let SIGINT and SIGTERM unwind the stack, so that files in the making are removed."""

    def leave(number: int, _: FrameType | None) -> None:
        raise _Interrupted if number == signal.SIGINT else SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGINT) is _interrupt.leave:  # that was for the imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _one_line(error: Exception, args: argparse.Namespace) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        file = os.fsdecode(error.filename)
        text = f"{args.parser.option_of(file, args)}{file}: {error.strerror}"
    elif hasattr(args, "run"):
        text = args.parser.option_in(text, args) + text
    return " ".join(text.split()) or type(error).__name__
