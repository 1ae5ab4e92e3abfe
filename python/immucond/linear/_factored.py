"""A Gram matrix factored in place of an eigendecomposition, where that settles its rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack

from .._rank import default_rtol, epsilon, gram_rule
from .._task import SAFE, Given, Root, root_of_gram
from .._two_tasks import Ranks, known_ranks, roots_plus
from .._validate import Array, FloatArray, as_delta, as_matrix

# A norm is at most slack sqrt(2 / pi) times the largest image of so many Gaussian vectors, but for
# a chance of slack^-vectors (Halko, Martinsson & Tropp, SIAM Review 2011, Eq. 4.3): of 1e-10.
_CHANCE = 1e-10
_FEW, _MANY = 5, 32
# Vectors of a fixed seed decide, so that the same matrix always goes the same way. Whoever knows
# them can hide an eigenvector from them: as many of nobody's choosing must agree, by less.
_MARGIN = 4.0
# A residual of many directions is about alike for all vectors, whoever chose them: new ones are
# drawn where they disagree by chance. Each time errs with 1e-10.
_TRIES = 10
# Smallest nonzero eigenvalue, in units of rounding: below, where rounding is half of it, a Root
# warns.
_SURE = 2.0
_SMALL = 1e-153  # of a number whose square is still one


@dataclass(frozen=True)
class Factored:
    """A root of a task's Gram matrix, ``K = scale^2 R^T R`` with R of full row rank.

    ::

        K / scale^2        = R^T R        (d x d)   definite: R upper triangular, by Cholesky
        P^T (...) P        = L L^T        (d x d)   singular: pivoted Cholesky, L = Q T  (d x r),
        R                  = T^T Q^T P^T  (r x d)   whose Q (d x d) stays in Householder form

    It does what a :class:`Root` does for K_P in `fade`, without an eigenproblem; the Root is there
    for what else is asked, and is made then.

    Attributes
    ----------
    dim, rank : int
        Number of input features d, and numerical rank r.
    scale, rtol, rounding : float
        As of a Root.
    name : str
        What was given, for messages.
    triangle : (r, r) array
        R itself where K is definite, else T.
    reflectors : tuple of arrays, or None
        Where K is singular: the Householder vectors and factors of Q, the pivots, and L.
    given : array, its norm, and keywords
        What the Root is made from.
    """

    dim: int
    rank: int
    scale: float
    rtol: float
    rounding: float
    name: str
    triangle: FloatArray
    reflectors: tuple[FloatArray, FloatArray, npt.NDArray[np.intp], FloatArray] | None
    given: tuple[Array, float, dict[str, Any]]

    @cached_property
    def root(self) -> Root:
        """Root of the same Gram matrix, with its certified condition number."""
        K, norm, keywords = self.given
        return root_of_gram(unchanged(K, norm, self.name), self.name, **keywords)

    @property
    def kappa(self) -> float:
        """Condition number of K over its nonzero eigenvalues, certified."""
        return self.root.kappa

    @property
    def frobenius(self) -> float:
        """Frobenius norm of R."""
        return frobenius(self.matrix)

    @cached_property
    def matrix(self) -> FloatArray:
        """(rank, d) matrix R."""
        if self.reflectors is None:
            return self.triangle
        _, _, pivots, L = self.reflectors
        R = np.empty((self.rank, self.dim))
        R[:, pivots] = L.T
        return R

    def whitened(self, A: FloatArray) -> FloatArray:
        """Return ``A R^+``: the features A on range(K), where K becomes the identity."""
        if self.reflectors is None:
            if A.flags.f_contiguous:
                return np.asarray(blas.dtrsm(1.0, self.triangle, A, side=1))
            return np.asarray(blas.dtrsm(1.0, self.triangle, A.T, trans_a=1).T)
        return np.asarray(blas.dtrsm(1.0, self.triangle, self._turned(A.T)[: self.rank]).T)

    def unwhitened(self, A: FloatArray) -> FloatArray:
        """Return ``R^+ A``."""
        if self.reflectors is None:
            return np.asarray(blas.dtrsm(1.0, self.triangle, A))
        return self._back(blas.dtrsm(1.0, self.triangle, A, trans_a=1), 0)

    def transposed(self, A: FloatArray) -> FloatArray:
        """Return ``R^T A``."""
        if self.reflectors is None:
            return np.asarray(blas.dtrmm(1.0, self.triangle, A, trans_a=1))
        return np.asarray(blas.dgemm(1.0, self.matrix.T, A))

    def to_null(self, A: FloatArray) -> FloatArray:
        """Return ``N^T A`` for an orthonormal basis N of null(K)."""
        if self.reflectors is None:
            return np.empty((0, A.shape[1]))
        return self._turned(A)[self.rank :]

    def from_null(self, A: FloatArray) -> FloatArray:
        """Return ``N A``."""
        return self._back(A, self.rank)

    def _turned(self, A: FloatArray) -> FloatArray:
        """``Q^T P^T A``."""
        assert self.reflectors is not None
        vectors, factors, pivots, _ = self.reflectors
        return np.asarray(_reflect("T", vectors, factors, A[pivots]))

    def _back(self, A: FloatArray, first: int) -> FloatArray:
        """``P Q`` times A in the rows from the first on, 0 in the others."""
        assert self.reflectors is not None
        vectors, factors, pivots, _ = self.reflectors
        padded = np.zeros((self.dim, A.shape[1]))
        padded[first : first + A.shape[0]] = A
        found = np.empty_like(padded)
        found[pivots] = _reflect("N", vectors, factors, padded)
        return found


def _reflect(side: str, vectors: FloatArray, factors: FloatArray, A: FloatArray) -> FloatArray:
    found, _, _ = lapack.dormqr("L", side, vectors, factors, A, lwork=64 * max(1, A.shape[1]))
    return np.asarray(found)


def factored(
    K: npt.ArrayLike, name: str, *,
    rank: SupportsIndex | None = None, computed_in: Any = None, safe: bool = False,
) -> Factored | None:  # fmt: skip
    """Factor a Gram matrix; None where that does not settle the rank, or something is amiss.

    A factor of rank r settles it where ``||(R R^T)^-1||`` leaves lambda_r above rounding and the
    tolerance that decides the rank, and for r < d ``||K - R^T R||``, which bounds the eigenvalues
    beyond, is within that; lambda_1 lies between ``||K||_F^2 / tr(K)`` and ``||K||_F``. Both norms
    are bounded by products with random vectors. A :class:`Root` decides the rest, and says what is
    amiss. Where `safe`, a Cholesky factor must be proved to keep six digits of everything, and a
    singular matrix is not factored.
    """
    given = as_matrix(K, name)
    d = given.shape[0]
    if given.dtype != np.float64 or not symmetric(given):
        return None
    rule = gram_rule(
        given, rank=rank, rtol=None, computed_in=computed_in, rank_name=f"rank of {name}"
    )
    size = float(given.diagonal().max())  # the largest entry of all, where K is as it should be
    if rule.rounded or not _SMALL < size < 1.0 / _SMALL:
        return None
    whole = frobenius(given)
    norm, unit = whole / size, np.divide(given, size)
    rounding = max(rule.rtol, default_rtol(given.shape, np.float64, "gram"))
    digits = SAFE * d * epsilon(np.float64) if safe else 0.0
    build = partial(
        Factored, d, scale=math.sqrt(size), rtol=math.sqrt(rule.rtol), rounding=rounding, name=name,
        given=(given, whole, {"rank": rank, "computed_in": computed_in}),
    )  # fmt: skip

    def settled(found: Factored, beyond: float) -> bool:
        if rule.rank not in (0, found.rank):
            return False
        # (R R^T)^-1 for R itself, (T^T T)^-1 for T.
        first = 0 if found.reflectors is None else 1
        for count in (_FEW, _MANY):  # more of them bound it more tightly
            images = _vectors(found.rank, count)
            for trans in (first, 1 - first):
                images = blas.dtrsm(1.0, found.triangle, images, trans_a=trans)
            known, fresh = (1.0 / bound - beyond for bound in _norm_bounds(images))
            least = max(_SURE * rounding, digits) * norm
            if known > _MARGIN * least and fresh > least:
                return True
        return False

    R, info = lapack.dpotrf(unit.T, lower=0, clean=1, overwrite_a=1)
    if info == 0 and settled(found := build(rank=d, triangle=R, reflectors=None), 0.0):
        return found
    if safe:
        return None
    unit = np.divide(given, size)
    L, pivots, r, info = lapack.dpstrf(unit.T, lower=1)
    if info < 0 or not 0 < r < d:
        return None
    L, pivots = np.tril(L)[:, :r], pivots.astype(np.intp) - 1
    vectors, factors, _, _ = lapack.dgeqrf(L, lwork=64 * r)
    found = build(
        rank=r, triangle=np.asfortranarray(vectors[:r]), reflectors=(vectors, factors, pivots, L)
    )
    most, R = rule.rtol * norm**2 / float(unit.trace()), found.matrix
    for _ in range(_TRIES):
        probes = _vectors(d, _MANY)
        within = blas.dgemm(1.0, R.T, probes, trans_a=1)
        known, fresh = _norm_bounds(
            blas.dgemm(-1.0, R.T, within, beta=1.0, c=blas.dsymm(1.0, unit.T, probes))
        )
        if 1.2 * known > most:
            return None
        if fresh <= most:
            return found if settled(found, max(known, fresh)) else None
    return None


def factors_or_roots(
    X_P: Given, X_H: Given, K_P: Given, K_H: Given, delta: float | tuple[float, float], *,
    ranks: Ranks | None, computed_in: Any,
) -> tuple[Root | Factored, Root | Factored]:  # fmt: skip
    """Roots of two tasks (with delta added), for those who do not ask for condition numbers.

    Cholesky factors, without an eigenproblem, where both Gram matrices are given and safe.
    """
    found = []
    if K_P is not None and K_H is not None and as_delta(delta) == (0.0, 0.0):
        for K, name, rank in zip((K_P, K_H), ("K_P", "K_H"), known_ranks(ranks), strict=True):
            found.append(factored(K, name, rank=rank, computed_in=computed_in, safe=True))
    if X_P is X_H is None and found:
        P, H = found
        if P is not None and H is not None and P.dim == H.dim:
            return P, H
    return roots_plus(X_P, X_H, K_P, K_H, delta, ranks=ranks, computed_in=computed_in)[:2]


def plausible(K: Array, norm: float, b: FloatArray, energy: float) -> bool:
    """Whether a glance finds nothing against K, and an energy of at least what it must be.

    The labels that K and b explain are of energy ``tr(b^T K^+ b) >= ||b||_F^2 / ||K||_F``.
    """
    if K.dtype != np.float64 or K.shape[0] != K.shape[1] or not 0.0 < norm < math.inf:
        return False
    crossed = float(np.linalg.norm(b))
    with np.errstate(over="ignore"):
        return K.diagonal().min() >= 0.0 and not crossed / norm * crossed > energy


def frobenius(A: Array) -> float:
    """Frobenius norm, by the BLAS that factors: NumPy's threads would spin beside SciPy's."""
    entries = A.ravel(order="K")
    square = float(blas.ddot(entries, entries))
    if _SMALL < square < 1.0 / _SMALL:
        return math.sqrt(square)
    return float(lapack.dlange("F", A.T if A.flags.c_contiguous else A))


def unchanged(K: Array, norm: float, name: str) -> Array:
    """Return K, which was given without a copy and is read again, or say that it is another."""
    if not abs(frobenius(K) - norm) <= len(K) * epsilon(np.float64) * norm:  # summed otherwise
        raise ValueError(f"{name} has changed since the map was made from it: give a copy")
    return K


def symmetric(A: Array) -> bool:
    """Whether a square matrix is finite, and symmetric up to rounding.

    Both triangles, each taken for all of it, have one product with a random vector, which nobody
    knows beforehand.
    """
    d = A.shape[0]
    if A.shape != (d, d):
        return False
    g = np.random.default_rng().normal(size=d)
    with np.errstate(over="ignore", invalid="ignore"):
        upper, lower = (blas.dsymv(1.0, A.T, g, lower=half) for half in (0, 1))
        rounding = d * np.finfo(np.float64).eps * float(A.diagonal().max()) * math.sqrt(d)
        return bool(np.max(np.abs(upper - lower)) <= rounding < math.inf)


def _vectors(d: int, count: int) -> FloatArray:
    """Gaussian columns: so many of a fixed seed, and as many that nobody knows beforehand."""
    return np.hstack([np.random.default_rng(s).normal(size=(d, count)) for s in (count, None)])


def _norm_bounds(images: FloatArray) -> tuple[float, float]:
    """Two bounds of a matrix's 2-norm, from its products with each half of `_vectors`."""
    count = images.shape[1] // 2
    factor = _CHANCE ** (-1.0 / count) * math.sqrt(2.0 / math.pi)
    lengths = factor * np.linalg.norm(images, axis=0)
    return float(lengths[:count].max()), float(lengths[count:].max())
