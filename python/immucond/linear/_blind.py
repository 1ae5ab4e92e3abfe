"""The extractor that is optimal against every harmful task at once."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._floating import underflow_is_zero
from .._task import root_of, warn_if_lost
from .._validate import FloatArray, check_real


@underflow_is_zero
def blind_extractor(
    K_P: npt.ArrayLike | None = None,
    *,
    X_P: npt.ArrayLike | None = None,
    delta: float = 0.0,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> FloatArray:
    r"""Blind optimum :math:`c\, K_P^{-1/2}`: attains RIR* for every harmful task, and needs none.

    It whitens the primary features, so :math:`\kappa(H_P) = 1` and
    :math:`\kappa(H_H) = \kappa(M)`. Harmful data are worth something only for
    :math:`\kappa(H_P) > 1`.

    Parameters
    ----------
    K_P : (d, d) array_like
        Gram matrix of the primary inputs.
    X_P : (N_P, d) array_like
        The inputs instead: keeps twice the digits.
    delta : float, default 0
        Added to the diagonal of K_P, in its units.
    rank : int, optional
        Known rank of K_P.
    computed_in : dtype, optional
        Precision in which the inputs were computed; sets the tolerance that decides the rank.

    Returns
    -------
    (d, d) array
        theta, symmetric positive definite, scaled so that the primary features keep their Frobenius
        norm. On null(K_P) it is a multiple of the identity; a harmful task with energy there has
        no limit to attain.

    Raises
    ------
    ValueError
        For NaN, a K_P that is not symmetric positive semidefinite, a negative delta or rank 0.
    TypeError
        Unless exactly one of K_P and X_P is given.

    Warns
    -----
    AccuracyWarning
        Where rounding in K_P is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours. Follow it by the rotation of :func:`leveling_rotation` once a harmful task is known, so
    that rescaled features undo nothing; any orthogonal factor on the right keeps the optimum.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> K_P = np.diag([100.0, 1.0])
    >>> theta = ic.linear.blind_extractor(K_P)
    >>> harmful = (np.diag([2.0, 1.0]), np.array([[1.0, 0.9], [0.9, 1.0]]))
    >>> reports = [ic.linear.immunity(theta, K_P=K_P, K_H=K_H) for K_H in harmful]
    >>> [round(report.rir / report.limit.rir, 9) for report in reports]
    [1.0, 1.0]
    """
    P = root_of(X_P, K_P, "X_P", "K_P", rank=rank, computed_in=computed_in)
    P = P.plus(check_real(delta, "delta", low=0.0))
    warn_if_lost(P, stacklevel=3)
    inverse = np.full(P.dim, 1.0 / P.sigma[P.rank - 1])
    inverse[: P.rank] = 1.0 / P.sigma[: P.rank]
    theta: FloatArray = (P.vectors * inverse) @ P.vectors.T
    theta *= np.linalg.norm(P.sigma) / np.sqrt(P.rank)
    theta += theta.T.copy()
    return theta / 2
