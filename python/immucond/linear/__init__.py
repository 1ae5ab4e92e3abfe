"""Closed-form analysis of linear extractors: what a theta does, and the most any theta can do.

Everything here works on ``H(theta) = theta^T K theta``, the Hessian of linear probing under the
squared loss, for a primary task P (to keep easy) and a harmful task H (to make hard).
"""

from ._angles import rayleigh_spectrum, relative_angles
from ._extractor import optimal_extractor
from ._limit import ImmunityLimit, immunity_limit
from ._report import ImmunityReport, immunity
from ._steps import step_interval

__all__ = [
    "ImmunityLimit",
    "ImmunityReport",
    "immunity",
    "immunity_limit",
    "optimal_extractor",
    "rayleigh_spectrum",
    "relative_angles",
    "step_interval",
]
