"""Weights that a network uses in several places: one Parameter, or memory that several share."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from ._wrapped import without_graphs


def copied(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy on a device in which what shared memory shares it still."""
    sharing = _sharing_memory(model)
    elsewhere = [
        name
        for name, p in sharing.items()
        if p.device.type != device.type or device.index not in (None, p.device.index)
    ]
    if elsewhere:
        raise ValueError(
            f"{' and '.join(map(repr, elsewhere))} share memory with other tensors of the model, "
            "which does not survive a move to another device: make them one Parameter, or move "
            "the model first"
        )
    memo = without_graphs(model)
    for parameter in sharing.values():
        # A Parameter's own copy clones it; that of a plain tensor copies each storage once.
        alike = copy.deepcopy(parameter.detach(), memo)
        memo[id(parameter)] = nn.Parameter(alike, parameter.requires_grad)
    return copy.deepcopy(model, memo).to(device)


def _sharing_memory(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters whose storage another parameter, or a buffer, has too."""
    tensors = {id(x): x for x in chain(model.parameters(), model.buffers())}
    storages = Counter(filter(None, map(_storage, tensors.values())))
    return {
        name: p
        for name, p in model.named_parameters()
        if type(p) is nn.Parameter and storages[_storage(p)] > 1
    }


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else 0


def tied_to(model: nn.Module, trained: Sequence[nn.Module]) -> str | None:
    """Return the name of a module elsewhere that has a parameter of these modules, if any."""
    inside = {id(m) for root in trained for m in root.modules()}
    theirs = {id(p) for root in trained for p in root.parameters()}
    elsewhere = (
        name
        for name, module in model.named_modules()
        if id(module) not in inside
        and any(id(p) in theirs for p in module.parameters(recurse=False))
    )
    return next(elsewhere, None)


@contextmanager
def with_other_values(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters have random values meanwhile; no graph that is alive notices."""
    generator = torch.Generator().manual_seed(0)
    before = [(p, p.detach().clone()) for p in parameters if p.is_floating_point()]
    try:
        for p, _ in before:
            p.data.copy_(torch.randn(p.shape, generator=generator))
        yield
    finally:
        for p, value in before:
            p.data.copy_(value)
