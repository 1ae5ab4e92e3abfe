"""What a gradient step does to a spectrum, and for which steps kappa moves the right way: exactly.

A step changes each singular value by a rational function of the spectrum and of eta. So all of this
is rational arithmetic; nothing is rounded but square roots, to forty digits.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

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
        restart = _over(1 + R, k - 1 - R)
        return _times(k * D * D, _over(Fraction(2), Fraction(k - 2))), _times(k * D * D, restart)
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


def _times(a: Fraction, b: Fraction | None) -> Fraction | None:
    return None if b is None else a * b


def _sqrt(x: Fraction) -> Fraction:
    unit = 10**40
    return Fraction(math.isqrt(x.numerator * unit**2 // x.denominator), unit)


def published_well_theta(sigma: Spectrum, p: int) -> Fraction | None:
    """Theorem 4.3 (1), as printed."""
    first, second = sigma[:2]
    return min(
        1 / ((1 - Fraction(1, p)) * first),
        (_sqrt(first * second) - second) * p / (2 * second**2),
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
