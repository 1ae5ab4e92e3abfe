"""CPU tensors: the C++ core, on the tensor's own memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._extreme import Search, pairs_from
from .._rank import Rule
from .._regularizers import SpectralRegularizer
from .._validate import Array
from ._fallback import Evaluated, Pairs
from ._threads import torch_threads

_SEARCH = Search()


def _array(X: Tensor) -> Array:
    # NumPy has no bfloat16, whose numbers float32 holds exactly, and no views that are negated.
    X = X.detach().resolve_neg()
    array: Array = (X.float() if X.dtype == torch.bfloat16 else X).numpy()
    return array


def evaluate(
    regularizer: SpectralRegularizer,
    X: Tensor,
    *,
    features: bool,
    rule: Rule,
    p_is_rank: bool,
    gradient: bool,
) -> Evaluated:
    """As `Kernels.evaluate`."""
    kernel = _core.evaluate_features if features else _core.evaluate
    with torch_threads():
        value, grad, _, tied, determined, rank = kernel(
            regularizer._coefficients,
            regularizer._degree,
            _array(X),
            rule,
            _SEARCH,
            p_is_rank,
            gradient,
            False,
        )
    if X.ndim > 2:
        tied, determined, rank = tied.any(), determined.all(), rank.min()
    by_X = None if grad is None else torch.from_numpy(grad)
    return Evaluated(value, by_X, bool(tied), bool(determined), int(rank))


def pairs(X: Tensor, *, features: bool, rule: Rule) -> Pairs:
    """As `Kernels.pairs`."""
    with torch_threads():
        found: dict[str, Any] = (
            _core.feature_extreme_pairs(_array(X), rule, _SEARCH)
            if features
            else _core.extreme_pairs(_array(X), rule, _SEARCH)
        )
    determined = found["determined"]  # whatever float64 makes of the value
    told = pairs_from(found, "Z^T Z" if features else "S")
    fields = [np.asarray(getattr(told, name)) for name in Pairs._fields[:-1]]
    return Pairs._make(map(torch.from_numpy, [*fields, np.asarray(determined)]))


def gram(X: Tensor) -> Tensor:
    """As `Kernels.gram`."""
    with torch_threads():
        return torch.from_numpy(_core.gram(_array(X)))
