"""How much of an immunity carries over to other rows, and how many rows that takes."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex

import numpy.typing as npt

from .._errors import underflow_is_zero
from .._task import Ranks, roots, warn_if_lost
from .._validate import as_count, check_real
from ._pencil import deficit_of, kappa_of_pencil


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
        count = math.inf if value == math.inf else check_real(value, name, low=1.0)
        y.append(min(1.0, size / count))
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
