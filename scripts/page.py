"""What scripts that write into pages share: the place between their marks, and the commit."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guide"


def commit() -> str:
    """Name of the commit that is checked out."""
    told = ("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()


def write(page: Path, script: str, lines: Sequence[str]) -> None:
    """Put lines between a script's marks in a page.

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
    page.write_text(before + "\n".join([begin, "", *lines, "", end]) + after, encoding="utf-8")
