"""Objects by their Python import path, ``package.module:name``."""

from __future__ import annotations

import importlib
import re
from typing import Any

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_import_path(text: str) -> bool:
    """Whether it reads like ``package.module:name``."""
    return _PATH.fullmatch(text) is not None


def imported(path: str) -> Any:
    """Return the object at a path; a function is called, without arguments.

    Raises
    ------
    ValueError
        Where there is no such module, or no such name in it.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: there is no module {error.name}") from error
    except AttributeError as error:
        raise ValueError(f"{path}: {error}") from error
    return found() if callable(found) else found
