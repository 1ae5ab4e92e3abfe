"""What a check found: whether the statement holds, by how much, and on what numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Claim:
    """One inequality or equality of a statement, measured on an instance.

    Attributes
    ----------
    name : str
        Which one.
    slack : float
        0 at the edge, negative where violated, in relative terms.
    rounding : float
        Relative rounding error that the computation may carry: a slack down to minus this decides
        nothing against the claim. 0 where it was decided in exact rational arithmetic.
    holds : bool
        Whether the claim stands.
    """

    name: str
    slack: float
    rounding: float
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a statement holds on an instance.

    Attributes
    ----------
    holds : bool
        Every claim of the statement stands, rounding considered.
    slack : float
        Of the worst claim: ``(b - a) / max(|a|, |b|)`` for a claim ``a <= b``, so 0 at the edge,
        1 far inside, negative where violated; minus the relative difference for an equality.
    rounding : float
        Relative rounding error behind that slack, from the condition of the instance; 0 where
        exact rational arithmetic decided.
    claim : str
        The worst claim.
    witness : dict
        The numbers that show it: floats, integers and lists of them.

    Examples
    --------
    >>> import immucond as ic
    >>> remark = ic.theorems.THEOREMS["alignment-remark"]
    >>> verdict = remark.check(remark.instance(primary=[2.0], harmful=[], extractor=[1.0]))
    >>> verdict.holds, round(verdict.witness["rir"])
    (False, 9901)
    """

    holds: bool
    slack: float
    rounding: float
    claim: str
    witness: Mapping[str, Any]

    @property
    def margin(self) -> tuple[bool, float]:
        """What verdicts are ordered by, the worst first."""
        return self.holds, self.slack + self.rounding

    @classmethod
    def of(cls, *claims: Claim, **witness: Any) -> Verdict:
        """Verdict on all claims: the worst fails, or comes nearest to what rounding allows."""
        worst = min(claims, key=lambda claim: (claim.holds, claim.slack + claim.rounding))
        return cls(
            holds=worst.holds,
            slack=worst.slack,
            rounding=worst.rounding,
            claim=worst.name,
            witness={name: _plain(value) for name, value in witness.items()},
        )


def at_most(name: str, a: float, b: float, rounding: float = 0.0) -> Claim:
    """Claim that ``a <= b``, up to rounding."""
    slack = _relative(a, b)
    return Claim(name, slack, rounding, slack >= -rounding)


def below(name: str, a: Fraction, b: Fraction) -> Claim:
    """Claim that ``a < b``, decided exactly."""
    return Claim(name, _relative(a, b), 0.0, a < b)


def not_below(name: str, a: Fraction, b: Fraction) -> Claim:
    """Claim that ``a >= b``, decided exactly."""
    return Claim(name, _relative(b, a), 0.0, a >= b)


def equal(
    name: str, a: npt.ArrayLike, b: npt.ArrayLike, rounding: float, *, scale: float | None = None
) -> Claim:
    """Claim that ``a = b`` entry by entry, up to rounding, relative to each or to a scale."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    size = np.maximum(np.abs(x), np.abs(y)) if scale is None else np.full(x.shape, scale)
    difference = np.abs(np.subtract(x, y, out=np.zeros_like(x), where=x != y))
    off = float(np.max(difference / np.where((size > 0) & np.isfinite(size), size, 1.0)))
    return Claim(name, -off, rounding, off <= rounding)


def _relative(a: Any, b: Any) -> float:
    if a == b:
        return 0.0
    if abs(b) == np.inf:
        return 1.0 if b > 0 else -1.0
    if abs(a) == np.inf:
        return -1.0 if a > 0 else 1.0
    return float((b - a) / max(abs(a), abs(b)))


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return float(value)
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
