"""Gradient descent on a quadratic along the eigenvectors of its Hessian, step by step."""

from __future__ import annotations

from . import _core
from ._validate import FloatArray


def descend(
    curvature: FloatArray, error: FloatArray, lr: float, steps: int, stop: float
) -> tuple[FloatArray, FloatArray]:
    """Excess loss and squared distance to the minimizer by step, the start included.

    ``e <- (1 - lr h) e``, with lr = 0 by exact line search: ``sum h^2 e^2 / sum h^3 e^2`` in its
    place. It ends after `steps`, at an excess of at most `stop`, or where no gradient is left.

    Parameters
    ----------
    curvature, error : (k,) arrays
        Eigenvalues h > 0 of the Hessian, and the error e along their eigenvectors.
    """
    return _core.descend(curvature, error, step=lr, steps=steps, stop=stop)
