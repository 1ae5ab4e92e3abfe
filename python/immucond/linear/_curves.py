"""The limit along two curves: the frontier over kappa_P, and what feature noise leaves of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._display import Columns, Curves, Line, Plotted
from .._errors import underflow_is_zero
from .._show import BLACK, before_or
from .._task import Root, lost
from .._two_tasks import Ranks, roots, roots_plus
from .._validate import FloatArray, as_count, as_float64, as_matrix
from ._limit import ImmunityLimit, limit_of

# ---- the frontier ----


@dataclass(frozen=True, eq=False, repr=False)
class Frontier(Plotted):
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
        return np.asarray(self.kappa_H / self.limit.kappa_H)

    @property
    def ii(self) -> FloatArray:
        """(ii): the same of the primary task; condition (b) holds up to 1."""
        return np.asarray(self.kappa_P / self.limit.kappa_P)

    def __repr__(self) -> str:
        return f"Frontier({self.kappa_P.size} points, kappa_M={self.limit.kappa_M:.4g})"

    def __str__(self) -> str:
        return self._as_text()

    def _columns(self) -> Columns:
        return {"kappa_P": self.kappa_P, "kappa_H": self.kappa_H, "i": self.i, "ii": self.ii}

    def _curves(self) -> Curves:
        limit = self.limit
        here = {"color": BLACK, "marker": "o", "linestyle": "none"}
        lines = [Line(before_or("identity"), [limit.kappa_P], [limit.kappa_H], style=here)]
        if limit.attained:
            lines.insert(0, Line("frontier", self.kappa_P, self.kappa_H))
        return Curves(
            r"$\kappa(H_P)$, primary task",
            r"largest $\kappa(H_H)$, harmful task",
            lines,
            scales=("log", "log"),
            title="" if limit.attained else "no frontier: the limit is infinite",
        )


@underflow_is_zero
def frontier(
    K_P: npt.ArrayLike | None = None, K_H: npt.ArrayLike | None = None, *,
    X_P: npt.ArrayLike | None = None, X_H: npt.ArrayLike | None = None,
    kappa_P: npt.ArrayLike | None = None, points: SupportsIndex = 41,
    delta: float | tuple[float, float] = 0.0, ranks: Ranks | None = None, computed_in: Any = None,
) -> Frontier:  # fmt: skip
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


# ---- feature noise ----


@dataclass(frozen=True, eq=False, repr=False)
class NoiseCurve(Plotted):
    """The limit at one noise level after the other.

    Attributes
    ----------
    variance : (T,) array
        Variance of the noise in each feature, in squared units of the inputs.
    delta : (T, 2) array
        What that adds to the diagonals of (K_P, K_H): the number of rows times the variance.
    kappa_M, kappa_P, kappa_H, rir : (T,) array
        As in :class:`ImmunityLimit`, with this delta.
    determined : (T,) array of bool
        False where rounding in a Gram matrix is as large as half its smallest eigenvalue.
    exact : ImmunityLimit
        The limit without noise.
    """

    variance: FloatArray
    delta: FloatArray
    kappa_M: FloatArray
    kappa_P: FloatArray
    kappa_H: FloatArray
    rir: FloatArray
    determined: npt.NDArray[np.bool_]
    exact: ImmunityLimit

    def __repr__(self) -> str:
        return (
            f"NoiseCurve({self.variance.size} variances, rir={self.rir[0]:.4g} to "
            f"{self.rir[-1]:.4g}, without noise {self.exact.rir:.4g})"
        )

    def __str__(self) -> str:
        return self._as_text()

    def _columns(self) -> Columns:
        return {
            "variance": self.variance, "delta_P": self.delta[:, 0], "delta_H": self.delta[:, 1],
            "kappa_M": self.kappa_M, "kappa_P": self.kappa_P, "kappa_H": self.kappa_H,
            "rir": self.rir, "determined": self.determined,
        }  # fmt: skip

    def _curves(self) -> Curves:
        shown, exact = self.determined, self.exact.rir
        return Curves(
            "variance of the noise in each feature, squared units of the inputs",
            "RIR*, the limit",
            [Line("with noise", self.variance[shown], self.rir[shown])],
            {"without": exact} if np.isfinite(exact) else {},
            scales=("log", "log"),
        )


@underflow_is_zero
def noise_curve(
    K_P: npt.ArrayLike | None = None, K_H: npt.ArrayLike | None = None, *,
    X_P: npt.ArrayLike | None = None, X_H: npt.ArrayLike | None = None,
    rows: tuple[SupportsIndex, SupportsIndex] | None = None, variance: npt.ArrayLike | None = None,
    ranks: Ranks | None = None, computed_in: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> NoiseCurve:  # fmt: skip
    """Evaluate RIR* under feature noise: with ``K + N s^2 I`` in place of K.

    Independent noise of variance s^2 in every feature of N rows adds ``N s^2 I`` to the Gram
    matrix, in the mean. It makes every limit finite, also where the exact one is not; the curve
    need not be monotone.

    Parameters
    ----------
    K_P, K_H, X_P, X_H, ranks, computed_in
        As in :func:`immunity_limit`.
    rows : (int, int), optional
        Numbers of rows (N_P, N_H); needed with Gram matrices, otherwise those of the inputs.
    variance : (T,) array_like, optional
        Variances s^2, each above 0. By default 41 from 1e-12 to 1 times the mean square of the
        primary inputs' entries.
    progress : callable, optional
        Called with (done, total) after each level.

    Returns
    -------
    NoiseCurve

    Raises
    ------
    ValueError
        As in :func:`immunity_limit`; for variances that are not positive, or rows below 1.
    TypeError
        For Gram matrices without `rows`.
    OverflowError
        Where a number of rows times a variance is beyond the float range.

    Notes
    -----
    Ours.

    Examples
    --------
    A direction that only the harmful task uses: no limit without noise.

    >>> import numpy as np, immucond as ic
    >>> curve = ic.linear.noise_curve(
    ...     np.diag([100.0, 0.0]), np.diag([2.0, 1.0]), rows=(1, 1), variance=[1e-2, 1.0])
    >>> curve.exact.rir, curve.rir.astype(int)
    (inf, array([25254425,     4533]))
    """
    counts = _counts(rows, X_P, X_H)
    P, H = roots(X_P, X_H, K_P, K_H, ranks=ranks, computed_in=computed_in)
    if variance is None:
        levels = usual_variances(P, counts[0], 41)
    else:
        levels = as_float64(variance, "variance", ndim=1)
    if not np.all(levels > 0.0):
        raise ValueError(f"variance must be above 0 everywhere, got {levels.min():g}")
    return noise_curve_of(P, H, counts, levels, progress)


def usual_variances(P: Root, rows: int, points: int) -> FloatArray:
    """From 1e-12 to 1 times the mean square of the primary inputs' entries."""
    power = P.scale / np.sqrt(rows * P.dim) * P.frobenius
    with np.errstate(over="ignore", under="ignore"):
        levels: FloatArray = np.geomspace(1e-12, 1.0, points) * np.float64(power) ** 2
    if not (np.isfinite(levels).all() and levels[0] > 0.0):
        raise OverflowError(
            f"the square of the entries of {P.name}, about {power:.3g}, is beyond the float range: "
            f"scale them"
        )
    return levels


