"""How far a command is, on standard error: one line on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .._extras import extra

Report = Callable[[str, int, int], None]

_EACH = 20  # steps of a stage that get a line each; of more, each tenth gets one,
_SILENCE = 10.0  # and any after so many seconds in which none was told


@contextmanager
def progress(quiet: bool) -> Iterator[Report]:
    """Yield a function to call with (stage, done, total); with quiet it says nothing."""
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Report]:
    with extra("experiments"):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task, shown = bars.add_task("", total=None), ""

        def report(stage: str, done: int, total: int) -> None:
            nonlocal shown
            if stage != shown:
                bars.reset(task, description=stage, total=total)
                shown = stage
            bars.update(task, completed=done)

        yield report


def _lines() -> Report:
    began = said = time.monotonic()
    last = ("", 0)

    def report(stage: str, done: int, total: int) -> None:
        nonlocal said, last
        now, share = time.monotonic(), (stage, done if total <= _EACH else 10 * done // total)
        if share == last and (now - said < _SILENCE or done == total):
            return
        how_far = f"{done:,} of {total:,}" if total < 1000 else f"{done / total:.0%}"
        with suppress(OSError):  # nobody reads it any more
            print(f"{stage}: {how_far}, {now - began:.0f} s", file=sys.stderr, flush=True)
        said, last = now, share

    return report
