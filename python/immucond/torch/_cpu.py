"""CPU tensors: the C++ core, on the tensor's own memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._pairs import Search, pairs_from
from .._rank import Rule
from .._regularizers import SpectralRegularizer
from .._validate import Array
from ._fallback import Evaluated, Pairs

_SEARCH = Search()


@contextmanager
def _torch_threads() -> Iterator[None]:
    """Hold SciPy's BLAS to ``torch.get_num_threads()`` threads, where it would take more."""
    before, allowed = _core.blas_threads(), torch.get_num_threads()
    if before <= allowed:
        yield
        return
    _core.set_blas_threads(allowed)
    try:
        yield
    finally:
        _core.set_blas_threads(before)


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
    p: int,
    gradient: bool,
) -> Evaluated:
    """As `Kernels.evaluate`."""
    kernel = _core.evaluate_features if features else _core.evaluate
    with _torch_threads():
        value, grad, _, tied, determined, rank = kernel(
            _array(X),
            coefficients=regularizer.coefficients,
            degree=regularizer.degree,
            rule=rule,
            search=_SEARCH,
            p=p,
            gradient=gradient,
            pairs=False,
        )
    if X.ndim > 2:
        tied, determined, rank = tied.any(), determined.all(), rank.min()
    by_X = None if grad is None else torch.from_numpy(grad)
    return Evaluated(value, by_X, bool(tied), bool(determined), int(rank))


def pairs(X: Tensor, *, features: bool, rule: Rule) -> Pairs:
    """As `Kernels.pairs`."""
    kernel = _core.feature_extreme_pairs if features else _core.extreme_pairs
    with _torch_threads():
        found = kernel(_array(X), rule=rule, search=_SEARCH)
    determined = found["determined"]  # whatever float64 makes of the value
    told = pairs_from(found, "Z^T Z" if features else "S")
    fields = [np.asarray(getattr(told, name)) for name in Pairs._fields[:-1]]
    return Pairs._make(map(torch.from_numpy, [*fields, np.asarray(determined)]))


def gram(X: Tensor) -> Tensor:
    """As `Kernels.gram`."""
    with _torch_threads():
        return torch.from_numpy(_core.gram(_array(X)))
