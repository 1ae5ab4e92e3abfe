"""Spectral regularizers, extreme pairs and preconditioning as differentiable PyTorch operators.

They need the extra ``torch``: ``pip install ".[torch]"`` in a clone.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from .._errors import extra
from .._moved import moved as _moved

with extra("torch"):
    import torch as _torch  # noqa: F401

from ._alignment import RAlign, r_align
from ._distributed import gram, sum_over_ranks
from ._modules import ImmunizationLoss, RIll, RWell
from ._pairs import ExtremePairs, extreme_pairs
from ._precondition import precondition
from ._regularizers import condition_number, evaluate, log_kappa, r_ill, r_well

__all__ = [
    "ExtremePairs",
    "ImmunizationLoss",
    "RAlign",
    "RIll",
    "RWell",
    "condition_number",
    "evaluate",
    "extreme_pairs",
    "gram",
    "log_kappa",
    "precondition",
    "r_align",
    "r_ill",
    "r_well",
    "sum_over_ranks",
]

# What takes a whole network has a package of its own, which is made of these operators.
_MOVED = {
    name: f"immucond.deep:{name}"
    for name in (
        "DeepImmunity",
        "DeepImmunization",
        "DeepReport",
        "Objective",
        "TrainerMixin",
        "immunity_report",
        "immunize",
        "keep_activations",
        "linear_probes",
        "load_saved",
        "rir",
        "save",
    )
}

if not _TYPE_CHECKING:  # a type checker finds old and misspelt names alike
    __getattr__ = _moved(__name__, _MOVED, removed_in="0.4.0")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
