"""Fewer rows with the same squared losses."""

from __future__ import annotations

import numpy as np

from ._validate import FloatArray

# Relative to the largest entry: a singular value below it has a kappa beyond the float range.
_DUST = 1e-154


def triangular(X: FloatArray) -> FloatArray:
    """R factor of X; of fewer rows, where X has more rows than columns.

    Columns that repeat leave entries of 1e-16, 1e-32, ... down to subnormal ones, on which LAPACK's
    SVD spends a hundred times its time; they are set to zero.
    """
    R: FloatArray = np.linalg.qr(X, mode="r")  # type: ignore[assignment]
    R[np.abs(R) < _DUST * np.max(np.abs(R))] = 0.0
    return R


def condensed(X: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most d + c rows for which every ``||X v - y||_F`` is what it was.

    They are the R factor of [X y]; unlike ``X^T X`` and ``X^T y`` it squares nothing.
    """
    d = X.shape[1]
    if X.shape[0] <= d + y.shape[1]:
        return X, y
    R = triangular(np.hstack([X, y]))
    return R[:, :d], R[:, d:]
