"""The gradients of the regularizers, by their formulas and the chain rule, and steps along them.

Differentiability is checked by a secant whose remainder is bounded by second-order perturbation
theory: ``|f(S + tE) - f(S) - t <G, E>|`` may not pass the bound, which falls as t^2. The steps keep
singular vectors; they need no inverse of K, and for few samples no m x m matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._regularizers import SpectralRegularizer, r_ill, r_well
from .._validate import FloatArray, as_float64, as_theta
from ._instances import EPS, gaussian, rotation, rounding, singular_values, spectrum
from ._parameters import ANGLES, SEED, Parameters, Reals, Whole
from ._theorem import NENOV, OURS, PAPER, Claim, Theorem, Verdict, at_most, equal


@dataclass(frozen=True)
class Slope:
    """A matrix through its decomposition, and a direction to walk in.

    Attributes
    ----------
    U, V : (d, k) and (m, k) arrays
        Singular vectors.
    sigma : (k,) array
        Singular values, strictly descending.
    E : (d, m) array
        Direction of Frobenius norm 1.
    """

    U: FloatArray
    sigma: FloatArray
    V: FloatArray
    E: FloatArray

    @property
    def S(self) -> FloatArray:
        """The matrix."""
        return (self.U * self.sigma) @ self.V.T


@dataclass(frozen=True)
class Extractor:
    """An extractor, a Gram matrix, and a direction to walk in.

    Attributes
    ----------
    theta : (d, m) array
        Extractor.
    K : (d, d) array
        Gram matrix.
    rank : int
        Rank of ``theta^T K theta``.
    E : (d, m) array
        Direction of Frobenius norm 1.
    """

    theta: FloatArray
    K: FloatArray
    rank: int
    E: FloatArray

    def __post_init__(self) -> None:
        K = as_float64(self.K, "K")
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "theta", as_theta(self.theta, K.shape[0]))

    @property
    def H(self) -> FloatArray:
        """``theta^T K theta``, symmetric to the bit."""
        H = self.theta.T @ self.K @ self.theta
        return (H + H.T) / 2


def slope(
    gaps: Sequence[float], extra_rows: int, left: Sequence[float], right: Sequence[float],
    direction: int,
) -> Slope:  # fmt: skip
    """Build S from gaps between its singular values."""
    k = len(gaps) + 1
    d = k + extra_rows
    return Slope(
        rotation(left, d)[:, :k],
        spectrum(gaps, k, 6.0),
        rotation(right, k),
        _unit(gaussian(direction, d, k)),
    )


def extractor(
    gaps: Sequence[float], null: int, inputs: Sequence[float],
    left: Sequence[float], right: Sequence[float], direction: int,
) -> Extractor:  # fmt: skip
    """Build H with the given spectrum: theta = Q_K K^-1/2 sqrt(spectrum) Q, identity on null(K)."""
    k = len(gaps) + 1
    d = k + null
    basis, gamma = rotation(left, d), spectrum(inputs, k, 3.0)
    K = (basis[:, :k] * gamma) @ basis[:, :k].T
    stretch = np.ones(d)
    stretch[:k] = np.sqrt(spectrum(gaps, k, 6.0) / gamma)
    theta = (basis * stretch) @ rotation(right, d)
    return Extractor(theta, (K + K.T) / 2, k, _unit(gaussian(direction, d, d)))


def _unit(E: FloatArray) -> FloatArray:
    return np.asarray(E / np.linalg.norm(E))


# ---- by the matrix ----


def _curved(moved: FloatArray, size: float, gap: float, t: float) -> float:
    """Bound on the remainder of an extreme eigenvalue of S^T S (docs: gradients).

    The change itself is about t: a remainder that falls as t^2 makes the slope the derivative.
    """
    return t * t * (4 * size**2 / (gap - 4 * t * size) + float(np.sum(moved**2)))


def _ill_gradient(case: Slope) -> Verdict:
    s, k = case.sigma, case.sigma.size
    D = float(np.sum((s - s[-1]) * (s + s[-1]))) / (2 * k)
    value, G = r_ill.value_and_grad(case.S, rank=k)
    pair = np.outer(case.U[:, -1], case.V[:, -1])
    expected = case.S / k - s[-1] * pair  # grad D = -D^2 grad R_ill
    noise = rounding(max(case.S.shape), float(s[0]) ** 2)
    turned = float(s[-1] / (s[-2] - s[-1]))  # how far rounding turns u_k and v_k, times sigma_k
    gap = float((s[-2] - s[-1]) * (s[-2] + s[-1]))
    t = gap / (64 * float(s[0]))
    ahead = 1 / r_ill(case.S + t * case.E, rank=k)
    slope = -(D**2) * float(np.sum(G * case.E))
    remainder = t * t / (2 * k) + _curved(case.E, float(s[0]), gap, t) / 2
    return Verdict.of(
        equal("formula", -(D**2) * G, expected, 64 * k * EPS * (1 + turned) * float(s[0]) ** 2 / D
              + 64 * k * EPS * (1 + turned), scale=float(s[0])),
        at_most("derivative", abs(ahead - D - t * slope), remainder + noise),
        sigma=s,
        step=t,
        r_ill=value,
    )  # fmt: skip


def _well_gradient(case: Slope) -> Verdict:
    s, p = case.sigma, case.sigma.size
    value, G = r_well.value_and_grad(case.S, rank=p)
    pair = np.outer(case.U[:, 0], case.V[:, 0])
    expected = s[0] * pair - case.S / p
    noise = rounding(max(case.S.shape), float(s[0]) ** 2)
    turned = float(s[0] / (s[0] - s[1]))
    gap = float((s[0] - s[1]) * (s[0] + s[1]))
    t = gap / (64 * float(s[0]))
    change = r_well(case.S + t * case.E, rank=p) - value
    remainder = t * t / (2 * p) + _curved(case.E, float(s[0]), gap, t) / 2
    return Verdict.of(
        equal("formula", G, expected, 64 * p * EPS * (1 + turned), scale=float(s[0])),
        at_most("derivative", abs(change - t * float(np.sum(G * case.E))), remainder + noise),
        sigma=s,
        step=t,
        r_well=value,
    )


# ---- by theta ----


def _theta_gradient(case: Extractor) -> Verdict:
    claims = [_by_theta(r, case) for r in (r_well, r_ill)]
    return Verdict.of(*claims, theta=case.theta, K=case.K)


def _by_theta(r: SpectralRegularizer, case: Extractor) -> Claim:
    """Secant of R_well, or of D = 1/R_ill, along theta + t E."""
    H, k = case.H, case.rank
    s = singular_values(H)[:k]
    if r is r_well:
        gap, p = float(s[0] - s[1]), H.shape[0]
    else:
        gap, p = float(s[-2] - s[-1]), k
    B = case.E.T @ case.K @ case.theta
    B = B + B.T
    C = case.E.T @ case.K @ case.E
    beta, gamma = float(np.linalg.norm(B, 2)), float(np.linalg.norm(C, 2))
    t = gap / (64 * beta)
    value, G = r.value_and_grad_theta(case.theta, case.K, rank=k)
    moved = Extractor(case.theta + t * case.E, case.K, k, case.E).H
    ahead = r(moved, rank=k)
    slope = float(np.sum(G * case.E))
    end = float(s[0] if r is r_well else s[-1])
    # The end lambda moves by t lambda' + rho, |rho| <= rho_max, and by no more than reach.
    rho_max = t * t * (beta**2 / (gap - 2 * t * beta) + gamma)
    reach = t * beta + t * t * gamma
    F = abs(2 * float(np.sum(H * C)) + float(np.sum(B * B)) + 2 * t * float(np.sum(B * C))
            + t * t * float(np.sum(C * C)))  # fmt: skip
    remainder = end * rho_max + reach**2 / 2 + t * t * F / (2 * p)
    condition = float(np.linalg.norm(case.K, 2) * np.linalg.norm(case.theta, 2) ** 2 / s[0])
    noise = rounding(H.shape[0], float(s[0]) ** 2, condition)
    change = ahead - value
    if r is r_ill:
        change, slope = 1 / ahead - 1 / value, -slope / value**2
    return at_most(r.name, abs(change - t * slope), remainder + noise)


# ---- steps along them ----


def _kept_vectors(case: Slope) -> Verdict:
    """By construction the singular vectors of S are U and V: S' must be diagonal in them."""
    s, k = case.sigma, case.sigma.size
    claims = []
    for r in (r_well, r_ill):
        _, G = r.value_and_grad(case.S, rank=k)
        eta = float(s[0] / np.linalg.norm(G, 2)) / 3
        moved = case.U.T @ (case.S - eta * G) @ case.V
        outside = np.linalg.norm((case.S - eta * G) - case.U @ moved @ case.V.T)
        gap = float(np.min(1 - s[1:] / s[:-1])) * float(s[-1] / s[0])
        off = moved - np.diag(np.diag(moved))
        lost = rounding(k, 1 / gap)
        claims.append(equal(f"{r.name}, vectors", off, 0.0, lost, scale=float(s[0])))
        claims.append(equal(f"{r.name}, range", outside, 0.0, lost, scale=float(s[0])))
    return Verdict.of(*claims, sigma=s)


