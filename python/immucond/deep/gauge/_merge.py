"""Linear layers that follow one another in a sequence, merged into one."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from .._network import replace_module
from ._layers import Linear, linear, repeated, tied


def merge(model: nn.Module) -> list[str]:
    """Merge runs of linear layers within sequences, in place; return the names of what is left.

    A pair becomes one layer where that adds no rank: the width between them is at least the smaller
    of the widths around. Its weight is the product, computed in float64; a sequence with one layer
    left is replaced by it. Tied layers and those with hooks stay.
    """
    merged = []
    again = True
    while again:
        again = False
        shared, twice = tied(model), repeated(model)
        for name, module in model.named_modules():
            if type(module).forward is not nn.Sequential.forward or name in twice:
                continue
            if _merged_pair(name, module, shared, twice):
                merged.append(name)
                again = True
                if len(module) == 1 and name:
                    replace_module(model, name, module[0])
                break
    return list(dict.fromkeys(merged))


def _merged_pair(name: str, module: Any, shared: set[str], twice: set[str]) -> bool:
    """Merge the first pair of a sequence that can be; its second member goes."""
    prefix = f"{name}." if name else ""
    children = list(module.named_children())
    for (key, first), (other, second) in pairwise(children):
        one, two = linear(f"{prefix}{key}", first), linear(f"{prefix}{other}", second)
        if one is None or two is None or not _can(one, two, second):
            continue
        names = {f"{layer.name}.{end}" for layer in (one, two) for end in ("weight", "bias")}
        if names & shared or {one.name, two.name} & twice or first._forward_hooks:
            continue
        setattr(module, key, _product(first, one, second, two))
        delattr(module, other)
        return True
    return False


def _can(one: Linear, two: Linear, second: nn.Module) -> bool:
    if one.outputs != two.inputs or one.channels != two.channels or not two.reads:
        return False
    if isinstance(second, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        plain = {*second.kernel_size, *second.stride} == {1} and not any(second.padding)
        if not plain or isinstance(second.padding, str):
            return False
    return one.outputs >= min(one.inputs, two.outputs)


def _product(first: nn.Module, one: Linear, second: nn.Module, two: Linear) -> nn.Module:
    """Return the first layer with the weight and bias of both."""
    like, last = first.weight, second.weight
    assert isinstance(like, Tensor)
    assert isinstance(last, Tensor)
    W1 = like.detach().double().movedim(one.out, 0)
    W2 = last.detach().double().movedim(two.out, 0).flatten(1)
    weight = (W2 @ W1.flatten(1)).reshape(len(W2), *W1.shape[1:]).movedim(0, one.out)
    bias = None
    for layer, through in ((first, W2), (second, None)):
        own = layer._parameters.get("bias")
        if own is not None:
            b = own.detach().double()
            b = b if through is None else through @ b
            bias = b if bias is None else bias + b
    merged = copy.copy(first)
    merged._parameters = dict(first._parameters)
    trained = like.requires_grad
    merged.weight = nn.Parameter(weight.contiguous().to(like.dtype), requires_grad=trained)
    merged._parameters["bias"] = (
        None if bias is None else nn.Parameter(bias.to(like.dtype), requires_grad=trained)
    )
    for name in ("out_features", "out_channels", "nf"):
        if hasattr(merged, name):
            setattr(merged, name, len(W2))
    return merged
