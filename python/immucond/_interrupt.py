"""Ctrl-C while the command is still being imported: no traceback.

Imported before anything that takes time; it does nothing unless the program is the command.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def _is_command() -> bool:
    if sys.argv[:1] == ["-m"]:  # while Python imports what it is to run
        return sys.orig_argv[-len(sys.argv)] == "immucond"
    path = Path(sys.argv[0]) if sys.argv else Path()
    return path.name == "immucond" or path.parts[-2:] == ("immucond", "__main__.py")


def leave(_: int, __: FrameType | None) -> None:
    """End the process at once."""
    os.write(2, b"\nimmucond: interrupted\n")
    os._exit(130)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    worker = "--multiprocessing-fork" in sys.orig_argv  # the command itself ends it
    signal.signal(signal.SIGINT, signal.SIG_IGN if worker else leave)