def _no_inverse(case: Extractor) -> Verdict:
    """2 theta G against K^+ grad_theta r, and H' against (I - 2 eta G) H (I - 2 eta G)."""
    H, k, d = case.H, case.rank, case.K.shape[0]
    gamma = singular_values(case.K)
    claims = []
    for r in (r_well, r_ill):
        _, plain = r.value_and_grad_theta(case.theta, case.K, rank=k)
        _, step = r.value_and_grad_theta(case.theta, case.K, rank=k, preconditioned=True)
        _, G = r.value_and_grad(H, rank=k)
        inverse = np.linalg.pinv(case.K, rcond=1e-9, hermitian=True)
        lost = rounding(d, float(gamma[0] / gamma[k - 1]), float(np.linalg.cond(case.theta)) ** 2)
        gap = _end_gap(r, singular_values(H)[:k])
        lost *= 1 + 1 / gap
        size = float(np.linalg.norm(step))
        if k == d:
            claims.append(equal(f"{r.name}, step", inverse @ plain, step, lost, scale=size))
        eta = 1 / (3 * float(np.linalg.norm(G, 2)))
        expected = (np.eye(d) - 2 * eta * G) @ H @ (np.eye(d) - 2 * eta * G)
        for name, direction in (("2 theta G", step), ("K^+ grad", inverse @ plain)):
            moved = Extractor(case.theta - eta * direction, case.K, k, case.E).H
            scale = float(np.linalg.norm(H))
            claims.append(equal(f"{r.name}, H after {name}", moved, expected, lost, scale=scale))
    return Verdict.of(*claims, theta=case.theta, K=case.K)


