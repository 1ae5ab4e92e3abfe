"""What theory says of each attacker, without running it: the loss of descent exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._rank import epsilon
from .._validate import FloatArray, as_float64, check_real, converted
from ._problem import Problem

# Excess loss relative to that at the start, and norm ratio; None where nothing is known.
Curve = FloatArray | None


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


def as_steps(t: npt.ArrayLike, name: str) -> FloatArray:
    """Return numbers of steps, however many, as floats."""
    given = converted(float(t) if isinstance(t, int) else t, name)  # of any size
    if given.dtype.kind not in "biuf":  # NumPy reads numbers in texts, and half of complex ones
        raise TypeError(f"{name} must hold numbers of steps, and is {t!r:.80}")
    steps: FloatArray = given.astype(np.float64)
    if not np.all((steps >= 0.0) & np.isfinite(steps)):
        raise ValueError(f"{name} must hold numbers of steps, at least 0, and is {t!r:.80}")
    return steps


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
    return first_within(Problem.of(Z, y, weight_decay, rank, computed_in), allowed)


def first_within(problem: Problem, allowed: float) -> int | None:
    """Return the first step of length 1 / sigma_max whose loss is above the best by so much."""
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


def predicted(problem: Problem, method: str, lr: float, t: FloatArray) -> tuple[Curve, Curve]:
    """Excess loss (relative to the first) and norm ratio at steps t: see `ProbeTrace`."""
    h, e = problem.curvature, problem.error
    inverse = float(h[-1])  # 1 / kappa
    root = math.sqrt(inverse)
    if method == "gd":
        # Kantorovich for the loss; the norm ratio's bound is the paper's Eq. 2.
        return _power((1.0 - inverse) / (1.0 + inverse), 2 * t), _power(1.0 - inverse, t)
    if method == "gd-constant":
        worst = float(np.max(np.abs(1.0 - lr * h)))
        return excess_curve(h, e, lr, t), _power(worst, 2 * t)
    if method == "nesterov":
        start, far = float(e @ (h * e)), float(e @ e)
        head = 1.0 + inverse * far / start if start else 1.0
        bound = head * _power(1.0 - root, t)
        return bound, bound * (start / (inverse * far) if far else 1.0)
    if method == "cg":
        bound = np.minimum(1.0, 4.0 * _power((1.0 - root) / (1.0 + root), 2 * t))
        return bound, np.minimum(1.0, bound / inverse)
    if method in ("lstsq", "lstsq-float32", "whitening"):
        eps = epsilon(np.float32 if method == "lstsq-float32" else np.float64)
        return None, np.where(t == 0, 1.0, min(1.0, _lost(problem, method, eps) ** 2))
    return None, None


def excess_curve(h: FloatArray, e: FloatArray, lr: float, t: FloatArray) -> FloatArray:
    """``sum h e^2 (1 - lr h)^(2 t)``, relative to t = 0: exact for a constant step."""
    energy = h * e**2
    total = float(energy.sum())
    if total == 0.0:
        return np.zeros_like(t)
    curve: FloatArray = decay(lr * h, t) @ (energy / total)
    return curve


def decay(x: FloatArray, t: FloatArray) -> FloatArray:
    """``(1 - x)^(2 t)`` for every t (its axes first) and x in [0, 2]."""
    # log |1 - x| by log1p: a small x would vanish beside 1. At x = 1 one step is enough.
    logs = np.where(x < 1.0, np.log1p(-np.minimum(x, 0.5)), 0.0)
    logs = np.where(x > 0.5, np.log(np.maximum(np.abs(1.0 - x), 1e-300)), logs)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.exp(2.0 * np.multiply.outer(t, logs)))


def _lost(problem: Problem, method: str, eps: float) -> float:
    """Relative error of the solved head, to an order of magnitude."""
    kappa = 1.0 / float(problem.curvature[-1])
    if method == "whitening":
        return kappa * eps
    reached = float(np.linalg.norm(problem.minimizer)) / math.sqrt(problem.curvature_unit)
    residual = math.sqrt(max(0.0, problem.best_loss)) / reached if reached else 0.0
    return math.sqrt(kappa) * eps + kappa * eps * residual


def _power(base: float, t: FloatArray) -> FloatArray:
    with np.errstate(under="ignore"):
        power: FloatArray = np.float64(base) ** t
    return power
