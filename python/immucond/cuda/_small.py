"""Small problems: one block of threads a matrix, the whole stack in one launch."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from .._rank import Rule
from ._arrays import DeviceArray, Library
from ._module import module

Kind = Literal["matrix", "features", "gram"]


class Small(NamedTuple):
    """What came out, as device arrays of the stack's length; None where it was not asked for.

    `status` is not 0 where a direct method has to take a matrix on; its results are NaN then.
    """

    value: Any
    gradient: Any
    sigma: Any
    vectors: Any
    rank: Any
    status: Any


def is_small(kind: Kind, shape: tuple[int, ...], device: int) -> bool:
    """Return whether one block should take each matrix of this shape."""
    rows, cols = shape[-2:]
    if kind != "features" and rows != cols:
        return False
    cuda = module()
    return bool(cuda.is_small(kind, rows, cols, cuda.shared_limit(device)))


def small_problems(
    stack: DeviceArray,
    library: Library,
    *,
    kind: Kind,
    rule: Rule,
    regularizer: str = "none",
    p: int = 0,
    gradient: bool = False,
    pairs: bool = False,
) -> Small:
    """Launch them on the library's current stream; nothing is waited for. `p` is `counted`."""
    cuda, device = module(), stack.device
    count, rows, cols = stack.shape

    def empty(wanted: bool, *shape: int, dtype: str = "float64") -> Any:
        return library.empty((count, *shape), dtype, device) if wanted else None

    found = Small(
        value=empty(regularizer != "none"),
        gradient=empty(gradient, rows, cols, dtype=stack.at_least_float32),
        sigma=empty(pairs, 2),
        vectors=empty(pairs, 2, cols),
        rank=empty(True, dtype="int32"),
        status=empty(True, dtype="int32"),
    )
    size = cuda.small_workspace_bytes(kind, count, rows, cols, gradient)
    workspace = library.empty((size // 8,), "float64", device) if size else None
    addresses = {
        name: 0 if array is None else library.address(array)
        for name, array in (*found._asdict().items(), ("gram", workspace))
    }
    cuda.small_problems(
        stack=stack.layout,
        kind=kind,
        rule=tuple(rule),
        regularizer=regularizer,
        p=p,
        **addresses,
        device=device,
        stream=library.stream(device),
    )
    return found
