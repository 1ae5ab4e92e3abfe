"""What a type checker is told: numbers from a matrix, arrays of them from a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # of any Python: with defaults, those of one matrix

    from ._pairs import ExtremePairs

    Real = TypeVar("Real", default=float)
    Count = TypeVar("Count", default=int)
    Flag = TypeVar("Flag", default=bool)
    Name = TypeVar("Name", default=str)

    OfStack: TypeAlias = ExtremePairs[
        npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_], list[str]
    ]
    OfAny: TypeAlias = ExtremePairs[Any, Any, Any, Any]
else:
    from typing import TypeVar

    Real, Count, Flag, Name = map(TypeVar, ("Real", "Count", "Flag", "Name"))

Options = ParamSpec("Options")
Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[Any]]
Stack: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[Any]]


class ByShape(Protocol[Options]):
    """A function that returns the pairs of a matrix, or those of each matrix in a stack.

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


def by_shape(
    function: Callable[Concatenate[npt.ArrayLike, Options], OfAny],
) -> ByShape[Options]:
    """Return the function as it is; a type checker then tells a matrix from a stack."""
    return cast(ByShape[Options], function)
