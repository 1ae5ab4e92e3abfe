"""How far a command is, on standard error: one line on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .._errors import extra

Report = Callable[[str, int, int], None]

_EACH = 20  # steps of a stage that get a line each; of more, each tenth gets one,
_SILENCE = 10.0  # and after so many seconds in which none was told the last is told again


@contextmanager
def progress(quiet: bool) -> Iterator[Report]:
    """Yield a function to call with (stage, done, total); with quiet it says nothing."""
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        with _lines() as report:
            yield report


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


@contextmanager
def _lines() -> Iterator[Report]:
    began = time.monotonic()
    latest, shown = ("", 0, 0), ("", 0)
    said, ended = threading.Condition(), False

    def tell() -> None:
        stage, done, total = latest
        how_far = f"{done:,} of {total:,}" if total < 1000 else f"{done / total:.0%}"
        with suppress(OSError):  # nobody reads it any more
            print(f"{stage}: {how_far}, {time.monotonic() - began:.0f} s", file=sys.stderr,
                  flush=True)  # fmt: skip

    def report(stage: str, done: int, total: int) -> None:
        nonlocal latest, shown
        share = (stage, done if total <= _EACH else 10 * done // total)
        with said:
            latest = (stage, done, total)
            if share != shown:
                shown = share
                tell()
                said.notify()

    def repeat() -> None:
        with said:
            while not ended:
                if not said.wait(_SILENCE) and latest[0]:
                    tell()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield report
    finally:
        with said:
            ended = True
            said.notify()
        thread.join()
