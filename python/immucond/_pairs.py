"""Extreme pairs as users get them, and how kernels are told to look for them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    SupportsIndex,
    TypeAlias,
    cast,
    overload,
)

import numpy as np
import numpy.typing as npt

from ._display import Columns, Tabular
from ._errors import (
    AccuracyWarning,
    DegenerateSpectrumError,
    DegenerateSpectrumWarning,
    warn,
    warn_accuracy,
)
from ._rank import Given, Rule, cut_off, half_told
from ._validate import FloatArray, check_choice, check_real

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # of any Python: with defaults, those of one matrix

    Real = TypeVar("Real", default=float)
    Count = TypeVar("Count", default=int)
    Flag = TypeVar("Flag", default=bool)
    Name = TypeVar("Name", default=str)
else:
    from typing import TypeVar

    Real, Count, Flag, Name = map(TypeVar, ("Real", "Count", "Flag", "Name"))

Options = ParamSpec("Options")

METHODS_PSD = ("auto", "direct", "lanczos")
METHODS = (*METHODS_PSD, "jacobi")
METHODS_OF_FEATURES = (*METHODS, "gram", "qr")

# A float (int, bool, str), or an array of them for a stack.
Value = Any


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtremePairs(Tabular, Generic[Real, Count, Flag, Name]):
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

    def _columns(self) -> Columns:
        """One row a matrix of the stack; vectors are left out."""
        names = (
            "sigma_max", "bound_max", "sigma_min", "bound_min", "rank", "condition_number",
            "simple_max", "simple_min", "determined_min", "method",
        )  # fmt: skip
        stacked = self.v_max.ndim == 2
        return {n: x if stacked else [x] for n in names if (x := getattr(self, n)) is not None}


Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[Any]]
Stack: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[Any]]
OfStack: TypeAlias = ExtremePairs[
    npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_], list[str]
]
OfAny: TypeAlias = ExtremePairs[Any, Any, Any, Any]


class ByShape(Protocol[Options]):
    """What a type checker is told: numbers from a matrix, arrays of them from a stack.

    An array whose number of axes the checker does not know counts as a matrix.
    """

    @overload
    def __call__(
        self, matrix: Matrix, /, *args: Options.args, **options: Options.kwargs
    ) -> ExtremePairs: ...
    @overload
    def __call__(
        self, stack: Stack, /, *args: Options.args, **options: Options.kwargs
    ) -> OfStack: ...
    @overload
    def __call__(
        self,
        stack: Sequence[Sequence[Sequence[float]]],
        /,
        *args: Options.args,
        **options: Options.kwargs,
    ) -> OfStack: ...
    @overload
    def __call__(
        self, matrix: Sequence[Sequence[float]], /, *args: Options.args, **options: Options.kwargs
    ) -> ExtremePairs: ...
    @overload
    def __call__(
        self, given: npt.ArrayLike, /, *args: Options.args, **options: Options.kwargs
    ) -> OfAny: ...


def by_shape(function: Callable[Concatenate[npt.ArrayLike, Options], OfAny]) -> ByShape[Options]:
    """Return the function as it is; a type checker then tells a matrix from a stack."""
    return cast(ByShape[Options], function)


class Search(NamedTuple):
    """How the kernels look for pairs: method, tolerance, what to start from.

    That is vectors of either end, and of the matrix that had them, where its rank was full,
    sigma_min / sigma_max and the relative gap at sigma_min.
    """

    method: str = "auto"
    tol: float = 0.0
    max: tuple[FloatArray, ...] = ()
    min: tuple[FloatArray, ...] = ()
    ratio: float = 0.0
    gap: float = 0.0


def search_from(
    shape: tuple[int, ...],
    *,
    method: str = "auto",
    methods: tuple[str, ...] = ("auto",),
    tol: float | None = None,
    start: ExtremePairs | None = None,
    given: Given = "matrix",
) -> Search:
    """Check the keywords that steer iterations, for a matrix or for features of this shape."""
    check_choice(method, "method", methods)
    relative = 0.0 if tol is None else check_real(tol, "tol", low=0.0)
    if start is None:
        return Search(method, relative)
    if not isinstance(start, ExtremePairs):
        raise TypeError(f"start must be an ExtremePairs or None, and is {type(start).__name__}")
    if len(shape) == 3:
        raise ValueError("start must be None for a stack, and is an ExtremePairs")
    # Iterations work with right vectors, of a wide matrix with those of its transpose.
    left = given == "matrix" and shape[0] < shape[1]
    size = shape[0] if left else shape[1]
    ends: list[tuple[FloatArray, ...]] = []
    for vector, neighbour in (
        (start.u_max if left else start.v_max, start.neighbour_max),
        (start.u_min if left else start.v_min, start.neighbour_min),
    ):
        if vector is None:  # pairs of an operator without an inverse
            ends.append(())
            continue
        if vector.shape != (size,):
            raise ValueError(
                f"start must be the pairs of one matrix with vectors of length {size}, and has "
                f"vectors of shape {vector.shape}"
            )
        both = (vector, neighbour) if neighbour.shape == vector.shape and not left else (vector,)
        if any(column.dtype.kind != "f" for column in both):
            raise ValueError(f"start must hold finite real vectors, and holds {vector.dtype}")
        ends.append(both)
    full = ends[1] and start.rank == min(shape)  # else there is another end, beyond
    ratio, gap = (1.0 / start.condition_number, start.gap_min) if full else (0.0, 0.0)
    return Search(method, relative, ends[0], ends[1], ratio, gap)


def pairs_from(found: dict[str, Any], name: str) -> ExtremePairs:
    """Wrap what a kernel returned, of one matrix or of a stack."""
    largest, smallest = found.pop("unit_max"), found.pop("unit_min")
    exponent = found.pop("exponent")
    found.pop("determined")
    stack = np.ndim(largest) > 0
    if any_infinite(found["frobenius"]):
        first = int(np.flatnonzero(np.isinf(found["frobenius"]))[0])
        raise OverflowError(
            f"the singular values of {name}{f'[{first}]' if stack else ''}, or their norm, are not "
            f"representable in float64: the largest is {np.ravel(largest)[first]:.6g} * "
            f"2^{np.ravel(exponent)[first]}"
        )
    kappa = condition_of(largest, smallest, name)
    if stack:
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
    if not every(determined):
        warn_accuracy(name + where_not(determined))
    ends = [
        f"{e}{where_not(simple)}"
        for e, simple in (("largest", pairs.simple_max), ("smallest", pairs.simple_min))
        if not every(simple)
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
    if isinstance(largest, float):
        ratio = float(largest) / float(smallest) if smallest else math.inf
        kappa = 1.0 if ratio < 1.0 else ratio
    else:
        with np.errstate(over="ignore"):
            kappa = np.maximum(1.0, np.divide(largest, smallest))
    if any_infinite(kappa):
        raise OverflowError(
            f"the condition number of {name}{where_not(np.isfinite(kappa))} passes 1.8e308"
        )
    return kappa


def warn_half(name: str, rank: Any, size: int, rule: Rule) -> None:
    """Say how many singular values the rounding of half precision has left, if not all."""
    if rule.rounded > 0.0 and (told := cut_off(name, int(np.min(rank)), size, rule)):
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


# Of one matrix plain numbers come, for which NumPy's functions take as long as small kernels.


def every(holds: Value) -> bool:
    """Whether it holds, of one matrix or of all in a stack."""
    return holds if isinstance(holds, bool) else bool(np.all(holds))


def any_infinite(x: Value) -> bool:
    """Whether it is infinite, of one matrix or of any in a stack."""
    return math.isinf(x) if isinstance(x, float) else bool(np.isinf(x).any())


def where_not(holds: Value) -> str:
    """Return which matrices of a stack a warning is about: those for which this does not hold."""
    if np.ndim(holds) == 0:
        return ""
    at = np.flatnonzero(~np.asarray(holds))
    return f" (at {at[0]}{f' and {at.size - 1} others' if at.size > 1 else ''} in the stack)"
