"""Spectral regularizers, extreme pairs and preconditioning as differentiable PyTorch operators.

They need the extra ``torch``: ``pip install ".[torch]"`` in a clone.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from .._errors import extra

with extra("torch"):
    import torch as _torch  # noqa: F401

from ._alignment import RAlign, r_align
from ._distributed import gram, sum_over_ranks
from ._modules import ImmunizationLoss, RIll, RWell
from ._pairs import ExtremePairs, extreme_pairs
from ._precondition import precondition
from ._regularizers import condition_number, evaluate, log_kappa, r_ill, r_well

if _TYPE_CHECKING:
    from ..deep import (
        DeepImmunity,
        DeepImmunization,
        DeepReport,
        Objective,
        TrainerMixin,
        immunity_report,
        immunize,
        keep_activations,
        linear_probes,
        load_saved,
        rir,
        save,
    )

__all__ = [
    "DeepImmunity",
    "DeepImmunization",
    "DeepReport",
    "ExtremePairs",
    "ImmunizationLoss",
    "Objective",
    "RAlign",
    "RIll",
    "RWell",
    "TrainerMixin",
    "condition_number",
    "evaluate",
    "extreme_pairs",
    "gram",
    "immunity_report",
    "immunize",
    "keep_activations",
    "linear_probes",
    "load_saved",
    "log_kappa",
    "precondition",
    "r_align",
    "r_ill",
    "r_well",
    "rir",
    "save",
    "sum_over_ranks",
]

if not _TYPE_CHECKING:  # a type checker reads the imports above, and finds misspelt names

    def __getattr__(name: str) -> object:
        # What takes a whole network lives in `immucond.deep`, which is made of these operators.
        if name in __all__:
            return getattr(_import_module("immucond.deep"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
