"""A task's Gram matrix through its square root: the hub of all linear theory.

A :class:`Root` is made here, from a task's inputs or from its Gram matrix, and read everywhere in
`linear`, `immunize` and `limit`. Where it comes from, what its rank is and how many digits are left
is decided once, in this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ._errors import AccuracyWarning, warn, warn_accuracy
from ._extreme import psd_ends
from ._rank import (
    cut_off,
    default_rtol,
    epsilon,
    gram_rule,
    numerical_rank,
    rank_rule,
    refuse_more,
    tolerance_at,
)
from ._svd import svd
from ._triangle import triangular
from ._validate import Array, FloatArray, as_float64, as_matrix

RankFrom = Literal["X", "K", "given"]
Given = npt.ArrayLike | None

# Smallest eigenvalue, relative to the largest and in units of rounding, for which the Cholesky
# factor keeps six digits of everything.
SAFE = 1e6


@dataclass(frozen=True)
class Root:
    """Square root of one task's Gram matrix, ``K = scale^2 R^T R``.

    ::

        K = X^T X            (d x d)     of the task's N inputs X (N x d), one row a sample
        R = diag(sigma) V^T  (rank x d)  sigma descending, V^T V = I; or upper triangular (d x d)

    All of linear theory asks for condition numbers, of ``H(theta) = theta^T K theta`` and of pairs
    of Gram matrices. Those are squared ratios of singular values of ``R theta`` and of
    ``R_H R_P^+``: through R they keep twice the digits that an eigenproblem of K or of H would.
    Two kinds of tasks meet here: inputs, whose rounding moves sigma, and Gram matrices, whose
    rounding moves sigma^2.

    Attributes
    ----------
    dim : int
        Number of input features, d.
    scale : float
        Unit of R: its entries are of order 1 whatever the units of the inputs.
    kappa : float
        Condition number of K over its nonzero eigenvalues, ``(sigma_1 / sigma_rank)^2``.
    rank : int
        Numerical rank of K.
    rank_from : {"X", "K", "given"}
        What decided the rank: the inputs, the Gram matrix, or the caller.
    rtol : float
        Singular values of R of up to rtol times the largest cannot be told from rounding.
    rounding : float
        How far rounding may have moved each ``sigma^2``, relative to the largest, where a Gram
        matrix was given; 0 where the inputs were. Times kappa it is the relative error of the
        smallest nonzero eigenvalue.
    name : str
        What was given, for messages.
    decompose : callable
        Returns (d,) sigma, 0 beyond the rank, and (d, d) V, whose first columns span range(K) and
        the rest null(K). Called once, and only where `factor` will not do.
    factor : (d, d) array or None
        Upper triangular R, where a Cholesky factor keeps enough digits to spare the decomposition.
    warning : str
        What to tell the user: how much of the rank half precision has cut off; empty for nothing.
    """

    dim: int
    scale: float
    kappa: float
    rank: int
    rank_from: RankFrom
    rtol: float
    rounding: float
    name: str
    decompose: Callable[[], tuple[FloatArray, FloatArray]]
    factor: FloatArray | None = None
    warning: str = ""

    @cached_property
    def _decomposed(self) -> tuple[FloatArray, FloatArray]:
        return self.decompose()

    @property
    def root(self) -> Root:
        """Itself, as what was factored in place of it has one."""
        return self

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
        return np.asarray(self.sigma[: self.rank, None] * self.range_basis.T)

    def whitened(self, A: FloatArray) -> FloatArray:
        """Return ``A R^+``: the features A on range(K), where K becomes the identity."""
        if self.factor is not None:
            return np.asarray(scipy.linalg.solve_triangular(self.factor, A.T, trans="T").T)
        return (A @ self.range_basis) / self.sigma[: self.rank]

    def unwhitened(self, A: FloatArray) -> FloatArray:
        """Return ``R^+ A``."""
        if self.factor is not None:
            return np.asarray(scipy.linalg.solve_triangular(self.factor, A))
        return (self.range_basis / self.sigma[: self.rank]) @ A

    def transposed(self, A: FloatArray) -> FloatArray:
        """Return ``R^T A``."""
        return np.asarray(self.matrix.T @ A)

    def to_null(self, A: FloatArray) -> FloatArray:
        """Return ``N^T A`` for an orthonormal basis N of null(K)."""
        return np.asarray(self.null_basis.T @ A)

    def from_null(self, A: FloatArray) -> FloatArray:
        """Return ``N A``."""
        return np.asarray(self.null_basis @ A)

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
    def turned(self) -> FloatArray:
        """(rank,) sines of the angles by which rounding may have turned each range vector.

        Towards null(K), by Wedin's bound; by that of Davis and Kahan for a Gram matrix, whose
        rounding acts on the squares.
        """
        sines: FloatArray = np.minimum(1.0, self.rtol / (self.sigma[: self.rank] / self.sigma[0]))
        return sines**2 if self.rounding > 0.0 else sines

    def least_squares(self, X: FloatArray, y: FloatArray) -> FloatArray:
        """Head of least norm among those that fit the targets best; X are the root's inputs."""
        whiten = self.range_basis / self.sigma[: self.rank]
        with np.errstate(over="ignore", invalid="ignore"):
            head = np.asarray(whiten @ np.linalg.lstsq(X @ whiten, y, rcond=None)[0])
        if not np.isfinite(head).all():
            raise OverflowError(
                f"the least-squares head on {self.name} is beyond the float range: scale "
                f"{self.name} up, or its targets down"
            )
        return head

    def plus(self, delta: float) -> Root:
        """Root of ``K + delta I``, which is definite for ``delta > 0``."""
        if delta == 0.0:
            return self
        if math.isinf(self.scale):
            raise OverflowError(
                f"the largest singular value of {self.name} passes 1.8e308, beside which delta "
                f"is nothing: scale {self.name} down"
            )
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
            rtol=self.rtol * share,
            rounding=self.rounding * share**2,
            decompose=partial(_known, sigma / size, self.vectors),
            factor=None,
        )

    def rank_within(self, span: FloatArray | None) -> int:
        """Rank of ``theta^T K theta`` from the span of theta: no scale in theta can hide it."""
        if span is None:
            return self.rank
        if self.rank == self.dim:
            return int(span.shape[1])
        # Rounding turns weak directions of the range most, and what they are seen by least.
        seen = np.linalg.svd(self.matrix @ span, compute_uv=False)
        rounding = min(self.rtol * float(self.sigma[0]), self.smallest / 2.0)
        counted = self.rank + span.shape[1] - self.dim  # that many dimensions are shared
        return int(max(counted, np.count_nonzero(seen > rounding)))


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
    return None if rank == theta.shape[0] else svd(theta)[0][:, :rank]


