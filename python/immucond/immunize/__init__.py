"""Making an extractor immune: Algorithm 1 of the paper, the closed form, and the baselines.

All return the same :class:`ImmunizationResult`.
"""

from ._algorithm1 import algorithm1, alignment
from ._baselines import imma, opt_kappa, r_ill_only
from ._closed_form import closed_form, fade
from ._published import published
from ._result import ImmunizationResult

__all__ = [
    "ImmunizationResult",
    "algorithm1",
    "alignment",
    "closed_form",
    "fade",
    "imma",
    "opt_kappa",
    "published",
    "r_ill_only",
]
