"""What scripts that write pages share: runs of commands, the place between marks, whole files."""

import json
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from pathlib import Path

from immucond._cli import main as immucond
from immucond._files import write_whole

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guide"


def commit() -> str:
    """Name of the commit that is checked out."""
    return git("rev-parse", "--short=12", "HEAD")


def git(*arguments: str) -> str:
    """What git answers of this repository."""
    told = ("git", "-C", str(ROOT), *arguments)
    return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()


def command(words: str, out: Path) -> Path:
    """Run a command of ours into a folder, unless it has succeeded there; return the folder.

    Its made.json has the commit and the seconds.

    Raises
    ------
    SystemExit
        Where it fails.
    """
    made = out / "made.json"  # what is there may be of another commit
    if not made.exists():
        start = time.monotonic()
        if immucond([*shlex.split(words), "--out", str(out), "--quiet"]):
            raise SystemExit(f"immucond {words} failed")
        write_whole(made, json.dumps({"commit": commit(), "seconds": time.monotonic() - start}))
    return out


def chosen(parser: ArgumentParser, given: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """Return the names that were given, or all; the parser refuses those that nobody knows."""
    names = list(known)
    if unknown := [name for name in given or () if name not in names]:
        parser.error(f"{', '.join(unknown)}: none of {', '.join(names)}")
    return list(given or names)


def tell(lines: Sequence[str], page: Path, script: str, *, into: bool) -> None:
    """Put lines `into` a page, or print them."""
    if into:
        write(page, script, lines)
    else:
        sys.stdout.write("\n".join(lines) + "\n")


def write(page: Path, script: str, lines: Sequence[str]) -> None:
    """Put lines between a script's marks in a page, which is written whole or not at all.

    Raises
    ------
    ValueError
        Where the page has no such marks.
    """
    begin, end = f"<!-- begin: scripts/{script} -->", f"<!-- end: scripts/{script} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} must have the lines {begin} and {end}")
    write_whole(page, before + "\n".join([begin, "", *lines, "", end]) + after)
