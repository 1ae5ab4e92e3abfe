"""The attackers: each takes a problem and gives excess loss and squared distance, step by step.

From gradient descent, which a large kappa slows, to a least-squares solve, which sees none of it.
The first five run along the eigenvectors of the Hessian, where a step costs O(k); Adam, whitening
and the solvers work on the weights, for coordinates or rounding are the point of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .._descent import descend
from .._rank import default_rtol
from .._validate import FloatArray
from ._problem import Problem

# What an attacker yields at each step, from t = 0 on: excess loss and squared distance to w*, in
# the problem's units (``curvature_unit`` times the one, its square times the other).
Step = tuple[float, float]
Trajectory = tuple[FloatArray, FloatArray]  # the same by step, t = 0 first

# Constants of Adam, as its authors give them.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_MEMORY = 10  # pairs that L-BFGS remembers


def drive(method: Iterator[Step], steps: int, stop: float) -> Trajectory:
    """Trajectory of a method, until `steps` are done or the excess is at most `stop`.

    A method that returns has arrived as near as it can.
    """
    taken: list[Step] = []
    for step in islice(method, steps + 1):
        taken.append(step)
        if step[0] <= stop:
            break
    excess, distance = np.array(taken).T
    return excess.copy(), distance.copy()


# ---- along the eigenvectors of the Hessian ----


def gd_constant(problem: Problem, lr: float, steps: int, stop: float) -> Trajectory:
    """``e <- (1 - lr h) e`` along each eigenvector, h relative to the largest."""
    return descend(problem.curvature, problem.error, lr, steps, stop)


def gd(problem: Problem, _: float, steps: int, stop: float) -> Trajectory:
    """Take the same by exact line search: ``sum h^2 e^2 / sum h^3 e^2`` in place of lr."""
    return descend(problem.curvature, problem.error, 0.0, steps, stop)


def nesterov(problem: Problem) -> Iterator[Step]:
    """Step 1 / sigma_max, momentum ``(sqrt(kappa) - 1) / (sqrt(kappa) + 1)``.

    Nesterov, Introductory Lectures on Convex Optimization (2004), scheme (2.2.11).
    """
    h, e = problem.curvature, problem.error
    root = np.sqrt(h[-1])  # 1 / sqrt(kappa)
    momentum = (1.0 - root) / (1.0 + root)
    ahead = e
    while True:
        yield _measured(h, e)
        previous, e = e, ahead - h * ahead
        ahead = e + momentum * (e - previous)


def cg(problem: Problem) -> Iterator[Step]:
    """Run on the normal equations, as ``scipy.sparse.linalg.cg`` does.

    In exact arithmetic it ends after as many steps as there are distinct eigenvalues; in floating
    point a large kappa takes more.
    """
    h, e = problem.curvature, problem.error
    residual = -h * e
    direction = residual
    energy = float(residual @ residual)
    while True:
        yield _measured(h, e)
        along = h * direction
        bend = float(direction @ along)
        if energy == 0.0 or bend == 0.0:
            return
        alpha = energy / bend
        e = e + alpha * direction
        residual = residual - alpha * along
        previous, energy = energy, float(residual @ residual)
        direction = residual + (energy / previous) * direction


def lbfgs(problem: Problem) -> Iterator[Step]:
    """Two-loop recursion of Nocedal & Wright, Numerical Optimization, Algorithm 7.4.

    On a quadratic with exact line search its first steps are those of conjugate gradients; later
    rounding harms it less.
    """
    h, e = problem.curvature, problem.error
    gradient = h * e
    pairs: deque[tuple[FloatArray, FloatArray, float]] = deque(maxlen=_MEMORY)
    while True:
        yield _measured(h, e)
        direction = -gradient
        remembered = []
        for s, y, curvature in reversed(pairs):
            a = float(s @ direction) / curvature
            direction = direction - a * y
            remembered.append(a)
        if pairs:
            s, y, curvature = pairs[-1]
            direction = direction * (curvature / float(y @ y))
        for (s, y, curvature), a in zip(pairs, reversed(remembered), strict=True):
            direction = direction + (a - float(y @ direction) / curvature) * s
        along = h * direction
        bend = float(direction @ along)
        if bend == 0.0:
            return
        s = -float(gradient @ direction) / bend * direction
        y = h * s
        curvature = float(s @ y)
        if curvature == 0.0 or float(y @ y) == 0.0:
            return
        pairs.append((s, y, curvature))
        e = e + s
        gradient = h * e


def _measured(h: FloatArray, e: FloatArray) -> Step:
    """Excess loss and squared distance of an error along the eigenvectors."""
    return float(e @ (h * e)), float(e @ e)


# ---- on the weights ----


def adam(problem: Problem, lr: float) -> Iterator[Step]:
    """Kingma & Ba (2015), Algorithm 1, on the full gradient, with a constant step.

    Their epsilon is relative to the size of the gradient that a head of the natural size makes.
    """
    natural = problem.head_size
    w = np.zeros_like(problem.minimizer)
    first, second = np.zeros_like(w), np.zeros_like(w)
    epsilon = _EPSILON * natural
    t = 0
    while True:
        yield problem.measure(w)
        t += 1
        gradient = problem.apply(w - problem.minimizer)
        first = _BETA_1 * first + (1 - _BETA_1) * gradient
        second = _BETA_2 * second + (1 - _BETA_2) * gradient**2
        slope = first / (1 - _BETA_1**t)
        w = w - lr * natural * slope / (np.sqrt(second / (1 - _BETA_2**t)) + epsilon)


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


def lstsq(problem: Problem, dtype: npt.DTypeLike = np.float64) -> Iterator[Step]:
    """One solve on the features by ``scipy.linalg.lstsq`` (pivoted QR), in a precision of choice.

    It runs on the features themselves, so that what kappa costs in digits shows.
    """
    Z, y, mu = problem.Z, problem.y, problem.weight_decay
    A, b = Z, y
    if mu > 0.0:
        m = Z.shape[1]
        A = np.vstack([Z, np.sqrt(mu) * np.eye(m)])
        b = np.vstack([y, np.zeros((m, y.shape[1]))])
    root = np.sqrt(problem.curvature_unit)  # the weight decay may put it anywhere
    A = A / root
    yield problem.measure(np.zeros_like(problem.minimizer))
    cut = max(problem.rtol, default_rtol(Z.shape, dtype, "features"))
    A, b = A.astype(dtype), b.astype(dtype)
    w = scipy.linalg.lstsq(A, b, cond=cut, lapack_driver="gelsy")[0]
    yield problem.measure(w.astype(np.float64) * root)


# ---- all of them by name ----

Method = Literal[
    "gd", "gd-constant", "nesterov", "cg", "lbfgs", "adam", "whitening", "lstsq", "lstsq-float32"
]  # fmt: skip

Attacker = Callable[[Problem, float, int, float], Trajectory]


def _stepwise(method: Callable[[Problem, float], Iterator[Step]]) -> Attacker:
    return lambda problem, lr, steps, stop: drive(method(problem, lr), steps, stop)


# Each by (problem, step length, most steps, excess to stop at).
METHODS: dict[str, Attacker] = {
    "gd": gd,
    "gd-constant": gd_constant,
    "nesterov": _stepwise(lambda problem, _: nesterov(problem)),
    "cg": _stepwise(lambda problem, _: cg(problem)),
    "lbfgs": _stepwise(lambda problem, _: lbfgs(problem)),
    "adam": _stepwise(adam),
    "whitening": _stepwise(lambda problem, _: whitening(problem)),
    "lstsq": _stepwise(lambda problem, _: lstsq(problem)),
    "lstsq-float32": _stepwise(lambda problem, _: lstsq(problem, np.float32)),
}

# Those with a step length of their own to choose, and what it is by default.
STEP_LENGTHS = {"gd-constant": 1.0, "adam": 0.01}

# What tables call the attackers.
LABELS = {
    "gd": "gradient descent, line search", "gd-constant": "gradient descent, constant step",
    "nesterov": "Nesterov, kappa known", "cg": "conjugate gradients", "lbfgs": "L-BFGS",
    "adam": "Adam, step tuned", "whitening": "whitening, then descent", "lstsq": "least squares",
    "lstsq-float32": "least squares in float32",
}  # fmt: skip
