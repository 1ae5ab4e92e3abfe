"""The ends of a spectrum on the host, by the rules of the C++ core (decomposition.cpp)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .._rank import Rule
from .._validate import FloatArray

EPS = 2.0**-52
_GRAM_TOLERANCE = 1e-6  # beyond this relative error in sigma_min the Gram matrix is given up
_CLEAR = 32.0  # neighbours closer than so many tie widths are left to methods that count them


@dataclass
class Ends:
    """Simple ends, as the regularizers see them."""

    p: int
    rank: int
    sigma_max: float
    sigma_min: float
    squares: Fraction

    all_tied = False

    @property
    def below_max(self) -> float:
        """``p sigma_1^2 - F``."""
        return max(0.0, float(self.p * Fraction(self.sigma_max) ** 2 - self.squares))

    @property
    def above_min(self) -> float:
        """``F - k sigma_k^2``."""
        return max(0.0, float(self.squares - self.rank * Fraction(self.sigma_min) ** 2))


def rounding(n: int) -> float:
    """Return what forming and reducing leave in each value, relative to the largest."""
    return 4.0 * EPS * math.sqrt(max(n, 16))


def tie_width(sigma: float, sigma_max: float, n: int, rule: Rule, formed: bool) -> float:
    """Return how far rounding may move a value: closer ones are tied."""
    r = 4 * rule.precision
    step = r * sigma_max
    moved = 2 * math.sqrt(sigma) * r * math.sqrt(sigma_max) + r * step if formed else step
    return rounding(n) * sigma_max + moved


def floor_of(trace: float, squares: float, rule: Rule, formed: bool) -> float:
    """Return what a value must exceed, by the rounding of the entries (decomposition.cpp)."""
    return rule.rounded**2 * trace if formed else rule.rounded * math.sqrt(squares)


def carried(
    sigma_max: float, sigma_min: float, k: int, n: int, rule: Rule, formed: bool, floor: float = 0.0
) -> bool:
    """Return whether the matrix shows the rank, and carries the digits of sigma_min."""
    noise = rounding(n)
    if not formed:
        return noise * sigma_max < sigma_min / 2
    seen = rule.rank > 0 or k == n or rule.rtol**2 >= noise or floor >= noise * sigma_max
    return seen and noise * sigma_max < _GRAM_TOLERANCE * sigma_min


def cut(sigma_max: float, n: int, rule: Rule, formed: bool, floor: float) -> float:
    """Return what a value must exceed to count."""
    return max((max(rule.rtol**2, rounding(n)) if formed else rule.rtol) * sigma_max, floor)


def numerical_rank(values: FloatArray, rule: Rule, formed: bool, floor: float = 0.0) -> int:
    """Return the rank from all eigenvalues, descending."""
    least = cut(float(values[0]), values.size, rule, formed, floor)
    return rule.rank or max(1, int(np.count_nonzero(values > least)))


def clearly_simple(
    value: float, following: float, error: float, sigma_max: float, n: int, rule: Rule, formed: bool
) -> bool:
    """Return whether an end and its neighbour stand apart for certain."""
    width = tie_width(value, sigma_max, n, rule, formed)
    return abs(value - following) > _CLEAR * width + error
