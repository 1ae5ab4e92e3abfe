"""Extreme pairs of a symmetric definite pencil."""

from __future__ import annotations

from typing import Any, Literal, SupportsIndex

import numpy.typing as npt

from . import _core
from ._pairs import ExtremePairs, pairs_with_warnings
from ._rank import epsilon, rank_rule
from ._search import METHODS_PSD, search_from
from ._validate import as_matrix


def generalized_extreme_pairs(
    A: npt.ArrayLike,
    B: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos"] = "auto",
) -> ExtremePairs:
    """Return the extreme eigenpairs of ``A x = lambda B x``.

    What the last and the first nonzero pair of ``scipy.linalg.eigh(A, B)`` would be. With the Gram
    matrices K_H for `A` and K_P for `B`, ``condition_number`` is kappa(M), which bounds what any
    linear immunization can do (`immucond.linear.immunity_limit`, which also takes singular ones).

    Parameters
    ----------
    A : array_like, shape (n, n)
        Symmetric positive semidefinite.
    B : array_like, shape (n, n)
        Symmetric positive definite, with a condition number below about 1e14 / sqrt(n).
    rank, rtol, computed_in, tol, method
        As in `psd_extreme_pairs`, of ``M = R^-T A R^-1`` where ``B = R^T R``.

    Returns
    -------
    ExtremePairs
        Vectors x with ``x^T B x = 1``; `frobenius` is that of M.

    Raises
    ------
    ValueError
        Where `A` or `B` is not square, symmetric and finite, `A` is not positive semidefinite or
        has rank 0, or `B` is not positive definite to rounding.

    Warns
    -----
    DegenerateSpectrumWarning, AccuracyWarning
        As in `extreme_pairs`.

    Examples
    --------
    >>> import immucond as ic
    >>> pairs = ic.generalized_extreme_pairs([[2.0, 0.0], [0.0, 1.0]], [[100.0, 0.0], [0.0, 1.0]])
    >>> round(pairs.condition_number, 12)
    50.0
    """
    first, second = as_matrix(A, "A"), as_matrix(B, "B")
    search = search_from(first.shape, method=method, methods=METHODS_PSD, tol=tol)
    coarser = max(first.dtype, second.dtype, key=epsilon)  # the pencil is as exact as that one
    rule = rank_rule(
        first.shape, coarser, rank=rank, rtol=rtol, computed_in=computed_in, given="product"
    )
    found = _core.generalized_extreme_pairs(first, second, rule=rule, search=search)
    return pairs_with_warnings(found, "the pencil (A, B)", rule, first.shape)
