"""Who does not see a gauge: updates that transform with the weights, and adapters beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .._validate import FloatArray
from ._gauge import LAYERS, Pair, jacobian, pair
from ._instances import EPS, gaussian, kappa
from ._parameters import Parameters, Real, Whole
from ._theorem import OURS, Claim, Theorem, Verdict, equal

Layers = tuple[FloatArray, FloatArray]
Update = Callable[[FloatArray, Layers, FloatArray], Layers]
"""From inputs X, layers and residual (n, c), what a step subtracts from the layers, at rate 1."""


# ---- updates ----


def gradient(X: FloatArray, W: Layers, residual: FloatArray) -> Layers:
    """Gradients of ``||X W1^T W2^T - Y||^2 / 2``."""
    return W[1].T @ residual.T @ X, residual.T @ X @ W[0].T


def sign(X: FloatArray, W: Layers, residual: FloatArray) -> Layers:
    """Adam's first step."""
    one, two = gradient(X, W, residual)
    return np.sign(one), np.sign(two)


def orthogonalized(X: FloatArray, W: Layers, residual: FloatArray) -> Layers:
    """Muon's first step."""
    one, two = (np.linalg.svd(g, full_matrices=False) for g in gradient(X, W, residual))
    return one[0] @ one[2], two[0] @ two[2]


def kfac(
    X: FloatArray, W: Layers, residual: FloatArray, damping: Layers | None = None
) -> Layers:  # fmt: skip
    """K-FAC's step; the damping is added to the factors between the layers."""
    one, two = gradient(X, W, residual)
    H = X @ W[0].T
    units, features = W[1].T @ W[1], H.T @ H
    if damping is not None:
        units, features = units + damping[0], features + damping[1]
    one = np.linalg.solve(units, one) @ np.linalg.inv(X.T @ X)
    return np.asarray(one), np.asarray(np.linalg.solve(features, two.T).T)


def newton(X: FloatArray, W: Layers, residual: FloatArray) -> Layers:
    """Newton's step, on both layers at once."""
    H = hessian(X, W, residual)
    gradients = np.concatenate([g.ravel(order="F") for g in gradient(X, W, residual)])
    found = np.split(np.linalg.solve(H, gradients), [W[0].size])
    one, two = (x.reshape(w.shape, order="F") for x, w in zip(found, W, strict=True))
    return one, two


def hessian(X: FloatArray, W: Layers, residual: FloatArray) -> FloatArray:
    """Hessian of ``||X W1^T W2^T - Y||^2 / 2``, by the columns of W1 and then of W2."""
    h, d = W[0].shape
    J = np.hstack((np.kron(X, W[1]), np.kron(X @ W[0].T, np.eye(len(W[1])))))
    H, between = J.T @ J, np.einsum("nc,nd,hk->dhkc", residual, X, np.eye(h)).reshape(d * h, -1)
    H[: d * h, d * h :] += between
    H[d * h :, : d * h] += between.T
    return np.asarray(H)


EQUIVARIANT: Mapping[str, Update] = {"K-FAC": kfac, "Newton": newton}
OTHERS: Mapping[str, Update] = {
    "gradient": gradient, "sign": sign, "orthogonalized": orthogonalized,
}  # fmt: skip


@dataclass(frozen=True)
class Damped(Pair):
    """A pair of layers with more inputs than features, and a damping.

    Attributes
    ----------
    damping : float
        Of both factors of K-FAC between the layers: lambda in ``G + lambda I``; positive.
    """

    damping: float


def _damped(damping: float, balanced: float, **given: Any) -> Damped:
    """Build inputs with a definite Gram matrix, and the extremes of A about 1."""
    case = pair(**given, scale=0.0)
    d, c = case.X.shape[1], len(case.W2)
    X = np.linalg.qr(gaussian(given["seed"] + 2, d + 1, d))[0] * np.geomspace(1.0, 0.3, d)
    A = case.A * 10.0**balanced / case.condition**0.5
    Y = gaussian(given["seed"] + 3, d + 1, c)
    return Damped(case.W1, case.W2, X, Y, A, 0.0, 1, 10.0**damping)


def _step(case: Pair, A: FloatArray, update: Update) -> tuple[Layers, Layers]:
    """Reparameterized layers, and what the update subtracts from them."""
    W = case.gauged(A)
    return W, update(case.X, W, case.X @ W[0].T @ W[1].T - case.Y)


