"""The spectrum of H(theta): Proposition 3.2 of the paper, and what is true of its formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._validate import FloatArray, as_float64, as_theta
from ..linear import immunity_limit, rayleigh_spectrum
from ._instances import (
    EPS,
    Tasks,
    kappa,
    pencil,
    rir,
    rotation,
    rounding,
    singular_values,
    spectrum,
)
from ._parameters import ANGLES, MORE_GAPS, Parameters, Reals
from ._theorem import OURS, PAPER, Theorem
from ._verdict import Verdict, at_most, equal


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
    X = np.sqrt(spectrum(inputs, d))[:, None] * rotation(angles, d).T
    return Extraction(X, np.diag(spectrum(gaps, d, 4.0)))


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
    logs = np.zeros(d)
    logs[: len(extractor)] = list(extractor)[:d]
    return Tasks(
        np.diag(np.sqrt(spectrum(primary, d, 6.0))),
        np.diag(np.sqrt(spectrum(harmful, d, 6.0))),
        np.diag(10.0**-logs),
    )


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
        equal(
            "RIR* = top * bottom",
            immunity_limit(X_P=case.X_P, X_H=case.X_H, ranks=(case.dim, case.dim)).rir,
            top * bottom,
            lost,
        ),
        top=top,
        bottom=bottom,
        rir_limit=top * bottom,
    )


_EXTRACTION: Parameters = {"gaps": Reals(-8.0, 6.0, 1, 4), "inputs": MORE_GAPS, "angles": ANGLES}

SPECTRUM = (
    Theorem(
        name="proposition-3.2",
        statement="The singular values of H(theta) are those that the formula of Proposition 3.2 "
        "gives.",
        formula="sigma_i(H) = sum_j (sigma_theta,i (u_i . q_j) sqrt(gamma_j))^2",
        hypotheses="any theta and any Gram matrix",
        source=f"{PAPER}, Proposition 3.2",
        section="theory/limit#the-spectrum-of-h",
        parameters=_EXTRACTION,
        build=_extraction,
        verify=_as_printed,
        corrected_by="rayleigh-majorization",
    ),
    Theorem(
        name="rayleigh-majorization",
        statement="The formula of Proposition 3.2 gives Rayleigh quotients: the spectrum majorizes "
        "them, equals them only where H is diagonal in theta's singular basis, and for definite H "
        "they never overstate kappa.",
        formula="q_i = v_i^T H v_i; q < lambda (majorization); sum lambda_i^2 - sum q_i^2 = "
        "sum_{i != j} (v_i^T H v_j)^2; max q / min q <= kappa(H)",
        hypotheses="any theta and any Gram matrix; for kappa, both invertible",
        source=OURS,
        section="theory/limit#the-spectrum-of-h",
        parameters=_EXTRACTION,
        build=_extraction,
        verify=_majorized,
    ),
    Theorem(
        name="alignment-remark",
        statement="Where the sorted eigenvectors of K_P and K_H coincide, no theta can immunize.",
        formula="RIR(theta) <= 1",
        hypotheses="K_P and K_H definite, with the same eigenvectors in the same order",
        source=f"{PAPER}, remark after Proposition 3.2",
        section="theory/limit#can-aligned-tasks-be-immunized",
        parameters={
            "primary": Reals(-2.0, 6.0, 1, 4),
            "harmful": Reals(-2.0, 6.0, 0, 4),
            "extractor": Reals(-1.0, 1.0, 0, 5),
        },
        build=_aligned,
        verify=_remark,
        corrected_by="alignment",
    ),
    Theorem(
        name="alignment",
        statement="RIR* is a product of two factors, each at least 1: the first is 1 exactly where "
        "some top eigenvector is common to K_H, K_P and the pencil, the second likewise at the "
        "bottom.",
        formula="RIR* = [lambda_1(M) lambda_1(K_P)/lambda_1(K_H)] "
        "[lambda_d(K_H)/(lambda_d(M) lambda_d(K_P))]; lambda_1(K_H) <= lambda_1(M) x^T K_P x, "
        "x^T K_P x <= lambda_1(K_P), x the top eigenvector of K_H",
        hypotheses="K_P and K_H definite",
        source=OURS,
        section="theory/limit#can-aligned-tasks-be-immunized",
        parameters={
            "primary": Reals(-8.0, 6.0, 1, 5),
            "harmful": MORE_GAPS,
            "angles": ANGLES,
        },
        build=lambda primary, harmful, angles: Tasks(
            np.diag(np.sqrt(spectrum(primary, len(primary) + 1, 8.0))),
            np.sqrt(spectrum(harmful, len(primary) + 1, 8.0))[:, None]
            * rotation(angles, len(primary) + 1).T,
            np.eye(len(primary) + 1),
        ),
        verify=_alignment,
    ),
)
