"""A network in evaluation mode beside itself in training mode.

A checkpointed block runs again in the backward pass, in whatever mode its modules are in by then.
Modules of their own, in evaluation mode for good, make that the mode in which it ran before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

_CONTAINERS = (list, tuple, dict, OrderedDict)
_SHARED = vars(nn.Module()).keys() - {"_modules"}  # parameters, buffers, hooks
_DEPTH = 3  # of containers in an attribute that are searched for modules


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Give a network in evaluation mode: its parameters, buffers and hooks, in other modules.

    The model's own modules, which a closure may hold, are in evaluation mode meanwhile.
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
