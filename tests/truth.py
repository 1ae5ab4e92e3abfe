"""The truth to 60 digits, by mpmath, which a machine that tests the CUDA kernels may lack."""

from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt

DIGITS = 60


def _exact(a: npt.ArrayLike) -> mpmath.matrix:
    rows = np.asarray(a, np.float64).tolist()
    return mpmath.matrix([[mpmath.mpf(x) for x in row] for row in rows])


def true_eigenvalues(a: npt.ArrayLike) -> list[mpmath.mpf]:
    """Of exactly this symmetric float64 matrix, to 60 digits, descending."""
    with mpmath.workdps(DIGITS):
        return sorted(mpmath.eigsy(_exact(a), eigvals_only=True), reverse=True)


def true_singular_values(a: npt.ArrayLike, digits: int = DIGITS) -> list[mpmath.mpf]:
    """Of exactly this float64 matrix, to 60 digits, descending."""
    # mpmath's own SVD now and then does not converge; thrice the digits make the squares harmless.
    a = np.asarray(a)
    with mpmath.workdps(3 * digits):
        tall = _exact(a if a.shape[0] >= a.shape[1] else a.T)
        squares = mpmath.eigsy(tall.T * tall, eigvals_only=True)
        return sorted((mpmath.sqrt(max(square, 0)) for square in squares), reverse=True)


def true_quotient(a: npt.ArrayLike, v: npt.ArrayLike) -> mpmath.mpf:
    """||a v||^2 / ||v||^2 for exactly this float64 matrix and vector."""
    with mpmath.workdps(DIGITS):
        x = mpmath.matrix(np.asarray(v, np.float64).tolist())
        return sum(y**2 for y in _exact(a) * x) / sum(y**2 for y in x)


def assert_certified(pairs: Any, truth: Any) -> None:
    """The truth, descending, lies within the bounds; ends of the same rank are compared."""
    with mpmath.workdps(DIGITS):
        assert abs(pairs.sigma_max - truth[0]) <= pairs.bound_max
        assert abs(pairs.sigma_min - truth[pairs.rank - 1]) <= pairs.bound_min
    assert pairs.determined_min == (pairs.bound_min < pairs.sigma_min / 2)


def felt(Z, y, like):
    """Rho and what 100 steps of 1 / sigma_1 leave, by the spectrum of Z, of the rank of `like`."""
    u, s, _ = np.linalg.svd(Z, full_matrices=False)
    k = np.linalg.matrix_rank(like)
    energy, h = (u[:, :k].T @ y) ** 2, (s[:k] / s[0]) ** 2
    return {"rho": energy @ h / energy.sum(), "left": energy @ (1 - h) ** 200 / energy.sum()}
