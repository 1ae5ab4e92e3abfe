"""Standard output that is full, closed or no longer read: what the command says and returns."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


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
    """A stream whose failures are told from those of other files."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        with _told():
            return self._stream.write(text)

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
