"""Linear layers that follow one another in a sequence, merged into one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from .._network import refuse_saving, repeated, replace_module, tied
from ._layers import Linear, linear, plain


def merge(model: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Merge runs of linear layers within sequences, in place; return the names of what is left.

    Of names, only pairs with one of these. A pair becomes one layer where that adds no rank: the
    width between them is at least the smaller of the widths around. Its weight is the product,
    computed in float64, and trains where one of both did; a sequence with one layer left is
    replaced by it. Tied layers, those of a class with a forward of its own and those with hooks
    stay, as do convolutions in groups.
    """
    merged = []

    def wanted(pair: _Pair) -> bool:
        _, (_, _, one), (_, _, two) = pair
        return names is None or not {one.name, two.name}.isdisjoint(names)

    while (pair := next(filter(wanted, _pairs(model)), None)) is not None:
        name, (key, first, one), (other, second, two) = pair
        module: Any = model.get_submodule(name)
        setattr(module, key, _product(first, one, second, two))
        delattr(module, other)
        merged.append(name)
        if len(module) == 1 and name and not (module._forward_hooks or module._forward_pre_hooks):
            replace_module(model, name, module[0])
    refuse_saving(model)  # unless nothing inserted is left
    return list(dict.fromkeys(merged))


def inserted(model: nn.Module) -> list[str]:
    """Return linear layers that add nothing to what a network can compute.

    They stand beside another linear layer within an ``nn.Sequential`` and have as many outputs as
    inputs, as a lock's second layer has, or a map before the head.

    Returns
    -------
    list of str
        Names of modules; of a pair of square layers the second.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> icd.gauge.inserted(icd.gauge.lock(net, strength=10.0, top=1))
    ['0.1', '2.1']
    """
    found = []
    for _, (_, _, one), (_, _, two) in _pairs(model):
        square = [layer.name for layer in (two, one) if layer.inputs == layer.outputs]
        found += square[:1]
    return list(dict.fromkeys(found))


_Member = tuple[str, nn.Module, Linear]
_Pair = tuple[str, _Member, _Member]


def _pairs(model: nn.Module) -> Iterator[_Pair]:
    """Yield sequences with two neighbours in each that can be one layer, with their keys."""
    shared, twice = tied(model), repeated(model)
    for name, module in model.named_modules():
        own = type(module).forward is not nn.Sequential.forward or "forward" in vars(module)
        if own or name in twice:
            continue
        prefix = f"{name}." if name else ""
        for (key, first), (other, second) in pairwise(module.named_children()):
            one, two = linear(f"{prefix}{key}", first), linear(f"{prefix}{other}", second)
            if one is None or two is None or not _can(one, two, second):
                continue
            names = {f"{layer.name}.{end}" for layer in (one, two) for end in ("weight", "bias")}
            if names & shared or {one.name, two.name} & twice:
                continue
            if not (plain(first) and plain(second)) or second._forward_pre_hooks:
                continue
            yield name, (key, first, one), (other, second, two)


def _can(one: Linear, two: Linear, second: nn.Module) -> bool:
    if one.outputs != two.inputs or one.channels != two.channels:
        return False
    if not (one.reads and two.reads):
        return False
    if isinstance(second, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        pointwise = {*second.kernel_size, *second.stride} == {1} and not any(second.padding)
        if not pointwise or isinstance(second.padding, str):
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
    bias, biased = None, False
    for layer, through in ((first, W2), (second, None)):
        own = layer._parameters.get("bias")
        if own is not None:
            b = own.detach().double()
            b = b if through is None else through @ b
            bias = b if bias is None else bias + b
            biased |= own.requires_grad
    merged = copy.copy(first)
    merged._parameters = dict(first._parameters)
    trained = like.requires_grad or last.requires_grad
    merged.weight = nn.Parameter(weight.contiguous().to(like.dtype), requires_grad=trained)
    merged._parameters["bias"] = (
        None if bias is None else nn.Parameter(bias.to(like.dtype), requires_grad=biased)
    )
    for name in ("out_features", "out_channels", "nf"):
        if hasattr(merged, name):
            setattr(merged, name, len(W2))
    return merged
