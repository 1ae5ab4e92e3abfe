"""The pencil of two tasks: generalized eigenvalues of (K_H, K_P), through their roots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._extreme import psd_ends
from .._gram import gram
from .._rank import epsilon, rank_rule
from .._task import Root, squared_ratio
from .._validate import FloatArray
from ._labels import LabelledTask

# Smallest value, relative to the largest and in units of rounding, for which A^T A will do where
# Gram matrices were given; inputs keep their digits.
_SAFE = 1e6


@dataclass(frozen=True)
class Pencil:
    """``K_H V = K_P V diag(values)``, ``V^T K_P V = I`` on range(K_P); roots at unit scale.

    The values are squared singular values of ``A = R_H R_P^+``: an eigensolver of the pencil would
    square the condition number once more. ``A^T A`` is diagonalized only where that keeps digits.
    """

    vectors: FloatArray
    values: FloatArray
    rank: int


def pencil(P: Root, H: Root) -> Pencil:
    """Solve the generalized eigenproblem of (K_H, K_P) on range(K_P)."""
    A = P.whitened(H.matrix)
    # M has the rank of K_H, or less where range(K_H) sticks out: then kappa(M) plays no part.
    rank = min(H.rank, P.rank)
    values, w = _squares(A, _squared_already(P, H))
    values[rank:] = 0.0
    return Pencil(P.unwhitened(w), values, rank)


def _squared_already(P: Root, H: Root) -> bool:
    """Whether both come from Gram matrices, where one more square costs little more."""
    return P.rounding > 0.0 and H.rounding > 0.0


def _squares(A: FloatArray, may_square: bool) -> tuple[FloatArray, FloatArray]:
    """Squared singular values of A, descending, and its right singular vectors, all of them."""
    m = A.shape[1]
    if may_square and A.shape[0] >= m:
        values, vectors = np.linalg.eigh(gram(A))
        if values[0] > _SAFE * m * epsilon(np.float64) * values[-1]:
            return values[::-1].copy(), vectors[:, ::-1]
    _, s, vt = np.linalg.svd(A, full_matrices=True)
    values = np.zeros(m)
    values[: s.size] = s**2
    return values, vt.T


def kappa_of_pencil(P: Root, H: Root) -> float:
    """Condition number of M over its nonzero eigenvalues, range(K_H) lying in range(K_P)."""
    A = P.whitened(H.matrix)
    if _squared_already(P, H):
        M = gram(A.T)
        rule = rank_rule(M.shape, M.dtype, rank=H.rank, rtol=None, computed_in=None)
        _, ratio, _ = psd_ends(M, rule, "M")
        if ratio > _SAFE * H.rank * epsilon(np.float64):
            return 1.0 / ratio
    s = np.linalg.svd(A, compute_uv=False)
    return squared_ratio(s[0], s[H.rank - 1], f"{H.name} relative to {P.name}")


def deficit_of(P: Root, H: Root | LabelledTask) -> int:
    """Count the directions of null(K_P) in which K_H has more energy than rounding explains."""
    if P.rank == P.dim:
        return 0
    leak = np.linalg.svd(H.matrix @ P.null_basis, compute_uv=False)
    explained = H.rtol + np.linalg.norm((H.matrix @ P.range_basis) * P.turned, 2)
    # Counting dimensions settles what angles leave open: range(K_H) of more does not fit.
    return max(int(np.count_nonzero(leak > explained)), H.rank - P.rank)
