"""Spectral regularizers, extreme pairs and preconditioning as differentiable PyTorch operators.

They need the extra ``torch``: ``pip install ".[torch]"`` in a clone.
"""

from .._extras import extra

with extra("torch"):
    import torch as _torch  # noqa: F401

from ._activations import keep_activations
from ._distributed import gram
from ._immunize import DeepImmunization, immunize
from ._modules import ImmunizationLoss, RIll, RWell
from ._objectives import Objective
from ._pairs import ExtremePairs, extreme_pairs
from ._precondition import precondition
from ._probes import linear_probes
from ._report import DeepReport, immunity_report
from ._rir import DeepImmunity, rir
from ._saved import load_saved, save
from ._spectral import condition_number, log_kappa, r_ill, r_well
from ._trainer import TrainerMixin

__all__ = [
    "DeepImmunity",
    "DeepImmunization",
    "DeepReport",
    "ExtremePairs",
    "ImmunizationLoss",
    "Objective",
    "RIll",
    "RWell",
    "TrainerMixin",
    "condition_number",
    "extreme_pairs",
    "gram",
    "immunity_report",
    "immunize",
    "keep_activations",
    "linear_probes",
    "load_saved",
    "log_kappa",
    "precondition",
    "r_ill",
    "r_well",
    "rir",
    "save",
]
