"""A singular value decomposition that does not give up."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from ._validate import FloatArray


def svd(A: FloatArray, *, full_matrices: bool = True) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As `numpy.linalg.svd`, and by QR iteration where divide and conquer does not converge.

    LAPACK's dgesdd fails on some matrices of which many singular values are rounding, such as
    features from which labels were erased; dgesvd takes several times as long, and does not.
    """
    try:
        return np.linalg.svd(A, full_matrices=full_matrices)
    except np.linalg.LinAlgError:
        found = scipy.linalg.svd(A, full_matrices=full_matrices, lapack_driver="gesvd")
        return found[0], found[1], found[2]
