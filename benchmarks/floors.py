"""What no implementation by the BLAS and LAPACK can do without, for the floors of the contests.

Of one call of ours only its products, factorizations and reductions, at the rates of this machine
and with the threads that are fastest at their size. Up to 256 columns our own reductions are faster
than LAPACK's, so that there the whole may take less than this.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from scipy.linalg.blas import dgemm, dsyrk, sgemm
from scipy.linalg.lapack import dsytrd, dsytrd_lwork
from threadpoolctl import threadpool_limits

TWO_THREADS = 512  # columns from which on a second one gains


@contextmanager
def fastest_threads(columns: int) -> Iterator[None]:
    """On one thread what is small."""
    limits = threadpool_limits(1, user_api="blas") if columns < TWO_THREADS else nullcontext()
    with limits:
        yield


def reduction(H: np.ndarray) -> None:
    """To tridiagonal form: eigenvalues of a dense symmetric matrix cost this at least."""
    lwork, _ = dsytrd_lwork(len(H))
    dsytrd(H, lower=0, lwork=int(lwork))


def regularizers(*tasks: np.ndarray) -> None:
    """Of each task the smaller Gram matrix, its reduction, and one product back to the features.

    The Gram matrix in float64, as digits of the smallest eigenvalue need; the product as the
    features are.
    """
    for Z in tasks:
        wide = Z.shape[0] < Z.shape[1]
        double = np.asarray(Z, dtype=np.float64)
        H = dsyrk(1.0, double.T, trans=wide)  # the C-ordered array is its transpose in Fortran's
        reduction(H)
        if Z.dtype == np.float64:
            product, G = dgemm, H
        else:
            product, G = sgemm, H.astype(np.float32)
        if wide:
            product(1.0, Z.T, G)
        else:
            product(1.0, G, Z.T)
