"""Extreme singular pairs, each with a certified error bound."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from ._errors import AccuracyWarning, DegenerateSpectrumWarning
from ._rank import Rule, rank_rule
from ._validate import Array, FloatArray, as_matrix, check_choice, check_real

METHODS = ("auto", "direct", "lanczos")
METHODS_OF_FEATURES = (*METHODS, "gram", "qr")


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtremePairs:
    """The largest and the smallest nonzero singular triplet of a matrix.

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
        Certified bounds on ``|sigma - true sigma|``, from residuals in double-double.
    determined_min : bool
        ``bound_min < sigma_min / 2``.
    method : str
        What ran: "direct" or "lanczos"; for features "gram" or "qr", with "-lanczos" where an
        iteration took the place of a reduction.
    neighbour_max, neighbour_min : ndarray
        Right singular vectors of the singular values next to the ends, where the method has them
        (else empty): with the pairs themselves they are what a warm start starts from.
    """

    sigma_max: float
    u_max: FloatArray
    v_max: FloatArray
    sigma_min: float
    u_min: FloatArray
    v_min: FloatArray
    rank: int
    frobenius: float
    gap_max: float
    gap_min: float
    simple_max: bool
    simple_min: bool
    bound_max: float
    bound_min: float
    determined_min: bool
    method: str
    condition_number: float
    neighbour_max: FloatArray
    neighbour_min: FloatArray

    def __repr__(self) -> str:
        return (
            f"ExtremePairs(sigma_max={self.sigma_max:.6g} +- {self.bound_max:.1g}, "
            f"sigma_min={self.sigma_min:.6g} +- {self.bound_min:.1g}, rank={self.rank}, "
            f"condition_number={self.condition_number:.6g}, method={self.method!r})"
        )


class Search(NamedTuple):
    """How the kernels look for pairs: method, tolerance, and vectors to start from."""

    method: str = "auto"
    tol: float = 0.0
    max: FloatArray = np.empty((0, 0))
    min: FloatArray = np.empty((0, 0))


def search_from(
    size: int,
    *,
    method: str = "auto",
    methods: tuple[str, ...] = ("auto",),
    tol: float | None = None,
    start: ExtremePairs | None = None,
    left: bool = False,
) -> Search:
    """Check the keywords that steer iterations; vectors have `size` components.

    `left`: the iteration works with left singular vectors.
    """
    check_choice(method, "method", methods)
    relative = 0.0 if tol is None else check_real(tol, "tol", low=0.0)
    if start is None:
        return Search(method, relative)
    if not isinstance(start, ExtremePairs):
        raise TypeError(f"start must be an ExtremePairs or None, and is {type(start).__name__}")
    ends = []
    for vector, neighbour in (
        (start.u_max if left else start.v_max, start.neighbour_max),
        (start.u_min if left else start.v_min, start.neighbour_min),
    ):
        if vector.shape != (size,):
            raise ValueError(
                f"start must be pairs of a matrix of the same size, with vectors of length {size}, "
                f"and has vectors of shape {vector.shape}"
            )
        both = [vector] if left or neighbour.size == 0 else [vector, neighbour]
        ends.append(np.column_stack(both))
    return Search(method, relative, *ends)


def warn_accuracy(name: str, stacklevel: int) -> None:
    """Say that sigma_min is noise."""
    warnings.warn(
        f"the smallest nonzero singular value of {name} is not determined: rounding is as large as "
        "itself. Give the rank where it is known, a larger rtol, or the features instead of their "
        "Gram matrix",
        AccuracyWarning,
        stacklevel=stacklevel + 1,
    )


def psd_ends(array: Array, rule: Rule, name: str) -> tuple[int, float, bool]:
    """Return the rank, the smallest nonzero eigenvalue by the largest, and if determined."""
    fields = _core.psd_extreme_pairs(array, rule, Search(), name)
    return fields["rank"], fields["unit_min"] / fields["unit_max"], fields["determined_min"]


def pairs_from(fields: dict[str, Any], name: str) -> ExtremePairs:
    """Wrap what a kernel returned."""
    largest, smallest = fields.pop("unit_max"), fields.pop("unit_min")
    exponent = fields.pop("exponent")
    neighbours = {f"neighbour_{end}": fields.pop(f"next_{end}") for end in ("max", "min")}
    if math.isinf(fields["frobenius"]):
        raise OverflowError(
            f"the singular values of {name} are not representable in float64: the largest is "
            f"{largest:.6g} * 2^{exponent}"
        )
    return ExtremePairs(condition_number=max(1.0, largest / smallest), **fields, **neighbours)


def pairs_with_warnings(fields: dict[str, Any], name: str, stacklevel: int) -> ExtremePairs:
    """`pairs_from`, with the warnings that the pairs call for."""
    pairs = pairs_from(fields, name)
    if not pairs.determined_min:
        warn_accuracy(name, stacklevel + 1)
    ends = [
        e
        for e, simple in (("largest", pairs.simple_max), ("smallest", pairs.simple_min))
        if not simple
    ]
    if ends:
        warnings.warn(
            f"the {' and the '.join(ends)} singular value of {name} is not simple to rounding: its "
            "vectors are one choice among many",
            DegenerateSpectrumWarning,
            stacklevel=stacklevel + 1,
        )
    return pairs


def extreme_pairs(
    S: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos"] = "auto",
    start: ExtremePairs | None = None,
) -> ExtremePairs:
    """Return the extreme singular triplets of a general matrix.

    What the first and the last nonzero triplet of ``scipy.linalg.svd`` would be, from one
    bidiagonal reduction and none of the other vectors; a symmetric positive semidefinite `S` takes
    the cheaper way of `psd_extreme_pairs`.

    Parameters
    ----------
    S : array_like, shape (p_r, p_c)
        Any finite real matrix.
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
    method : {"auto", "direct"}
        How to find the pairs.
    start : ExtremePairs, optional
        Pairs of a nearby matrix, for iterations to start from. The direct method has no use for it.

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
    array = as_matrix(S, "S")
    search = search_from(
        min(array.shape),
        method=method,
        methods=METHODS,
        tol=tol,
        start=start,
        left=array.shape[0] < array.shape[1],
    )
    rule = rank_rule(array.shape, array.dtype, rank=rank, rtol=rtol, computed_in=computed_in)
    return pairs_with_warnings(_core.extreme_pairs(array, rule, search), "S", stacklevel=2)


