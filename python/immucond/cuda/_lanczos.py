"""Band Lanczos: when it has converged. What multiplies, and where, is the steps' affair."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.linalg

from .._validate import FloatArray

WIDTH = 2  # starting vectors: two see a double eigenvalue, where one takes it for simple
MOST = 384  # products, after which a direct method is the cheaper way
ROUND, GROWTH = 16, 1.25  # products between two looks at the projection: so many, or by that more
_SEPARATED = 1e4  # times the tolerance: closer, more values may hide than there are vectors


class Steps(Protocol):
    """``A V_k = V_{k + WIDTH} T_k`` on some device."""

    n: int

    def advance(self, first: int, last: int) -> None:
        """Do so many more steps."""

    def projection(self, k: int) -> FloatArray:
        """Return T_k, (k + WIDTH) x k; this waits for the device."""

    def combine(self, coefficients: FloatArray) -> Any:
        """Return ``V_k`` times the coefficients (k x count)."""


class End(NamedTuple):
    """The largest eigenvalue, the next one with the norm of its residual, and both vectors."""

    value: float
    next: float
    next_error: float
    vectors: Any


def largest(steps: Steps, tolerance: float) -> End | None:
    """Return the top end, or None where it does not converge or is not clearly simple."""
    done, most = 0, min(MOST, steps.n - WIDTH)
    if most < WIDTH:
        return None
    while done < most:
        k = min(max(done + ROUND, int(GROWTH * done)), most)
        steps.advance(done, k)
        done = k
        T = steps.projection(k)
        if not np.isfinite(T).all():
            return None
        values, vectors = _top_two(T[:k])
        if len(values) < 2 or not values[1] > 0.0:  # LAPACK gives none where very many agree
            return None
        following, value = values
        next_error, residual = map(float, np.linalg.norm(T[k:] @ vectors, axis=0))
        known = next_error <= max(0.1 * (value - following), tolerance * value)
        if residual <= tolerance * value and known:
            if value - following <= _SEPARATED * tolerance * value:
                return None
            return End(value, following, next_error, steps.combine(vectors[:, ::-1]))
    return None


def _top_two(T: FloatArray) -> tuple[list[float], FloatArray]:
    """Return the two largest eigenpairs, ascending: T is symmetric and banded, to rounding."""
    k = len(T)
    band = np.zeros((WIDTH + 1, k))
    for below in range(WIDTH + 1):
        band[below, : k - below] = (np.diag(T, -below) + np.diag(T, below)) / 2
    values, vectors = scipy.linalg.eig_banded(
        band, lower=True, select="i", select_range=(k - 2, k - 1), check_finite=False
    )
    return values.tolist(), vectors


def start(n: int) -> FloatArray:
    """Return orthonormal starting vectors (n x WIDTH), the same ones each time."""
    random = np.random.default_rng(20260101).normal(size=(n, WIDTH))
    basis: FloatArray = np.linalg.qr(random)[0]
    return basis
