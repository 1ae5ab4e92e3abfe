"""Gauges: reparameterizations that keep a function are preconditioners, and can be undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray
from ._instances import EPS, extractor, gaussian, kappa
from ._parameters import ANGLES, SEED, Parameters, Real, Reals, Whole
from ._theorem import OURS, Theorem, Verdict, at_most, equal


@dataclass(frozen=True)
class Pair:
    """Two linear layers, data for them, and an invertible matrix between them.

    Attributes
    ----------
    W1 : (h, d) array
        First layer, of full row rank.
    W2 : (c, h) array
        Second layer.
    X : (n, d) array
        Inputs, of full row rank.
    Y : (n, c) array
        Targets.
    A : (h, h) array
        Invertible: the layers become ``A W1`` and ``W2 A^-1``.
    momentum : float
        Of the descent, at least 0 and below 1.
    steps : int
        Of the descent.
    """

    W1: FloatArray
    W2: FloatArray
    X: FloatArray
    Y: FloatArray
    A: FloatArray
    momentum: float
    steps: int

    @property
    def condition(self) -> float:
        """Condition number of A."""
        return float(np.linalg.cond(self.A))

    @property
    def S(self) -> FloatArray:
        """``A^T A``, the preconditioner."""
        return np.asarray(self.A.T @ self.A)

    def gauged(self, A: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ``(A W1, W2 A^-1)``."""
        return np.asarray(A @ self.W1), np.asarray(self.W2 @ np.linalg.inv(A))

    def descend(self, A: FloatArray, *, by: FloatArray | None = None) -> list[FloatArray]:
        """Descend from ``(A W1, W2 A^-1)``, one row after another, and return both mapped back.

        With `by` the gradients of the layers are preconditioned by its inverse and by itself.
        """
        W = list(self.gauged(A))
        velocity = [np.zeros_like(each) for each in W]
        S = np.eye(len(A)) if by is None else by
        left = np.linalg.inv(S)
        for step in range(self.steps):
            row = [step % len(self.X)]
            x, y = self.X[row].T, self.Y[row].T
            r = W[1] @ W[0] @ x - y
            gradients = left @ W[1].T @ r @ x.T, r @ (W[0] @ x).T @ S
            for i, gradient in enumerate(gradients):
                velocity[i] = self.momentum * velocity[i] - self.rate * gradient
                W[i] = W[i] + velocity[i]
        return [np.linalg.solve(A, W[0]), W[1] @ A]

    @property
    def rate(self) -> float:
        """A step small enough that all of these runs stay bounded."""
        size = max(np.linalg.norm(self.A, 2), 1.0 / np.linalg.svd(self.A, compute_uv=False)[-1])
        curvature = (
            np.linalg.norm(self.X) ** 2
            * (np.linalg.norm(self.W1) + np.linalg.norm(self.W2) + 1.0) ** 2
        )
        return float(0.05 * (1.0 - self.momentum) / (size**2 * curvature))


def pair(
    seed: int, width: int, gaps: Sequence[float], left: Sequence[float], right: Sequence[float],
    scale: float, momentum: float = 0.0, steps: int = 1,
) -> Pair:  # fmt: skip
    """Build layers of a few rows: no more than units, so that their kernel is definite."""
    d, c, n = width + 2, width + 1, min(width, 3)
    A = extractor(gaps, left, right, width, width, width) * 10.0**scale
    # Factors with condition numbers of a few.
    W1, W2 = (
        np.linalg.qr(gaussian(seed + i, rows, width))[0] * np.geomspace(1.0, 0.3, width)
        for i, rows in ((0, d), (1, c))
    )
    X = np.linalg.qr(gaussian(seed + 2, d, n))[0].T
    return Pair(W1.T, W2, X, gaussian(seed + 3, n, c), A, momentum, steps)


def _preconditioner(case: Pair) -> Verdict:
    h = len(case.A)
    plain = case.descend(np.eye(h))
    gauged = case.descend(case.A)
    preconditioned = case.descend(np.eye(h), by=case.S)
    U, _, Vt = np.linalg.svd(case.A)
    turned = case.descend(U @ Vt)
    lost = 64 * h * EPS * case.condition**2 * (1 + case.steps)
    sizes = [float(np.linalg.norm(W)) for W in plain]
    claims = [
        equal(f"{name}, W{i + 1}", a[i], b[i], much, scale=sizes[i])
        for name, a, b, much in (
            ("a gauge is a preconditioner", gauged, preconditioned, lost),
            ("an orthogonal one is none", turned, plain, 64 * h * EPS * (1 + case.steps)),
        )
        for i in range(2)
    ]
    a = max(float(np.linalg.norm(B, 2)) for B in (case.A, np.linalg.inv(case.A)))
    before, after = (kappa(jacobian(case, A).T) for A in (np.eye(h), case.A))
    lost = 64 * h * EPS * (before**0.5 + after**0.5 + case.condition)
    claims.append(at_most("kappa(K_S) <= a^4 kappa(K)", after, a**4 * before, lost))
    return Verdict.of(*claims, kappa_A=case.condition, kappa_K=before, kappa_K_S=after)


