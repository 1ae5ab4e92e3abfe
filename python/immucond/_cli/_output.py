"""The two streams of a command: standard output that may be full or closed, and progress."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .._errors import extra
from .._format import finite


class OutputError(Exception):
    """Standard output takes no more.

    Attributes
    ----------
    status : int
        What the command returns: that of a process which SIGPIPE ended where the reader left, as
        ``head`` does, in silence; else 1.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror}")
        self.status = 141 if error.errno == errno.EPIPE else 1


class _Output:
    """A stream whose failures are told from those of other files.

    What its encoding does not know is escaped, as on standard error.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with _told():
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        with _told():
            self._stream.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error) from error


@contextmanager
def checked_output() -> Iterator[None]:
    """Raise `OutputError` where something of what is printed in the block does not arrive."""
    if sys.stderr is None:  # print would take standard output for it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise OutputError(OSError(errno.EBADF, "it is closed; /dev/null takes what none needs"))
    stream = sys.stdout
    sys.stdout = _Output(stream)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError:
        # What is left in the buffer goes nowhere, or the interpreter fails over it at its end.
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise
    finally:
        sys.stdout = stream


def json_text(numbers: Any) -> str:
    """Return numbers as JSON has them; an infinite one is the string "inf" or "-inf".

    Raises
    ------
    ValueError
        For a NaN, of which no result of a command may consist.
    TypeError
        For what is neither number nor text.
    """
    try:
        return json.dumps(finite(numbers), indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"the result has a number that is NaN: {error}") from error


def print_json(numbers: Any) -> None:
    """Print the result for a program to read."""
    print(json_text(numbers), end="")


Report = Callable[[str, int, int], None]

_CLASSES = re.compile(r"(\[[^\]]{32})[^\]]{12,}\]")
_EACH = 20  # steps of a stage that get a line each; of more, each tenth gets one,
_SILENCE = 10.0  # and after so many seconds in which none was told the last is told again


@contextmanager
def progress(quiet: bool) -> Iterator[Report]:
    """Yield a function to call with (stage, done, total); with quiet it says nothing."""
    if quiet:
        yield lambda *_: None
        return
    with _bar() if sys.stderr.isatty() else _lines() as report:
        yield lambda stage, done, total: report(_shortened(stage), done, total)


def _shortened(stage: str) -> str:
    """Stage with the first of a task's classes, where they are many."""
    return _CLASSES.sub(r"\1...]", stage)


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

    what = TextColumn("{task.description}", markup=False)  # DATA[one,two] is no markup
    columns = (what, BarColumn(), TaskProgressColumn(),
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
