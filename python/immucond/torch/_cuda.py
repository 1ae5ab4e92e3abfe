"""CUDA tensors: the kernels of `immucond.cuda`, on the tensor's own memory and stream."""

from __future__ import annotations

import torch
from torch import Tensor

from .._rank import Rule
from .._regularizers import SpectralRegularizer
from ..cuda import available as available
from ..cuda.stacks import Stack, built_in, gram_of, torch_library, where_on_device
from . import _fallback
from ._fallback import Evaluated, Pairs


def _stack(X: Tensor, features: bool, rule: Rule) -> Stack:
    X = torch_library().adopt(X)
    stacked = X if X.ndim == 3 else X[None]
    where = where_on_device(stacked)
    return Stack(stacked, where, torch_library(), features=features, rule=rule)


def evaluate(
    regularizer: SpectralRegularizer,
    X: Tensor,
    *,
    features: bool,
    rule: Rule,
    p: int,
    gradient: bool,
) -> Evaluated:
    """As `Kernels.evaluate`; values stay on the device."""
    if built_in(regularizer) is None:
        return _fallback.evaluate(
            regularizer, X, features=features, rule=rule, p=p, gradient=gradient
        )
    found = _stack(X, features, rule).evaluate(regularizer, p=p, gradient=gradient)
    value, by_X = found.value, found.gradient
    if X.ndim == 2:
        value, by_X = value[0], by_X[0] if gradient else None
    return Evaluated(value, by_X, found.tied, found.determined, found.rank)


def pairs(X: Tensor, *, features: bool, rule: Rule) -> Pairs:
    """As `Kernels.pairs`."""
    rows, columns = X.shape[-2:]
    if not features and rows != columns:
        return _fallback.pairs(X, features=features, rule=rule)
    found = _stack(X, features, rule).pairs()
    u_max, u_min = found.v_max.clone(), found.v_min.clone()
    flags = torch.ones(3, len(u_max), dtype=torch.bool)
    for i, one in found.left.items():
        u_max[i] = torch.from_numpy(one.u_max)
        u_min[i] = torch.from_numpy(one.u_min)
        flags[:, i] = torch.tensor([one.simple_max, one.simple_min, one.determined_min])
    fields = Pairs(
        found.sigma_max, u_max, found.v_max, found.sigma_min, u_min, found.v_min, found.rank, *flags
    )
    return Pairs(*(field[0] for field in fields)) if X.ndim == 2 else fields


def gram(X: Tensor) -> Tensor:
    """As `Kernels.gram`."""
    X = torch_library().adopt(X)
    result: Tensor = gram_of(where_on_device(X), torch_library())
    return result
