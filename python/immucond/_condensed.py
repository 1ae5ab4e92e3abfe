"""Fewer rows with the same squared losses."""

from __future__ import annotations

import numpy as np

from ._validate import FloatArray


def condensed(X: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most d + c rows for which every ``||X v - y||_F`` is what it was.

    They are the R factor of [X y]; unlike ``X^T X`` and ``X^T y`` it squares nothing.
    """
    d = X.shape[1]
    if X.shape[0] <= d + y.shape[1]:
        return X, y
    R: FloatArray = np.linalg.qr(np.hstack([X, y]), mode="r")  # type: ignore[assignment]
    return R[:, :d], R[:, d:]
