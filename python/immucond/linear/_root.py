"""A task's Gram matrix through its square root, so that small eigenvalues keep their digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._extreme import psd_ends, warn_accuracy
from .._rank import default_rtol, numerical_rank, rank_rule
from .._validate import FloatArray, as_float64, as_matrix

RankFrom = Literal["X", "K", "given"]
Ranks = tuple[SupportsIndex | None, SupportsIndex | None]

# Rounding in a Gram matrix by this share of its smallest eigenvalue leaves no digit.
LOST = 0.5


@dataclass(frozen=True)
class Root:
    """``K = scale^2 V diag(sigma^2) V^T`` with ``sigma[0] = 1`` and ``sigma[rank:] = 0``.

    Attributes
    ----------
    sigma : (d,) array
        Singular values of the inputs relative to the largest, descending.
    vectors : (d, d) array
        Right singular vectors, one a column: first a basis of range(K), then one of null(K).
    scale : float
        Largest singular value of the inputs.
    rank : int
        Numerical rank of K.
    rank_from : {"X", "K", "given"}
        What decided the rank.
    floor : float
        Singular values below it, relative to the largest, cannot be told from rounding.
    angles : (rank,) array
        How far rounding may have turned each basis vector of the range towards the null space.
    name : str
        What was given, for messages.
    noise : float
        How far rounding may have moved each ``sigma^2`` where a Gram matrix was given; 0 where the
        inputs were, for rounding in them moves sigma by less than what decides the rank.
    """

    sigma: FloatArray
    vectors: FloatArray
    scale: float
    rank: int
    rank_from: RankFrom
    floor: float
    angles: FloatArray
    name: str
    noise: float

    @property
    def dim(self) -> int:
        """Number of input features, d."""
        return self.sigma.size

    @property
    def matrix(self) -> FloatArray:
        """(rank, d) matrix R with ``R^T R = K / scale^2``."""
        kept: FloatArray = self.sigma[: self.rank, None] * self.vectors[:, : self.rank].T
        return kept

    @property
    def range_basis(self) -> FloatArray:
        """(d, rank) orthonormal basis of range(K)."""
        return self.vectors[:, : self.rank]

    @property
    def null_basis(self) -> FloatArray:
        """(d, d - rank) orthonormal basis of null(K)."""
        return self.vectors[:, self.rank :]

    @property
    def kappa(self) -> float:
        """Condition number of K over its nonzero eigenvalues."""
        return squared_ratio(1.0, self.sigma[self.rank - 1], self.name)

    def least_squares(self, X: FloatArray, y: FloatArray) -> FloatArray:
        """Head of least norm among those that fit the targets best; X are the root's inputs."""
        whiten = self.range_basis / self.sigma[: self.rank]
        head: FloatArray = whiten @ np.linalg.lstsq(X @ whiten, y)[0]
        return head

    def plus(self, delta: float) -> Root:
        """Root of ``K + delta I``, which is definite for ``delta > 0``."""
        if delta == 0.0:
            return self
        sigma = np.hypot(self.sigma, np.sqrt(delta) / self.scale)
        return replace(
            self,
            sigma=sigma / sigma[0],
            scale=self.scale * float(sigma[0]),
            rank=self.dim,
            rank_from="given",
            angles=np.zeros(self.dim),
            noise=self.noise / float(sigma[0]) ** 2,
        )

    def rank_within(self, span: FloatArray | None) -> int:
        """Rank of ``theta^T K theta`` from the span of theta: no scale in theta can hide it."""
        if span is None:
            return self.rank
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
        unit = np.linalg.qr(unit, mode="r")  # type: ignore[assignment]
    _, s, vt = np.linalg.svd(unit, full_matrices=True)
    sigma = np.zeros(vt.shape[0])
    sigma[: s.size] = s / s[0]
    found = numerical_rank(sigma, rule)
    return Root(
        sigma=_cut(sigma, found, name),
        vectors=vt.T,
        scale=scale * float(s[0]),
        rank=found,
        rank_from="given" if rule.rank else "X",
        floor=rule.rtol,
        # Wedin: noise of relative size rtol turns the j-th vector by about rtol / sigma_j.
        angles=np.minimum(1.0, rule.rtol / sigma[:found]),
        name=name,
        noise=0.0,
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
    unit, scale = _to_unit(as_float64(given, name), name)
    values, vectors = np.linalg.eigh(unit)
    sigma = np.sqrt(np.maximum(values[::-1], 0.0) / values[-1])
    # The kernel's ends are certified; eigh rounds each eigenvalue at the size of the largest.
    sigma = np.clip(sigma, np.sqrt(ratio), 1.0)
    sigma[found - 1] = np.sqrt(ratio)
    return Root(
        sigma=_cut(sigma, found, name),
        vectors=vectors[:, ::-1],
        scale=float(np.sqrt(scale) * np.sqrt(values[-1])),
        rank=found,
        rank_from="given" if rule.rank else "K",
        floor=float(np.sqrt(rule.rtol)),
        # Davis-Kahan: on the eigenvalues, sigma_j^2, this time.
        angles=np.minimum(1.0, rule.rtol / sigma[:found] ** 2),
        name=name,
        noise=rule.rtol if determined else max(rule.rtol, ratio),
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
            f"give either {names[0]} and {names[1]} or {names[2]} and {names[3]}, got {seen}"
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
        return root_of_gram(K, K_name, rank=rank, computed_in=computed_in)
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
    """Warn where rounding in a Gram matrix is as large as half its smallest eigenvalue."""
    for root in tasks:
        if root.noise * root.kappa > LOST:
            warn_accuracy(root.name, stacklevel + 1)