def jacobian(case: Pair, A: FloatArray) -> FloatArray:
    """Jacobian of the outputs by the reparameterized layers, column by column, (n c, weights)."""
    W1, W2 = case.gauged(A)
    return np.hstack((np.kron(case.X, W2), np.kron(case.X @ W1.T, np.eye(len(W2)))))


def _balanced(W1: FloatArray, W2: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Balanced pair by one SVD between two triangles, and the matrix that leads there."""
    Q1, T1 = np.linalg.qr(W1.T)
    Q2, T2 = np.linalg.qr(W2)
    U, s, Vt = np.linalg.svd(T2 @ T1.T)
    root = np.sqrt(s)
    return root[:, None] * (Vt @ Q1.T), (Q2 @ U) * root, (U.T @ T2) / root[:, None]


def _mean(A: FloatArray, B: FloatArray) -> FloatArray:
    """Geometric mean of definite matrices, by square roots."""
    values, vectors = np.linalg.eigh(A)
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    values, vectors = np.linalg.eigh(inverse @ B @ inverse)
    between = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return np.asarray(root @ between @ root)


def _geometric_mean(case: Pair) -> Verdict:
    h = len(case.A)
    P, Q = case.W1 @ case.W1.T, case.W2.T @ case.W2
    mean = _mean(np.asarray(np.linalg.inv(P)), Q)
    one, two, B = _balanced(case.W1, case.W2)
    S = B.T @ B

    def value(S: FloatArray) -> float:
        return float(np.sum(S * P) + np.sum(np.linalg.inv(S) * Q))

    found, nuclear = value(S), float(np.linalg.svd(case.W2 @ case.W1, compute_uv=False).sum())
    lost = 256 * h * EPS * kappa(case.W1) * kappa(case.W2)
    wide = lost * case.condition**2
    again = _balanced(*case.gauged(case.A))
    between = _mean(S, case.S)
    apart = 0.5 * (found + value(case.S))
    size = float(np.linalg.norm(one) ** 2)
    return Verdict.of(
        equal("S P S = Q", S @ P @ S, Q, lost, scale=float(np.linalg.norm(Q))),
        equal("S = P^-1 # Q", S, mean, lost, scale=float(np.linalg.norm(S))),
        equal("value = 2 ||W2 W1||_*", found, 2.0 * nuclear, lost),
        equal("balanced", one @ one.T, two.T @ two, lost, scale=size),
        equal("product kept", two @ one, case.W2 @ case.W1, lost, scale=size),
        equal("orbit alone, W1", again[0].T @ again[0], one.T @ one, wide, scale=size),
        equal("orbit alone, W2", again[1] @ again[1].T, two @ two.T, wide, scale=size),
        at_most("least", found, value(case.S), wide),
        at_most("geodesically convex", value(between), apart, wide),
        value=found,
        of_A=value(case.S),
    )  # fmt: skip


LAYERS: Parameters = {
    "seed": SEED, "width": Whole(1, 5), "gaps": Reals(-8.0, 3.0, 0, 4), "left": ANGLES,
    "right": ANGLES, "scale": Real(-1.0, 1.0),
}  # fmt: skip
_PAIR = LAYERS | {"momentum": Real(0.0, 0.9), "steps": Whole(1, 30)}
_theorem = partial(Theorem, source=OURS, parameters=_PAIR, build=pair)

GAUGE = (
    _theorem(
        name="gauge-preconditioner", section="theory/gauge#a-gauge-is-a-preconditioner",
        verify=_preconditioner,
        statement="Gradient descent from reparameterized layers, with momentum and by rows or not, "
        "is preconditioned gradient descent from the layers themselves; an orthogonal matrix "
        "changes nothing.",
        formula="(A W1, W2 A^-1): W1 -= eta S^-1 grad_1, W2 -= eta grad_2 S, S = A^T A; "
        "kappa(K_S) <= max(||A||, ||A^-1||)^4 kappa(K)",
        hypotheses="A invertible; for the kernel, K definite",
    ),
    _theorem(
        name="balanced-pair", section="theory/gauge#the-balanced-pair", verify=_geometric_mean,
        statement="Of all reparameterizations of a pair of linear layers, the balanced pair has "
        "the least sum of squares, which is geodesically convex; it depends on their product "
        "alone, so that every gauge is undone without knowing it.",
        formula="argmin tr(S P) + tr(S^-1 Q) = P^-1 # Q, P = W1 W1^T, Q = W2^T W2: the pair "
        "(U Sigma^1/2, Sigma^1/2 V^T) of W2 W1 = U Sigma V^T, value 2 ||W2 W1||_*",
        hypotheses="P and Q definite",
    ),
)  # fmt: skip
