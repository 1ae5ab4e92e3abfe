"""What scripts that write pages share: the commit, the place between marks, and whole files."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
