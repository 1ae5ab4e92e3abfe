"""Gram matrices, probing Hessians, and R factors, which keep what a Gram matrix loses."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from . import _core
from ._validate import FloatArray, as_count, as_matrix, check_choice


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


class GramAccumulator:
    """A Gram matrix built from a stream of row blocks, mergeable and picklable.

    Parameters
    ----------
    d : int
        Number of columns of every block.

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

    def __init__(self, d: int) -> None:
        size = as_count(d, "d", least=1)
        self._gram = np.zeros((size, size))
        self._rest = np.zeros((size, size))  # what rounding left of the sum
        self._count = 0

    @property
    def gram(self) -> FloatArray:
        """The Gram matrix of all rows so far, shape (d, d): a copy."""
        return self._gram + self._rest

    @property
    def count(self) -> int:
        """The number of rows so far."""
        return self._count

    def update(self, X: npt.ArrayLike) -> Self:
        """Add the rows of `X`, shape (n, d). A block that is refused leaves the sum as it was."""
        rows = as_matrix(X, "X")
        if rows.shape[1] != len(self._gram):
            raise ValueError(f"X must have {len(self._gram)} columns, and has shape {rows.shape}")
        self._add(_core.gram(rows), 0.0, rows.shape[0])
        return self

    def merge(self, other: GramAccumulator) -> Self:
        """Add all that another accumulator of the same width has seen."""
        if not isinstance(other, GramAccumulator):
            raise TypeError(f"other must be a GramAccumulator, and is {type(other).__name__}")
        if other._gram.shape != self._gram.shape:
            raise ValueError(f"other must have width {len(self._gram)}, and has {len(other._gram)}")
        self._add(other._gram, other._rest, other._count)
        return self

    def _add(self, gram: FloatArray, rest: FloatArray | float, count: int) -> None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            total = self._gram + gram
            # What the sum rounded away (Knuth), so that many blocks are as good as one.
            part = total - self._gram
            lost = (self._gram - (total - part)) + (gram - part)
        if not np.isfinite(total.diagonal()).all():
            raise OverflowError("the sum of squares passes 1.8e308; scale the rows down")
        self._gram = total
        self._rest += lost + rest
        self._count += count

    def __repr__(self) -> str:
        return f"GramAccumulator(d={len(self._gram)}, count={self._count})"


# Relative to the largest entry: a singular value below it has a kappa beyond the float range.
_DUST = 1e-154


def triangular(X: FloatArray) -> FloatArray:
    """R factor of X, or X itself where it has no more rows than columns.

    Reduced by blocks of rows in a tree, so that its rounding does not grow with their number.

    Columns that repeat leave entries of 1e-16, 1e-32, ... down to subnormal ones, on which LAPACK's
    SVD spends a hundred times its time; they are set to zero.
    """
    if X.shape[0] <= X.shape[1]:
        return X
    R: FloatArray = _core.triangle(X)
    R[np.abs(R) < _DUST * np.max(np.abs(R))] = 0.0
    return R


class TriangularSum:
    """R factor of a stream of blocks of rows.

    Factors of equally many blocks are joined first, as in a binary counter: a row goes through
    log2(blocks) reductions, and rounding does not grow with their number.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, FloatArray]] = []

    def add(self, rows: FloatArray) -> None:
        """Take in a block of rows."""
        waiting = self._waiting
        R = triangular(rows)
        # A stream may write its next block over this one.
        waiting.append((1, R.copy() if R is rows else R))
        while len(waiting) > 1 and waiting[-1][0] == waiting[-2][0]:
            (count, lower), (_, upper) = waiting.pop(), waiting.pop()
            waiting.append((2 * count, triangular(np.vstack([upper, lower]))))

    @property
    def R(self) -> FloatArray:
        """R factor of all rows so far, of which there is one at least."""
        return triangular(np.vstack([R for _, R in self._waiting]))


def condensed(X: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most d + c rows for which every ``||X v - y||_F`` is what it was.

    They are the R factor of [X y]; unlike ``X^T X`` and ``X^T y`` it squares nothing.
    """
    d = X.shape[1]
    if X.shape[0] <= d + y.shape[1]:
        return X, y
    R = triangular(np.hstack([X, y]))
    return R[:, :d], R[:, d:]
