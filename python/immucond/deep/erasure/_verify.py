"""Whether folding a map into a layer maps its output, by the network's own numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
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
_OFF = 1e-2  # of what the maps change, and of what a layer puts out
_SAMPLES = 4  # of which the layers' outputs are held


def verified(model: nn.Module, layers: Mapping[str, Layer], inputs: Any) -> dict[str, Layer]:
    """Return the layers whose folding does what a map of their output would.

    A module may do more than its class does, and what reads an output may read it elsewhere too,
    or change it in place. All layers are tried together on a batch; where the logits differ, one
    after another, and without its shift where that has to go into a norm.
    """
    if _agree(model, layers, layers, inputs):
        return dict(layers)
    found: dict[str, Layer] = {}
    for name, layer in layers.items():
        trials = (layer,) if layer.norm is None else (layer, replace(layer, norm=None))
        for each in trials:
            if _agree(model, {**found, name: each}, layers, inputs):
                found[name] = each
                break
    return found


@torch.random.fork_rng(devices=[])
@torch.no_grad()
def _agree(
    model: nn.Module, layers: Mapping[str, Layer], among: Mapping[str, Layer], inputs: Any
) -> bool:
    """Whether the network under maps of the layers' outputs is that of the layers folded.

    By its logits, and by what each layer puts out, `among` those that are not mapped: what is
    behind, of few directions above all, may hide an error from the logits.
    """
    maps: dict[str, tuple[FloatArray, FloatArray]] = {}
    draw = np.random.default_rng(0)

    def mapped(name: str, layer: Layer, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        axis = 1 if isinstance(layer.module, CONVOLUTIONS) else -1
        o = output.movedim(axis, -1)
        if name not in maps:
            d = o.shape[-1]
            Q, _r = np.linalg.qr(draw.normal(size=(d, min(_KEPT, (d + 1) // 2))))
            size = float(_numbers(output).square().mean().sqrt())
            maps[name] = Q, size * draw.normal(size=d) if layer.shifts else np.zeros(d)
        P, mean = (torch.from_numpy(x).to(o) for x in maps[name])
        return (mean + ((o - mean) @ P) @ P.T).movedim(-1, axis)

    plain, _ = _shown(model, {}, inputs)
    hooks = [
        layer.module.register_forward_hook(partial(mapped, name, layer))
        for name, layer in layers.items()
    ]
    try:
        wanted, outputs = _shown(model, _readers(model, layers, among), inputs)
    finally:
        for hook in hooks:
            hook.remove()
    folded = copied(model, device_of(model))
    names = {id(module): name for name, module in model.named_modules()}
    there = {}
    for name, layer in layers.items():
        norm = None if layer.norm is None else folded.get_submodule(names[id(layer.norm)])
        Q, mean = maps[name]
        there[name] = replace(layer, module=folded.get_submodule(name), norm=norm)
        there[name].fold(Q, Q, mean, exact=False)
    logits, found = _shown(folded, _readers(folded, there, among), inputs)
    if any(not _near(found[name], outputs[name]) for name in among):
        return False
    off, moved = (float(np.linalg.norm(x - wanted)) for x in (logits, plain))
    rounding = 1e3 * float(np.finfo(np.float32).eps * np.linalg.norm(wanted))
    return off <= _OFF * moved + rounding


def _readers(
    model: nn.Module, layers: Mapping[str, Layer], among: Mapping[str, Layer]
) -> dict[str, nn.Module]:
    """Return what puts out each layer's output: the norm, where that has the shift of its map."""
    norms = {name: layer.norm for name, layer in layers.items()}
    return {name: norms.get(name) or model.get_submodule(name) for name in among}


def _shown(
    model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any
) -> tuple[FloatArray, dict[str, list[Tensor]]]:
    """Run once; return the logits, and what modules put out of the first samples."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}

    def see(name: str, *passed: Any) -> None:
        outputs[name].append(passed[-1][:_SAMPLES].clone())  # who reads it may write over it

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(partial(see, name)).remove)
        torch.manual_seed(0)
        return array(logits_of(call(model, inputs))), outputs


def _near(found: list[Tensor], wanted: list[Tensor]) -> bool:
    if [x.shape for x in found] != [x.shape for x in wanted]:
        return False
    pairs = zip(found, wanted, strict=True)
    off = math.hypot(*(float((_numbers(x) - _numbers(y)).norm()) for x, y in pairs))
    return off <= _OFF * math.hypot(*(float(_numbers(y).norm()) for y in wanted))


def _numbers(x: Tensor) -> Tensor:
    """Return it in float64; what padding may hold, NaN or infinity, as 0."""
    return x.double().nan_to_num(0.0, 0.0, 0.0)