def _mapped(
    name: str, case: Pair, gauged: Update, plain: Update, lost: float
) -> tuple[Claim, Claim, Claim]:  # fmt: skip
    """Claims that a step from the gauged layers is the gauge of one from the layers themselves."""
    W, step = _step(case, case.A, gauged)
    before, own = _step(case, np.eye(len(case.A)), plain)
    mapped = case.A @ own[0], own[1] @ np.linalg.inv(case.A)
    one, two = (float(np.linalg.norm(x)) for x in mapped)
    reach = (float(np.linalg.norm(W[0])) + one) * (float(np.linalg.norm(W[1])) + two)
    after, expected = ((w[1] - s[1]) @ (w[0] - s[0]) for w, s in ((W, step), (before, own)))
    return (
        equal(f"{name}, W1", step[0], mapped[0], lost, scale=one),
        equal(f"{name}, W2", step[1], mapped[1], lost, scale=two),
        equal(f"{name}, product after it", after, expected, lost, scale=reach),
    )


def _unseen(case: Damped, updates: Mapping[str, Update] = EQUIVARIANT) -> Verdict:
    h = len(case.A)
    plain, (W1, W2) = np.eye(h), case.gauged(case.A)
    residual = case.X @ case.W1.T @ case.W2.T - case.Y
    curved = float(np.linalg.cond(hessian(case.X, (W1, W2), residual)))
    factors = max(kappa(W2), kappa(case.X @ W1.T)) * kappa(case.X)
    size = 64 * case.X.size * EPS
    claims = [
        claim
        for name, update in updates.items()
        for claim in _mapped(
            name, case, update, update, size * (curved if update is newton else factors)
        )
    ]
    # A damping sees the gauge: this is how.
    damped, turned = (
        partial(kfac, damping=(case.damping * B, np.asarray(case.damping * np.linalg.inv(B))))
        for B in (plain, case.S)
    )
    claims += _mapped("damped K-FAC", case, damped, turned, size * factors)
    # Gauss-Newton's matrix is singular along the gauge: of its steps the effect is the same.
    rank = h * (case.W1.shape[1] + len(case.W2) - h)
    J, gauged = (jacobian(case, B) for B in (plain, case.A))
    claims.append(
        equal("Gauss-Newton, outputs", _onto(gauged, residual, rank), _onto(J, residual, rank),
              size * kappa(gauged, rank) ** 0.5, scale=float(np.linalg.norm(residual)))
    )  # fmt: skip
    seen = {name: _change(case, update) for name, update in OTHERS.items()}
    return Verdict.of(*claims, kappa_A=case.condition, kappa_hessian=curved, **seen)


def _onto(J: FloatArray, residual: FloatArray, rank: int) -> FloatArray:
    """First-order change of the outputs by the Gauss-Newton step of least norm."""
    U, s, Vt = np.linalg.svd(J, full_matrices=False)
    return np.asarray(J @ (Vt[:rank].T @ (U[:, :rank].T @ residual.ravel() / s[:rank])))


def _change(case: Pair, update: Update) -> float:
    """Relative change by the gauge of what a short step does to the product."""
    before, after = (
        step[1] @ W[0] + W[1] @ step[0]
        for W, step in (_step(case, A, update) for A in (np.eye(len(case.A)), case.A))
    )
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


# ---- adapters ----


@dataclass(frozen=True)
class Adapted:
    """A pair of layers within a network, and an adapter of some rank for it.

    The network is ``tanh(W2 W1 x + Q P x)`` before a last layer, x the activations at the cut.

    Attributes
    ----------
    pair : Pair
        The layers, reparameterized by its A, and inputs and targets.
    last : (c, c) array
        What follows.
    P : (r, d) array
        First factor of the adapter.
    Q : (c, r) array
        Second factor.
    """

    pair: Pair
    last: FloatArray
    P: FloatArray
    Q: FloatArray

    def hidden(self, A: FloatArray, P: FloatArray, Q: FloatArray) -> FloatArray:
        """Activations after the gauged pair and the adapter beside it, (n, c)."""
        W1, W2 = self.pair.gauged(A)
        return np.tanh(self.pair.X @ (W2 @ W1 + Q @ P).T)

    def slope(self, A: FloatArray, P: FloatArray, Q: FloatArray) -> FloatArray:
        """Jacobian of the outputs by those of the pair, (n, c, c)."""
        return np.asarray(self.last * (1.0 - self.hidden(A, P, Q) ** 2)[:, None, :])

    def train(self, A: FloatArray) -> FloatArray:
        """Descend on the adapter alone, beside the layers, and return the outputs of each step."""
        P, Q, X, outputs = self.P, self.Q, self.pair.X, []
        size = sum(float(np.linalg.norm(x)) for x in (P, Q, self.last, X, self.pair.Y))
        for _ in range(self.pair.steps):
            outputs.append(self.hidden(A, P, Q) @ self.last.T)
            back = np.einsum("no,noc->nc", outputs[-1] - self.pair.Y, self.slope(A, P, Q))
            one, two = Q.T @ back.T @ X, back.T @ X @ P.T
            P, Q = P - one / size**2, Q - two / size**2
        return np.array(outputs)


def _adapted(rank: int, **given: Any) -> Adapted:
    case, seed = pair(**given), given["seed"]
    d, c = case.W1.shape[1], len(case.W2)
    P, Q = gaussian(seed + 4, rank, d), gaussian(seed + 5, c, rank)
    return Adapted(case, gaussian(seed + 6, c, c), P, Q)


