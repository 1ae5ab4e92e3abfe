"""SpecDef, a lock of others: how fast each direction of a locked layer learns, and its rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray
from ._instances import EPS, gaussian, rotation, spectrum
from ._parameters import ANGLES, SEED, Parameters, Real, Reals, Whole
from ._theorem import OURS, Theorem, Verdict, at_most, equal


@dataclass(frozen=True)
class SpecDef:
    """A linear layer, the lock that SpecDef makes of it, and a task.

    ``W = U Sigma V^T`` becomes ``U T Sigma V^T`` before an inserted ``C = U T^-1 U^T``, U being
    its r = min(c, d) left singular vectors.

    Attributes
    ----------
    U : (c, c) array
        Orthogonal; the first r columns are the left singular vectors.
    s : (r,) array
        Singular values, positive.
    V : (d, d) array
        Orthogonal, likewise.
    t : (r,) array
        Diagonal of T: alpha for the first k, and 1.
    X : (n, d) array
        Inputs.
    Y : (n, c) array
        Targets.
    rate : float
        Step, in units of the largest that is stable where W itself is trained.
    steps : int
        Of the descent.
    bits : int
        Of the significand of the stored weights: u = 2^-bits.
    """

    U: FloatArray
    s: FloatArray
    V: FloatArray
    t: FloatArray
    X: FloatArray
    Y: FloatArray
    rate: float
    steps: int
    bits: int

    @property
    def strength(self) -> float:
        """Alpha, 1 where nothing is locked."""
        return float(self.t.max())

    @property
    def W(self) -> FloatArray:
        """The layer, (c, d)."""
        r = self.s.size
        return np.asarray((self.U[:, :r] * self.s) @ self.V[:, :r].T)

    @property
    def locked(self) -> tuple[FloatArray, FloatArray]:
        """``C`` (c, c) and ``U T Sigma V^T`` (c, d)."""
        U = self.U[:, : self.s.size]
        return (U / self.t) @ U.T, (U * (self.t * self.s)) @ self.V[:, : self.s.size].T

    @property
    def step(self) -> float:
        """The rate, as a step."""
        return float(self.rate / np.linalg.norm(self.X, 2) ** 2)


def _specdef(
    seed: int, shape: int, width: int, gaps: Sequence[float], left: Sequence[float],
    right: Sequence[float], scale: float, top: int, strength: float, rate: float, steps: int,
    bits: int,
) -> SpecDef:  # fmt: skip
    c, d = width + max(shape, 0), width - min(shape, 0)
    s = spectrum(gaps, width, 2.0) * 10.0**scale
    t = np.where(np.arange(width) < top, 10.0**strength, 1.0)
    X = np.linalg.qr(gaussian(seed, d + 2, d))[0] * np.geomspace(1.0, 0.3, d)
    Y = gaussian(seed + 1, d + 2, c) * s[0]
    U, V = rotation(left, c), rotation(right, d)
    return SpecDef(U, s, V, t, X, Y, rate, steps, bits)


def _descend(case: SpecDef, C: FloatArray, first: FloatArray, scale: FloatArray) -> FloatArray:
    """Descend on the first layer, its rows at so many times the step, and return all products."""
    products = []
    for _ in range(case.steps + 1):
        products.append(C @ first)
        residual = case.X @ products[-1].T - case.Y
        first = first - case.step * scale @ C.T @ residual.T @ case.X
    return np.array(products)


def _rates(case: SpecDef) -> Verdict:
    W, (C, first), (c, d), r, U = case.W, case.locked, case.W.shape, case.s.size, case.U
    size, norm = 64 * max(case.X.shape) * EPS, float(np.linalg.norm(W))
    slow = np.pad(case.t**-2.0, (0, c - r))  # by output direction
    stiff = np.pad((case.t * case.s) ** 2, (0, d - r))  # by input direction
    S, inverse = (U[:, :r] * case.t**2) @ U[:, :r].T, (U * slow) @ U.T
    # A step by the gradients of both layers.
    eta, G = case.step, (case.X @ W.T - case.Y).T @ case.X
    residual = case.X @ first.T @ C.T - case.Y
    one, two = eta * residual.T @ (case.X @ first.T), eta * C.T @ residual.T @ case.X
    found = (C - one) @ (first - two)
    expected = W - eta * (inverse @ G + G @ W.T @ S @ W) + eta**2 * G @ W.T @ G
    reach = np.prod([np.linalg.norm(x) + np.linalg.norm(y) for x, y in ((C, one), (first, two))])
    # Jacobian of the product by both layers, row by row, in the singular bases.
    J = np.kron(U.T, case.V.T) @ np.hstack((np.kron(np.eye(c), first.T), np.kron(C, np.eye(d))))
    lengths = np.linalg.norm(J, axis=1)
    unit = J / lengths[:, None]
    lost = size * case.strength * float(case.s[0] / case.s[-1])
    kappa = float(lengths.max() / lengths.min()) ** 2
    # With C frozen, over all steps and for any inputs; I: the layer itself.
    plain = np.eye(c)
    frozen = _descend(case, C, first, plain)
    alone, unlocked = _descend(case, plain, W, inverse), _descend(case, plain, W, plain)
    free, total = U[:, :r][:, case.t == 1.0], norm + 4.0 * float(np.linalg.norm(case.Y))
    much = size * case.strength * (1 + case.steps)
    claims = [
        equal("C W~ = W", C @ first, W, size * case.strength, scale=norm),
        equal("a step, to second order", found, expected, size * case.strength, scale=float(reach)),
        equal("rates", lengths**2, (slow[:, None] + stiff).ravel(), lost),
        equal("each on its own", unit @ unit.T, np.eye(c * d), size * kappa**0.5, scale=1.0),
        equal("C frozen", frozen, alone, much, scale=total),
    ]
    if free.size:
        mine, own = free.T @ frozen, free.T @ unlocked
        claims.append(equal("C frozen, where t = 1", mine, own, much, scale=total))
    elif c == d:
        least = float(case.s[0] / case.s[-1]) ** 2
        claims.append(at_most("T on all: kappa <= kappa(W)^2", kappa, least, lost))
    return Verdict.of(*claims, strength=case.strength, kappa=kappa)


def stored(x: FloatArray, bits: int) -> FloatArray:
    """Round to the nearest numbers with so many bits, ties to even."""
    significand, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.rint(np.ldexp(significand, bits)), exponent - bits))


def perturbed(case: SpecDef) -> tuple[FloatArray, FloatArray]:
    """Both layers, each entry off by u: towards an output direction that C does not shrink."""
    C, first = case.locked
    out, u = np.sign(case.U[:, [case.s.size - 1]]), 2.0**-case.bits
    return (
        C + u * np.abs(C) * out * np.sign(case.U[:, 0]),
        first + u * np.abs(first) * out * np.sign(case.V[:, 0]),
    )


def _precision(case: SpecDef) -> Verdict:
    W, (C, first), u, r = case.W, case.locked, 2.0**-case.bits, case.s.size
    norm, size = float(np.linalg.norm(W)), float(np.linalg.norm(np.abs(C), 2))
    bound = u * float(np.linalg.norm(first)) / norm * (1.0 + (1.0 + u) * size)
    most = float(r**0.5)
    if len(C) == r:
        most = min(most, 1.0 + np.count_nonzero(case.t != 1.0))
    layers = {"nearest": tuple(stored(x, case.bits) for x in (C, first)), "worst": perturbed(case)}
    errors = {
        name: float(np.linalg.norm(one @ two - W)) / norm for name, (one, two) in layers.items()
    }
    lost = 64 * max(W.shape) * EPS / u
    claims = [
        at_most(f"{name}: error <= bound", error, bound, lost) for name, error in errors.items()
    ]
    simple = u * case.strength * (1.0 + (1.0 + u) * most)
    claims.append(at_most("bound <= u alpha (1 + (1 + u) q)", bound, simple, lost))
    figure = errors["nearest"] / (u * case.strength)
    return Verdict.of(*claims, strength=case.strength, u=u, error_in_u_alpha=figure, **errors)


_LOCK: Parameters = {
    "seed": SEED, "shape": Whole(-2, 2), "width": Whole(1, 6), "gaps": Reals(-8.0, 3.0, 0, 5),
    "left": ANGLES, "right": ANGLES, "scale": Real(-1.0, 1.0), "top": Whole(0, 6),
    "strength": Real(0.0, 3.0), "rate": Real(0.0, 1.9), "steps": Whole(1, 30),
    "bits": Whole(4, 24),
}  # fmt: skip
_theorem = partial(Theorem, source=OURS, parameters=_LOCK, build=_specdef)

SPECDEF = (
    _theorem(
        name="specdef-rates", section="theory/gauge#specdef", verify=_rates,
        statement="A step from layers that SpecDef locked moves their product at a rate of its own "
        "in each pair of singular directions: fast for the top right ones; with the inserted layer "
        "frozen, as the unlocked layer moves, but for the k top left ones.",
        formula="W+ = W - eta (S^-1 G + G W^T S W) + eta^2 G W^T G, S = U T^2 U^T; whitened: rate "
        "t_i^-2 + t_j^2 sigma_j^2; C frozen: t_i^-2",
        hypotheses="W of full rank, G the gradient by it; where W has more rows than columns, S^-1 "
        "is the pseudo-inverse",
    ),
    _theorem(
        name="specdef-precision", section="theory/gauge#what-rounding-costs", verify=_precision,
        statement="Stored with unit roundoff u, the layers that SpecDef made compute another "
        "matrix, off by a multiple of u alpha at most.",
        formula="||C~ W~~ - W||_F / ||W||_F <= u ||W~||_F/||W||_F (1 + (1 + u) || |C| ||) <= "
        "u alpha (1 + (1 + u) q), q = min(1 + k, sqrt(c)) if c <= d, else sqrt(d)",
        hypotheses="each stored entry relatively off by at most u: no underflow; W c x d of full "
        "rank",
    ),
)  # fmt: skip
