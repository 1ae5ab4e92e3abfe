"""Measurements of several seeds, some of which are only known to lie beyond the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtr

from .._format import number

LEVEL = 0.95
LEAST = 3  # seeds of an interval


class Bounds(NamedTuple):
    """What is known of a number: that it lies between these."""

    lower: float
    upper: float

    def __str__(self) -> str:
        if self.lower == self.upper:
            return number(self.lower)
        if math.isinf(self.upper):
            return f"> {number(self.lower)}" if self.lower > 0.0 else "unknown"
        if self.lower == 0.0:
            return f"< {number(self.upper)}"
        return f"{number(self.lower)} to {number(self.upper)}"

    def over(self, other: Bounds) -> Bounds:
        """Quotient of two numbers."""
        return Bounds(
            _quotient(self.lower, other.upper, 0.0), _quotient(self.upper, other.lower, math.inf)
        )


def _quotient(a: float, b: float, unknown: float) -> float:
    if (a == 0.0 and b == 0.0) or (math.isinf(a) and math.isinf(b)):
        return unknown
    return math.inf if b == 0.0 else a / b


def within(steps: float, budget: float) -> Bounds:
    """Return what is known of steps: more than the budget where it did not suffice."""
    return Bounds(budget, math.inf) if math.isinf(steps) else Bounds(steps, steps)


class Summary(NamedTuple):
    """A number over seeds.

    The interval is that of the median by order statistics, which assumes nothing of the
    distribution: of n seeds it runs from the k-th smallest to the k-th largest, k as large as the
    level of 95 % allows. Fewer than six seeds do not reach that level; `level` is what theirs has.

    Attributes
    ----------
    seeds : int
    median, worst : Bounds
        The worst for the defender is the smallest.
    interval : Bounds or None
        None for fewer than three seeds.
    level : float or None
        Probability that it holds the median, at least.
    """

    seeds: int
    median: Bounds
    worst: Bounds
    interval: Bounds | None
    level: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        found = self._asdict()
        for name in ("median", "worst", "interval"):
            found[name] = None if found[name] is None else found[name]._asdict()
        return found

    @property
    def told(self) -> str:
        """The interval with its level, or that there is none."""
        if self.interval is None:
            return f"no interval: {self.seeds} of {LEAST} seeds"
        return f"{span(self.interval)} ({self.level:.0%} interval)"


def span(interval: Bounds) -> str:
    """Text of an interval, one number where both ends are the same."""
    lower, upper = map(number, interval)
    if math.isinf(interval.upper):
        return f"at least {lower}" if interval.lower > 0.0 else "unknown"
    return lower if lower == upper else f"{lower} to {upper}"


def over_seeds(values: Sequence[Bounds]) -> Summary:
    """Summarize a number over seeds; every order statistic is monotone, and so is bounded too."""
    lower, upper = np.sort(np.array(values, dtype=np.float64), axis=0).T
    n = len(values)

    def between(f: Any) -> Bounds:
        return Bounds(float(f(lower)), float(f(upper)))

    interval, level = None, None
    if n >= LEAST:
        k = max((k for k in range(1, n // 2 + 1) if _level(k, n) >= LEVEL), default=1)
        interval, level = Bounds(float(lower[k - 1]), float(upper[n - k])), _level(k, n)
    return Summary(n, between(np.median), between(np.min), interval, level)


def _level(k: int, n: int) -> float:
    """Probability that the median lies between the k-th smallest and the k-th largest of n."""
    return float(1.0 - 2.0 * bdtr(k - 1, n, 0.5))
