"""Among all optimal extractors, one near to a given extractor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from .._errors import underflow_is_zero
from .._svd import svd
from .._task import Root
from .._two_tasks import Ranks, roots_plus
from .._validate import FloatArray, as_theta
from ._extractor import kappa_within, refuse_unbounded
from ._limit import pencil

_ROUNDS = 500
_SETTLED = 1e-12


@underflow_is_zero
def nearest_extractor(
    theta: npt.ArrayLike, K_P: npt.ArrayLike | None = None, K_H: npt.ArrayLike | None = None, *,
    X_P: npt.ArrayLike | None = None, X_H: npt.ArrayLike | None = None, kappa_P: float | None = 1.0,
    delta: float | tuple[float, float] = 0.0, ranks: Ranks | None = None, computed_in: Any = None,
) -> FloatArray:  # fmt: skip
    r"""Optimal extractor whose primary features are near to those of a given one.

    All of :math:`\theta = c\, V \operatorname{diag}(\tau, W, 1)^{1/2} Q` with
    :math:`I \preceq W \preceq \tau I` and Q orthogonal attain the limit at
    :math:`\kappa(H_P) = \tau`. This one minimizes :math:`\|X_P(\theta - \theta_0)\|_F` among them,
    at :math:`\tau = 1` in closed form (a polar factor; for :math:`\theta_0 = I` it is
    :math:`K_P^{-1/2} \operatorname{tr}(K_P^{1/2}) / d`). For larger tau no closed form is known:
    W and Q are optimized in turn, each exactly, to a local minimum.

    Parameters
    ----------
    theta : (d, m) array_like
        The extractor to stay near to, m at least rank(K_P).
    K_P, K_H, X_P, X_H, kappa_P, delta, ranks, computed_in
        As in :func:`optimal_extractor`; with a delta, K_P + delta I stands for ``X_P^T X_P``.

    Returns
    -------
    (d, m) array
        The optimal extractor; on null(K_P) it does what `theta` does. No rotation is left to
        choose, so features rescaled one by one may undo it: see :func:`leveling_rotation`.

    Raises
    ------
    ValueError
        As in :func:`optimal_extractor`; for a theta of fewer columns than rank(K_P).

    Warns
    -----
    AccuracyWarning
        Where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> K_P, K_H = np.diag([100.0, 1.0]), np.diag([2.0, 1.0])
    >>> ic.linear.nearest_extractor(np.eye(2), K_P, K_H).round(12)  # (10 + 1) / 2 K_P^-1/2
    array([[0.55, 0.  ],
           [0.  , 5.5 ]])
    """
    P, H, _ = roots_plus(X_P, X_H, K_P, K_H, delta, ranks=ranks, computed_in=computed_in)
    return nearest_of(P, H, as_theta(theta, P.dim), kappa_P=kappa_P)


def nearest_of(
    P: Root, H: Root, given: FloatArray, *, kappa_P: float | None, name: str = "theta"
) -> FloatArray:
    """Nearest extractor from the roots (to which delta has been added)."""
    m = given.shape[1]
    if m < P.rank:
        raise ValueError(f"{name} must have at least {P.rank} columns, the rank of K_P, got {m}")
    tau = kappa_within(P, kappa_P, m)
    refuse_unbounded(P, H, m)

    solved = pencil(P, H)
    R = P.matrix
    # theta = V Y on range(K_P), and X_P theta_0 becomes Y_0: the distance is that of Y to Y_0.
    target = (R @ solved.vectors).T @ (R @ given)
    size = float(np.max(np.abs(target)))
    if size == 0.0:
        raise ValueError(
            f"{name} maps the primary inputs to 0: every optimum is as near as any other"
        )
    bottom = solved.rank - 1 if solved.rank > 1 else P.rank - 1
    Y = _nearest(target / size, math.sqrt(tau), bottom) * size
    return solved.vectors @ Y + P.null_basis @ (P.null_basis.T @ given)


def _nearest(target: FloatArray, top: float, bottom: int) -> FloatArray:
    """``c S Q`` near to the target: S symmetric, ``S_00 = top``, ``S_bb = 1``, its rest between."""
    k = target.shape[0]
    free = np.setdiff1d(np.arange(k), [0, bottom])
    S = np.eye(k)
    S[0, 0] = top
    last = math.inf
    for _ in range(_ROUNDS):
        u, _, vt = svd(S.T @ target, full_matrices=False)  # Procrustes
        Q = u @ vt
        seen = target @ Q.T
        block = seen[np.ix_(free, free)]
        values, vectors = np.linalg.eigh((block + block.T) / 2)
        c = _scale(float(seen[0, 0]), float(seen[bottom, bottom]), values, top)
        S = np.eye(k)
        S[0, 0] = top
        S[np.ix_(free, free)] = (vectors * np.clip(values / c, 1.0, top)) @ vectors.T
        distance = float(np.linalg.norm(c * (S @ Q) - target))
        if top == 1.0 or distance >= last * (1.0 - _SETTLED):
            break
        last = distance
    return np.asarray(c * (S @ Q))


def _scale(first: float, last: float, values: FloatArray, top: float) -> float:
    """Best c: of least ``(c top - first)^2 + (c - last)^2 + sum dist(values, [c, c top])^2``."""

    def slope(c: float) -> float:
        below = np.minimum(values - c, 0.0).sum()
        above = np.maximum(values - c * top, 0.0).sum()
        return float(top * (c * top - first) + (c - last) - below - top * above)

    largest = max(first / top, last, float(values.max(initial=0.0)))
    if slope(largest) <= 0.0:
        return largest
    return float(scipy.optimize.brentq(slope, 0.0, largest, xtol=1e-300, rtol=1e-15))
