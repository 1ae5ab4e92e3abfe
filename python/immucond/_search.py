"""How the kernels look for extreme pairs: the keywords that steer iterations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._pairs import ExtremePairs
from ._rank import Given
from ._validate import Array, FloatArray, check_choice, check_real

METHODS_PSD = ("auto", "direct", "lanczos")
METHODS = (*METHODS_PSD, "jacobi")
METHODS_OF_FEATURES = (*METHODS, "gram", "qr")


class Search(NamedTuple):
    """How the kernels look for pairs: method, tolerance, what to start from.

    That is vectors of either end, and sigma_min / sigma_max of the matrix that had them, or 0.
    """

    method: str = "auto"
    tol: float = 0.0
    max: FloatArray = np.empty((0, 0))
    min: FloatArray = np.empty((0, 0))
    ratio: float = 0.0


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
    ends = []
    for vector, neighbour in (
        (start.u_max if left else start.v_max, start.neighbour_max),
        (start.u_min if left else start.v_min, start.neighbour_min),
    ):
        if vector is None:  # pairs of an operator without an inverse
            ends.append(np.empty((0, 0)))
            continue
        if vector.shape != (size,):
            raise ValueError(
                f"start must be the pairs of one matrix with vectors of length {size}, and has "
                f"vectors of shape {vector.shape}"
            )
        both = [vector, neighbour] if neighbour.shape == vector.shape and not left else [vector]
        ends.append(_directions(np.column_stack(both)))
    ratio = 1.0 / start.condition_number if ends[1].size else 0.0
    return Search(method, relative, ends[0], ends[1], ratio)


def _directions(columns: Array) -> FloatArray:
    # Their squares must not leave the range of float64; zeros stay, and start nothing.
    if columns.dtype.kind != "f" or not np.isfinite(columns).all():
        raise ValueError(
            "start must hold finite real vectors, and holds NaN, infinity or another dtype"
        )
    largest = np.abs(columns).max(axis=0)
    scaled: FloatArray = np.ldexp(columns, -np.frexp(largest)[1])
    return scaled
