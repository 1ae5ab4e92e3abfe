"""immucond: model immunization through the condition number.

Low-level kernels live here; `immucond.linear` holds the closed-form analysis, `immucond.immunize`
the algorithms, `immucond.probing` the dynamics of linear probing, `immucond.theorems` the theory
as objects that check themselves, `immucond.torch` the operators for PyTorch and `immucond.deep`
what takes a whole network.
"""

from . import _interrupt as _interrupt  # first, before anything that takes time

# isort: split
from importlib import import_module as _import_module
from importlib.metadata import PackageNotFoundError as _NotFound
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._alignment import AlignmentRegularizer, r_align
from ._condition import condition_number
from ._errors import (
    AccuracyWarning,
    ConvergenceError,
    DegenerateSpectrumError,
    DegenerateSpectrumWarning,
    DivergenceError,
    ImmucondError,
    ImmunityWarning,
    ToleranceError,
)
from ._extreme import (
    ExtremePairs,
    extreme_pairs,
    feature_extreme_pairs,
    generalized_extreme_pairs,
    psd_extreme_pairs,
)
from ._gram import GramAccumulator, feature_hessian, gram, hessian
from ._regularizers import SpectralRegularizer, kappa, log_kappa, r_ill, r_well
from ._triangle import TriangleAccumulator

if _TYPE_CHECKING:
    from . import cuda as cuda
    from . import deep as deep
    from . import immunize, linear, probing, theorems
    from . import sklearn as sklearn
    from . import torch as torch

try:
    __version__ = _version("immucond")
except _NotFound:  # run from a source tree, or bundled without its metadata
    __version__ = "0+unknown"

__all__ = [
    "AccuracyWarning",
    "AlignmentRegularizer",
    "ConvergenceError",
    "DegenerateSpectrumError",
    "DegenerateSpectrumWarning",
    "DivergenceError",
    "ExtremePairs",
    "GramAccumulator",
    "ImmucondError",
    "ImmunityWarning",
    "SpectralRegularizer",
    "ToleranceError",
    "TriangleAccumulator",
    "condition_number",
    "extreme_pairs",
    "feature_extreme_pairs",
    "feature_hessian",
    "generalized_extreme_pairs",
    "gram",
    "hessian",
    "immunize",
    "kappa",
    "linear",
    "log_kappa",
    "probing",
    "psd_extreme_pairs",
    "r_align",
    "r_ill",
    "r_well",
    "theorems",
]

# Shown by dir(); those of an extra are not for `import *`, which would need the extra.
_LAZY = ("cuda", "deep", "immunize", "linear", "probing", "sklearn", "theorems", "torch")

if not _TYPE_CHECKING:  # a type checker reads the imports above, and finds misspelt names

    def __getattr__(name: str) -> object:
        # Loaded on first use: `import immucond` stays quick, and `ic.linear` needs no import.
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return _import_module(f"{__name__}.{name}")
        except ImportError as error:  # hasattr and whoever walks dir() expect this one
            raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    return sorted({*__all__, *_LAZY, *(name for name in globals() if name.startswith("__"))})
