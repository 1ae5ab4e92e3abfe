"""Immunization without iterating: an extractor at the limit, at no cost to the primary task."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._validate import FloatArray, as_delta, as_float64, as_targets
from ..linear._extractor import extractor_of
from ..linear._report import report_of
from ..linear._root import Ranks, roots
from ._result import ImmunizationResult


def closed_form(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    *,
    kappa_P: float = 1.0,
    delta: float | tuple[float, float] = 0.0,
    rotate: bool = True,
    ranks: Ranks | None = None,
    computed_in: Any = None,
) -> ImmunizationResult:
    """Immunize by the extractor of :func:`immucond.linear.optimal_extractor`.

    The head is ``theta^-1 omega_0`` with omega_0 the least-squares head of least norm on the
    inputs, so every primary prediction, on any row, is what it was before.

    Parameters
    ----------
    X_P : (N_P, d) array_like
        Primary inputs, one row a sample.
    y_P : (N_P,) or (N_P, c) array_like
        Primary targets.
    X_H : (N_H, d) array_like
        Harmful inputs; at ``kappa_P = 1`` they do not change theta beyond a rotation.
    kappa_P : float, default 1
        Condition number that the primary Hessian shall have.
    delta : float or (float, float), default 0
        Added to the diagonals of the Gram matrices; needed where the supremum is infinite.
    rotate : bool, default True
        Rotate so that rescaling the features does not undo the immunization.
    ranks : (int or None, int or None), optional
        Known ranks of (X_P, X_H).
    computed_in : dtype, optional
        Precision in which the inputs were computed; sets the tolerance that decides the ranks.

    Returns
    -------
    ImmunizationResult
        With an empty history: there are no steps.

    Raises
    ------
    ValueError
        As :func:`immucond.linear.optimal_extractor`.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.closed_form(X_P, X_P @ np.ones(4), X_H)
    >>> bool(np.isclose(result.report.rir, result.report.limit.rir))
    True
    >>> bool(np.allclose(X_P @ result.theta @ result.omega, X_P @ np.ones(4)))
    True
    """
    delta_P, delta_H = as_delta(delta)
    P, H = roots(X_P, X_H, None, None, ranks=ranks, computed_in=computed_in)
    theta = extractor_of(P.plus(delta_P), H.plus(delta_H), kappa_P=kappa_P, rotate=rotate)
    X = as_float64(X_P, "X_P")
    omega_0 = P.least_squares(X, as_targets(y_P, X.shape[0], "y_P", "X_P"))
    omega: FloatArray = np.linalg.solve(theta, omega_0)  # type: ignore[assignment]
    return ImmunizationResult(
        theta=theta,
        omega=omega[:, 0] if np.ndim(y_P) == 1 else omega,
        history={},
        report=report_of(P, H, theta),
    )
