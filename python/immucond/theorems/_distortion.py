"""What a bounded extractor, or another sample, can change of a condition number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..linear import immunity_limit
from ._instances import Tasks, invertible, kappa, pencil, rir, root, rounding, singular_values
from ._parameters import ANGLES, GAPS, MORE_GAPS, Parameters, Reals
from ._theorem import OURS, Theorem
from ._verdict import Verdict, at_most


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
    rho, rirs, limits = 1.0, [], []
    for X, Y in ((one.X_P, two.X_P), (one.X_H, two.X_H)):
        _, values = pencil(X, Y)
        rho *= float(values[0] / values[-1])
    for both in (one, two):
        rirs.append(rir(both.X_P, both.X_H, both.theta))
        found = immunity_limit(X_P=both.X_P, X_H=both.X_H, ranks=(both.dim, both.dim))
        limits.append(found.rir)
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
    "primary": GAPS,
    "harmful": MORE_GAPS,
    "basis": ANGLES,
    "other": ANGLES,
    "theta": Reals(-8.0, 3.0, 0, 5),
    "left": ANGLES,
    "right": ANGLES,
}
_SMALLER = Reals(-3.0, 3.0, 0, 5)

_theorem = partial(Theorem, source=OURS)

DISTORTION = (
    _theorem(
        name="distortion",
        statement="An invertible extractor moves every eigenvalue by a factor between its squared "
        "extreme singular values (Ostrowski), so kappa by at most kappa(theta)^2 and the RIR by at "
        "most kappa(theta)^4.",
        formula="sigma_min(theta)^2 <= lambda_i(H)/lambda_i(K) <= sigma_max(theta)^2; "
        "kappa(K)/kappa(theta)^2 <= kappa(H) <= kappa(theta)^2 kappa(K); RIR <= kappa(theta)^4",
        hypotheses="theta square and invertible",
        section="theory/limit#distortion",
        parameters=_PARAMETERS,
        build=partial(invertible, decades=(12.0, 12.0)),
        verify=_distortion,
    ),
    _theorem(
        name="sampling",
        statement="On another sample of both tasks, the RIR of any extractor and the limit change "
        "by a factor of at most (rho_P rho_H)^2.",
        formula="rho(K, K') = kappa(K^-1/2 K' K^-1/2); RIR'/RIR and RIR*'/RIR* in "
        "[(rho_P rho_H)^-2, (rho_P rho_H)^2]",
        hypotheses="all Gram matrices definite, theta invertible",
        section="theory/limit#how-many-rows-are-enough",
        parameters=_PARAMETERS
        | {
            "primary_change": _SMALLER,
            "harmful_change": _SMALLER,
            "turn": ANGLES,
        },
        build=_samples,
        verify=_sampling,
    ),
)
