"""Extreme singular pairs, each with a certified error bound."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Generic, Literal, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from ._errors import AccuracyWarning, DegenerateSpectrumError, DegenerateSpectrumWarning
from ._matrix_free import is_operator, matrix_free_pairs
from ._rank import Given, Rule, cut_off, half_told, rank_rule
from ._shapes import Count, Flag, Name, Real, by_shape
from ._validate import Array, FloatArray, as_count, as_matrices, check_choice, check_real

# A float (int, bool, str), or an array of them for a stack.
Value = Any

METHODS_PSD = ("auto", "direct", "lanczos")
METHODS = (*METHODS_PSD, "jacobi")
METHODS_OF_FEATURES = (*METHODS, "gram", "qr")


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtremePairs(Generic[Real, Count, Flag, Name]):
    """The largest and the smallest nonzero singular triplet of a matrix, or of each in a stack.

    For a stack of b matrices every attribute is an array with b as its first axis (`method` a
    list), ``len`` gives b, and ``pairs[i]`` the pairs of one.

    Attributes
    ----------
    sigma_max, sigma_min : float
        The largest and the smallest *nonzero* singular value.
    u_max, v_max, u_min, v_min : ndarray
        Their left and right singular vectors, of unit length; ``u`` equals ``v`` for a symmetric
        positive semidefinite matrix. The largest component of each ``v`` is positive.
    rank : int
        Number of singular values that count as nonzero.
    frobenius : float
        The Frobenius norm.
    condition_number : float
        ``sigma_max / sigma_min``, also where one of them leaves the range of float64.
    gap_max, gap_min : float
        Distance to the neighbouring nonzero singular value, relative to the extreme one; infinite
        for rank 1.
    simple_max, simple_min : bool
        False where neighbours agree to rounding: the vectors are then one choice among many.
    bound_max, bound_min : float
        Certified bounds on ``|sigma - true sigma|``, from residuals in double-double. Of an
        operator: on the distance to a singular value (`seed` of `extreme_pairs`).
    determined_min : bool
        ``bound_min < sigma_min / 2``.
    method : str
        What ran: "direct" or "lanczos"; for features "gram" or "qr", with "-lanczos" where an
        iteration took the place of a reduction.
    neighbour_max, neighbour_min : ndarray
        Right singular vectors of the singular values next to the ends, where the method has them
        (else empty): with the pairs themselves they are what a warm start starts from.
    """

    sigma_max: Real
    u_max: FloatArray
    v_max: FloatArray
    sigma_min: Real
    u_min: FloatArray
    v_min: FloatArray
    rank: Count
    frobenius: Real
    gap_max: Real
    gap_min: Real
    simple_max: Flag
    simple_min: Flag
    bound_max: Real
    bound_min: Real
    determined_min: Flag
    method: Name
    condition_number: Real
    neighbour_max: FloatArray
    neighbour_min: FloatArray

    def __len__(self) -> int:
        if self.v_max.ndim == 1:
            raise TypeError("these are the pairs of one matrix, not of a stack")
        return int(self.v_max.shape[0])

    def __getitem__(self, index: SupportsIndex) -> ExtremePairs:
        count, at = len(self), operator.index(index)
        if not -count <= at < count:
            raise IndexError(f"index {at} is out of range for a stack of {count}")
        values = {field.name: getattr(self, field.name)[at] for field in fields(self)}
        return ExtremePairs(
            **{k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        )

    def __repr__(self) -> str:
        if self.sigma_min is None:
            return f"ExtremePairs(sigma_max={self.sigma_max:.6g} +- {self.bound_max:.1g})"
        if self.v_max.ndim == 2:
            worst: float = np.max(np.asarray(self.condition_number))
            return f"ExtremePairs(of {len(self)} matrices, condition_number up to {worst:.6g})"
        return (
            f"ExtremePairs(sigma_max={self.sigma_max:.6g} +- {self.bound_max:.1g}, "
            f"sigma_min={self.sigma_min:.6g} +- {self.bound_min:.1g}, rank={self.rank}, "
            f"condition_number={self.condition_number:.6g}, method={self.method!r})"
        )


def pairs_of_operator(
    op: Any,
    inverse: Any,
    *,
    name: str,
    psd: bool,
    tol: float | None,
    method: str,
    start: ExtremePairs | None,
    seed: SupportsIndex,
    of_arrays: dict[str, Any],
) -> ExtremePairs:
    """Return the pairs of an operator, which has products but no entries to decide a rank from."""
    for keyword, value in of_arrays.items():
        if value is not None:
            raise ValueError(f"{keyword} must be None for a LinearOperator, and is {value!r}")
    search = search_from(
        tuple(op.shape), method=method, methods=("auto", "lanczos"), tol=tol, start=start
    )
    found = matrix_free_pairs(
        op,
        inverse,
        name=name,
        psd=psd,
        tol=search.tol,
        start=(search.max, search.min),
        seed=as_count(seed, "seed", least=0),
    )
    return ExtremePairs(**found)


def refuse_inverse(inverse: Any, name: str) -> None:
    """Refuse a solver where the entries are there."""
    if inverse is not None:
        raise TypeError(f"inverse goes with a LinearOperator {name}, and {name} is an array")


class Search(NamedTuple):
    """How the kernels look for pairs: method, tolerance, what to start from.

    That is vectors of either end, and sigma_min / sigma_max of the matrix that had them, or 0.
    """

    method: str = "auto"
    tol: float = 0.0
    max: FloatArray = np.empty((0, 0))
    min: FloatArray = np.empty((0, 0))
    ratio: float = 0.0


def search_from(
    shape: tuple[int, ...],
    *,
    method: str = "auto",
    methods: tuple[str, ...] = ("auto",),
    tol: float | None = None,
    start: ExtremePairs | None = None,
    given: Given = "matrix",
) -> Search:
    """Check the keywords that steer iterations, for a matrix or for features of this shape."""
    check_choice(method, "method", methods)
    relative = 0.0 if tol is None else check_real(tol, "tol", low=0.0)
    if start is None:
        return Search(method, relative)
    if not isinstance(start, ExtremePairs):
        raise TypeError(f"start must be an ExtremePairs or None, and is {type(start).__name__}")
    if len(shape) == 3:
        raise ValueError("start must be None for a stack, and is an ExtremePairs")
    # Iterations work with right vectors, of a wide matrix with those of its transpose.
    left = given == "matrix" and shape[0] < shape[1]
    size = shape[0] if left else shape[1]
    ends = []
    for vector, neighbour in (
        (start.u_max if left else start.v_max, start.neighbour_max),
        (start.u_min if left else start.v_min, start.neighbour_min),
    ):
        if vector is None:  # pairs of an operator without an inverse
            ends.append(np.empty((0, 0)))
            continue
        if vector.shape != (size,):
            raise ValueError(
                f"start must be the pairs of one matrix with vectors of length {size}, and has "
                f"vectors of shape {vector.shape}"
            )
        both = [vector, neighbour] if neighbour.shape == vector.shape and not left else [vector]
        ends.append(_directions(np.column_stack(both)))
    ratio = 1.0 / start.condition_number if ends[1].size else 0.0
    return Search(method, relative, ends[0], ends[1], ratio)


def _directions(columns: Array) -> FloatArray:
    # Their squares must not leave the range of float64; zeros stay, and start nothing.
    if columns.dtype.kind != "f" or not np.isfinite(columns).all():
        raise ValueError(
            "start must hold finite real vectors, and holds NaN, infinity or another dtype"
        )
    largest = np.abs(columns).max(axis=0)
    scaled: FloatArray = np.ldexp(columns, -np.frexp(largest)[1])
    return scaled


def warn_accuracy(name: str, stacklevel: int) -> None:
    """Say that sigma_min is noise."""
    warnings.warn(
        f"the smallest nonzero singular value of {name} is not determined: rounding is as large as "
        "itself. Give the rank where it is known, a larger rtol, or the features instead of their "
        "Gram matrix",
        AccuracyWarning,
        stacklevel=stacklevel + 1,
    )


def warn_half(name: str, rank: Any, size: int, rule: Rule, stacklevel: int) -> None:
    """Say how many singular values the rounding of half precision has left, if not all."""
    if told := cut_off(name, int(np.min(rank)), size, rule):
        warnings.warn(told, AccuracyWarning, stacklevel=stacklevel + 1)


@contextmanager
def explaining(rule: Rule) -> Iterator[None]:
    """Say of a degenerate spectrum that half precision may be what made it so."""
    try:
        yield
    except DegenerateSpectrumError as error:
        if rule.rounded == 0.0:
            raise
        raise DegenerateSpectrumError(f"{error}. Here {half_told(rule)}") from None


def psd_ends(array: Array, rule: Rule, name: str) -> tuple[int, float, bool]:
    """Return the rank, the smallest nonzero eigenvalue by the largest, and if determined."""
    found = _core.psd_extreme_pairs(array, rule, Search(), name)
    return found["rank"], found["unit_min"] / found["unit_max"], found["determined"]


def condition_of(largest: Value, smallest: Value, name: str) -> Value:
    """Return sigma_max / sigma_min, of one matrix or of a stack."""
    with np.errstate(over="ignore"):
        kappa = np.maximum(1.0, np.divide(largest, smallest))
    if np.isinf(kappa).any():
        raise OverflowError(
            f"the condition number of {name}{where_not(np.isfinite(kappa))} passes 1.8e308"
        )
    return kappa if np.ndim(kappa) else float(kappa)


def pairs_from(found: dict[str, Any], name: str) -> ExtremePairs:
    """Wrap what a kernel returned, of one matrix or of a stack."""
    largest, smallest = found.pop("unit_max"), found.pop("unit_min")
    exponent = found.pop("exponent")
    found.pop("determined")
    lost = np.flatnonzero(np.isinf(found["frobenius"]))
    if lost.size:
        first = int(lost[0])
        stack = np.ndim(largest) > 0
        raise OverflowError(
            f"the singular values of {name}{f'[{first}]' if stack else ''} are not representable "
            f"in float64: the largest is {np.ravel(largest)[first]:.6g} * "
            f"2^{np.ravel(exponent)[first]}"
        )
    kappa = condition_of(largest, smallest, name)
    if np.ndim(kappa) > 0:
        none = np.empty((len(largest), 0))
        return ExtremePairs(condition_number=kappa, neighbour_max=none, neighbour_min=none, **found)
    neighbours = {f"neighbour_{end}": found.pop(f"next_{end}") for end in ("max", "min")}
    return ExtremePairs(condition_number=kappa, **found, **neighbours)


def pairs_with_warnings(
    found: dict[str, Any], name: str, stacklevel: int, rule: Rule, shape: tuple[int, ...]
) -> ExtremePairs:
    """`pairs_from`, with the warnings that the pairs call for."""
    warn_half(name, found["rank"], min(shape[-2:]), rule, stacklevel + 1)
    determined = found["determined"]  # whatever float64 makes of the value
    pairs = pairs_from(found, name)
    if not np.all(determined):
        warn_accuracy(name + where_not(determined), stacklevel + 1)
    ends = [
        f"{e}{where_not(simple)}"
        for e, simple in (("largest", pairs.simple_max), ("smallest", pairs.simple_min))
        if not np.all(simple)
    ]
    if ends:
        warnings.warn(
            f"the {' and the '.join(ends)} singular value of {name} is not simple to rounding: its "
            "vectors are one choice among many",
            DegenerateSpectrumWarning,
            stacklevel=stacklevel + 1,
        )
    return pairs


def where_not(holds: Value) -> str:
    """Return which matrices of a stack a warning is about: those for which this does not hold."""
    if np.ndim(holds) == 0:
        return ""
    at = np.flatnonzero(~np.asarray(holds))
    return f" (at {at[0]}{f' and {at.size - 1} others' if at.size > 1 else ''} in the stack)"


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
        results where it is worse: ``4 sqrt(n) eps`` of the largest singular value.
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
        Where the largest singular value is not representable.

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
    if is_operator(S):
        return pairs_of_operator(
            S,
            inverse,
            name="S",
            psd=False,
            tol=tol,
            method=method,
            start=start,
            seed=seed,
            of_arrays={"rank": rank, "rtol": rtol, "computed_in": computed_in},
        )
    refuse_inverse(inverse, "S")
    array = as_matrices(S, "S")
    search = search_from(array.shape, method=method, methods=METHODS, tol=tol, start=start)
    rule = rank_rule(array.shape[-2:], array.dtype, rank=rank, rtol=rtol, computed_in=computed_in)
    found = _core.extreme_pairs(array, rule, search)
    return pairs_with_warnings(found, "S", 2, rule, array.shape)


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
    if is_operator(H):
        return pairs_of_operator(
            H,
            inverse,
            name="H",
            psd=True,
            tol=tol,
            method=method,
            start=start,
            seed=seed,
            of_arrays={"rank": rank, "rtol": rtol, "computed_in": computed_in},
        )
    refuse_inverse(inverse, "H")
    array = as_matrices(H, "H")
    search = search_from(array.shape, method=method, methods=METHODS_PSD, tol=tol, start=start)
    rule = rank_rule(array.shape[-2:], array.dtype, rank=rank, rtol=rtol, computed_in=computed_in)
    found = _core.psd_extreme_pairs(array, rule, search)
    return pairs_with_warnings(found, "H", 2, rule, array.shape)


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
        On the singular values of `Z`, not of H. Default ``4 sqrt(m) eps``, and no
        less than QR in float64 leaves, ``4 sqrt(max(m, 16)) eps``; for half precision that of
        float32, with whatever rounding each entry once may add, ``eps/2 ||Z||_F``.
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
    array = as_matrices(Z, "Z")
    search = search_from(
        array.shape,
        method=method,
        methods=METHODS_OF_FEATURES,
        tol=tol,
        start=start,
        given="features",
    )
    rule = rank_rule(
        array.shape[-2:],
        array.dtype,
        rank=rank,
        rtol=rtol,
        computed_in=computed_in,
        given="features",
    )
    fields = _core.feature_extreme_pairs(array, rule, search)
    return pairs_with_warnings(fields, "Z^T Z", 2, rule, array.shape)
