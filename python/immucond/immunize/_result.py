"""What every immunization method returns."""

from __future__ import annotations

from dataclasses import dataclass

from .._validate import FloatArray
from ..linear import ImmunityReport


@dataclass(frozen=True)
class ImmunizationResult:
    """An immunized linear extractor, its primary head, and how it came about.

    Attributes
    ----------
    theta : (d, m) array
        Extractor; features are ``X @ theta``.
    omega : (m,) or (m, c) array
        Primary head, of the shape of ``y_P``; predictions are ``X @ theta @ omega``.
    history : dict of str to (steps + 1,) array
        What was measured before each step and after the last; empty for the closed form, which
        takes none.
    report : ImmunityReport
        Condition numbers, (i), (ii), RIR and the limit, on the rows that were given.
    """

    theta: FloatArray
    omega: FloatArray
    history: dict[str, FloatArray]
    report: ImmunityReport
