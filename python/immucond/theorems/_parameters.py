"""Parameters of instances, drawn by NumPy or by Hypothesis, and made simpler while shrinking.

One description serves the command line, the tests and the search for a smallest counterexample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


class Parameter(Protocol):
    """A kind of number, or of list of numbers, with its range."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Random value, the ends of the range more often than by chance."""

    def strategy(self) -> SearchStrategy[Any]:
        """Hypothesis strategy of the same values."""

    def simpler(self, value: Any) -> Iterator[Any]:
        """Values to put in its place while shrinking, the simplest first."""


Parameters = dict[str, Parameter]


@dataclass(frozen=True)
class Whole:
    """Whole number from `low` to `high`, both included; the smaller the simpler."""

    low: int
    high: int

    def draw(self, rng: np.random.Generator) -> int:
        """Uniform."""
        return int(rng.integers(self.low, self.high, endpoint=True))

    def strategy(self) -> SearchStrategy[int]:
        """As integers."""
        from hypothesis import strategies as st

        return st.integers(self.low, self.high)

    def simpler(self, value: int) -> Iterator[int]:
        """Smaller ones."""
        for candidate in sorted({self.low, (self.low + value) // 2, value - 1}):
            if self.low <= candidate < value:
                yield candidate


@dataclass(frozen=True)
class Real:
    """Real number from `low` to `high`; 0 is the simplest, then few digits."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """Uniform, one time in eight an end of the range or 0."""
        if rng.random() < 1 / 8:
            return float(rng.choice([self.low, self.high, min(max(0.0, self.low), self.high)]))
        return float(rng.uniform(self.low, self.high))

    def strategy(self) -> SearchStrategy[float]:
        """As floats, to nine decimals: what underflows is for the tests of the kernels."""
        from hypothesis import strategies as st

        return st.floats(self.low, self.high).map(lambda value: round(value, 9))

    def simpler(self, value: float) -> Iterator[float]:
        """Those with fewer digits nearby, and 0."""
        for candidate in (0.0, *(round(value, digits) for digits in range(4))):
            if self.low <= candidate <= self.high and len(repr(candidate)) < len(repr(value)):
                yield candidate
        if value != 0.0 and self.low <= 0.0 <= self.high:
            yield 0.0


@dataclass(frozen=True)
class Reals:
    """List of `least` to `most` real numbers from `low` to `high`; the shorter the simpler."""

    low: float
    high: float
    least: int
    most: int

    @property
    def _entry(self) -> Real:
        return Real(self.low, self.high)

    def draw(self, rng: np.random.Generator) -> list[float]:
        """Of uniform length."""
        size = int(rng.integers(self.least, self.most, endpoint=True))
        return [self._entry.draw(rng) for _ in range(size)]

    def strategy(self) -> SearchStrategy[list[float]]:
        """As lists of floats."""
        from hypothesis import strategies as st

        return st.lists(self._entry.strategy(), min_size=self.least, max_size=self.most)

    def simpler(self, value: list[float]) -> Iterator[list[float]]:
        """Shorter ones, then those with a simpler entry."""
        if len(value) > self.least:
            for i in range(len(value)):
                yield value[:i] + value[i + 1 :]
        for i, entry in enumerate(value):
            for candidate in self._entry.simpler(entry):
                yield [*value[:i], candidate, *value[i + 1 :]]


SEED = Whole(0, 2**32 - 1)
# Exponents of the relative gaps between neighbours: from nearly degenerate to steeply graded.
GAPS = Reals(-8.0, 6.0, 1, 5)
MORE_GAPS = Reals(-8.0, 6.0, 0, 5)
ANGLES = Reals(-3.2, 3.2, 0, 15)
