"""Show versions, the BLAS in use, the instruction sets of the kernels and the CUDA devices."""

from __future__ import annotations

import argparse
import platform

import numpy as np
import scipy

from .. import __version__, _core
from ..cuda import facts as cuda_facts
from ._arguments import add_output
from ._output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how the facts are told."""
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Print one fact a line."""
    # A build leaves out what it does not know.
    blas = scipy.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    named = " ".join(str(blas[key]) for key in ("name", "version") if key in blas)
    facts: dict[str, object] = {
        "immucond": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
        "blas": f"{named or 'unknown'} (SciPy's)",
        **{name.replace("_", " "): value for name, value in _core.build_info().items()},
        **cuda_facts(),
    }
    if args.json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
