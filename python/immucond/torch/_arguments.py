"""The arguments that all operators share: a matrix or features, and what decides the rank."""

from __future__ import annotations

from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from .._rank import epsilon
from .._validate import as_integer, check_real

Given = Literal["matrix", "features"]

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def given(
    S: Tensor | None,
    features: Tensor | None,
    rank: SupportsIndex | None,
    rtol: float | None,
    computed_in: Any,
    *,
    empty: bool = False,
) -> tuple[Tensor, tuple[bool, int | None, float | None, str | None]]:
    """Return the matrix or the features (`empty`: maybe of no rows), and the kernels' options."""
    if (S is None) == (features is None):
        found = "neither" if S is None else "both"
        raise ValueError(f"give a matrix, S, or features, features=Z: got {found}")
    X = S if features is None else features
    check_tensor(X, "S" if features is None else "features", empty=empty)
    if rank is not None:
        rank = as_integer(rank, "rank")
    if rtol is not None:
        rtol = check_real(rtol, "rtol", low=0.0, high=1.0)
    if computed_in is not None:
        epsilon(computed_in)  # refuses what is no dtype
        if isinstance(computed_in, torch.dtype):
            computed_in = str(computed_in).removeprefix("torch.")
        elif computed_in != "bfloat16":  # which NumPy does not know
            computed_in = np.dtype(computed_in).name
    return X, (features is not None, rank, rtol, computed_in)  # type: ignore[return-value]


def check_tensor(X: Any, name: str, *, empty: bool = False) -> None:
    """Refuse what is not a stack of matrices of a floating-point dtype; `empty`: or has no rows."""
    if not isinstance(X, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, and is {type(X).__name__}")
    if hasattr(X, "full_tensor"):
        raise TypeError(
            f"{name} must be a plain tensor, and is a DTensor: give {name}.full_tensor(), or "
            f"{name}.to_local(), where that is this rank's rows, with group="
        )
    if X.dtype not in DTYPES:
        raise TypeError(
            f"{name} must hold float64, float32, bfloat16 or float16, and has dtype {X.dtype}"
        )
    if X.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense tensor, and is sparse (layout {X.layout}): give "
            f"{name}.to_dense()"
        )
    if X.ndim < 2 or (X.numel() == 0 and not (empty and X.shape[-1] > 0)):
        raise ValueError(
            f"{name} must be a matrix with at least one entry, or a stack of them, and has shape "
            f"{tuple(X.shape)}"
        )