def _end_gap(r: SpectralRegularizer, s: FloatArray) -> float:
    a, b = (s[0], s[1]) if r is r_well else (s[-2], s[-1])
    return float((a - b) / s[0])


@dataclass(frozen=True)
class Features:
    """Features of few samples.

    Attributes
    ----------
    Z : (N, m) array
        N <= m samples.
    """

    Z: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "Z", as_float64(self.Z, "Z"))


def _features(
    gaps: Sequence[float], more: int, left: Sequence[float], right: Sequence[float]
) -> Features:
    N = len(gaps) + 1
    m = N + more
    sigma = spectrum(gaps, N, 3.0)
    return Features((rotation(left, N) * sigma) @ rotation(right, m)[:, :N].T)


def _dual(case: Features) -> Verdict:
    Z = case.Z
    N = Z.shape[0]
    H, small = Z.T @ Z, Z @ Z.T
    values = singular_values(small)
    top = float(values[0])
    lost = rounding(Z.shape[1], 1.0)
    claims = [
        equal("spectrum", np.linalg.eigvalsh(H)[::-1][:N], values, lost, scale=top),
        equal("norm", np.linalg.norm(H), np.linalg.norm(small), lost),
        equal("Z H", Z @ H, small @ Z, lost, scale=top * float(np.linalg.norm(Z, 2))),
    ]
    for r in (r_well, r_ill):
        value, G = r.value_and_grad_features(Z, rank=N)
        direct, by_H = r.value_and_grad(H, rank=N)
        gap = _end_gap(r, values)
        change = 1 / direct if r is r_ill else direct
        digits = rounding(Z.shape[1], max(1.0, top**2 / change))
        claims.append(equal(f"{r.name}, value", value, direct, digits))
        expected = 2 * Z @ by_H
        size = float(np.linalg.norm(expected))
        claims.append(equal(f"{r.name}, gradient", G, expected, digits * (1 + 1 / gap), scale=size))
    return Verdict.of(*claims, Z=Z)


