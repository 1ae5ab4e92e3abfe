"""A task's Gram matrix through its square root, so that small eigenvalues keep their digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from .._extreme import psd_extreme_pairs
from .._rank import default_rtol
from .._validate import as_float64, as_matrix

FloatArray = npt.NDArray[np.float64]
RankFrom = Literal["X", "K", "given"]


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
    """

    sigma: FloatArray
    vectors: FloatArray
    scale: float
    rank: int
    rank_from: RankFrom
    floor: float
    angles: FloatArray

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
        return float(self.sigma[self.rank - 1] ** -2)

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
        )

    def rank_through(self, theta: FloatArray) -> int:
        """Rank of ``theta^T K theta``: from the two ranges, so no scale in theta can hide it."""
        u, s, _ = np.linalg.svd(theta, full_matrices=False)
        rank_theta = int(np.count_nonzero(s > default_rtol(theta.shape, None) * s[0]))
        if rank_theta == self.dim:
            return self.rank
        cosines = np.linalg.svd(self.range_basis.T @ u[:, :rank_theta], compute_uv=False)
        return int(np.count_nonzero(cosines > default_rtol(theta.shape, None)))


def root_of_inputs(
    X: npt.ArrayLike, name: str, *, rank: int | None = None, computed_in: npt.DTypeLike = None
) -> Root:
    """Root of ``X^T X`` from X itself: the Gram matrix would lose half the digits."""
    given = as_matrix(X, name)
    seen = given.dtype if given.dtype.kind == "f" else None
    A = as_float64(given, name)
    unit, scale = _to_unit(A, name)
    if unit.shape[0] > unit.shape[1]:
        unit = np.linalg.qr(unit, mode="r")
    _, s, vt = np.linalg.svd(unit, full_matrices=True)
    rtol = default_rtol(A.shape, computed_in or seen, of="features")
    return _root(s, vt.T, scale, rtol, rtol, 1, rank, "X", name)


def root_of_gram(
    K: npt.ArrayLike, name: str, *, rank: int | None = None, computed_in: npt.DTypeLike = None
) -> Root:
    """Root of a Gram matrix that is given."""
    A = as_float64(K, name)
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"{name} must be square, got shape {A.shape}")
    unit, scale = _to_unit(A, name)
    found = psd_extreme_pairs(unit, rank=rank, computed_in=computed_in).rank
    values, vectors = np.linalg.eigh(unit)
    s = np.sqrt(np.maximum(values[::-1], 0.0))
    rtol = default_rtol(A.shape, computed_in)
    return _root(s, vectors[:, ::-1], scale**0.5, rtol, rtol**0.5, 2, rank, "K", name, found=found)


def _to_unit(A: FloatArray, name: str) -> tuple[FloatArray, float]:
    scale = float(np.max(np.abs(A)))
    if scale == 0.0:
        raise ValueError(f"{name} is zero: a task needs inputs of rank 1 or more")
    return A / scale, scale


def _root(
    s: FloatArray,
    vectors: FloatArray,
    scale: float,
    rtol: float,
    floor: float,
    power: int,
    rank: int | None,
    source: RankFrom,
    name: str,
    *,
    found: int | None = None,
) -> Root:
    d = vectors.shape[0]
    sigma = np.zeros(d)
    sigma[: s.size] = s / s[0]
    if rank is None:
        rank = found if found is not None else int(np.count_nonzero(sigma > rtol))
    elif 1 <= rank <= np.count_nonzero(sigma):
        source = "given"
    else:
        raise ValueError(
            f"rank of {name} must lie in 1..{np.count_nonzero(sigma)}, its number of nonzero "
            f"singular values, got {rank}"
        )
    sigma[rank:] = 0.0
    # Wedin: noise of relative size rtol turns the j-th vector by about rtol / sigma_j^power.
    angles = np.minimum(1.0, rtol / sigma[:rank] ** power)
    return Root(sigma, vectors, scale * float(s[0]), rank, source, floor, angles)


def roots(
    X_P: npt.ArrayLike | None,
    X_H: npt.ArrayLike | None,
    K_P: npt.ArrayLike | None,
    K_H: npt.ArrayLike | None,
    *,
    ranks: tuple[int, int] | None = None,
    computed_in: npt.DTypeLike = None,
) -> tuple[Root, Root]:
    """Roots of both tasks, from inputs or from Gram matrices."""
    rank_P, rank_H = ranks if ranks is not None else (None, None)
    if X_P is not None and X_H is not None and K_P is None and K_H is None:
        P = root_of_inputs(X_P, "X_P", rank=rank_P, computed_in=computed_in)
        H = root_of_inputs(X_H, "X_H", rank=rank_H, computed_in=computed_in)
        names = "X_P and X_H must have as many columns"
    elif K_P is not None and K_H is not None and X_P is None and X_H is None:
        P = root_of_gram(K_P, "K_P", rank=rank_P, computed_in=computed_in)
        H = root_of_gram(K_H, "K_H", rank=rank_H, computed_in=computed_in)
        names = "K_P and K_H must be of one size"
    else:
        pairs = {"X_P": X_P, "X_H": X_H, "K_P": K_P, "K_H": K_H}
        seen = ", ".join(name for name, value in pairs.items() if value is not None) or "nothing"
        raise TypeError(f"give either X_P and X_H or K_P and K_H, got {seen}")
    if P.dim != H.dim:
        raise ValueError(f"{names}, got {P.dim} and {H.dim}")
    return P, H


def as_theta(theta: npt.ArrayLike, dim: int, name: str = "theta") -> FloatArray:
    """Check an extractor against the number of input features and bring it to unit scale."""
    A = as_float64(theta, name)
    if A.shape[0] != dim:
        raise ValueError(f"{name} must have {dim} rows, one an input feature, got shape {A.shape}")
    return A
