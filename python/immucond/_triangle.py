"""Many rows as few: the R factor of X = Q R has the Gram matrix of X and squares nothing."""

from __future__ import annotations

import numpy as np

from . import _core
from ._validate import FloatArray

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
