"""The Pareto frontier between the condition numbers of the two tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._task import Ranks, Root, roots_plus
from .._validate import FloatArray, as_count, as_float64
from ._limit import ImmunityLimit, limit_of


@dataclass(frozen=True)
class Frontier:
    """The largest kappa_H for each kappa_P, and what that makes of (i) and (ii).

    Attributes
    ----------
    kappa_P : (T,) array
        Condition numbers of H_P(theta).
    kappa_H : (T,) array
        The largest condition number of H_H(theta) at each of them, ``kappa_M * kappa_P``: 1 for a
        harmful task of rank 1, infinite where the supremum is.
    limit : ImmunityLimit
        The limit of the RIR, which every point of the frontier attains.
    """

    kappa_P: FloatArray
    kappa_H: FloatArray
    limit: ImmunityLimit

    @property
    def i(self) -> FloatArray:
        """(i): how many times worse the harmful task is conditioned than under the identity."""
        ratio: FloatArray = self.kappa_H / self.limit.kappa_H
        return ratio

    @property
    def ii(self) -> FloatArray:
        """(ii): the same of the primary task; condition (b) holds up to 1."""
        ratio: FloatArray = self.kappa_P / self.limit.kappa_P
        return ratio


@underflow_is_zero
def frontier(
    K_P: npt.ArrayLike | None = None,
    K_H: npt.ArrayLike | None = None,
    *,
    X_P: npt.ArrayLike | None = None,
    X_H: npt.ArrayLike | None = None,
    kappa_P: npt.ArrayLike | None = None,
    points: SupportsIndex = 41,
    delta: float | tuple[float, float] = 0.0,
    ranks: Ranks | None = None,
    computed_in: Any = None,
) -> Frontier:
    r"""Trace the Pareto frontier of the two condition numbers over all invertible extractors.

    It is the line :math:`\kappa(H_H) = \kappa(M)\, \kappa(H_P)`, from the blind optimum at
    :math:`\kappa(H_P) = 1` on; :func:`optimal_extractor` gives a theta for each of its points.
    The best (i) under condition (b) lies at :math:`\kappa(H_P) = \kappa(K_P)`, and is RIR*.

    Parameters
    ----------
    K_P, K_H, X_P, X_H, delta, ranks, computed_in
        As in :func:`immunity_limit`.
    kappa_P : (T,) array_like, optional
        Condition numbers of H_P at which to evaluate it. By default `points` of them, evenly spaced
        in the logarithm from 1 to kappa(K_P): all that keeps condition (b).
    points : int, default 41
        How many.

    Returns
    -------
    Frontier

    Raises
    ------
    ValueError
        As in :func:`immunity_limit`; for a ``kappa_P`` below 1, or above it at rank 1.
    OverflowError
        Where a condition number is beyond the float range.

    Warns
    -----
    AccuracyWarning
        Where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours; the ratio is that of arXiv 2505.23760.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> line = ic.linear.frontier(np.diag([100, 1]), np.diag([2, 1]), points=3)
    >>> line.kappa_P.round(6), line.kappa_H.round(6)
    (array([  1.,  10., 100.]), array([  50.,  500., 5000.]))
    """
    P, H, deltas = roots_plus(X_P, X_H, K_P, K_H, delta, ranks=ranks, computed_in=computed_in)
    if kappa_P is None:
        wanted = np.geomspace(1.0, P.kappa, as_count(points, "points", least=1))
    else:
        wanted = as_float64(kappa_P, "kappa_P", ndim=1)
    return frontier_of(P, H, wanted, deltas)


def frontier_of(P: Root, H: Root, wanted: FloatArray, delta: tuple[float, float]) -> Frontier:
    """Frontier from the roots (to which delta has been added)."""
    if np.any(wanted < 1.0) or (P.rank == 1 and np.any(wanted > 1.0)):
        allowed = "1, for the primary task has rank 1" if P.rank == 1 else "at least 1"
        raise ValueError(f"kappa_P must be {allowed}, got {wanted.min():g} to {wanted.max():g}")
    limit = limit_of(P, H, delta)
    slope = 0.0 if limit.case == "rank-one harmful" else limit.kappa_M
    with np.errstate(over="ignore"):
        largest = slope * wanted if slope else np.ones_like(wanted)
    if math.isfinite(slope) and not np.isfinite(largest).all():
        raise OverflowError(
            f"kappa_H on the frontier passes 1.8e308: kappa(M) is {slope:.3g}, and kappa_P goes to "
            f"{wanted.max():.3g}"
        )
    return Frontier(wanted, largest, limit)
