"""Directions that no row of either task has are left out of every step, and put back at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._rank import default_rtol
from .._task import Root
from .._validate import FloatArray

# Units of rounding within which a direction of null(K_P) counts as one of null(K_H) too.
_ROUNDING = 16.0


@dataclass(frozen=True)
class Reduction:
    """Coordinates of range(K_P) + range(K_H) + span(omega), in which descent stays.

    Started at the identity, every method that descends along gradients (of orthogonally invariant
    functions) moves theta and omega within that subspace, on both sides: theta is
    ``I + B (T - I) B^T`` all along, with T the extractor in the coordinates B.

    Attributes
    ----------
    basis : (d, r) array
        Orthonormal columns, B.
    """

    basis: FloatArray

    def extractor(self, reduced: FloatArray) -> FloatArray:
        """Theta from T."""
        d, r = self.basis.shape
        moved: FloatArray = self.basis @ (reduced - np.eye(r)) @ self.basis.T
        return np.eye(d) + moved


def reduction(P: Root, H: Root, omega: FloatArray) -> Reduction | None:
    """Find the subspace; None where it is everything."""
    c = omega.shape[1]
    if P.dim - max(P.rank, H.rank) <= c:
        return None
    null = P.null_basis
    _, sines, vt = np.linalg.svd(H.range_basis.T @ null)
    tolerance = _ROUNDING * default_rtol(null.shape, np.float64)
    joint = null @ vt[np.count_nonzero(sines > tolerance) :].T
    if joint.shape[1] <= c:
        return None
    # The head's own part there stays in.
    turned = np.linalg.qr(joint.T @ omega, mode="complete")[0]
    left_out = joint @ turned[:, c:]
    complete = np.linalg.qr(left_out, mode="complete")[0]
    return Reduction(complete[:, left_out.shape[1] :])
