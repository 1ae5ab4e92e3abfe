"""What carries over to other rows, and how many rows that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import scipy.special

from .._display import Record
from .._errors import underflow_is_zero
from .._labels import labels_of
from .._task import root_of, warn_if_lost
from .._two_tasks import Ranks, known_ranks, roots
from .._validate import FloatArray, as_count, as_float64, check_real
from ._fade import fade_of
from ._fade_map import FadeMap
from ._labelled import centred, task_of_inputs
from ._limit import deficit_of, kappa_of_pencil

# ---- condition numbers ----


@underflow_is_zero
def sampling_ratio(
    K: npt.ArrayLike | None = None,
    K_other: npt.ArrayLike | None = None,
    *,
    X: npt.ArrayLike | None = None,
    X_other: npt.ArrayLike | None = None,
    ranks: Ranks | None = None,
    computed_in: Any = None,
) -> float:
    r"""How differently two samples of one task weigh directions, rho.

    .. math:: \rho(K, K') = \kappa(K^{-1/2} K' K^{-1/2})

    For every invertible theta, :math:`\kappa(H'(\theta))` lies within a factor rho of
    :math:`\kappa(H(\theta))`. So the RIR on other rows, and the limit on them, lie within
    :math:`(\rho_P\, \rho_H)^{\pm 2}` of those on the rows that theta was made from.

    Parameters
    ----------
    K, K_other : (d, d) array_like
        Gram matrices of two samples of one task, training and held-out rows for one.
    X, X_other : (N, d) and (N', d) array_like
        The rows instead: keeps twice the digits.
    ranks : (int or None, int or None), optional
        Known ranks of the two.
    computed_in : dtype, optional
        Precision in which the rows were computed.

    Returns
    -------
    float
        At least 1, the same either way round; infinite where one sample uses a direction that the
        other does not.

    Raises
    ------
    ValueError, TypeError
        As in :func:`immunity_limit`.

    Warns
    -----
    AccuracyWarning
        Where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours; the theorem ``sampling`` of :mod:`immucond.theorems`.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> round(ic.linear.sampling_ratio(np.diag([4.0, 1.0]), np.diag([6.0, 1.0])), 12)
    1.5
    """
    names = ("X", "X_other", "K", "K_other")
    one, other = roots(X, X_other, K, K_other, ranks=ranks, computed_in=computed_in, names=names)
    warn_if_lost(one, other)
    if deficit_of(one, other) or deficit_of(other, one) or one.rank != other.rank:
        return math.inf
    return max(1.0, kappa_of_pencil(one, other))


@underflow_is_zero
def expected_sampling_ratio(d: SupportsIndex, rows: float, other_rows: float = math.inf) -> float:
    r"""Evaluate rho for two samples of Gaussian rows, in the limit of many.

    .. math:: \rho \to \Big(\frac{1 + h}{1 - h}\Big)^2, \qquad h^2 = y + y' - y y', \quad
              y = d / N, \quad y' = d / N'.

    Parameters
    ----------
    d : int
        Number of features (of directions in use, where K is singular).
    rows, other_rows : float
        Rows of the two samples; infinitely many, the default, stand for the population.

    Returns
    -------
    float
        Infinite where a sample has at most d rows.

    Raises
    ------
    ValueError
        For a d or rows below 1.

    Notes
    -----
    The edges of the spectrum of an F matrix (Bai & Silverstein, Spectral Analysis of Large
    Dimensional Random Matrices, Theorem 4.10). It holds for any covariance of the rows, and is
    reached from below as d grows.

    Examples
    --------
    >>> import immucond as ic
    >>> round(ic.linear.expected_sampling_ratio(100, 10_000), 3)
    1.494
    """
    size = as_count(d, "d", least=1)
    y = []
    for value, name in ((rows, "rows"), (other_rows, "other_rows")):
        y.append(min(1.0, size / check_real(value, name, low=1.0, closed=True)))
    h = math.sqrt(y[0] + y[1] - y[0] * y[1])
    return math.inf if h >= 1.0 else ((1.0 + h) / (1.0 - h)) ** 2


@underflow_is_zero
def rows_needed(d: SupportsIndex, factor: float, *, population: bool = False) -> int:
    """How many rows a task needs for the RIR to carry over within a factor, whatever theta is.

    The least N for which ``(rho_P rho_H)^2 <= factor``, with Gaussian rows and N of them in either
    task, compared with as many held-out rows or with the population.

    Parameters
    ----------
    d : int
        Number of features.
    factor : float
        Above 1: the RIR on other rows shall be at least its ``1 / factor``.
    population : bool, default False
        Compare with the population, not with a second sample.

    Returns
    -------
    int
        N.

    Raises
    ------
    ValueError
        For a d below 1 or a factor of at most 1.

    Notes
    -----
    Ours; from :func:`expected_sampling_ratio`. It bounds the worst theta: one that was not made
    from the sample comes off far better.

    Examples
    --------
    >>> import immucond as ic
    >>> N = ic.linear.rows_needed(64, 4.0)
    >>> N, round(ic.linear.expected_sampling_ratio(64, N, N) ** 4, 2)
    (17104, 4.0)
    """
    size = as_count(d, "d", least=1)
    if check_real(factor, "factor", low=1.0) == 1.0:
        raise ValueError("factor must be above 1: no number of rows reproduces the RIR exactly")
    h = math.tanh(math.log(factor) / 16.0)  # rho = factor^(1/4), sqrt(rho) = (1 + h) / (1 - h)
    y = h * h if population else h * h / (1.0 + math.sqrt(1.0 - h * h))
    return max(size + 1, math.ceil(size / y))


# ---- labels that were faded ----


@dataclass(frozen=True)
class Leak(Record):
    """Label alignment that is left on rows that the map was not made from.

    Attributes
    ----------
    own : float
        rho on the rows that the map was made from, the mean over the folds.
    other : float
        rho on the other rows, the mean over the folds: what an attacker with rows of his own meets.
    before : float
        rho on the other rows without the map.
    reduction : float
        Geometric mean over the folds of `other` relative to `before`.
    interval : (float, float)
        Interval of 95 % for `reduction`, paired by fold, and wider than folds that share rows for
        making the map would suggest.
    rows : int
        Rows that each map was made from.
    other_rows : int
        Rows of a fold that it was tested on.
    per_row : float
        c of the law ``own + c (1 / rows + 1 / other_rows)``, see :meth:`expected`.
    """

    own: float
    other: float
    before: float
    reduction: float
    interval: tuple[float, float]
    rows: int
    other_rows: int
    per_row: float

    def expected(self, rows: float, other_rows: float = math.inf) -> float:
        r"""Rho to expect on other rows from a map made from `rows`.

        The map fades :math:`\hat b = b + e`. Of b itself the sampling error e of N rows stays,
        :math:`(I - \Pi)^T b = -(I - \Pi)^T e`, and its square is on average
        :math:`E[\|(I - \Pi)^T z\|^2 \|y\|^2] / N`; testing on N' rows adds as much over N'.
        Of first order in 1/N and in :math:`1/\sqrt\tau`: too much for folds of few rows for each
        feature, whose own rho has its largest eigenvalue and explained labels fitted.
        """
        count = check_real(rows, "rows", low=1.0)
        others = check_real(other_rows, "other_rows", low=1.0, closed=True)
        return self.own + self.per_row * (1.0 / count + 1.0 / others)

    def rows_needed(self, rho: float) -> int:
        """How many harmful rows the map takes for a rho, in the population.

        Raises ValueError for a rho that no number of rows reaches, at this tau.
        """
        wanted = check_real(rho, "rho", low=0.0)
        if wanted <= self.own:
            raise ValueError(
                f"rho must be above {self.own:.3g}, what the map leaves on its own rows, and is "
                f"{wanted:.3g}: a larger tau lowers that"
            )
        return math.ceil(self.per_row / (wanted - self.own))


@underflow_is_zero
def leak(
    X_P: npt.ArrayLike | None, X_H: npt.ArrayLike, Y_H: npt.ArrayLike, *, tau: float = 1e4,
    folds: SupportsIndex = 5, seed: int = 0, delta: float = 0.0, center: bool = True,
    K_P: npt.ArrayLike | None = None, ranks: Ranks | None = None, computed_in: Any = None,
) -> Leak:  # fmt: skip
    """Cross-fit :func:`fade`: labels faded by one part of the rows, alignment on the other.

    On the rows that it was made from the map makes the labels as slow as tau says. The sampling
    error of ``Z_H^T Y_H`` is what other rows keep.

    Parameters
    ----------
    X_P, K_P : array_like
        Primary inputs, or their Gram matrix.
    X_H, Y_H : (N, d) array_like, (N,) or (N, c) array_like
        Harmful inputs and targets or labels, as in :func:`alignment`.
    tau, delta, center, ranks, computed_in
        As in :func:`fade`.
    folds : int, default: 5
        Parts; each in turn is tested on, and the map made from the others.
    seed : int, default: 0
        Of the permutation by which rows are dealt to folds, those of a class in turn.

    Returns
    -------
    Leak

    Raises
    ------
    ValueError
        As in :func:`fade`; for fewer than two folds, or folds of fewer than two rows or without
        a class.

    Notes
    -----
    Ours. The interval is that of the corrected resampled t-test (Nadeau & Bengio, Inference for the
    Generalization Error, 2003), on the logarithm.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(2, 3000, 4)) * [4, 3, 2, 1]
    >>> found = ic.linear.leak(X_P, X_H, X_H[:, 0] > 0)
    >>> found.own < found.other < 0.1 * found.before
    True
    >>> half = (found.own + found.expected(found.rows)) / 2  # of what other rows add
    >>> abs(found.rows_needed(half) - 2 * found.rows) <= 1
    True
    """
    parts = as_count(folds, "folds", least=2)
    A = as_float64(X_H, "X_H")
    y = labels_of(Y_H, A.shape[0], "Y_H", "X_H")
    if A.shape[0] < 2 * parts:
        raise ValueError(
            f"folds = {parts} needs {2 * parts} rows or more, and X_H has {A.shape[0]}"
        )
    rank_P, rank_H = known_ranks(ranks)
    added = check_real(delta, "delta", low=0.0)
    P = root_of(X_P, K_P, "X_P", "K_P", rank=rank_P, computed_in=computed_in).plus(added)
    warn_if_lost(P)
    if A.shape[1] != P.dim:
        raise ValueError(
            f"{P.name} and X_H must have as many columns, got {P.dim} and {A.shape[1]}"
        )
    source = np.asarray(X_H).dtype if computed_in is None else computed_in
    options: dict[str, Any] = {"center": center, "rank": rank_H, "computed_in": source}

    found = []
    order = np.random.default_rng(as_count(seed, "seed", least=0)).permutation(A.shape[0])
    order = order[np.lexsort(y[order].T)]  # alike targets side by side, and dealt in turn
    for number in range(parts):
        fold = order[number::parts]
        missing = np.flatnonzero((np.ptp(y[fold], axis=0) == 0) & (np.ptp(y, axis=0) > 0))
        if missing.size:
            raise ValueError(
                f"part {number + 1} of {parts} has {len(fold)} rows alike in column "
                f"{missing[0]} of Y_H (a class is missing, or all are of one): give fewer folds or "
                "more rows"
            )
        rest = np.setdiff1d(order, fold)
        own = task_of_inputs(A[rest], y[rest], ("X_H", "Y_H"), **options)
        other = task_of_inputs(A[fold], y[fold], ("X_H", "Y_H"), **options)
        faded = fade_of(P, [own], tau=tau, delta=added)
        found.append(
            (
                own.rho(own.matrix @ faded),
                other.rho(other.matrix @ faded),
                other.rho(),
                _per_row(A[rest], y[rest], faded, center),
                len(rest),
                len(fold),
            )
        )
    table = np.array(found)
    logs = np.log(np.maximum(table[:, 1], np.finfo(float).tiny) / table[:, 2])
    rows, other_rows = table[:, 4].mean(), table[:, 5].mean()
    spread = math.sqrt((1.0 / parts + other_rows / rows) * float(np.var(logs, ddof=1)))
    half = float(scipy.special.stdtrit(parts - 1, 0.975)) * spread
    mean = float(logs.mean())
    return Leak(
        own=float(table[:, 0].mean()), other=float(table[:, 1].mean()),
        before=float(table[:, 2].mean()), reduction=math.exp(mean),
        interval=(math.exp(mean - half), math.exp(mean + half)), rows=round(rows),
        other_rows=round(other_rows), per_row=float(table[:, 3].mean()),
    )  # fmt: skip


def _per_row(Z: FloatArray, Y: FloatArray, faded: FadeMap, center: bool) -> float:
    """``E[||(I - Pi)^T z||^2 ||y||^2]`` in units of rho, over ``sigma_1 ||Y_||||^2`` of one row."""
    Z, Y = (x / np.max(np.abs(x)) for x in (Z, Y))  # of no unit, and their squares are numbers
    Z, Y = (centred(Z), centred(Y)) if center else (Z, Y)
    erased = Z - (Z @ faded.left) @ faded.right.T
    together = float(np.sum(np.sum(erased**2, axis=1) * np.sum(Y**2, axis=1)))
    explained = float(np.sum((Z @ np.linalg.lstsq(Z, Y, rcond=None)[0]) ** 2))
    return len(Z) * together / (float(np.linalg.norm(Z @ faded, 2)) ** 2 * explained)
