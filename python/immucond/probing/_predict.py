"""What theory says of each attacker, to set beside what it did."""

from __future__ import annotations

import math

import numpy as np

from .._rank import epsilon
from .._validate import FloatArray
from ._problem import Problem

# Excess loss relative to that at the start, and norm ratio; None where nothing is known.
Curve = FloatArray | None


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
    # log |1 - lr h| by log1p: a small h would vanish beside 1. At lr h = 1 one step is enough.
    step = lr * h
    logs = np.where(step < 1.0, np.log1p(-np.minimum(step, 0.5)), 0.0)
    logs = np.where(step > 0.5, np.log(np.maximum(np.abs(1.0 - step), 1e-300)), logs)
    with np.errstate(under="ignore"):
        curve: FloatArray = np.exp(2.0 * np.multiply.outer(t, logs)) @ (energy / total)
    return curve


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
