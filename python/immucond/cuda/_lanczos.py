"""Band Lanczos: when it has converged. What multiplies, and where, is the steps' affair."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from .._validate import FloatArray

WIDTH = 2  # starting vectors: two see a double eigenvalue, where one takes it for simple
MOST = 192  # products, after which a direct method is the cheaper way
ROUND = 16  # products between two looks at the projection
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
    while done < most:
        k = min(done + ROUND, most)
        steps.advance(done, k)
        done = k
        T = steps.projection(k)
        if not np.isfinite(T).all():
            return None
        values, vectors = np.linalg.eigh((T[:k] + T[:k].T) / 2)
        value, following = float(values[-1]), float(values[-2])
        if not value > 0.0:
            return None
        residual, next_error = (float(np.linalg.norm(T[k:] @ vectors[:, -i])) for i in (1, 2))
        known = next_error <= max(0.1 * (value - following), tolerance * value)
        if residual <= tolerance * value and known:
            if value - following <= _SEPARATED * tolerance * value:
                return None
            return End(value, following, next_error, steps.combine(vectors[:, [-1, -2]]))
    return None


def start(n: int) -> FloatArray:
    """Return orthonormal starting vectors (n x WIDTH), the same ones each time."""
    random = np.random.default_rng(20260101).normal(size=(n, WIDTH))
    basis: FloatArray = np.linalg.qr(random)[0]
    return basis