def kernel(slope: FloatArray, reads: FloatArray, P: FloatArray, Q: FloatArray) -> FloatArray:
    """Gauss-Newton kernel of an adapter ``Q P`` that reads these activations."""
    one = np.einsum("nd,nor->nodr", reads, slope @ Q)
    two = np.einsum("nr,noc->norc", reads @ P.T, slope)
    J = np.concatenate([x.reshape(slope.shape[0] * slope.shape[1], -1) for x in (one, two)], axis=1)
    return np.asarray(J @ J.T)


def _beside(case: Adapted) -> Verdict:
    layers, A, X, P = case.pair, case.pair.A, case.pair.X, case.P
    h, rank, none = len(A), len(P), np.zeros_like(case.Q)
    W1, W2 = layers.gauged(A)
    plain, lost = np.eye(h), 64 * (case.last.size + X.size) * EPS * layers.condition

    def size(*factors: FloatArray) -> float:
        norms = [float(np.linalg.norm(x)) ** 2 for x in (case.last, X, *factors)]
        return math.prod(norms)

    one, two = (kernel(case.slope(B, P, case.Q), X, P, case.Q) for B in (A, plain))
    claims = [
        equal("beside: kernel", one, two, lost, scale=size(P) + size(case.Q)),
        equal("beside: training", case.train(A), case.train(plain), lost * (1 + layers.steps),
              scale=float(np.linalg.norm(case.last))),
    ]  # fmt: skip
    # Within, as LoRA starts: its second factor is 0, and the function as it was.
    before, after = (case.slope(B, P, none) for B in (plain, A))
    inner, start = P[:, :h], np.zeros((h, rank))
    between = layers.W2 @ np.linalg.inv(layers.S) @ layers.W2.T
    first, second = kernel(after @ W2, X, P, start), kernel(after, X @ W1.T, inner, none)
    reads = X @ layers.W1.T @ (inner @ A).T
    claims += [
        equal("within W1", first, _curvature(X @ P.T, before, between), lost * layers.condition,
              scale=size(P, W2)),
        equal("within W2", second, _curvature(reads, before, np.eye(len(W2))),
              lost * layers.condition, scale=size(inner, W1)),
    ]  # fmt: skip
    seen = kernel(before @ layers.W2, X, P, start)
    change = float(np.linalg.norm(first - seen) / np.linalg.norm(seen))
    return Verdict.of(*claims, kappa_A=layers.condition, change_within=change)


def _curvature(reads: FloatArray, slope: FloatArray, between: FloatArray) -> FloatArray:
    """Kernel (n c, n c) of the Gram matrix of what is read, and of slopes with this between."""
    outer = np.einsum("nox,xy,mpy->nomp", slope, between, slope)
    n, c = slope.shape[:2]
    return np.asarray(((reads @ reads.T)[:, None, :, None] * outer).reshape(n * c, n * c))


_DAMPED: Parameters = {
    **{name: kind for name, kind in LAYERS.items() if name != "scale"},
    "balanced": Real(-0.5, 0.5), "damping": Real(-6.0, 0.0),
}  # fmt: skip

EQUIVARIANCE = (
    Theorem(
        name="equivariant-updates", source=OURS, section="theory/gauge#who-does-not-see-a-gauge",
        parameters=_DAMPED, build=_damped, verify=_unseen,
        statement="K-FAC's and Newton's step from reparameterized layers are the "
        "reparameterization of their step from the layers themselves; a Gauss-Newton step changes "
        "the outputs alike to first order. A damping lambda I is one of lambda S and lambda S^-1.",
        formula="(A W1, W2 A^-1): G' = A^-T G A^-1, G'^-1 grad_1' = A G^-1 grad_1; H' = T^-T H "
        "T^-1, H'^-1 grad' = T H^-1 grad; J' J'^+ = J J^+",
        hypotheses="A, the factors of K-FAC and the Hessian invertible",
    ),
    Theorem(
        name="parallel-adapter", source=OURS, section="theory/gauge#adapters-beside-a-block",
        parameters=LAYERS | {"steps": Whole(1, 30), "rank": Whole(1, 3)}, build=_adapted,
        verify=_beside,
        statement="An adapter beside a block whose input and output maps a lock keeps has the "
        "Gauss-Newton kernel that it has beside the original block, and trains the same; one "
        "within the block has S^-1 or A in its kernel.",
        formula="f' = f at every (P, Q) of B(x) + Q P x; within, at Q = 0: W1' + Q P has X P^T P "
        "X^T (x) W2 S^-1 W2^T, W2' + Q P has H A^T P^T P A H^T (x) I, S = A^T A",
        hypotheses="A invertible; the rest of the network is left as it is",
    ),
)  # fmt: skip
