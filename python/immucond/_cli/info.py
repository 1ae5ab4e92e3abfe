"""Show versions, the BLAS in use and the instruction sets of the kernels."""

from __future__ import annotations

import argparse
import platform

import numpy as np
import scipy

from .. import __version__, _core


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add nothing: there is nothing to choose."""


def run(_: argparse.Namespace) -> None:
    """Print one fact a line."""
    facts: dict[str, object] = {
        "immucond": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
        **_core.build_info(),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{name:<{width}}  {shown}")
