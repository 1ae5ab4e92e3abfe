"""For which steps a spectral regularizer moves kappa the way it promises, decided exactly.

A step changes each singular value by a rational function of the spectrum and of eta. So all of this
is rational arithmetic; nothing is rounded but square roots, to forty digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np

from .._regularizers import r_ill, r_well
from .._validate import FloatArray, as_float64
from ..linear import step_interval
from ._instances import rounding, spectrum
from ._parameters import GAPS, Parameters, Real, Whole
from ._theorem import NENOV, OURS, PAPER, Claim, Theorem, Verdict, below, equal, not_below

Kind = Literal["r_well", "r_ill"]
Spectrum = list[Fraction]


def excess(sigma: Spectrum) -> Fraction:
    """D = F/(2k) - sigma_k^2/2, the inverse of R_ill."""
    k, last = len(sigma), sigma[-1]
    return sum(((s - last) * (s + last) for s in sigma), Fraction(0)) / (2 * k)


def gradient(kind: Kind, sigma: Spectrum, p: int) -> Spectrum:
    """Singular values of grad r, signed, in the basis of S."""
    if kind == "r_well":
        g = [-s / p for s in sigma]
        g[0] += sigma[0]
        return g
    D, k = excess(sigma), len(sigma)
    g = [-s / (k * D * D) for s in sigma]
    g[-1] += sigma[-1] / (D * D)
    return g


def after(kind: Kind, by_theta: bool, sigma: Spectrum, p: int, eta: Fraction) -> Spectrum:
    """Spectrum after ``S - eta grad r``, or of H after ``theta - 2 eta theta grad_H r``."""
    g = gradient(kind, sigma, p)
    if by_theta:
        return [s * (1 - 2 * eta * x) ** 2 for s, x in zip(sigma, g, strict=True)]
    return [abs(s - eta * x) for s, x in zip(sigma, g, strict=True)]


def ratio(sigma: Spectrum) -> Fraction:
    """Condition number, over the nonzero values as Eq. 1 of the paper has it."""
    nonzero = [s for s in sigma if s]
    return max(nonzero) / min(nonzero)


# ---- where the intervals end ----


def vanishing(by_theta: bool, sigma: Spectrum) -> Fraction:
    """Return the one step of R_ill at which sigma_k becomes 0: the rank falls instead."""
    k, D = len(sigma), excess(sigma)
    if by_theta:
        return D * D * k / (2 * sigma[-1] * (k - 1))
    return k * D * D / (k - 1)


def interval(
    kind: Kind, by_theta: bool, sigma: Spectrum, p: int
) -> tuple[Fraction | None, Fraction | None]:
    """Sharp end, and where beyond it kappa starts to move the right way again; None: never.

    By the conditions of the proofs; square roots to forty digits.
    """
    k, first, last = len(sigma), sigma[0], sigma[-1]
    if kind == "r_well":
        second = sigma[1]
        if not by_theta:
            r = second * last / first**2
            return (1 - r) / (1 - (1 - r) / p), (1 + r) / (1 - (1 + r) / p)
        q, a, b = _sqrt(second * last), _sqrt(first), _sqrt(second)
        A = (first - q) / (2 * (q * second / p + first**2 * (1 - Fraction(1, p))))
        B = _over(p * (a - b), 2 * (b * second - a * last))
        if B is not None and B <= A:
            return B, None
        start = _over(first + q, 2 * (first**2 * (1 - Fraction(1, p)) - q * second / p))
        stop = 1 / (first * (1 - Fraction(1, p)) - last / p)
        stop = stop if B is None else min(B, stop)
        return A, start if start is not None and start < stop else None
    before, D = sigma[-2], excess(sigma)
    if not by_theta:
        R = first * before / last**2
        return _over(2 * k * D * D, Fraction(k - 2)), _over(k * D * D * (1 + R), k - 1 - R)
    E = _over(D * D, last * (1 - Fraction(1, k)) - first / k)
    if E is None:
        return None, None
    growth = 2 * E / (k * D * D)
    if before * (1 + growth * before) ** 2 < last * (1 + growth * first) ** 2:
        return None, None
    a, b = _sqrt(before), _sqrt(last)
    m = _sqrt(first * before)
    starts = (
        _over(k * (a - b), b * first - a * before),
        _over(last + m, last**2 * (1 - Fraction(1, k)) - m * before / k),
    )
    return E, min((D * D / 2 * s for s in starts if s is not None), default=None)


def _over(a: Fraction, b: Fraction) -> Fraction | None:
    return a / b if b > 0 else None


def _sqrt(x: Fraction) -> Fraction:
    unit = 10**40
    return Fraction(math.isqrt(x.numerator * unit**2 // x.denominator), unit)


def published_well_theta(sigma: Spectrum, p: int) -> Fraction | None:
    """Theorem 4.3 (1), as printed."""
    first, second = sigma[:2]
    return min(
        1 / ((1 - Fraction(1, p)) * first), (_sqrt(first * second) - second) * p / (2 * second**2)
    )


def published_ill_theta(sigma: Spectrum, p: int) -> Fraction | None:  # noqa: ARG001
    """Theorem 4.3 (2), as we read it; every step at k = 2."""
    return _over(excess(sigma) ** 2, (1 - Fraction(2, len(sigma))) * sigma[-1])


def published_ill(sigma: Spectrum, p: int) -> Fraction | None:  # noqa: ARG001
    """Theorem 4.1 (4)."""
    return vanishing(False, sigma)


def small(sigma: Spectrum, p: int) -> Fraction | None:  # noqa: ARG001
    """Return steps small enough for Theorem A.1 (4): a tenth of the relative gap at the top."""
    first, second = sigma[:2]
    return (first - second) / first / 10


# ---- a step of a regularizer ----


@dataclass(frozen=True)
class Step:
    """A spectrum, and where in its interval a step lies.

    Attributes
    ----------
    sigma : (k,) array
        Nonzero singular values of S, or eigenvalues of H(theta): strictly descending, k >= 2.
    p : int
        Smaller dimension of S, at least k: the rest of its singular values are 0.
    share : float
        Of the interval, strictly between 0 and 1: a step of ``share * end``.
    """

    sigma: FloatArray
    p: int
    share: float

    def __post_init__(self) -> None:
        sigma = as_float64(self.sigma, "sigma", ndim=1)
        if sigma.size < 2 or sigma[-1] <= 0.0 or np.any(np.diff(sigma) >= 0.0):
            raise ValueError(
                f"sigma must be two or more positive numbers, strictly descending, got {sigma}"
            )
        if self.p < sigma.size:
            raise ValueError(f"p must be at least {sigma.size}, the rank, got {self.p}")
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share must be strictly between 0 and 1, got {self.share}")
        object.__setattr__(self, "sigma", sigma)

    @property
    def exact(self) -> Spectrum:
        """The spectrum as rational numbers."""
        return [Fraction(x) for x in self.sigma.tolist()]


def _step(gaps: Sequence[float], zeros: int, scale: float, share: float) -> Step:
    """Step from gaps between the singular values and a power of ten for their size."""
    sigma = spectrum(gaps, len(gaps) + 1) * 10.0**scale
    return Step(sigma, sigma.size + zeros, share)


_SINGULAR: Parameters = {
    "gaps": GAPS, "zeros": Whole(0, 2), "scale": Real(-3.0, 3.0), "share": Real(0.001, 0.999),
}  # fmt: skip
_DEFINITE: Parameters = _SINGULAR | {"zeros": Whole(0, 0)}


def _library_end(kind: Kind, by_theta: bool, step: Step) -> float:
    k = step.sigma.size
    regularizer = r_well if kind == "r_well" else r_ill
    diagonal = np.diag(np.append(step.sigma, np.zeros(step.p - k)))
    if by_theta:
        return step_interval(regularizer, theta=np.eye(step.p), gram=diagonal, rank=k)
    return step_interval(regularizer, diagonal, rank=k)


def _moves(
    kind: Kind, by_theta: bool, step: Step, end: Fraction | None, factor: Fraction = Fraction(1)
) -> tuple[Claim, dict[str, Any]]:
    """Kappa moves the right way at ``share * end``, or at any step at all where end is None."""
    sigma, share = step.exact, Fraction(step.share)
    # Every step: from tiny to huge ones, in units of one that matters.
    eta = vanishing(by_theta, sigma) * share / (1 - share) if end is None else share * end
    if kind == "r_ill" and factor * eta == vanishing(by_theta, sigma):
        eta /= 2
    moved = after(kind, by_theta, sigma, step.p, factor * eta)
    before, then = ratio(sigma), ratio(moved)
    if kind == "r_well":
        claim = below("kappa falls", then, before)
    else:
        claim = below("kappa rises", before, then)
    return claim, {
        "sigma": step.sigma,
        "p": step.p,
        "end": math.inf if end is None else end,
        "eta": eta,
        "sigma_after": [float(s) for s in moved],
        "kappa_before": before,
        "kappa_after": then,
    }


def _inside(
    kind: Kind,
    by_theta: bool,
    end_of: Callable[[Spectrum, int], Fraction | None],
    factor: Fraction = Fraction(1),
) -> Callable[[Step], Verdict]:
    def verify(step: Step) -> Verdict:
        claim, numbers = _moves(kind, by_theta, step, end_of(step.exact, step.p), factor)
        return Verdict.of(claim, **numbers)

    return verify


def _sharp(kind: Kind, by_theta: bool) -> Callable[[Step], Verdict]:
    def verify(step: Step) -> Verdict:
        sigma = step.exact
        end, restart = interval(kind, by_theta, sigma, step.p)
        claim, numbers = _moves(kind, by_theta, step, end)
        claims = [claim]
        if _simple(kind, step):
            found = _library_end(kind, by_theta, step)
            claims.append(equal("library's end", found, numbers["end"], _digits(step)))
        before = ratio(sigma)
        if end is not None:
            # A quarter into the gap between this interval and the next one.
            eta = end + ((2 * end if restart is None else restart) - end) / 4
            beyond = ratio(after(kind, by_theta, sigma, step.p, eta))
            numbers |= {"beyond": eta, "kappa_beyond": beyond}
            if kind == "r_well":
                claims.append(not_below("kappa does not fall just beyond", beyond, before))
            else:
                claims.append(not_below("kappa does not rise just beyond", before, beyond))
        if kind == "r_well" and not by_theta:
            assert restart is not None
            stop = Fraction(2 * step.p, step.p - 2) if step.p > 2 else 2 * restart
            eta = restart + Fraction(step.share) * (stop - restart)
            far = ratio(after(kind, by_theta, sigma, step.p, eta))
            claims.append(below("kappa falls on the second interval", far, before))
        return Verdict.of(*claims, **numbers)

    return verify


def _simple(kind: Kind, step: Step) -> bool:
    """Whether the end that R uses is simple to rounding: else the library's is that of a tie."""
    near, end = (1, 0) if kind == "r_well" else (-1, -2)
    return bool(abs(step.sigma[near] - step.sigma[end]) > rounding(step.p, 1.0) * step.sigma[0])