def with_ones(X: Array) -> Array:
    """Return the rows with an input of ones at the end, whose row of theta is a bias."""
    return np.hstack([X, np.ones((X.shape[0], 1), X.dtype)])


def root_of_inputs(
    X: npt.ArrayLike, name: str, *, rank: SupportsIndex | None = None, computed_in: Any = None
) -> Root:
    """Root of ``X^T X`` from X itself: the Gram matrix would lose half the digits."""
    given = as_matrix(X, name)
    rule = rank_rule(
        given.shape, given.dtype, rank=rank, rtol=None, computed_in=computed_in,
        given="features", rank_name=f"rank of {name}",
    )  # fmt: skip
    unit, scale = _to_unit(as_float64(given, name), name)
    if unit.shape[0] > unit.shape[1]:
        unit = triangular(unit)
    _, s, vt = svd(unit, full_matrices=True)
    sigma = np.zeros(vt.shape[0])
    sigma[: s.size] = s / s[0]
    found = numerical_rank(sigma, rule)
    # What a known rank leaves out is rounding too.
    rtol = max(tolerance_at(sigma, rule), float(sigma[found:].max(initial=0.0)))
    sigma = _cut(sigma, found, name)
    return Root(
        dim=sigma.size,
        scale=scale * float(s[0]),
        kappa=squared_ratio(1.0, sigma[found - 1], name),
        rank=found,
        rank_from="given" if rule.rank else "X",
        rtol=rtol,
        rounding=0.0,
        name=name,
        decompose=partial(_known, sigma, vt.T),
        warning=cut_off(name, found, min(given.shape), rule),
    )


