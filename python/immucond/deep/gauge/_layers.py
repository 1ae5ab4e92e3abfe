"""Layers that are linear in their input, and normalizations: which axes of which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._group import Side

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Linear:
    """A layer that is linear in its input's features or channels, but for its bias.

    `outputs` and `inputs` are the lengths of the weight's axes `out` and `into`; `reads` says
    whether each output sees all inputs, which those of convolutions in groups do not.
    """

    name: str
    out: int
    into: int
    outputs: int
    inputs: int
    bias: bool
    channels: bool
    reads: bool

    def writer(self, index: Tensor) -> tuple[Side, ...]:
        """Return the sides of what it writes at places of its output, (blocks, size)."""
        places = index[..., None]
        weight = Side(f"{self.name}.weight", self.out, places)
        return (weight, Side(f"{self.name}.bias", 0, places)) if self.bias else (weight,)

    def reader(self, index: Tensor) -> Side:
        """Return the side of what it reads at places of its input, (blocks, size, copies)."""
        return Side(f"{self.name}.weight", self.into, index)


def linear(name: str, module: nn.Module) -> Linear | None:
    """Describe a layer that is linear: fully connected, convolution, or GPT-2's Conv1D."""
    weight = module._parameters.get("weight")
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        return None
    bias = isinstance(module._parameters.get("bias"), nn.Parameter)
    inputs = int(weight.shape[1]) if weight.ndim > 1 else 0
    if isinstance(module, nn.Linear):
        return Linear(name, 0, 1, len(weight), inputs, bias, channels=False, reads=True)
    if isinstance(module, _CONVOLUTIONS):
        whole = module.groups == 1
        return Linear(name, 0, 1, len(weight), inputs, bias, channels=True, reads=whole)
    if type(module).__name__ == "Conv1D" and weight.ndim == 2:  # of transformers, without import
        return Linear(name, 1, 0, inputs, len(weight), bias, channels=False, reads=True)
    return None


def plain(module: nn.Module) -> bool:
    """Whether a layer that is `linear` does no more than its class does, nor do hooks of it."""
    forwards = {each.forward for each in (nn.Linear, *_CONVOLUTIONS)}
    own = type(module).forward not in forwards and type(module).__name__ != "Conv1D"
    return not (own or "forward" in vars(module) or module._forward_hooks)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that keeps statistics."""
    return isinstance(module, _BATCH_NORMS) and isinstance(module.running_var, Tensor)


def affine(name: str, module: nn.Module) -> tuple[int, tuple[Side, ...]] | None:
    """Return width and sides of a normalization's affine map: LayerNorm, RMSNorm, batch norm."""
    weight = module._parameters.get("weight")
    if "Norm" not in type(module).__name__ or not isinstance(weight, nn.Parameter):
        return None
    if weight.ndim != 1 or not weight.is_floating_point():
        return None
    index = torch.arange(len(weight))[:, None, None]
    names = [n for n in ("weight", "bias") if isinstance(module._parameters.get(n), nn.Parameter)]
    return len(weight), tuple(Side(f"{name}.{n}", 0, index) for n in names)


def run_of(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a module, or those of a sequence that runs one after another, by their names."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [
            found
            for key, child in module.named_children()
            for found in run_of(f"{name}.{key}", child)
        ]
    return [(name, module)]


def places(count: int, size: int = 1, start: int = 0) -> Tensor:
    """Return consecutive places in blocks, (count, size)."""
    return start + torch.arange(count * size).reshape(count, size)


def spread(width: int, axis: int, *, channels: bool) -> Tensor:
    """Return where each of `width` units is read along a flattened axis, (width, 1, copies)."""
    copies = axis // width
    order = torch.arange(axis)
    found = order.reshape(width, copies) if channels else order.reshape(copies, width).T
    return found[:, None, :]


def owners(names: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that parameters belong to, each once."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
