"""The triangle of a Dask array's rows, by a tree of merges."""

import copy
from typing import Any

import dask
import dask.array as da

import immucond as ic


@dask.delayed(pure=True)
def triangle(block: Any) -> ic.TriangleAccumulator:
    """Reduce a block where it lies."""
    return ic.TriangleAccumulator(block.shape[1]).update(block)


@dask.delayed(pure=True)
def merged(first: ic.TriangleAccumulator, *more: ic.TriangleAccumulator) -> ic.TriangleAccumulator:
    """Merge neighbours; Dask may keep what enters, so a copy is merged into."""
    first = copy.copy(first)
    for other in more:
        first = first.merge(other)
    return first


def triangle_of(X: da.Array) -> ic.TriangleAccumulator:
    """Return the triangle of all rows, the same to the bit under any of Dask's schedulers."""
    parts = [triangle(block) for block in X.rechunk({1: -1}).to_delayed().ravel()]
    while len(parts) > 1:
        parts = [merged(*parts[n : n + 2]) for n in range(0, len(parts), 2)]
    return parts[0].compute()