def psd_extreme_pairs(
    H: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos"] = "auto",
    start: ExtremePairs | None = None,
) -> ExtremePairs:
    """Return the extreme eigenpairs of a symmetric positive semidefinite matrix.

    What the last and the first nonzero pair of ``scipy.linalg.eigh`` would be, from one tridiagonal
    reduction and two vectors.

    Parameters
    ----------
    H : array_like, shape (n, n)
        Symmetric to the rounding of its dtype, and positive semidefinite to rounding.
    rank, rtol, computed_in, tol, method, start
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
    array = as_matrix(H, "H")
    search = search_from(array.shape[1], method=method, methods=METHODS, tol=tol, start=start)
    rule = rank_rule(array.shape, array.dtype, rank=rank, rtol=rtol, computed_in=computed_in)
    return pairs_with_warnings(_core.psd_extreme_pairs(array, rule, search), "H", stacklevel=2)


def feature_extreme_pairs(
    Z: npt.ArrayLike,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    tol: float | None = None,
    method: Literal["auto", "direct", "lanczos", "gram", "qr"] = "auto",
    start: ExtremePairs | None = None,
) -> ExtremePairs:
    """Return the extreme eigenpairs of ``H = Z^T Z``, through the features Z.

    Works on the smaller of ``Z^T Z`` and ``Z Z^T``, whose nonzero spectra agree, and on a QR
    factorization of Z where forming either would lose the smallest singular value.

    Parameters
    ----------
    Z : array_like, shape (N, m)
        Features, one row a sample.
    rank, computed_in, tol, start
        As in `extreme_pairs`.
    rtol : float, optional
        On the singular values of `Z`, not of H. Default ``4 sqrt(m) eps``.
    method : {"auto", "direct", "gram", "qr"}
        "gram" squares the condition number: sigma_min of H keeps about ``16 - log10 kappa(H)``
        digits. "qr" does not, at about five times the cost, and refines the smallest pair in
        double-double; blocks of rows are merged one after the other, so memory does not grow with
        N. "auto" starts with the first and goes on to the second where fewer than six digits would
        be left, or where the rank cannot be seen otherwise; so does "direct", which never iterates
        for the pairs themselves.

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
    array = as_matrix(Z, "Z")
    search = search_from(
        array.shape[1], method=method, methods=METHODS_OF_FEATURES, tol=tol, start=start
    )
    rule = rank_rule(
        array.shape, array.dtype, rank=rank, rtol=rtol, computed_in=computed_in, given="features"
    )
    fields = _core.feature_extreme_pairs(array, rule, search)
    return pairs_with_warnings(fields, "Z^T Z", stacklevel=2)
