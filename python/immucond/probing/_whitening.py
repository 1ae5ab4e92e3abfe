"""Gradient descent on whitened features: an attacker who needs no knowledge of theta."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .._rank import default_rtol
from ._driver import Step
from ._problem import Problem


def whitening(problem: Problem) -> Iterator[Step]:
    """Exact line search along ``H^-1`` times the gradient: what whitened features make of descent.

    H is formed and diagonalized, as whitening does, and the gradient is that of the features: what
    kappa costs in digits shows.
    """
    Z, y, unit = problem.Z, problem.y, problem.curvature_unit
    mu = problem.weight_decay / unit
    H = Z.T @ Z / unit + mu * np.eye(Z.shape[1])
    values, vectors = np.linalg.eigh(H)
    kept = values > default_rtol(H.shape, np.float64) * values[-1]
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    w = np.zeros_like(problem.minimizer)
    last = np.inf
    while True:
        excess, distance = problem.measure(w)
        yield excess, distance
        if excess >= last:
            return  # rounding is all that is left
        last = excess
        gradient = Z.T @ (Z @ (w / unit) - y) + mu * w
        seen = whiten.T @ gradient
        direction = whiten @ seen
        bend = float(np.vdot(direction, H @ direction))
        if bend == 0.0:
            return
        w = w - (float(np.sum(seen**2)) / bend) * direction
