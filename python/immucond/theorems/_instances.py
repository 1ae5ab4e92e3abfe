"""Parameters of instances, drawn by NumPy or by Hypothesis, and what is built from them.

One description serves the command line, the tests and the search for a smallest counterexample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .._validate import FloatArray, as_float64, as_theta

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


class Parameter(Protocol):
    """A kind of number, or of list of numbers, with its range."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Random value, the ends of the range more often than by chance."""

    def strategy(self) -> SearchStrategy[Any]:
        """Hypothesis strategy of the same values."""

    def simpler(self, value: Any) -> Iterator[Any]:
        """Values to put in its place while shrinking, the simplest first."""


Parameters = dict[str, Parameter]


@dataclass(frozen=True)
class Whole:
    """Whole number from `low` to `high`, both included; the smaller the simpler."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator) -> int:
        """Uniform."""
        return int(rng.integers(self.low, self.high, endpoint=True))

    def strategy(self) -> SearchStrategy[int]:
        """As integers."""
        from hypothesis import strategies as st

        return st.integers(self.low, self.high)

    def simpler(self, value: int) -> Iterator[int]:
        """Smaller ones."""
        for candidate in sorted({self.low, (self.low + value) // 2, value - 1}):
            if self.low <= candidate < value:
                yield candidate


@dataclass(frozen=True)
class Real:
    """Real number from `low` to `high`; 0 is the simplest, then few digits."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """Uniform, one time in eight an end of the range or 0."""
        if rng.random() < 1 / 8:
            return float(rng.choice([self.low, self.high, min(max(0.0, self.low), self.high)]))
        return float(rng.uniform(self.low, self.high))

    def strategy(self) -> SearchStrategy[float]:
        """As floats, to nine decimals: what underflows is for the tests of the kernels."""
        from hypothesis import strategies as st

        return st.floats(self.low, self.high).map(lambda value: round(value, 9))

    def simpler(self, value: float) -> Iterator[float]:
        """Those with fewer digits nearby, and 0."""
        for candidate in (0.0, *(round(value, digits) for digits in range(4))):
            if self.low <= candidate <= self.high and len(repr(candidate)) < len(repr(value)):
                yield candidate
        if value != 0.0 and self.low <= 0.0 <= self.high:
            yield 0.0


@dataclass(frozen=True)
class Reals:
    """List of `least` to `most` real numbers from `low` to `high`; the shorter the simpler."""

    low: float
    high: float
    least: int
    most: int

    @property
    def _entry(self) -> Real:
        return Real(self.low, self.high)

    def draw(self, rng: np.random.Generator) -> list[float]:
        """Of uniform length."""
        size = int(rng.integers(self.least, self.most, endpoint=True))
        return [self._entry.draw(rng) for _ in range(size)]

    def strategy(self) -> SearchStrategy[list[float]]:
        """As lists of floats."""
        from hypothesis import strategies as st

        return st.lists(self._entry.strategy(), min_size=self.least, max_size=self.most)

    def simpler(self, value: list[float]) -> Iterator[list[float]]:
        """Shorter ones, then those with a simpler entry."""
        if len(value) > self.least:
            for i in range(len(value)):
                yield value[:i] + value[i + 1 :]
        for i, entry in enumerate(value):
            for candidate in self._entry.simpler(entry):
                yield [*value[:i], candidate, *value[i + 1 :]]


SEED = Whole(0, 2**32 - 1)
# Exponents of the relative gaps between neighbours: from nearly degenerate to steeply graded.
GAPS = Reals(-8.0, 6.0, 1, 5)
MORE_GAPS = Reals(-8.0, 6.0, 0, 5)
ANGLES = Reals(-3.2, 3.2, 0, 15)


EPS = float(np.finfo(np.float64).eps)


def spectrum(gaps: Sequence[float], k: int, decades: float = 12.0) -> FloatArray:
    """K positive numbers, strictly descending to 1, at most 10^decades.

    Neighbours have the ratio ``1 + 10^gap``; where gaps are missing, 2.
    """
    exponents = np.zeros(max(0, k - 1))
    given = list(gaps)[: k - 1]
    exponents[: len(given)] = given
    ratios: FloatArray = 1.0 + np.power(10.0, exponents)
    excess = float(np.log10(ratios).sum()) / decades
    if excess > 1.0:
        ratios = ratios ** (1.0 / excess)
    sigma: FloatArray = np.append(np.cumprod(ratios[::-1])[::-1], 1.0)
    return sigma


def rotation(angles: Sequence[float], d: int) -> FloatArray:
    """Product of rotations in the coordinate planes, as many as there are angles."""
    Q = np.eye(d)
    planes = [(i, j) for j in range(1, d) for i in range(j)]
    for (i, j), angle in zip(planes, angles, strict=False):
        c, s = math.cos(angle), math.sin(angle)
        Q[:, [i, j]] = Q[:, [i, j]] @ np.array([[c, -s], [s, c]])
    return Q


def root(gaps: Sequence[float], angles: Sequence[float], d: int, decades: float) -> FloatArray:
    """Build inputs X (d x d) whose Gram matrix has that spectrum, in a rotated basis."""
    return np.sqrt(spectrum(gaps, d, decades))[:, None] * rotation(angles, d).T


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
    theta: FloatArray = (U[:, :rank] * spectrum(gaps, rank, 3.0)) @ V[:, :rank].T
    return theta


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


def pencil(X_P: FloatArray, X_H: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Generalized eigenvectors V and eigenvalues, descending: ``V^T K_P V = I``.

    K_P definite. Through singular values of ``X_H K_P^-1/2``, which keep twice the digits.
    """
    _, s, vt = np.linalg.svd(X_P, full_matrices=False)
    whiten = vt.T / s
    _, t, wt = np.linalg.svd(X_H @ whiten, full_matrices=True)
    values = np.zeros(s.size)
    values[: t.size] = t**2
    return whiten @ wt.T, values


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
