"""Gram matrices and probing Hessians, of arrays and of streams of rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from . import _core
from ._accumulator import Accumulator, need_rows, wider
from ._extreme import ExtremePairs, pairs_of_gram
from ._products import two_sum
from ._rank import default_rtol
from ._validate import Array, FloatArray, as_matrix, check_choice

_IN_CACHE = 1 << 13  # entries


def gram(X: npt.ArrayLike) -> FloatArray:
    """Return the Gram matrix ``X^T X``, not centred and not divided by N.

    One BLAS rank-k update where `X` is float64 in C or Fortran order (the same flops and the same
    bits as ``scipy.linalg.blas.dsyrk``); every other input is converted by blocks of rows, so that
    at most 64 MiB are needed beside the result, however many rows there are (input in the other
    byte order is copied first).

    Parameters
    ----------
    X : array_like, shape (N, d)
        One row a sample; float16, float32, float64, integers or bools, of any strides.

    Returns
    -------
    ndarray, shape (d, d), float64
        Accumulated in float64, symmetric to the bit. In the square of `X`'s units.

    Raises
    ------
    TypeError, ValueError
        Where `X` is not a finite real matrix.
    OverflowError
        Where an entry of the result passes 1.8e308.

    Examples
    --------
    >>> import immucond as ic
    >>> ic.gram([[1, 2], [3, 4]])
    array([[10., 14.],
           [14., 20.]])
    """
    return _core.gram(as_matrix(X, "X"))


def hessian(theta: npt.ArrayLike, gram: npt.ArrayLike) -> FloatArray:
    """Return the Hessian of linear probing, ``H(theta) = theta^T K theta``.

    The squared loss without its factor 2, as in Zheng et al. (2025), Sec. 3.

    Parameters
    ----------
    theta : array_like, shape (d, m)
        Linear feature extractor, ``f(x) = x^T theta``.
    gram : array_like, shape (d, d)
        The Gram matrix K of the inputs.

    Returns
    -------
    ndarray, shape (m, m), float64
        Symmetric to the bit.

    Raises
    ------
    ValueError
        Where `gram` is not symmetric, shapes do not match or an entry is not finite.

    Notes
    -----
    Where `theta` stretches directions in which K is small, digits cancel; `feature_hessian` keeps
    them.

    Examples
    --------
    >>> import immucond as ic
    >>> ic.hessian([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.5], [0.5, 1.0]])
    array([[4., 1.],
           [1., 1.]])
    """
    return _core.hessian(as_matrix(theta, "theta"), as_matrix(gram, "gram"))


def feature_hessian(
    X: npt.ArrayLike, theta: npt.ArrayLike, *, method: Literal["auto", "features", "gram"] = "auto"
) -> FloatArray:
    """Return ``(X theta)^T (X theta)`` without ever holding ``X theta``.

    Parameters
    ----------
    X : array_like, shape (N, d)
        Inputs, one row a sample.
    theta : array_like, shape (d, m)
        Linear feature extractor.
    method : {"auto", "features", "gram"}
        "features" multiplies block by block, ``2 N d m + N m^2`` flops; "gram" forms
        ``theta^T (X^T X) theta``, ``N d^2 + 2 d^2 m + d m^2`` flops. "auto" takes the cheaper one,
        and goes back to "features" where the other would lose more than half of the digits.

    Returns
    -------
    ndarray, shape (m, m), float64
        Symmetric to the bit.

    Raises
    ------
    ValueError
        Where shapes do not match, an entry is not finite or `method` is unknown.
    OverflowError
        Where an entry of the result passes 1.8e308.

    Examples
    --------
    >>> import immucond as ic
    >>> ic.feature_hessian([[1.0, 0.0], [0.0, 2.0]], [[1.0], [1.0]])
    array([[5.]])
    """
    check_choice(method, "method", ("auto", "features", "gram"))
    return _core.feature_hessian(as_matrix(X, "X"), as_matrix(theta, "theta"), method=method)


class GramAccumulator(Accumulator):
    """A Gram matrix built from a stream of row blocks, mergeable and picklable.

    Parameters
    ----------
    d : int
        Number of columns of every block.

    See Also
    --------
    TriangleAccumulator : Twice the digits, at about five times the time.

    Examples
    --------
    >>> import immucond as ic
    >>> accumulator = ic.GramAccumulator(2)
    >>> accumulator.update([[1.0, 2.0]]).update([[3.0, 4.0]]).gram
    array([[10., 14.],
           [14., 20.]])
    >>> accumulator.count
    2
    """

    _ARRAYS: ClassVar[Mapping[str, str]] = {"gram": "float64", "rest": "float64"}

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self._gram = np.zeros((self._d, self._d))
        self._rest = np.zeros((self._d, self._d))  # what rounding left of the sum

    @property
    def gram(self) -> FloatArray:
        """The Gram matrix of all rows so far, shape (d, d): a copy."""
        return self._gram + self._rest

    def pairs(self, *, rtol: float | None = None, computed_in: Any = None, **keywords: Any
              ) -> ExtremePairs:  # fmt: skip
        """Return the extreme eigenpairs of the Gram matrix of all rows so far.

        Parameters
        ----------
        rtol : float, optional
            On the eigenvalues. Default what features (the rows) in `computed_in` leave of a zero
            one, and no less than the sums do.
        computed_in : dtype_like, optional
            The precision in which the rows were computed, by default the coarsest dtype they had.
        **keywords
            The others of `psd_extreme_pairs`: rank, tol, method and start.

        Returns
        -------
        ExtremePairs
            Bounds hold for the rows themselves: they allow for the rounding of the sums (Notes).

        Raises
        ------
        ValueError
            Where there are no rows, or all are zero, or an option is out of range.

        Warns
        -----
        DegenerateSpectrumWarning, AccuracyWarning
            As in `psd_extreme_pairs`.

        Notes
        -----
        Of sums of n products in whatever order no partial one is beyond ``||X_i|| ||X_j||``, and
        each rounds by u of itself: in norm they are off by at most ``n u tr(X^T X)`` (Higham 2002,
        Sec. 3.1), n being 1024 rows, 8 d, or all that there are: blocks of so many are added up
        with what that rounds away.

        Examples
        --------
        >>> import immucond as ic
        >>> pairs = ic.GramAccumulator(2).update([[2.0, 0.0], [0.0, 1.0]]).pairs()
        >>> round(pairs.condition_number, 12)
        4.0
        """
        need_rows(self)
        shape = (self._count, self._d)
        given = self._dtype if computed_in is None else computed_in
        tolerance = min(0.5, default_rtol(shape, given, "gram")) if rtol is None else rtol
        gram = self.gram
        pairs = pairs_of_gram(gram, self._count, rtol=tolerance, **keywords)
        with np.errstate(under="ignore"):
            trace = float(np.sum(gram.diagonal() / pairs.sigma_max))
        # Relative to the largest eigenvalue, as wherever a Gram matrix is formed.
        sums = _core.worst_summation(*shape) * trace
        # Squares that underflow lose up to the least float each, however small the others are.
        lost = self._d * self._count * 5e-324 if pairs.sigma_max < 1e-290 else 0.0
        return wider(pairs, sums, sums * pairs.condition_number, lost)

    def _add(self, rows: Array) -> None:
        if self._count:
            self._plus(_core.gram(rows), None)
        else:
            self._gram = _core.gram(rows)

    def _join(self, other: Self) -> None:
        self._plus(other._gram, other._rest)

    def _plus(self, gram: FloatArray, rest: FloatArray | None) -> None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if not np.isfinite(self._gram.diagonal() + gram.diagonal()).all():
                raise OverflowError("the sum of squares passes 1.8e308; scale the rows down")
            # In place, by rows that stay in cache: memory is what this takes.
            step = max(1, _IN_CACHE // self._d)
            for start in range(0, self._d, step):
                at = slice(start, start + step)
                # With what the sum rounds away, so that many blocks are as good as one.
                self._gram[at], lost = two_sum(self._gram[at], gram[at])
                self._rest[at] += lost if rest is None else lost + rest[at]

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    def _packed(self) -> FloatArray:
        return np.stack([self._gram, self._rest])

    def _joined(self, first: FloatArray, second: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            total, lost = two_sum(first[0], second[0])
            return np.stack([total, first[1] + second[1] + lost])

    def _unpack(self, packed: FloatArray, depth: int) -> None:  # noqa: ARG002
        if not np.isfinite(packed).all():
            raise OverflowError("the sum of squares passes 1.8e308; scale the rows down")
        self._gram, self._rest = packed

    def _arrays(self) -> dict[str, Array]:
        return {"gram": self._gram, "rest": self._rest}

    def _restore(self, arrays: dict[str, Array], count: int) -> None:
        for name, array in arrays.items():
            if array.shape != (self._d, self._d) or not np.array_equal(array, array.T):
                raise ValueError(f"{name} must be symmetric, and has shape {array.shape}")
        diagonal = arrays["gram"].diagonal()
        if np.any(diagonal < 0.0) or (count == 0 and np.any(diagonal)):
            raise ValueError(f"gram must be a sum of {count} squares, and its diagonal is none")
        norms, lost = np.sqrt(diagonal), float(np.finfo(np.float64).tiny)  # of underflow
        if np.any(np.abs(arrays["gram"]) > 1.001 * norms * norms[:, None] + lost):  # Schwarz
            raise ValueError("gram must be positive semidefinite, and has entries beyond its norms")
        self._gram, self._rest = arrays["gram"], arrays["rest"]
