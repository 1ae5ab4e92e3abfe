"""Whether folding a map into a layer maps its output, by the network's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._validate import FloatArray
from .._network import array, call, copied, device_of, logits_of
from ._layers import CONVOLUTIONS, Layer

_KEPT = 8  # directions that the maps of the trial keep: few leave no error hidden
_OFF = 1e-2  # of what the maps change


def verified(model: nn.Module, layers: Mapping[str, Layer], inputs: Any) -> dict[str, Layer]:
    """Return the layers whose folding does what a map of their output would.

    A module may do more than its class does, and what reads an output may read it elsewhere too,
    or change it in place. All layers are tried together on a batch; where the logits differ, one
    after another, and without its shift where that has to go into a norm.
    """
    if _agree(model, layers, inputs):
        return dict(layers)
    found: dict[str, Layer] = {}
    for name, layer in layers.items():
        trials = (layer,) if layer.norm is None else (layer, replace(layer, norm=None))
        for each in trials:
            if _agree(model, {**found, name: each}, inputs):
                found[name] = each
                break
    return found


@torch.random.fork_rng(devices=[])
@torch.no_grad()
def _agree(model: nn.Module, layers: Mapping[str, Layer], inputs: Any) -> bool:
    """Whether the logits under maps of the layers' outputs are those of the layers folded."""
    maps: dict[str, tuple[FloatArray, FloatArray]] = {}
    draw = np.random.default_rng(0)

    def mapped(name: str, layer: Layer, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        axis = 1 if isinstance(layer.module, CONVOLUTIONS) else -1
        o = output.movedim(axis, -1)
        if name not in maps:
            d = o.shape[-1]
            Q, _r = np.linalg.qr(draw.normal(size=(d, min(_KEPT, (d + 1) // 2))))
            size = float(output.double().square().mean().sqrt())
            maps[name] = Q, size * draw.normal(size=d) if layer.shifts else np.zeros(d)
        P, mean = (torch.from_numpy(x).to(o) for x in maps[name])
        return (mean + ((o - mean) @ P) @ P.T).movedim(-1, axis)

    def logits(network: nn.Module) -> FloatArray:
        torch.manual_seed(0)
        return array(logits_of(call(network, inputs)))

    plain = logits(model)
    hooks = [
        layer.module.register_forward_hook(partial(mapped, name, layer))
        for name, layer in layers.items()
    ]
    try:
        wanted = logits(model)
    finally:
        for hook in hooks:
            hook.remove()
    folded = copied(model, device_of(model))
    names = {id(module): name for name, module in model.named_modules()}
    for name, layer in layers.items():
        norm = None if layer.norm is None else folded.get_submodule(names[id(layer.norm)])
        Q, mean = maps[name]
        there = replace(layer, module=folded.get_submodule(name), norm=norm)
        there.fold(Q, Q, mean, exact=False)
    off, moved = (float(np.linalg.norm(x - wanted)) for x in (logits(folded), plain))
    rounding = 1e3 * float(np.finfo(np.float32).eps * np.linalg.norm(wanted))
    return off <= _OFF * moved + rounding
