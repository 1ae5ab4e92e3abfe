"""Print a script that lets a shell complete commands and options.

bash: immucond completion bash > ~/.local/share/bash-completion/completions/immucond. zsh: immucond
completion zsh > a folder of fpath, as _immucond. fish: immucond completion fish >
~/.config/fish/completions/immucond.fish. Needs the extra completion.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from .._errors import extra

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    with extra("completion"):
        import shtab
    from . import build_parser

    parser = build_parser()
    for action in _actions(parser):
        if action.metavar == "FOLDER":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path or action.metavar in ("PRIMARY", "HARMFUL"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield what a parser takes, and what its commands take."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
