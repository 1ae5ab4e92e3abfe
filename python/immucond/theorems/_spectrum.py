"""The spectrum of H(theta), by the paper's formula, and how far theta or other rows can move it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._validate import FloatArray, as_float64, as_theta
from ..linear import rayleigh_spectrum
from ._instances import (
    EPS,
    Tasks,
    filled,
    inputs,
    invertible,
    kappa,
    kappa_M,
    pencil,
    rir,
    root,
    rounding,
    singular_values,
    spectrum,
)
from ._parameters import ANGLES, GAPS, MORE_GAPS, Parameters, Reals
from ._theorem import OURS, PAPER, Theorem, Verdict, at_most, equal


@dataclass(frozen=True)
class Extraction:
    """Inputs of one task and an extractor.

    Attributes
    ----------
    X : (n, d) array
        Inputs; their Gram matrix is K.
    theta : (d, m) array
        Extractor.
    """

    X: FloatArray
    theta: FloatArray

    def __post_init__(self) -> None:
        X = as_float64(self.X, "X")
        object.__setattr__(self, "X", X)
        object.__setattr__(self, "theta", as_theta(self.theta, X.shape[1]))


def _extraction(
    gaps: Sequence[float], inputs: Sequence[float], angles: Sequence[float]
) -> Extraction:
    """Build theta diagonal, K rotated against it: a change of basis makes every case this one."""
    d = len(gaps) + 1
    return Extraction(root(inputs, angles, d, 12.0), np.diag(spectrum(gaps, d, 4.0)))


def _quotients(case: Extraction) -> tuple[FloatArray, FloatArray, float]:
    """Rayleigh quotients and eigenvalues of H, both descending, and the rounding in sums."""
    quotients = np.sort(rayleigh_spectrum(case.theta, case.X.T @ case.X))[::-1]
    values = singular_values(case.X @ case.theta) ** 2
    values = np.append(values, np.zeros(quotients.size - values.size))
    # theta times K is rounded at the size of their norms, which H may be far below.
    size = singular_values(case.X)[0] * singular_values(case.theta)[0]
    lost = 64 * case.theta.size * EPS * float(size**2 / values[0])
    return quotients, values, lost


def _as_printed(case: Extraction) -> Verdict:
    quotients, values, lost = _quotients(case)
    return Verdict.of(
        equal("formula = eigenvalues", quotients, values, lost, scale=values[0]),
        K=case.X.T @ case.X,
        theta=case.theta,
        formula=quotients,
        eigenvalues=values,
    )


def _majorized(case: Extraction) -> Verdict:
    quotients, values, lost = _quotients(case)
    sums, bounds = np.cumsum(quotients), np.cumsum(values)
    Z = case.X @ np.linalg.svd(case.theta)[0] * singular_values(case.theta)
    H = Z.T @ Z
    off_diagonal = float(np.sum((H - np.diag(np.diag(H))) ** 2))
    claims = [
        at_most(f"sum of the {j + 1} largest", a, b, lost)
        for j, (a, b) in enumerate(zip(sums, bounds, strict=True))
    ]
    claims.append(equal("trace", sums[-1], bounds[-1], lost))
    # So the formula is the spectrum where H is diagonal in theta's singular basis, and only there.
    scale = float(values @ values)
    gap = (scale - float(quotients @ quotients)) / scale
    claims.append(equal("distance", gap, off_diagonal / scale, 4 * lost, scale=1.0))
    smallest = float(values[-1])
    if smallest > 0.0 and quotients[-1] > 0.0 and values.size <= case.X.shape[1]:
        conditions = np.sqrt(kappa(case.X)), kappa(case.theta) ** 0.5
        believed = float(quotients[0] / quotients[-1])
        digits = rounding(values.size, float(conditions[0] ** 2), conditions[1] ** 2)
        claims.append(
            at_most("kappa is never overstated", believed, float(values[0]) / smallest, digits)
        )
    return Verdict.of(*claims, formula=quotients, eigenvalues=values)


def _aligned(
    primary: Sequence[float], harmful: Sequence[float], extractor: Sequence[float]
) -> Tasks:
    """Both Gram matrices diagonal, in descending order, and a diagonal extractor."""
    d = len(primary) + 1
    theta = np.diag(10.0 ** -filled(extractor, d))
    return Tasks(root(primary, [], d, 6.0), root(harmful, [], d, 6.0), theta)


def _remark(case: Tasks) -> Verdict:
    found = rir(case.X_P, case.X_H, case.theta)
    condition = case.condition * case.kappa_theta
    return Verdict.of(
        at_most("RIR <= 1", found, 1.0, rounding(case.dim, condition)),
        K_P=case.X_P.T @ case.X_P,
        K_H=case.X_H.T @ case.X_H,
        theta=case.theta,
        rir=found,
    )


def _alignment(case: Tasks) -> Verdict:
    _, s, vt = np.linalg.svd(case.X_H)
    _, values = pencil(case.X_P, case.X_H)
    primary = singular_values(case.X_P) ** 2
    harmful = s**2
    at = np.sum((case.X_P @ vt.T) ** 2, axis=0)  # x^T K_P x at the eigenvectors of K_H
    lost = rounding(case.dim, case.condition)
    top = values[0] * primary[0] / harmful[0]
    bottom = harmful[-1] / (values[-1] * primary[-1])
    return Verdict.of(
        # Equality in both: the top eigenvector of K_H is one of the pencil, and of K_P.
        at_most("top, pencil", harmful[0], values[0] * at[0], lost),
        at_most("top, primary", at[0], primary[0], lost),
        # Likewise at the bottom.
        at_most("bottom, pencil", values[-1] * at[-1], harmful[-1], lost),
        at_most("bottom, primary", primary[-1], at[-1], lost),
        at_most("1 <= top", 1.0, top, lost),
        at_most("1 <= bottom", 1.0, bottom, lost),
        equal("RIR* = top * bottom", case.limit, top * bottom, lost),
        top=top,
        bottom=bottom,
        rir_limit=top * bottom,
    )


_EXTRACTION: Parameters = {"gaps": Reals(-8.0, 6.0, 1, 4), "inputs": MORE_GAPS, "angles": ANGLES}

SPECTRUM = (
    Theorem(
        name="proposition-3.2", source=f"{PAPER}, Proposition 3.2",
        section="theory/limit#the-spectrum-of-h", parameters=_EXTRACTION, build=_extraction,
        verify=_as_printed, corrected_by="rayleigh-majorization",
        statement="The singular values of H(theta) are those that the formula of Proposition 3.2 "
        "gives.",
        formula="sigma_i(H) = sum_j (sigma_theta,i (u_i . q_j) sqrt(gamma_j))^2",
        hypotheses="any theta and any Gram matrix",
    ),
    Theorem(
        name="rayleigh-majorization", source=OURS, section="theory/limit#the-spectrum-of-h",
        parameters=_EXTRACTION, build=_extraction, verify=_majorized,
        statement="The formula of Proposition 3.2 gives Rayleigh quotients: the spectrum majorizes "
        "them, equals them only where H is diagonal in theta's singular basis, and for definite H "
        "they never overstate kappa.",
        formula="q_i = v_i^T H v_i; q < lambda (majorization); sum lambda_i^2 - sum q_i^2 = "
        "sum_{i != j} (v_i^T H v_j)^2; max q / min q <= kappa(H)",
        hypotheses="any theta and any Gram matrix; for kappa, both invertible",
    ),
    Theorem(
        name="alignment-remark", source=f"{PAPER}, remark after Proposition 3.2",
        section="theory/limit#can-aligned-tasks-be-immunized", build=_aligned, verify=_remark,
        corrected_by="alignment",
        statement="Where the sorted eigenvectors of K_P and K_H coincide, no theta can immunize.",
        formula="RIR(theta) <= 1",
        hypotheses="K_P and K_H definite, with the same eigenvectors in the same order",
        parameters={
            "primary": Reals(-2.0, 6.0, 1, 4), "harmful": Reals(-2.0, 6.0, 0, 4),
            "extractor": Reals(-1.0, 1.0, 0, 5),
        },
    ),
    Theorem(
        name="alignment", source=OURS, section="theory/limit#can-aligned-tasks-be-immunized",
        parameters={"primary": Reals(-8.0, 6.0, 1, 5), "harmful": MORE_GAPS, "angles": ANGLES},
        verify=_alignment,
        statement="RIR* is a product of two factors, each at least 1: the first is 1 exactly where "
        "some top eigenvector is common to K_H, K_P and the pencil, the second likewise at the "
        "bottom.",
        formula="RIR* = [lambda_1(M) lambda_1(K_P)/lambda_1(K_H)] "
        "[lambda_d(K_H)/(lambda_d(M) lambda_d(K_P))]; lambda_1(K_H) <= lambda_1(M) x^T K_P x, "
        "x^T K_P x <= lambda_1(K_P), x the top eigenvector of K_H",
        hypotheses="K_P and K_H definite",
        build=lambda primary, harmful, angles: Tasks(
            *inputs(primary, harmful, [], angles, (8.0, 8.0)), np.eye(len(primary) + 1)
        ),
    ),
)  # fmt: skip


# ---- how far theta, or another sample, can move it ----


def _distortion(case: Tasks) -> Verdict:
    s = singular_values(case.theta)
    spread = float(s[0] / s[-1]) ** 2  # kappa(theta)^2
    claims, reached = [], 1.0
    for name, X, power in (("primary", case.X_P, -1.0), ("harmful", case.X_H, 1.0)):
        before, after = singular_values(X), singular_values(X @ case.theta)
        lost = rounding(case.dim, float(before[0] / before[-1]), spread**0.5)
        ratios = (after / before) ** 2
        claims += [
            at_most(f"{name}, lower end", float(s[-1]) ** 2, float(ratios.min()), lost),
            at_most(f"{name}, upper end", float(ratios.max()), float(s[0]) ** 2, lost),
        ]
        own, found = float(before[0] / before[-1]) ** 2, float(after[0] / after[-1]) ** 2
        claims += [
            at_most(f"{name}, kappa from below", own / spread, found, lost),
            at_most(f"{name}, kappa from above", found, own * spread, lost),
        ]
        reached *= (found / own) ** power
    lost = 2 * rounding(case.dim, max(kappa(case.X_P), kappa(case.X_H)) ** 0.5, spread**0.5)
    claims.append(at_most("RIR <= kappa(theta)^4", reached, spread**2, lost))
    return Verdict.of(*claims, rir=reached, kappa_theta=spread**0.5)


@dataclass(frozen=True)
class Samples:
    """Two samples of each task, and an invertible extractor.

    Attributes
    ----------
    first, second : (Tasks, Tasks)
        The same tasks, sampled twice; the extractor is that of the first.
    """

    first: Tasks
    second: Tasks


def _samples(
    primary_change: Sequence[float], harmful_change: Sequence[float], turn: Sequence[float],
    **drawn: Sequence[float],
) -> Samples:  # fmt: skip
    """Second sample: X' = A X with A well conditioned, so that K' is spectrally close to K."""
    first = invertible(**drawn)
    A, B = (root(change, turn, first.dim, 2.0) for change in (primary_change, harmful_change))
    return Samples(first, Tasks(A @ first.X_P, B @ first.X_H, first.theta))


def _sampling(case: Samples) -> Verdict:
    one, two = case.first, case.second
    rho = kappa_M(one.X_P, two.X_P) * kappa_M(one.X_H, two.X_H)
    rirs = [rir(both.X_P, both.X_H, both.theta) for both in (one, two)]
    limits = [both.limit for both in (one, two)]
    own = max(kappa(X) for both in (one, two) for X in (both.X_P, both.X_H)) ** 0.5
    lost = 4 * rounding(one.dim, max(one.condition, two.condition))
    lost += 4 * rounding(one.dim, own, one.kappa_theta)
    return Verdict.of(
        at_most("RIR'/RIR <= rho^2", rirs[1] / rirs[0], rho**2, lost),
        at_most("RIR/RIR' <= rho^2", rirs[0] / rirs[1], rho**2, lost),
        at_most("RIR*'/RIR* <= rho^2", limits[1] / limits[0], rho**2, lost),
        at_most("RIR*/RIR*' <= rho^2", limits[0] / limits[1], rho**2, lost),
        rho=rho,
        rir=rirs,
        rir_limit=limits,
    )


_PARAMETERS: Parameters = {
    "primary": GAPS, "harmful": MORE_GAPS, "basis": ANGLES, "other": ANGLES,
    "theta": Reals(-8.0, 3.0, 0, 5), "left": ANGLES, "right": ANGLES,
}  # fmt: skip
_SMALLER = Reals(-3.0, 3.0, 0, 5)

_theorem = partial(Theorem, source=OURS)

DISTORTION = (
    _theorem(
        name="distortion", section="theory/limit#distortion", parameters=_PARAMETERS,
        build=partial(invertible, decades=(12.0, 12.0)), verify=_distortion,
        statement="An invertible extractor moves every eigenvalue by a factor between its squared "
        "extreme singular values (Ostrowski), so kappa by at most kappa(theta)^2 and the RIR by at "
        "most kappa(theta)^4.",
        formula="sigma_min(theta)^2 <= lambda_i(H)/lambda_i(K) <= sigma_max(theta)^2; "
        "kappa(K)/kappa(theta)^2 <= kappa(H) <= kappa(theta)^2 kappa(K); RIR <= kappa(theta)^4",
        hypotheses="theta square and invertible",
    ),
    _theorem(
        name="sampling", section="theory/limit#how-many-rows-are-enough", build=_samples,
        verify=_sampling,
        statement="On another sample of both tasks, the RIR of any extractor and the limit change "
        "by a factor of at most (rho_P rho_H)^2.",
        formula="rho(K, K') = kappa(K^-1/2 K' K^-1/2); RIR'/RIR and RIR*'/RIR* in "
        "[(rho_P rho_H)^-2, (rho_P rho_H)^2]",
        hypotheses="all Gram matrices definite, theta invertible",
        parameters=_PARAMETERS
        | {"primary_change": _SMALLER, "harmful_change": _SMALLER, "turn": ANGLES},
    ),
)  # fmt: skip
