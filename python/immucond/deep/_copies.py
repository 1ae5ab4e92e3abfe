"""Copies of a network: to be changed, with what shares memory; and to be run in evaluation mode."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (list, tuple, dict, OrderedDict)
_SHARED = vars(nn.Module()).keys() - {"_modules"}  # parameters, buffers, hooks
_DEPTH = 3  # of containers in an attribute that are searched for modules


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
    memo = _without_graphs(model)
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


def _without_graphs(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy`, which refuses tensors that are no leaves of a graph.

    `torch.nn.utils.weight_norm` and its like leave one in place of a weight, and compute it anew in
    each forward pass.
    """
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


@contextmanager
def served(model: nn.Module, device: Any = None) -> Iterator[tuple[nn.Module, torch.device]]:
    """Give a network in evaluation mode, on a device if one is named; put it back afterwards."""
    before, training = next(model.parameters()).device, model.training
    where = before if device is None else torch.device(device)
    try:
        yield model.to(where).eval(), where
    finally:
        model.to(before).train(training)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Give a network in evaluation mode: its parameters, buffers and hooks, in other modules.

    A checkpointed block runs again in the backward pass, in whatever mode its modules are in by
    then: modules of their own, in evaluation mode for good, make that the mode in which it ran
    before. The model's own modules, which a closure may hold, are in evaluation mode meanwhile.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield _twin(model) if training else model
    finally:
        for module in training:
            module.training = True


def _twin(model: nn.Module) -> nn.Module:
    originals = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    twins: dict[int, nn.Module] = {id(m): object.__new__(type(m)) for m in originals}

    def turned(value: Any, depth: int = _DEPTH) -> Any:
        """Return a value with twins in the place of modules; itself where there are none."""
        if isinstance(value, nn.Module):
            return twins.get(id(value), value)
        if isinstance(value, MethodType) and id(value.__self__) in twins:
            return MethodType(value.__func__, twins[id(value.__self__)])
        if type(value) is partial:
            parts = (value.func, *value.args, *value.keywords.values())
            function, *rest = (turned(part, depth) for part in parts)
            count = len(value.args)
            keywords = dict(zip(value.keywords, rest[count:], strict=True))
            return partial(function, *rest[:count], **keywords)
        if type(value) not in _CONTAINERS or depth == 0:
            return value
        items = list(value.values()) if isinstance(value, dict) else list(value)
        new = [turned(item, depth - 1) for item in items]
        if all(a is b for a, b in zip(items, new, strict=True)):
            return value
        return type(value)(zip(value, new, strict=True) if isinstance(value, dict) else new)

    for module in originals:
        own = vars(module)
        new = {name: turned(value) for name, value in own.items() if name not in _SHARED}
        twins[id(module)].__dict__.update(own | new)
    return twins.get(id(model), model)
