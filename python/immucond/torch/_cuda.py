"""CUDA tensors: the kernels of `immucond.cuda`, on the tensor's own memory and stream."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _core
from .._rank import Rule
from .._regularizers import SpectralRegularizer
from ..cuda._arrays import DeviceArray, torch_library
from ..cuda._evaluate import evaluate as evaluate_stack
from ..cuda._evaluate import pairs as pairs_of_stack
from ..cuda._gram import gram_of
from ..cuda._module import available as available
from . import _device
from ._device import Pairs


def _where(X: Tensor) -> DeviceArray:
    found = torch_library().where(X)
    assert found is not None  # kernels_for sends CUDA tensors only
    return found


def evaluate(
    regularizer: SpectralRegularizer,
    X: Tensor,
    *,
    features: bool,
    rule: Rule,
    p_is_rank: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor | None, bool, bool, int]:
    """As the function of this name for CPU tensors; values stay on the device."""
    X = torch_library().adopt(X)
    stack = X if X.ndim == 3 else X[None]
    found = evaluate_stack(
        regularizer,
        stack,
        _where(stack),
        torch_library(),
        features=features,
        rule=rule,
        p=_core.NONZERO_VALUES if p_is_rank else _core.ALL_VALUES,
        gradient=gradient,
    )
    value, by_X = found.value, found.gradient
    if X.ndim == 2:
        value, by_X = value[0], by_X[0] if gradient else None
    return value, by_X, found.tied, found.determined, found.rank


def pairs(X: Tensor, *, features: bool, rule: Rule) -> Pairs:
    """As the function of this name for CPU tensors."""
    rows, columns = X.shape[-2:]
    if not features and rows != columns:
        return _device.pairs(X, features=features, rule=rule)
    X = torch_library().adopt(X)
    stack = X if X.ndim == 3 else X[None]
    found = pairs_of_stack(stack, _where(stack), torch_library(), features=features, rule=rule)
    u_max, u_min = found.v_max.clone(), found.v_min.clone()
    flags = torch.ones(3, len(stack), dtype=torch.bool)
    for i, one in found.left.items():
        u_max[i] = torch.from_numpy(one.u_max)
        u_min[i] = torch.from_numpy(one.u_min)
        flags[:, i] = torch.tensor([one.simple_max, one.simple_min, one.determined_min])
    fields = Pairs(
        found.sigma_max, u_max, found.v_max, found.sigma_min, u_min, found.v_min, found.rank, *flags
    )
    return Pairs(*(field[0] for field in fields)) if X.ndim == 2 else fields


def gram(X: Tensor) -> Tensor:
    """As the function of this name for CPU tensors."""
    X = torch_library().adopt(X)
    result: Tensor = gram_of(_where(X), torch_library())
    return result
