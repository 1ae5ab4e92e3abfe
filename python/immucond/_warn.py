"""Warnings that point at the line of the user's program, whatever of ours lies between."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's program."""
    files = [__file__, getattr(sys.modules.get("torch"), "__file__", None) or __file__]
    # The last is of torch.random.fork_rng.
    ours = (*(str(Path(file).parent) + "/" for file in files), contextlib.__file__)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