SLOPES: Parameters = {
    "gaps": Reals(-5.0, 4.0, 1, 4), "extra_rows": Whole(0, 2), "left": ANGLES, "right": ANGLES,
    "direction": SEED,
}  # fmt: skip
EXTRACTORS: Parameters = {
    "gaps": Reals(-4.0, 3.0, 1, 4), "null": Whole(0, 0), "inputs": Reals(-4.0, 3.0, 0, 4),
    "left": ANGLES, "right": ANGLES, "direction": SEED,
}  # fmt: skip

_theorem = partial(Theorem, section="theory/steps#gradients", parameters=SLOPES, build=slope)

GRADIENTS = (
    _theorem(
        name="theorem-4.1-3", source=f"{PAPER}, Theorem 4.1 (3)", verify=_ill_gradient,
        statement="R_ill is differentiable where the smallest singular value is simple.",
        formula="grad R_ill(S) = (sigma_k u_k v_k^T - S/k)/D^2",
        hypotheses="the smallest nonzero singular value simple, k >= 2",
    ),
    _theorem(
        name="theorem-a.1-3", source=f"{PAPER}, Theorem A.1 (3), after {NENOV}",
        verify=_well_gradient,
        statement="R_well is differentiable where the largest singular value is simple.",
        formula="grad R_well(S) = sigma_1 u_1 v_1^T - S/p",
        hypotheses="the largest singular value simple, k >= 2",
    ),
    _theorem(
        name="theorem-4.2", source=f"{PAPER}, Theorem 4.2", parameters=EXTRACTORS, build=extractor,
        verify=_theta_gradient,
        statement="The gradients by theta of R_well(H(theta)) and R_ill(H(theta)), by the chain "
        "rule.",
        formula="grad_theta r(theta^T K theta) = 2 K theta G, G = grad_H r",
        hypotheses="the end of the spectrum of H that r uses is simple",
    ),
    _theorem(
        name="invariant-vectors", source=OURS, parameters=SLOPES | {"gaps": Reals(-3.0, 2.0, 1, 4)},
        verify=_kept_vectors,
        statement="A gradient step on a spectral regularizer keeps the singular vectors.",
        formula="U^T (S - eta grad r(S)) V is diagonal",
        hypotheses="the ends of the spectrum are simple",
    ),
    _theorem(
        name="inverse-free-step", source=OURS, section="theory/steps#the-step-without-an-inverse",
        parameters=EXTRACTORS | {"null": Whole(0, 2)}, build=extractor, verify=_no_inverse,
        statement="The preconditioned step needs no inverse: K^-1 cancels. For singular K, the "
        "step 2 theta G gives the same H as K^+ would.",
        formula="K^-1 (2 K theta G) = 2 theta G; H' = (I - 2 eta G) H (I - 2 eta G)",
        hypotheses="K definite for the step; any K for H'",
    ),
    _theorem(
        name="dual-form", source=OURS, section="theory/steps#few-samples-many-features",
        build=_features, verify=_dual,
        statement="With fewer samples than features, the N x N matrix Z Z^T gives the value and "
        "the gradient.",
        formula="spec+(Z^T Z) = spec+(Z Z^T), ||Z^T Z||_F = ||Z Z^T||_F, Z H = (Z Z^T) Z",
        hypotheses="N <= m",
        parameters={
            "gaps": Reals(-4.0, 3.0, 1, 4), "more": Whole(0, 3), "left": ANGLES, "right": ANGLES,
        },
    ),
)  # fmt: skip
