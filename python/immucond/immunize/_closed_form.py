"""Immunization without iterating: an extractor at the limit, at no cost to the primary task."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .._rank import default_rtol
from .._validate import as_float64
from ..linear import immunity, optimal_extractor
from ..linear._arguments import as_targets
from ._result import ImmunizationResult


def closed_form(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    *,
    kappa_P: float = 1.0,
    delta: float | tuple[float, float] = 0.0,
    rotate: bool = True,
) -> ImmunizationResult:
    """Immunize by the extractor of :func:`immucond.linear.optimal_extractor`.

    The head is ``theta^-1 omega_0`` with omega_0 the least-squares head on the inputs, so every
    primary prediction, on any row, is what it was before.

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
    theta = optimal_extractor(X_P=X_P, X_H=X_H, kappa_P=kappa_P, delta=delta, rotate=rotate)
    X = as_float64(X_P, "X_P")
    targets = as_targets(y_P, X.shape[0], "y_P", "X_P")
    rtol = default_rtol(X.shape, np.float64, "features")
    omega_0 = scipy.linalg.lstsq(X, targets, cond=rtol, lapack_driver="gelsd")[0]
    omega = np.linalg.solve(theta, omega_0)
    return ImmunizationResult(
        theta=theta,
        omega=omega[:, 0] if np.ndim(y_P) == 1 else omega,
        history={},
        report=immunity(theta, X_P, X_H),
    )
