"""A task's Gram matrix through its square root, so that small eigenvalues keep their digits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ._condensed import triangular
from ._errors import AccuracyWarning
from ._extreme import psd_ends
from ._rank import cut_off, default_rtol, epsilon, numerical_rank, rank_rule, tolerance_at
from ._validate import FloatArray, as_float64, as_matrix
from ._warn import warn_accuracy

RankFrom = Literal["X", "K", "given"]
Ranks = tuple[SupportsIndex | None, SupportsIndex | None]

# Rounding in a Gram matrix by this share of its smallest eigenvalue leaves no digit.
LOST = 0.5
# Smallest eigenvalue, relative to the largest and in units of rounding, for which the Cholesky
# factor keeps six digits of everything.
_SAFE = 1e6


@dataclass(frozen=True)
class Root:
    """``K = scale^2 R^T R`` with R of about unit scale, and ``R = diag(sigma) V^T`` where needed.

    Attributes
    ----------
    dim : int
        Number of input features, d.
    scale : float
        Unit of R.
    kappa : float
        Condition number of K over its nonzero eigenvalues.
    rank : int
        Numerical rank of K.
    rank_from : {"X", "K", "given"}
        What decided the rank.
    floor : float
        Singular values below it, relative to the largest, cannot be told from rounding.
    blur : (float, int)
        Rounding turns the j-th basis vector of the range towards the null space by as much as the
        one over the power (the other) of sigma_j relative to the largest.
    name : str
        What was given, for messages.
    noise : float
        How far rounding may have moved each ``sigma^2`` where a Gram matrix was given; 0 where the
        inputs were, for rounding in them moves sigma by less than what decides the rank.
    decompose : callable
        Singular values, descending and 0 beyond the rank, and vectors of R: first a basis of
        range(K), then one of null(K). Called once, if at all.
    cut : str
        What half precision has cut off from the rank, for a warning; empty for nothing.
    factor : (d, d) array or None
        Upper triangular R, where there is one to spare the decomposition.
    """

    dim: int
    scale: float
    kappa: float
    rank: int
    rank_from: RankFrom
    floor: float
    blur: tuple[float, int]
    name: str
    noise: float
    decompose: Callable[[], tuple[FloatArray, FloatArray]]
    factor: FloatArray | None = None
    cut: str = ""

    @cached_property
    def _decomposed(self) -> tuple[FloatArray, FloatArray]:
        return self.decompose()

    @property
    def sigma(self) -> FloatArray:
        """(d,) singular values of R, descending."""
        return self._decomposed[0]

    @property
    def vectors(self) -> FloatArray:
        """(d, d) right singular vectors of R, one a column."""
        return self._decomposed[1]

    @cached_property
    def matrix(self) -> FloatArray:
        """(rank, d) matrix R."""
        if self.factor is not None:
            return self.factor
        kept: FloatArray = self.sigma[: self.rank, None] * self.range_basis.T
        return kept

    def whitened(self, A: FloatArray) -> FloatArray:
        """Return ``A R^+``: the features A on range(K), where K becomes the identity."""
        if self.factor is not None:
            solved: FloatArray = scipy.linalg.solve_triangular(self.factor, A.T, trans="T").T
            return solved
        return (A @ self.range_basis) / self.sigma[: self.rank]

    def unwhitened(self, A: FloatArray) -> FloatArray:
        """Return ``R^+ A``."""
        if self.factor is not None:
            solved: FloatArray = scipy.linalg.solve_triangular(self.factor, A)
            return solved
        return (self.range_basis / self.sigma[: self.rank]) @ A

    @property
    def frobenius(self) -> float:
        """Frobenius norm of R."""
        return float(np.linalg.norm(self.matrix if self.factor is not None else self.sigma))

    @property
    def smallest(self) -> float:
        """Smallest nonzero singular value of R."""
        return float(self.sigma[self.rank - 1])

    @property
    def range_basis(self) -> FloatArray:
        """(d, rank) orthonormal basis of range(K)."""
        return self.vectors[:, : self.rank]

    @property
    def null_basis(self) -> FloatArray:
        """(d, d - rank) orthonormal basis of null(K)."""
        return self.vectors[:, self.rank :] if self.rank < self.dim else np.empty((self.dim, 0))

    @property
    def angles(self) -> FloatArray:
        """(rank,) how far rounding may have turned each basis vector of the range."""
        noise, power = self.blur
        sigma = self.sigma[: self.rank] / self.sigma[0]
        turned: FloatArray = np.minimum(1.0, noise / sigma**power)
        return turned

    def least_squares(self, X: FloatArray, y: FloatArray) -> FloatArray:
        """Head of least norm among those that fit the targets best; X are the root's inputs."""
        whiten = self.range_basis / self.sigma[: self.rank]
        head: FloatArray = whiten @ np.linalg.lstsq(X @ whiten, y, rcond=None)[0]
        return head

    def plus(self, delta: float) -> Root:
        """Root of ``K + delta I``, which is definite for ``delta > 0``."""
        if delta == 0.0:
            return self
        added = float(np.sqrt(delta))
        unit = max(self.scale, added)
        sigma = np.hypot(self.sigma * (self.scale / unit), added / unit)
        size = float(sigma[0])
        share = float(self.sigma[0]) * (self.scale / unit) / size
        return replace(
            self,
            scale=unit * size,
            kappa=squared_ratio(size, sigma[-1], self.name),
            rank=self.dim,
            rank_from="given",
            floor=self.floor * share,
            blur=(0.0, 1),
            noise=self.noise * share**2,
            decompose=lambda: (sigma / size, self.vectors),
            factor=None,
        )

    def rank_within(self, span: FloatArray | None) -> int:
        """Rank of ``theta^T K theta`` from the span of theta: no scale in theta can hide it."""
        if span is None:
            return self.rank
        if self.rank == self.dim:
            return int(span.shape[1])
        cosines = np.linalg.svd(self.range_basis.T @ span, compute_uv=False)
        return int(np.count_nonzero(cosines > default_rtol(span.shape, np.float64)))


