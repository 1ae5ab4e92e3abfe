"""Steps along the gradients: what they keep, and what they can do without.

They keep singular vectors; they need no inverse of K, and for few samples no m x m matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._regularizers import SpectralRegularizer, r_ill, r_well
from .._validate import FloatArray, as_float64
from ._gradients import EXTRACTORS, SLOPES, Extractor, Slope, extractor, slope
from ._instances import rotation, rounding, singular_values, spectrum
from ._parameters import ANGLES, Reals, Whole
from ._theorem import OURS, Theorem
from ._verdict import Verdict, equal


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


_theorem = partial(Theorem, source=OURS)

UPDATES = (
    _theorem(
        name="invariant-vectors",
        statement="A gradient step on a spectral regularizer keeps the singular vectors.",
        formula="U^T (S - eta grad r(S)) V is diagonal",
        hypotheses="the ends of the spectrum are simple",
        section="theory/steps#gradients",
        parameters=SLOPES | {"gaps": Reals(-3.0, 2.0, 1, 4)},
        build=slope,
        verify=_kept_vectors,
    ),
    _theorem(
        name="inverse-free-step",
        statement="The preconditioned step needs no inverse: K^-1 cancels. For singular K, the "
        "step 2 theta G gives the same H as K^+ would.",
        formula="K^-1 (2 K theta G) = 2 theta G; H' = (I - 2 eta G) H (I - 2 eta G)",
        hypotheses="K definite for the step; any K for H'",
        section="theory/steps#the-step-without-an-inverse",
        parameters=EXTRACTORS | {"null": Whole(0, 2)},
        build=extractor,
        verify=_no_inverse,
    ),
    _theorem(
        name="dual-form",
        statement="With fewer samples than features, the N x N matrix Z Z^T gives the value and "
        "the gradient.",
        formula="spec+(Z^T Z) = spec+(Z Z^T), ||Z^T Z||_F = ||Z Z^T||_F, Z H = (Z Z^T) Z",
        hypotheses="N <= m",
        section="theory/steps#few-samples-many-features",
        parameters={
            "gaps": Reals(-4.0, 3.0, 1, 4),
            "more": Whole(0, 3),
            "left": ANGLES,
            "right": ANGLES,
        },
        build=_features,
        verify=_dual,
    ),
)
