"""Extreme pairs as users get them, and how what a kernel found becomes one."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Generic, SupportsIndex

import numpy as np

from ._errors import AccuracyWarning, DegenerateSpectrumError, DegenerateSpectrumWarning
from ._rank import Rule, cut_off, half_told
from ._shapes import Count, Flag, Name, Real
from ._validate import FloatArray
from ._warn import warn, warn_accuracy

# A float (int, bool, str), or an array of them for a stack.
Value = Any


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtremePairs(Generic[Real, Count, Flag, Name]):
    """The largest and the smallest nonzero singular triplet of a matrix, or of each in a stack.

    For a stack of b matrices every attribute is an array with b as its first axis (`method` a
    list), ``len`` gives b, and ``pairs[i]`` the pairs of one.

    Attributes
    ----------
    sigma_max, sigma_min : float
        The largest and the smallest *nonzero* singular value.
    u_max, v_max, u_min, v_min : ndarray
        Their left and right singular vectors, of unit length; ``u`` equals ``v`` for a symmetric
        positive semidefinite matrix. The largest component of each ``v`` is positive.
    rank : int
        Number of singular values that count as nonzero.
    frobenius : float
        The Frobenius norm.
    condition_number : float
        ``sigma_max / sigma_min``, also where one of them leaves the range of float64.
    gap_max, gap_min : float
        Distance to the neighbouring nonzero singular value, relative to the extreme one; infinite
        for rank 1.
    simple_max, simple_min : bool
        False where neighbours agree to rounding: the vectors are then one choice among many.
    bound_max, bound_min : float
        Certified bounds on ``|sigma - true sigma|``, from residuals in double-double. Of an
        operator: on the distance to a singular value (`seed` of `extreme_pairs`).
    determined_min : bool
        ``bound_min < sigma_min / 2``.
    method : str
        What ran: "direct" or "lanczos"; for features "gram" or "qr", with "-lanczos" where an
        iteration took the place of a reduction.
    neighbour_max, neighbour_min : ndarray
        Right singular vectors of the singular values next to the ends, where the method has them
        (else empty): with the pairs themselves they are what a warm start starts from.
    """

    sigma_max: Real
    u_max: FloatArray
    v_max: FloatArray
    sigma_min: Real
    u_min: FloatArray
    v_min: FloatArray
    rank: Count
    frobenius: Real
    gap_max: Real
    gap_min: Real
    simple_max: Flag
    simple_min: Flag
    bound_max: Real
    bound_min: Real
    determined_min: Flag
    method: Name
    condition_number: Real
    neighbour_max: FloatArray
    neighbour_min: FloatArray

    def __len__(self) -> int:
        if self.v_max.ndim == 1:
            raise TypeError("these are the pairs of one matrix, not of a stack")
        return int(self.v_max.shape[0])

    def __getitem__(self, index: SupportsIndex) -> ExtremePairs:
        count, at = len(self), operator.index(index)
        if not -count <= at < count:
            raise IndexError(f"index {at} is out of range for a stack of {count}")
        values = {field.name: getattr(self, field.name)[at] for field in fields(self)}
        return ExtremePairs(
            **{k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        )

    def __repr__(self) -> str:
        if self.sigma_min is None:
            return f"ExtremePairs(sigma_max={self.sigma_max:.6g} +- {self.bound_max:.1g})"
        if self.v_max.ndim == 2:
            worst: float = np.max(np.asarray(self.condition_number))
            return f"ExtremePairs(of {len(self)} matrices, condition_number up to {worst:.6g})"
        return (
            f"ExtremePairs(sigma_max={self.sigma_max:.6g} +- {self.bound_max:.1g}, "
            f"sigma_min={self.sigma_min:.6g} +- {self.bound_min:.1g}, rank={self.rank}, "
            f"condition_number={self.condition_number:.6g}, method={self.method!r})"
        )


def pairs_from(found: dict[str, Any], name: str) -> ExtremePairs:
    """Wrap what a kernel returned, of one matrix or of a stack."""
    largest, smallest = found.pop("unit_max"), found.pop("unit_min")
    exponent = found.pop("exponent")
    found.pop("determined")
    lost = np.flatnonzero(np.isinf(found["frobenius"]))
    if lost.size:
        first = int(lost[0])
        stack = np.ndim(largest) > 0
        raise OverflowError(
            f"the singular values of {name}{f'[{first}]' if stack else ''} are not representable "
            f"in float64: the largest is {np.ravel(largest)[first]:.6g} * "
            f"2^{np.ravel(exponent)[first]}"
        )
    kappa = condition_of(largest, smallest, name)
    if np.ndim(kappa) > 0:
        none = np.empty((len(largest), 0))
        return ExtremePairs(condition_number=kappa, neighbour_max=none, neighbour_min=none, **found)
    neighbours = {f"neighbour_{end}": found.pop(f"next_{end}") for end in ("max", "min")}
    return ExtremePairs(condition_number=kappa, **found, **neighbours)


def pairs_with_warnings(
    found: dict[str, Any], name: str, rule: Rule, shape: tuple[int, ...]
) -> ExtremePairs:
    """`pairs_from`, with the warnings that the pairs call for."""
    warn_half(name, found["rank"], min(shape[-2:]), rule)
    determined = found["determined"]  # whatever float64 makes of the value
    pairs = pairs_from(found, name)
    if not np.all(determined):
        warn_accuracy(name + where_not(determined))
    ends = [
        f"{e}{where_not(simple)}"
        for e, simple in (("largest", pairs.simple_max), ("smallest", pairs.simple_min))
        if not np.all(simple)
    ]
    if ends:
        warn(
            f"the {' and the '.join(ends)} singular value of {name} is not simple to rounding: its "
            "vectors are one choice among many",
            DegenerateSpectrumWarning,
        )
    return pairs


def condition_of(largest: Value, smallest: Value, name: str) -> Value:
    """Return sigma_max / sigma_min, of one matrix or of a stack."""
    with np.errstate(over="ignore"):
        kappa = np.maximum(1.0, np.divide(largest, smallest))
    if np.isinf(kappa).any():
        raise OverflowError(
            f"the condition number of {name}{where_not(np.isfinite(kappa))} passes 1.8e308"
        )
    return kappa if np.ndim(kappa) else float(kappa)


def warn_half(name: str, rank: Any, size: int, rule: Rule) -> None:
    """Say how many singular values the rounding of half precision has left, if not all."""
    if told := cut_off(name, int(np.min(rank)), size, rule):
        warn(told, AccuracyWarning)


@contextmanager
def explaining(rule: Rule) -> Iterator[None]:
    """Say of a degenerate spectrum that half precision may be what made it so."""
    try:
        yield
    except DegenerateSpectrumError as error:
        if rule.rounded == 0.0:
            raise
        raise DegenerateSpectrumError(f"{error}. Here {half_told(rule)}") from None


def where_not(holds: Value) -> str:
    """Return which matrices of a stack a warning is about: those for which this does not hold."""
    if np.ndim(holds) == 0:
        return ""
    at = np.flatnonzero(~np.asarray(holds))
    return f" (at {at[0]}{f' and {at.size - 1} others' if at.size > 1 else ''} in the stack)"
