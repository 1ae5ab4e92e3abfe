"""The loss of gradient descent at any step, without running it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._floating import underflow_is_zero
from .._validate import FloatArray, as_float64, check_real
from ._predict import excess_curve
from ._problem import Problem


@underflow_is_zero
def loss_curve(
    Z: npt.ArrayLike,
    y: npt.ArrayLike,
    steps: npt.ArrayLike,
    *,
    weight_decay: float = 0.0,
    rank: int | None = None,
    computed_in: Any = None,
) -> FloatArray:
    r"""Loss of gradient descent from w = 0 with constant step 1 / sigma_max, in closed form.

    .. math:: L_t = L^* + \sum_i \frac{\sigma_i}{\sigma_i + \mu} (u_i^T y)^2
              \Big(1 - \frac{\sigma_i + \mu}{\sigma_1 + \mu}\Big)^{2t},

    with :math:`\sigma_i` the eigenvalues of the Hessian ``Z^T Z`` and u_i the left singular vectors
    of Z. How fast it falls is decided by where the labels lie, not by kappa alone.

    Parameters
    ----------
    Z, y, weight_decay, rank, computed_in
        As in :func:`probe`.
    steps : (T,) array_like
        Steps t at which to evaluate it, any nonnegative numbers: a million costs what one does.

    Returns
    -------
    (T,) array
        Losses, summed over samples and heads.

    Raises
    ------
    ValueError, OverflowError
        As in :func:`probe`; for a negative step.

    Notes
    -----
    Ours. ``probe(Z, y, method="gd-constant")`` measures the same curve.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> Z, y = np.diag([1.0, 1e-3]), np.array([1.0, 1.0])
    >>> ic.probing.loss_curve(Z, y, [0, 1, 10**6]).round(3)
    array([2.   , 1.   , 0.135])
    """
    t = as_float64(steps, "steps", ndim=1)
    if np.any(t < 0.0):
        raise ValueError(f"steps must be at least 0, got {t.min():g}")
    problem = Problem.of(Z, y, weight_decay, rank, computed_in)
    start = problem.excess
    curve: FloatArray = problem.loss_of(
        excess_curve(problem.curvature, problem.error, 1.0, t) * start
    )
    return curve


@underflow_is_zero
def steps_needed(
    Z: npt.ArrayLike,
    y: npt.ArrayLike,
    tolerance: float,
    *,
    weight_decay: float = 0.0,
    rank: int | None = None,
    computed_in: Any = None,
) -> int | None:
    """Count the steps of gradient descent (step 1 / sigma_max) to a loss near the best.

    Parameters
    ----------
    Z, y, weight_decay, rank, computed_in
        As in :func:`probe`.
    tolerance : float
        Done at a loss of ``(1 + tolerance)`` times the best; see `ProbeTrace.above`.

    Returns
    -------
    int or None
        The first such step; None where no number of steps below 2^63 suffices.

    Raises
    ------
    ValueError, OverflowError
        As in :func:`probe`.

    Notes
    -----
    Ours; by bisection on :func:`loss_curve`.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> Z = np.diag([1.0, 1e-4])[[0, 1, 1]]
    >>> ic.probing.steps_needed(Z, np.array([1.0, 1.0, 0.0]), 0.01)
    115129254
    """
    allowed = check_real(tolerance, "tolerance", low=0.0)
    problem = Problem.of(Z, y, weight_decay, rank, computed_in)
    h, e = problem.curvature, problem.error

    def reached(t: int) -> bool:
        excess = float(excess_curve(h, e, 1.0, np.array([float(t)]))[0]) * problem.excess
        return excess <= allowed * problem.measure_of_loss * problem.curvature_unit

    if reached(0):
        return 0
    high, most = 1, 2**63
    if allowed * problem.measure_of_loss == 0.0:
        most = 2  # the excess vanishes in one step or never, whatever underflow says
    while not reached(high):
        high *= 2
        if high >= most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