def root_of_gram(
    K: npt.ArrayLike, name: str, *,
    rank: SupportsIndex | None = None, rtol: float | None = None, computed_in: Any = None,
) -> Root:  # fmt: skip
    """Root of a Gram matrix that is given; rtol is on its eigenvalues."""
    given = as_matrix(K, name)
    rule = gram_rule(
        given, rank=rank, rtol=rtol, computed_in=computed_in, rank_name=f"rank of {name}"
    )
    # The kernel also refuses what is not symmetric positive semidefinite.
    found, ratio, determined = psd_ends(given, rule, name)
    if not ratio > 0.0:
        raise ValueError(
            f"rank of {name} is given as {found}, and {name} has not that many nonzero eigenvalues"
        )
    unit, scale = _to_unit(as_float64(given, name), name)

    size = unit.shape[0]
    tolerance = max(rule.rtol, np.sqrt(size) * rule.rounded)  # ||K||_F <= sqrt(size) lambda_1
    rounding = default_rtol(unit.shape, np.float64, "gram")  # sums over rows, however many
    factor = None
    if found == size and ratio > SAFE * size * epsilon(np.float64):
        factor = scipy.linalg.cholesky(unit, check_finite=False)
    return Root(
        dim=size,
        scale=float(np.sqrt(scale)),
        kappa=1.0 / ratio,
        rank=found,
        rank_from="given" if rule.rank else "K",
        rtol=float(np.sqrt(max(tolerance, _left_out(unit, rule.rank)))),
        rounding=max(rounding, tolerance, 0.0 if determined else ratio),
        name=name,
        decompose=partial(_decompose, unit, float(ratio), found, name),
        factor=factor,
        warning=cut_off(name, found, size, rule),
    )


def _left_out(K: FloatArray, rank: int) -> float:
    """Largest eigenvalue, relative to the first, beyond a known rank: it is rounding; else 0."""
    if not 0 < rank < len(K):
        return 0.0
    values = np.linalg.eigvalsh(K)
    return float(values[-rank - 1] / values[-1])


def _known(sigma: FloatArray, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Singular values and vectors that are there already (a lambda could not be pickled)."""
    return sigma, vectors


def _decompose(
    unit: FloatArray, ratio: float, rank: int, name: str
) -> tuple[FloatArray, FloatArray]:
    """Singular values and vectors of the root of a Gram matrix."""
    values, vectors = np.linalg.eigh(unit)
    sigma = np.sqrt(np.maximum(values[::-1], 0.0) / values[-1])
    # The kernel's ends are certified; eigh rounds each eigenvalue at the size of the largest.
    sigma = np.clip(sigma, np.sqrt(ratio), 1.0)
    sigma[rank - 1] = np.sqrt(ratio)
    return _cut(sigma, rank, name) * np.sqrt(values[-1]), vectors[:, ::-1]


def _cut(sigma: FloatArray, rank: int, name: str) -> FloatArray:
    """Set what lies beyond the rank to zero: it is rounding."""
    refuse_more(rank, sigma, name, f"rank of {name}")
    return np.where(np.arange(sigma.size) < rank, sigma, 0.0)


def _to_unit(A: FloatArray, name: str) -> tuple[FloatArray, float]:
    scale = float(np.max(np.abs(A)))
    if scale == 0.0:
        raise ValueError(f"{name} is zero: a task needs inputs of rank 1 or more")
    return A / scale, scale


def root_of(
    X: Given, K: Given, X_name: str, K_name: str, *,
    rank: SupportsIndex | None = None, computed_in: Any = None,
) -> Root:  # fmt: skip
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


def lost(root: Root) -> bool:
    """Whether rounding in a Gram matrix is as large as half its smallest eigenvalue."""
    return root.rounding * root.kappa > 0.5  # by more, it leaves no digit


def warn_if_lost(*tasks: Root) -> None:
    """Warn where rounding hides the smallest eigenvalue, or half precision what lies below it."""
    for root in tasks:
        if root.warning:
            warn(root.warning, AccuracyWarning)
        if lost(root):
            warn_accuracy(root.name)
