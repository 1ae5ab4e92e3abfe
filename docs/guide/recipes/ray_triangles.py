"""The triangle of rows that Ray's workers hold, by a tree of merges."""

from collections.abc import Sequence
from typing import Any

import ray

import immucond as ic


@ray.remote
def triangle(block: Any) -> ic.TriangleAccumulator:
    """Reduce a block where it lies."""
    return ic.TriangleAccumulator(block.shape[1]).update(block)


@ray.remote
def merged(first: ic.TriangleAccumulator, *more: ic.TriangleAccumulator) -> ic.TriangleAccumulator:
    """Merge neighbours."""
    for other in more:
        first = first.merge(other)
    return first


def triangle_of(blocks: Sequence[Any]) -> ic.TriangleAccumulator:
    """Return the triangle of all rows, the same to the bit on any number of workers.

    Blocks are arrays, or references to what ``ray.put`` stored.
    """
    parts = [triangle.remote(block) for block in blocks]
    while len(parts) > 1:
        parts = [merged.remote(*parts[n : n + 2]) for n in range(0, len(parts), 2)]
    return ray.get(parts[0])