def _digits(step: Step) -> float:
    """Bound rounding in an end: differences of neighbouring singular values stand in it."""
    gap = float(np.min(1.0 - step.sigma[1:] / step.sigma[:-1]))
    return rounding(step.p, 1.0 / gap)


_SIMPLE_LAST = (
    "k >= 2 nonzero singular values, the smallest simple; 0 < eta < end, and not the "
    "step that makes sigma_k vanish"
)
_SIMPLE_FIRST = "k >= 2 nonzero singular values, the largest simple; 0 < eta < end"
_PRINTED = "min{1/((1-1/p) sigma_1), (sqrt(sigma_1 sigma_2) - sigma_2)/((2/p) sigma_2^2)}"

_theorem = partial(Theorem, parameters=_SINGULAR, build=_step)
_definite = partial(_theorem, parameters=_DEFINITE)

STEPS = (
    _theorem(
        name="theorem-4.1-4", source=f"{PAPER}, Theorem 4.1 (4)",
        section="theory/steps#r_ill-by-the-matrix", verify=_inside("r_ill", False, published_ill),
        statement="A gradient step on R_ill(S) raises kappa, for every step of the printed "
        "interval.",
        formula="kappa(S - eta grad R_ill(S)) > kappa(S) for 0 < eta < k/(k-1) D^2, "
        "D = ||S||_F^2/(2k) - sigma_k^2/2",
        hypotheses=_SIMPLE_LAST,
    ),
    _definite(
        name="theorem-4.3-1", source=f"{PAPER}, Theorem 4.3 (1)",
        section="theory/steps#r_well-by-theta",
        verify=_inside("r_well", True, published_well_theta), corrected_by="r-well-step-theta",
        statement="A preconditioned gradient step by theta on R_well lowers kappa(H), for every "
        "step of the printed interval.",
        formula="kappa(H(theta - eta K^-1 grad_theta R_well)) < kappa(H(theta)) for 0 < eta < "
        + _PRINTED,
        hypotheses=_SIMPLE_FIRST + "; K definite, theta invertible",
    ),
    _definite(
        name="theorem-4.3-1-without-2",
        source=f"{PAPER}, Theorem 4.3 (1), the gradient read without its factor 2",
        section="theory/steps#r_well-by-theta",
        verify=_inside("r_well", True, published_well_theta, Fraction(1, 2)),
        corrected_by="r-well-step-theta",
        statement="Theorem 4.3 (1) with the factor 2 of the gradient dropped, as the paper drops "
        "the 2 of the Hessian.",
        formula="kappa(H(theta - eta theta G)) < kappa(H(theta)) for 0 < eta < "
        f"{_PRINTED}, G = grad_H R_well",
        hypotheses=_SIMPLE_FIRST + "; K definite, theta invertible",
    ),
    _definite(
        name="theorem-4.3-2", source=f"{PAPER}, Theorem 4.3 (2)",
        section="theory/steps#r_ill-by-theta", verify=_inside("r_ill", True, published_ill_theta),
        statement="A preconditioned gradient step by theta on R_ill raises kappa(H), for every "
        "step of the printed interval (as we read it).",
        formula="kappa(H(theta - eta K^-1 grad_theta R_ill)) > kappa(H(theta)) for "
        "0 < eta < D^2/((1-2/k) sigma_k)",
        hypotheses=_SIMPLE_LAST + " (which the paper does not leave out); theta invertible",
    ),
    _theorem(
        name="theorem-a.1-4", source=f"{PAPER}, Theorem A.1 (4), after {NENOV}",
        section="theory/steps#r_well-by-the-matrix", verify=_inside("r_well", False, small),
        statement="A small enough gradient step on R_well(S) lowers kappa.",
        formula="kappa(S - eta grad R_well(S)) < kappa(S) for all small eta > 0",
        hypotheses="k >= 2 nonzero singular values, the largest simple",
    ),
    _theorem(
        name="r-ill-step", source=OURS, section="theory/steps#r_ill-by-the-matrix",
        verify=_sharp("r_ill", False),
        statement="A gradient step on R_ill(S) raises kappa up to the sharp end, and not just "
        "beyond.",
        formula="kappa(S - eta grad R_ill(S)) > kappa(S) for 0 < eta < 2k/(k-2) D^2; all eta > 0 "
        "at k = 2",
        hypotheses=_SIMPLE_LAST,
    ),
    _theorem(
        name="r-well-step", source=OURS, section="theory/steps#r_well-by-the-matrix",
        verify=_sharp("r_well", False),
        statement="A gradient step on R_well(S) lowers kappa up to the sharp end, not just beyond, "
        "and again on a second interval.",
        formula="kappa(S - eta grad R_well(S)) < kappa(S) iff eta is in "
        "(0, (1-r)/(1-1/p+r/p)) or ((1+r)/(1-1/p-r/p), 2/(1-2/p)), r = sigma_2 sigma_k/sigma_1^2",
        hypotheses=_SIMPLE_FIRST,
    ),
    _theorem(
        name="r-ill-step-theta", source=OURS, section="theory/steps#r_ill-by-theta",
        verify=_sharp("r_ill", True),
        statement="A preconditioned gradient step by theta on R_ill raises kappa(H) up to the "
        "sharp end, and not just beyond.",
        formula="kappa(H') > kappa(H) for 0 < eta < E = D^2/(sigma_k (1-1/k) - sigma_1/k); all "
        "eta > 0 where that is not positive or sigma_{k-1} (1 + 2E sigma_{k-1}/(k D^2))^2 < "
        "sigma_k (1 + 2E sigma_1/(k D^2))^2",
        hypotheses=_SIMPLE_LAST,
    ),
    _theorem(
        name="r-well-step-theta", source=OURS, section="theory/steps#r_well-by-theta",
        verify=_sharp("r_well", True),
        statement="A preconditioned gradient step by theta on R_well lowers kappa(H) up to the "
        "sharp end, and not just beyond.",
        formula="kappa(H') < kappa(H) for 0 < eta < min{A, B}, A = (sigma_1 - q)/"
        "(2 (q sigma_2/p + sigma_1^2 (1-1/p))), q = sqrt(sigma_2 sigma_k), "
        "B = p (sqrt(sigma_1) - sqrt(sigma_2))/(2 (sigma_2^1.5 - sqrt(sigma_1) sigma_k)) or inf",
        hypotheses=_SIMPLE_FIRST,
    ),
)  # fmt: skip
