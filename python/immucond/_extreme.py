"""Extreme singular pairs of matrices, stacks of them, features, operators and pencils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, SupportsIndex

import numpy.typing as npt

from . import _core
from ._matrix_free import is_operator, pairs_of_operator
from ._pairs import (
    METHODS,
    METHODS_OF_FEATURES,
    METHODS_PSD,
    Search,
    by_shape,
    pairs_with_warnings,
    search_from,
)
from ._pairs import ExtremePairs as ExtremePairs
from ._rank import Rule, epsilon, rank_rule
from ._validate import Array, FloatArray, as_matrices, as_matrix


@by_shape
def extreme_pairs(
    S: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos", "jacobi"] = "auto",
    start: ExtremePairs | None = None,
    inverse: Any = None,
    seed: SupportsIndex = 0,
) -> ExtremePairs:
    """Return the extreme singular triplets of a general matrix.

    What the first and the last nonzero triplet of ``scipy.linalg.svd`` would be, from one
    bidiagonal reduction and none of the other vectors; a symmetric positive semidefinite `S` takes
    the cheaper way of `psd_extreme_pairs`.

    Parameters
    ----------
    S : array_like, shape (p_r, p_c) or (b, p_r, p_c), or LinearOperator
        Any finite real matrix, or a stack of them: threads share the stack, with the BLAS at one
        thread each.
    rank : int, optional
        The rank, where it is known; it is not guessed then.
    rtol : float, optional
        Singular values up to `rtol` times the largest count as zero, as in
        `numpy.linalg.matrix_rank`. Default ``max(p_r, p_c) eps``.
    computed_in : dtype_like, optional
        The precision in which the entries were computed, which sets the default `rtol`; by default
        the dtype of `S`.
    tol : float, optional
        Relative accuracy at which an iteration stops, as in `scipy.sparse.linalg.eigsh`. The direct
        method goes to rounding in any case.
    method : {"auto", "direct", "lanczos", "jacobi"}
        How to find the pairs.
    start : ExtremePairs, optional
        Pairs of a nearby matrix, for iterations to start from. The direct method has no use for it.
    inverse : LinearOperator, optional
        For an `S` that is a ``scipy.sparse.linalg.LinearOperator``: products with its inverse
        (and the inverse's transpose), a solver. Without it sigma_max alone is found, and what
        belongs to the smallest pair is None; so are the rank and the Frobenius norm. Bounds, and
        where the iteration stops, allow for products in the operator's dtype, or in that of their
        results where it is worse: ``4 sqrt(n) eps`` of the largest singular value. Products with
        `S` tell the bound of sigma_min, so that it holds for a solver that stops early.
    seed : int, default 0
        For an operator: of the two random vectors that the iteration starts from. The bounds are
        then on the distance to *some* singular value: products alone cannot prove that there is
        none beyond, and one whose vector is orthogonal to the start is missed. Another seed asks
        again. Of an array both ends are proved, whatever the start.

    Returns
    -------
    ExtremePairs

    Raises
    ------
    ValueError
        Where `S` is not finite or has rank 0, or an option is out of range.
    OverflowError
        Where the largest singular value or the Frobenius norm is not representable.

    Warns
    -----
    DegenerateSpectrumWarning
        Where an extreme singular value is not simple.
    AccuracyWarning
        Where the smallest nonzero singular value is not determined.

    Examples
    --------
    >>> import immucond as ic
    >>> pairs = ic.extreme_pairs([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    >>> round(pairs.sigma_max, 12), round(pairs.sigma_min, 12), pairs.rank
    (4.0, 3.0, 2)
    """
    entries = {"rank": rank, "rtol": rtol, "computed_in": computed_in}
    return _pairs_of(S, "S", inverse, seed, entries, {"tol": tol, "method": method, "start": start})


@by_shape
def psd_extreme_pairs(
    H: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos"] = "auto",
    start: ExtremePairs | None = None,
    inverse: Any = None,
    seed: SupportsIndex = 0,
) -> ExtremePairs:
    """Return the extreme eigenpairs of a symmetric positive semidefinite matrix.

    What the last and the first nonzero pair of ``scipy.linalg.eigh`` would be, from one tridiagonal
    reduction and two vectors.

    Parameters
    ----------
    H : array_like, shape (n, n) or (b, n, n), or LinearOperator
        Symmetric to the rounding of its dtype, and positive semidefinite to rounding.
    rank, rtol, computed_in, tol, method, start, inverse, seed
        As in `extreme_pairs`; the default `rtol` is ``n eps``.

    Returns
    -------
    ExtremePairs
        With ``u_max`` equal to ``v_max`` and ``u_min`` to ``v_min``.

    Raises
    ------
    ValueError
        Where `H` is not square, symmetric, positive semidefinite and finite, or has rank 0.

    Warns
    -----
    DegenerateSpectrumWarning, AccuracyWarning
        As in `extreme_pairs`.

    Examples
    --------
    >>> import immucond as ic
    >>> pairs = ic.psd_extreme_pairs([[2.0, 1.0], [1.0, 2.0]])
    >>> round(pairs.condition_number, 12)
    3.0
    """
    entries = {"rank": rank, "rtol": rtol, "computed_in": computed_in}
    return _pairs_of(H, "H", inverse, seed, entries, {"tol": tol, "method": method, "start": start})


def _pairs_of(
    S: Any, name: Literal["S", "H"], inverse: Any, seed: SupportsIndex, entries: dict[str, Any],
    steering: dict[str, Any],
) -> ExtremePairs:  # fmt: skip
    """Return the pairs of a matrix, of a stack, or of an operator; those called H are psd.

    `entries` are the keywords that decide the rank, `steering` those of the search.
    """
    psd = name == "H"
    if is_operator(S):
        return pairs_of_operator(S, inverse, name, entries, psd=psd, seed=seed, **steering)
    if inverse is not None:
        raise TypeError(f"inverse goes with a LinearOperator {name}, and {name} is an array")
    array = as_matrices(S, name)
    search = search_from(array.shape, methods=METHODS_PSD if psd else METHODS, **steering)
    rule = rank_rule(array.shape[-2:], array.dtype, **entries)
    kernel = _core.psd_extreme_pairs if psd else _core.extreme_pairs
    found = kernel(array, rule=rule, search=search)
    return pairs_with_warnings(found, name, rule, array.shape)


@by_shape
def feature_extreme_pairs(
    Z: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos", "jacobi", "gram", "qr"] = "auto",
    start: ExtremePairs | None = None,
) -> ExtremePairs:
    """Return the extreme eigenpairs of ``H = Z^T Z``, through the features Z.

    Works on the smaller of ``Z^T Z`` and ``Z Z^T``, whose nonzero spectra agree, and on a QR
    factorization of Z where forming either would lose the smallest singular value.

    Parameters
    ----------
    Z : array_like, shape (N, m) or (b, N, m)
        Features, one row a sample, or a stack of groups of samples.
    rank, computed_in, tol, start
        As in `extreme_pairs`.
    rtol : float, optional
        On the singular values of `Z`, not of H. Default ``4 sqrt(m) eps``, and no less than QR in
        float64 leaves: for fewer than 16 columns as for these, for 129 to 1023 as for 1024. For
        half precision that of float32, with whatever rounding each entry once may add,
        ``eps/2 ||Z||_F``.
    method : {"auto", "direct", "lanczos", "jacobi", "gram", "qr"}
        "gram" squares the condition number: sigma_min of H keeps about ``16 - log10 kappa(H)``
        digits. "qr" does not, at about five times the cost, and refines the smallest pair in
        double-double; it runs as a tree of blocks of rows, in memory that hardly grows with N (for
        N < m, with N m). "auto" starts with the first and goes on to the second where fewer than
        six digits would be left, or where the rank cannot be seen otherwise; so does "direct",
        which never iterates for the pairs themselves.

    Returns
    -------
    ExtremePairs
        Of H (m x m): ``sigma_max`` is the square of the largest singular value of `Z`.

    Raises
    ------
    ValueError
        Where `Z` is not finite or has rank 0, or an option is out of range.

    Warns
    -----
    DegenerateSpectrumWarning, AccuracyWarning
        As in `extreme_pairs`.

    Examples
    --------
    >>> import immucond as ic
    >>> pairs = ic.feature_extreme_pairs([[1.0, 0.0], [0.0, 1e-6], [0.0, 0.0]])
    >>> f"{pairs.condition_number:.6e}", pairs.method
    ('1.000000e+12', 'qr')
    """
    return pairs_of_features(
        as_matrices(Z, "Z"), "Z", rank=rank, rtol=rtol, computed_in=computed_in, tol=tol,
        method=method, start=start,
    )  # fmt: skip


def pairs_of_features(
    array: Array,
    name: str,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: str = "auto",
    start: ExtremePairs | None = None,
) -> ExtremePairs:
    """`feature_extreme_pairs` of features that messages call `name`."""
    search = search_from(
        array.shape, method=method, methods=METHODS_OF_FEATURES, tol=tol, start=start,
        given="features",
    )  # fmt: skip
    rule = rank_rule(
        array.shape[-2:], array.dtype, rank=rank, rtol=rtol, computed_in=computed_in,
        given="features",
    )  # fmt: skip
    found = _core.feature_extreme_pairs(array, rule=rule, search=search, name=name)
    return pairs_with_warnings(found, f"{name}^T {name}", rule, array.shape)


def pairs_of_triangle(
    R: FloatArray,
    count: int,
    lost: float,
    product: Callable[[FloatArray, FloatArray, int], tuple[FloatArray, FloatArray]],
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "qr", "jacobi"] = "auto",
) -> ExtremePairs:
    """`feature_extreme_pairs` of so many rows X that are known by their R factor.

    `lost`: what rounding took in making R, relative to its largest singular value; `product`:
    ``(hi, lo, e) -> 4^-e X^T X (hi + lo)``, in two halves too, by which the small end is refined.
    """
    search = search_from(R.shape, method=method, methods=("auto", "qr", "jacobi"), tol=tol)
    rule = rank_rule(
        (count, R.shape[1]), R.dtype, rank=rank, rtol=rtol, computed_in=computed_in,
        given="features",
    )  # fmt: skip
    found = _core.triangle_extreme_pairs(
        R, count=count, lost=lost, product=product, rule=rule, search=search
    )
    return pairs_with_warnings(found, "X^T X", rule, (count, R.shape[1]))


def pairs_of_gram(
    K: FloatArray,
    count: int,
    *,
    rtol: float,
    rank: SupportsIndex | None = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos"] = "auto",
    start: ExtremePairs | None = None,
) -> ExtremePairs:
    """`psd_extreme_pairs` of ``K = X^T X`` for so many rows X, of which the rank is no higher."""
    search = search_from(K.shape, method=method, methods=METHODS_PSD, tol=tol, start=start)
    shape = (count, K.shape[1])
    rule = rank_rule(shape, K.dtype, rank=rank, rtol=rtol, computed_in=None)
    found = _core.psd_extreme_pairs(K, rule=rule, search=search, name="X^T X")
    if found["rank"] > count:  # the rest is rounding, whatever rtol says
        known = rule._replace(rank=count)
        found = _core.psd_extreme_pairs(K, rule=known, search=search, name="X^T X")
    return pairs_with_warnings(found, "X^T X", rule, shape)


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


def psd_ends(array: Array, rule: Rule, name: str) -> tuple[int, float, bool]:
    """Return the rank, the smallest nonzero eigenvalue by the largest, and if determined."""
    try:
        found = _core.psd_extreme_pairs(array, rule=rule, search=Search(), name=name)
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"rank of {name}: {error}") from None  # what tells no name is of that
    return found["rank"], found["unit_min"] / found["unit_max"], found["determined"]
