"""What instances are built from: spectra, rotations, extractors and pairs of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._validate import FloatArray, as_float64, as_theta
from ..linear import immunity_limit

EPS = float(np.finfo(np.float64).eps)


def filled(values: Sequence[float], size: int) -> FloatArray:
    """So many numbers: the first of the values, and 0 for those that are missing."""
    array = np.zeros(size)
    given = list(values)[:size]
    array[: len(given)] = given
    return array


def spectrum(gaps: Sequence[float], k: int, decades: float = 12.0) -> FloatArray:
    """K positive numbers, strictly descending to 1, at most 10^decades.

    Neighbours have the ratio ``1 + 10^gap``; where gaps are missing, 2.
    """
    ratios: FloatArray = 1.0 + np.power(10.0, filled(gaps, k - 1))
    excess = float(np.log10(ratios).sum()) / decades
    if excess > 1.0:
        ratios = ratios ** (1.0 / excess)
    return np.asarray(np.append(np.cumprod(ratios[::-1])[::-1], 1.0))


def rotation(angles: Sequence[float], d: int) -> FloatArray:
    """Product of rotations in the coordinate planes, as many as there are angles."""
    Q = np.eye(d)
    planes = [(i, j) for j in range(1, d) for i in range(j)]
    for (i, j), angle in zip(planes, angles, strict=False):
        c, s = math.cos(angle), math.sin(angle)
        Q[:, [i, j]] = Q[:, [i, j]] @ np.array([[c, -s], [s, c]])
    return Q


def root(
    gaps: Sequence[float], angles: Sequence[float], d: int, decades: float, rank: int | None = None
) -> FloatArray:
    """Build inputs X (rank x d) whose Gram matrix has that spectrum, in a rotated basis."""
    k = rank or d
    return np.sqrt(spectrum(gaps, k, decades))[:, None] * rotation(angles, d)[:, :k].T


def inputs(
    primary: Sequence[float], harmful: Sequence[float], basis: Sequence[float],
    other: Sequence[float], decades: Sequence[float] = (6.0, 6.0),
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Build inputs of a primary and of a harmful task, of as many features as `primary` says."""
    d = len(primary) + 1
    return root(primary, basis, d, decades[0]), root(harmful, other, d, decades[1])


def extractor(
    gaps: Sequence[float], left: Sequence[float], right: Sequence[float], d: int, m: int, rank: int
) -> FloatArray:
    """Theta (d x m) of that rank, its singular values spread over at most three decades."""
    U, V = rotation(left, d), rotation(right, m)
    return np.asarray((U[:, :rank] * spectrum(gaps, rank, 3.0)) @ V[:, :rank].T)


def gaussian(seed: int, *shape: int) -> FloatArray:
    """Independent standard normal entries."""
    return np.random.default_rng(seed).normal(size=shape)


def singular_values(Z: FloatArray) -> FloatArray:
    """Descending."""
    return np.asarray(np.linalg.svd(Z, compute_uv=False), dtype=np.float64)


def kappa(Z: FloatArray, rank: int | None = None) -> float:
    """Condition number of ``Z^T Z`` over its `rank` nonzero eigenvalues."""
    s = singular_values(Z)
    last = s[(rank or s.size) - 1]
    return float(s[0] / last) ** 2 if last > 0.0 else math.inf


def rir(X_P: FloatArray, X_H: FloatArray, theta: FloatArray) -> float:
    """Relative immunization ratio of theta, all tasks of full column rank."""
    i, ii = (kappa(X @ theta) / kappa(X) for X in (X_H, X_P))
    return i / ii


def rounding(size: int, *conditions: float) -> float:
    """Relative error of a condition number whose factors have these condition numbers."""
    return 16.0 * size * EPS * math.prod(conditions)


def whitening(X: FloatArray) -> FloatArray:
    """(d, d) matrix W with ``W^T X^T X W = I``, for X of full column rank."""
    _, s, vt = np.linalg.svd(X, full_matrices=False)
    return np.asarray(vt.T / s)


def pencil(X_P: FloatArray, X_H: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Generalized eigenvectors V and eigenvalues, descending: ``V^T K_P V = I``.

    K_P definite. Through singular values of ``X_H K_P^-1/2``, which keep twice the digits.
    """
    whiten = whitening(X_P)
    _, t, wt = np.linalg.svd(X_H @ whiten, full_matrices=True)
    return whiten @ wt.T, filled(t**2, wt.shape[0])  # type: ignore[arg-type]


def kappa_M(X_P: FloatArray, X_H: FloatArray) -> float:
    """Ratio of the extreme generalized eigenvalues."""
    _, values = pencil(X_P, X_H)
    return float(values[0] / values[-1])


@dataclass(frozen=True)
class Tasks:
    """A primary and a harmful task, through inputs of full column rank, and an extractor.

    Attributes
    ----------
    X_P, X_H : (n, d) arrays
        Inputs; their Gram matrices are K_P and K_H.
    theta : (d, m) array
        Extractor.
    rank : int
        Its rank; by default its smaller side.
    """

    X_P: FloatArray
    X_H: FloatArray
    theta: FloatArray
    rank: int = 0

    def __post_init__(self) -> None:
        P, H = as_float64(self.X_P, "X_P"), as_float64(self.X_H, "X_H")
        if P.shape[1] != H.shape[1]:
            raise ValueError(
                f"X_P and X_H must have as many columns, got {P.shape[1]} and {H.shape[1]}"
            )
        theta = as_theta(self.theta, P.shape[1])
        fields = {"X_P": P, "X_H": H, "theta": theta, "rank": self.rank or min(theta.shape)}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """Number of input features, d."""
        return int(self.X_P.shape[1])

    @property
    def condition(self) -> float:
        """Product of the condition numbers of the inputs: digits that the pencil loses."""
        return math.sqrt(kappa(self.X_P) * kappa(self.X_H))

    def lost(self, spread: float) -> float:
        """Bound rounding in a kappa by the pencil plus that in one under such an extractor."""
        own = max(kappa(self.X_P), kappa(self.X_H)) ** 0.5
        return rounding(self.dim, self.condition) + rounding(self.dim, own, spread)

    @property
    def limit(self) -> float:
        """The library's RIR*."""
        return immunity_limit(X_P=self.X_P, X_H=self.X_H, ranks=(self.dim, self.dim)).rir

    @property
    def kappa_theta(self) -> float:
        """Condition number of theta."""
        return math.sqrt(kappa(self.theta, self.rank))


def invertible(
    theta: Sequence[float], left: Sequence[float], right: Sequence[float], *,
    decades: Sequence[float] = (6.0, 6.0), **pair: Sequence[float],
) -> Tasks:  # fmt: skip
    """Build two tasks and an invertible extractor."""
    d = len(pair["primary"]) + 1
    return Tasks(*inputs(**pair, decades=decades), extractor(theta, left, right, d, d, d))
