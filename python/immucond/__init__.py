"""immucond: model immunization through the condition number.

Low-level kernels live here; `immucond.linear` holds the closed-form analysis, `immucond.immunize`
the algorithms, `immucond.probing` the dynamics of linear probing and `immucond.theorems` the theory
as objects that check themselves.
"""

from . import _interrupt as _interrupt  # first, before anything that takes time

# isort: split
from importlib import import_module
from importlib.metadata import PackageNotFoundError as _NotFound
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from ._condition import condition_number
from ._errors import (
    AccuracyWarning,
    ConvergenceError,
    DegenerateSpectrumError,
    DegenerateSpectrumWarning,
    ImmucondError,
)
from ._extreme import ExtremePairs, extreme_pairs, feature_extreme_pairs, psd_extreme_pairs
from ._generalized import generalized_extreme_pairs
from ._gram import GramAccumulator, feature_hessian, gram, hessian
from ._regularizers import SpectralRegularizer, kappa, log_kappa, r_ill, r_well

if TYPE_CHECKING:
    from . import immunize, linear, probing, theorems

try:
    __version__ = _version("immucond")
except _NotFound:  # run from a source tree, or bundled without its metadata
    __version__ = "0+unknown"

__all__ = [
    "AccuracyWarning",
    "ConvergenceError",
    "DegenerateSpectrumError",
    "DegenerateSpectrumWarning",
    "ExtremePairs",
    "GramAccumulator",
    "ImmucondError",
    "SpectralRegularizer",
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
    "r_ill",
    "r_well",
    "theorems",
]

_SUBPACKAGES = ("immunize", "linear", "probing", "theorems")


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import immucond` stays quick, and `ic.linear` works without an import.
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
