"""Warnings that point at the line of the user's program, whatever of ours lies between."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

from ._errors import AccuracyWarning


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's program."""
    others = (getattr(sys.modules.get(name), "__file__", None) for name in ("torch", "sklearn"))
    files = [__file__, *filter(None, others)]
    # The last is of torch.random.fork_rng.
    ours = (*(str(Path(file).parent) + "/" for file in files), contextlib.__file__)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_accuracy(name: str) -> None:
    """Say that the smallest singular value of what is called `name` is noise."""
    warn(
        f"the smallest nonzero singular value of {name} is not determined: rounding is as large as "
        "itself. Give the rank where it is known, a larger rtol, or the features instead of their "
        "Gram matrix",
        AccuracyWarning,
    )