def noise_curve_of(
    P: Root,
    H: Root,
    counts: tuple[int, int],
    levels: FloatArray,
    progress: Callable[[int, int], None] | None = None,
) -> NoiseCurve:
    """Curve from the roots."""
    with np.errstate(over="ignore"):
        delta = levels[:, None] * np.array(counts, dtype=np.float64)
    if not np.isfinite(delta).all():
        raise OverflowError(
            f"rows times variance is beyond the float range, at a variance of {levels.max():.3g}"
        )
    limits, determined = [], []
    for done, (delta_P, delta_H) in enumerate(delta.tolist(), start=1):
        noisy = P.plus(delta_P), H.plus(delta_H)
        limits.append(limit_of(*noisy, (delta_P, delta_H)))
        determined.append(not any(map(lost, noisy)))
        if progress is not None:
            progress(done, levels.size)
    found = {
        name: np.array([getattr(limit, name) for limit in limits])
        for name in ("kappa_M", "kappa_P", "kappa_H", "rir")
    }
    exact = limit_of(P, H)
    return NoiseCurve(levels, delta, determined=np.array(determined), exact=exact, **found)


def _counts(
    rows: tuple[SupportsIndex, SupportsIndex] | None,
    X_P: npt.ArrayLike | None,
    X_H: npt.ArrayLike | None,
) -> tuple[int, int]:
    if rows is None:
        if X_P is None or X_H is None:
            raise TypeError(
                "give rows, the numbers of rows (N_P, N_H), with Gram matrices, or inputs, one row "
                "a sample, as X_P and X_H"
            )
        return as_matrix(X_P, "X_P").shape[0], as_matrix(X_H, "X_H").shape[0]
    if not (isinstance(rows, tuple | list) and len(rows) == 2):
        raise ValueError(f"rows must be a pair (of the primary and the harmful task), got {rows!r}")
    return as_count(rows[0], "rows[0]", least=1), as_count(rows[1], "rows[1]", least=1)
