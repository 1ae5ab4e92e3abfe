"""CPU tensors: the C++ core, on the tensor's own memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .._pairs import ExtremePairs, Value, pairs_from
from .._rank import Rule
from .._regularizers import SpectralRegularizer
from .._search import Search
from .._validate import Array
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
) -> tuple[Value, Tensor | None, bool, bool, int]:
    """Return value, float64 gradient, whether an end it uses is tied, and is determined, and rank.

    Of a matrix, or of each in a stack (b, rows, columns): whether any is tied, and all determined,
    and the smallest rank.
    """
    kernel = _core.evaluate_features if features else _core.evaluate
    with torch_threads():
        value, grad, _, tied, determined, rank = kernel(
            _array(X),
            coefficients=regularizer.coefficients,
            degree=regularizer.degree,
            rule=rule,
            search=_SEARCH,
            p=_core.NONZERO_VALUES if p_is_rank else _core.ALL_VALUES,
            gradient=gradient,
            pairs=False,
        )
    if X.ndim > 2:
        tied, determined, rank = tied.any(), determined.all(), rank.min()
    return value, None if grad is None else torch.from_numpy(grad), tied, determined, int(rank)


def pairs(X: Tensor, *, features: bool, rule: Rule) -> ExtremePairs:
    """Return the pairs of a matrix, or of each in a stack (b, rows, columns)."""
    with torch_threads():
        found: dict[str, Any] = (
            _core.feature_extreme_pairs(_array(X), rule=rule, search=_SEARCH)
            if features
            else _core.extreme_pairs(_array(X), rule=rule, search=_SEARCH)
        )
    determined = found["determined"]  # whatever float64 makes of the value
    return replace(pairs_from(found, "Z^T Z" if features else "S"), determined_min=determined)


def gram(X: Tensor) -> Tensor:
    """Return ``X^T X`` in float64."""
    with torch_threads():
        return torch.from_numpy(_core.gram(_array(X)))
