"""What ran, for the record beside results."""

from __future__ import annotations

import platform

import numpy as np
import scipy

from .. import __version__


def versions() -> dict[str, str]:
    """Versions by name."""
    return {
        "immucond": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
