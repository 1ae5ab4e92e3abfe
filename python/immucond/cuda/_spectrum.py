"""The ends of a spectrum on the host, by the rules of the C++ core (spectrum.hpp)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .. import _core
from .._core import Spectrum
from .._rank import Rule
from .._validate import FloatArray


def ends_of(p: int, rank: int, sigma_max: float, sigma_min: float, squares: Fraction) -> Spectrum:
    """Return simple ends as the regularizers see them; p counts as `counted` says."""
    hi = float(squares)
    return Spectrum.of_squares(
        p=rank if p == _core.NONZERO_VALUES else p,
        rank=rank,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        squares=hi,
        rest=float(squares - Fraction(hi)),
    )


def tie_width(sigma: float, sigma_max: float, n: int, rule: Rule, formed: bool) -> float:
    """Return how far rounding may move a value: closer ones are tied."""
    return _core.tie_width(
        sigma=sigma,
        sigma_max=sigma_max,
        noise=_core.reduction_noise(n) * sigma_max,
        precision=rule.precision,
        features=formed,
    )


def floor_of(trace: float, squares: float, rule: Rule, formed: bool) -> float:
    """Return what a value must exceed, by the rounding of the entries."""
    if formed:
        return _core.gram_floor(rule=rule, trace=trace)
    return _core.matrix_floor(rule=rule, squares=squares)


def carried(
    sigma_max: float, sigma_min: float, k: int, n: int, rule: Rule, formed: bool, floor: float = 0.0
) -> bool:
    """Return whether the matrix shows the rank, and carries the digits of sigma_min."""
    noise = _core.reduction_noise(n)
    if not formed:
        return noise * sigma_max < sigma_min / 2
    return _core.gram_carries(
        rule=rule,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        rank=k,
        n=n,
        noise=noise,
        floor=floor,
    )


def cut(sigma_max: float, n: int, rule: Rule, formed: bool, floor: float) -> float:
    """Return what a value must exceed to count."""
    rtol = _core.gram_rtol(rule=rule, noise=_core.reduction_noise(n)) if formed else rule.rtol
    return _core.cut(rtol=rtol, sigma_max=sigma_max, floor=floor)


def rank_of(values: FloatArray, rule: Rule, formed: bool, floor: float = 0.0) -> int:
    """Return the rank from all eigenvalues, descending."""
    least = cut(float(values[0]), values.size, rule, formed, floor)
    return rule.rank or max(1, int(np.count_nonzero(values > least)))


def clearly_simple(
    value: float, following: float, error: float, sigma_max: float, n: int, rule: Rule, formed: bool
) -> bool:
    """Return whether an end and its neighbour stand apart for certain."""
    width = tie_width(value, sigma_max, n, rule, formed)
    return _core.clearly_simple(distance=abs(value - following), width=width, error=error)