def squared_ratio(largest: float, smallest: float, name: str) -> float:
    """Condition number from singular values."""
    with np.errstate(over="ignore", divide="ignore"):
        kappa = float(np.square(np.float64(largest) / smallest))
    if np.isinf(kappa):
        raise OverflowError(f"the condition number of {name} passes 1.8e308")
    return kappa


def span_of(theta: FloatArray) -> FloatArray | None:
    """Orthonormal basis of what theta's columns span; None where that is everything."""
    s = np.linalg.svd(theta, compute_uv=False)
    rank = int(np.count_nonzero(s > default_rtol(theta.shape, np.float64) * s[0]))
    return None if rank == theta.shape[0] else np.linalg.svd(theta)[0][:, :rank]


def with_ones(X: FloatArray) -> FloatArray:
    """Return the rows with an input of ones at the end, whose row of theta is a bias."""
    return np.hstack([X, np.ones((X.shape[0], 1))])


def root_of_inputs(
    X: npt.ArrayLike, name: str, *, rank: SupportsIndex | None = None, computed_in: Any = None
) -> Root:
    """Root of ``X^T X`` from X itself: the Gram matrix would lose half the digits."""
    given = as_matrix(X, name)
    rule = rank_rule(
        given.shape,
        given.dtype,
        rank=rank,
        rtol=None,
        computed_in=computed_in,
        given="features",
        rank_name=f"rank of {name}",
    )
    unit, scale = _to_unit(as_float64(given, name), name)
    if unit.shape[0] > unit.shape[1]:
        unit = triangular(unit)
    _, s, vt = np.linalg.svd(unit, full_matrices=True)
    sigma = np.zeros(vt.shape[0])
    sigma[: s.size] = s / s[0]
    found, rtol = numerical_rank(sigma, rule), tolerance_at(sigma, rule)
    sigma = _cut(sigma, found, name)
    return Root(
        dim=sigma.size,
        scale=scale * float(s[0]),
        kappa=squared_ratio(1.0, sigma[found - 1], name),
        rank=found,
        rank_from="given" if rule.rank else "X",
        floor=rtol,
        blur=(rtol, 1),  # Wedin, for noise of relative size rtol
        name=name,
        noise=0.0,
        decompose=lambda: (sigma, vt.T),
        cut=cut_off(name, found, min(given.shape), rule),
    )


def root_of_gram(
    K: npt.ArrayLike,
    name: str,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
) -> Root:
    """Root of a Gram matrix that is given; rtol is on its eigenvalues."""
    given = as_matrix(K, name)
    rule = rank_rule(
        given.shape,
        given.dtype,
        rank=rank,
        rtol=rtol,
        computed_in=computed_in,
        rank_name=f"rank of {name}",
    )
    # The kernel also refuses what is not symmetric positive semidefinite.
    found, ratio, determined = psd_ends(given, rule, name)
    if not ratio > 0.0:
        raise ValueError(
            f"rank of {name} is given as {found}, and {name} has not that many nonzero eigenvalues"
        )
    unit, scale = _to_unit(as_float64(given, name), name)

    def decompose() -> tuple[FloatArray, FloatArray]:
        values, vectors = np.linalg.eigh(unit)
        sigma = np.sqrt(np.maximum(values[::-1], 0.0) / values[-1])
        # The kernel's ends are certified; eigh rounds each eigenvalue at the size of the largest.
        sigma = np.clip(sigma, np.sqrt(ratio), 1.0)
        sigma[found - 1] = np.sqrt(ratio)
        return _cut(sigma, found, name) * np.sqrt(values[-1]), vectors[:, ::-1]

    size = unit.shape[0]
    tolerance = max(rule.rtol, np.sqrt(size) * rule.rounded)  # ||K||_F <= sqrt(size) lambda_1
    rounding = default_rtol(unit.shape, np.float64, "gram")  # sums over rows, however many
    factor = None
    if found == size and ratio > _SAFE * size * epsilon(np.float64):
        factor = scipy.linalg.cholesky(unit, check_finite=False)
    return Root(
        dim=size,
        scale=float(np.sqrt(scale)),
        kappa=1.0 / ratio,
        rank=found,
        rank_from="given" if rule.rank else "K",
        floor=float(np.sqrt(tolerance)),
        blur=(tolerance, 2),  # Davis-Kahan, on the eigenvalues this time
        name=name,
        noise=max(rounding, tolerance, 0.0 if determined else ratio),
        decompose=decompose,
        factor=factor,
        cut=cut_off(name, found, size, rule),
    )


