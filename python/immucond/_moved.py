"""Names that moved: importable under the old ones for a while, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module


def moved(module: str, homes: Mapping[str, str], *, removed_in: str) -> Callable[[str], object]:
    """Return what a module assigns to its ``__getattr__``.

    Parameters
    ----------
    module : str
        Its own ``__name__``.
    homes : mapping
        From an old name to the module and name where it is now, ``package.module:name``.
    removed_in : str
        The version in which the old names go.
    """

    def getattr_(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, now = homes[name].partition(":")
        found: object = getattr(import_module(home), now)
        # At the line that asked; `from module import name` asks from within importlib.
        level, frame = 2, sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("importlib"):
            level, frame = level + 1, frame.f_back
        warnings.warn(
            f"{module}.{name} is {home}.{now} now; the old name goes in version {removed_in}",
            DeprecationWarning,
            stacklevel=level,
        )
        return found

    return getattr_