def _cut(sigma: FloatArray, rank: int, name: str) -> FloatArray:
    """Set what lies beyond the rank to zero: it is rounding."""
    nonzero = int(np.count_nonzero(sigma))
    if rank > nonzero:
        raise ValueError(f"rank of {name} is given as {rank}, and {name} has at most {nonzero}")
    return np.where(np.arange(sigma.size) < rank, sigma, 0.0)


def _to_unit(A: FloatArray, name: str) -> tuple[FloatArray, float]:
    scale = float(np.max(np.abs(A)))
    if scale == 0.0:
        raise ValueError(f"{name} is zero: a task needs inputs of rank 1 or more")
    return A / scale, scale


def roots(
    X_P: npt.ArrayLike | None,
    X_H: npt.ArrayLike | None,
    K_P: npt.ArrayLike | None,
    K_H: npt.ArrayLike | None,
    *,
    ranks: Ranks | None = None,
    computed_in: Any = None,
    names: tuple[str, str, str, str] = ("X_P", "X_H", "K_P", "K_H"),
) -> tuple[Root, Root]:
    """Roots of two tasks, from inputs or from Gram matrices; `names` are those of the arguments."""
    rank_P, rank_H = _pair(ranks)
    by_inputs = X_P is not None and X_H is not None and K_P is None and K_H is None
    by_grams = K_P is not None and K_H is not None and X_P is None and X_H is None
    if not (by_inputs or by_grams):
        pairs = zip(names, (X_P, X_H, K_P, K_H), strict=True)
        seen = ", ".join(name for name, value in pairs if value is not None) or "nothing"
        raise TypeError(
            f"give either {names[0]} and {names[1]} or {names[2]} and {names[3]}, got {seen}; the "
            "first are inputs, one row a sample, the others their Gram matrices"
        )
    one, other = names[:2] if by_inputs else names[2:]
    P = root_of(X_P, K_P, names[0], names[2], rank=rank_P, computed_in=computed_in)
    H = root_of(X_H, K_H, names[1], names[3], rank=rank_H, computed_in=computed_in)
    if P.dim != H.dim:
        needed = "have as many columns" if by_inputs else "be of one size"
        raise ValueError(f"{one} and {other} must {needed}, got {P.dim} and {H.dim}")
    return P, H


def root_of(
    X: npt.ArrayLike | None,
    K: npt.ArrayLike | None,
    X_name: str,
    K_name: str,
    *,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> Root:
    """Root of one task, from its inputs or from its Gram matrix."""
    if X is not None and K is None:
        return root_of_inputs(X, X_name, rank=rank, computed_in=computed_in)
    if K is not None and X is None:
        A = as_matrix(K, K_name)
        if A.shape[0] != A.shape[1]:
            raise ValueError(
                f"{K_name} must be square, a Gram matrix, and has shape {A.shape}: give inputs, "
                f"one row a sample, as {X_name}"
            )
        return root_of_gram(A, K_name, rank=rank, computed_in=computed_in)
    seen = "neither" if X is None else "both"
    raise TypeError(f"give either {X_name} or {K_name}, got {seen}")


def _pair(ranks: Ranks | None) -> Ranks:
    if ranks is None:
        return None, None
    if not (isinstance(ranks, tuple | list) and len(ranks) == 2):
        raise ValueError(
            f"ranks must be a pair (of the primary and of the harmful task), got {ranks!r}"
        )
    return ranks[0], ranks[1]


def warn_if_lost(*tasks: Root, stacklevel: int) -> None:
    """Warn where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    And where rounding to half precision has cut off what lies below it.
    """
    for root in tasks:
        if root.cut:
            warnings.warn(root.cut, AccuracyWarning, stacklevel=stacklevel + 1)
        if root.noise * root.kappa > LOST:
            warn_accuracy(root.name)
