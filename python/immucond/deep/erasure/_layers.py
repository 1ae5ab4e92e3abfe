"""Layers that a map of their output can be folded into: the last thing they do is linear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from ..._validate import FloatArray
from .._batches import running_on
from .._network import call, logits_of, repeated, tied
from .._rows import is_conv1d, rows_at, size_of, started
from .._sharded import edit_weight, gathered
from ._exact import exact_product

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DIGITS = {torch.float32: 24, torch.float64: 53}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Layer:
    """A layer whose output o becomes ``mean + P (o - mean)`` by a change of its parameters.

    Attributes
    ----------
    name : str
    module : nn.Module
        Linear, convolution, embedding, or the Conv1D of transformers.
    axis : int
        Of the weight, along which the output's features are.
    norm : nn.Module or None
        The batch norm that reads the output, where the layer has no bias: its mean takes the shift.
    used : bool
        Whether the logits depend on the output.
    """

    name: str
    module: nn.Module
    axis: int
    norm: nn.Module | None = None
    used: bool = True

    @property
    def shifts(self) -> bool:
        """Whether a constant can be added to the output."""
        held = isinstance(self.module, nn.Embedding) or self.norm is not None
        return held or isinstance(self.module._parameters.get("bias"), nn.Parameter)

    @property
    def width(self) -> int:
        """Features of the output."""
        return int(self.module.get_parameter("weight").shape[self.axis])

    @property
    def matrix(self) -> FloatArray:
        """(width, n) weight."""
        W = np.moveaxis(_array(gathered(self.module.get_parameter("weight"))), self.axis, 0)
        return np.asarray(W.reshape(len(W), -1))

    @property
    def parameters(self) -> Iterator[Tensor]:
        """What a map changes."""
        yield self.module.get_parameter("weight")
        if isinstance(self.module._parameters.get("bias"), nn.Parameter):
            yield self.module.get_parameter("bias")
        elif self.norm is not None:
            yield self.norm.get_buffer("running_mean")

    def fold(
        self, left: FloatArray, right: FloatArray, mean: FloatArray, *,
        exact: bool = True, again: bool = False,
    ) -> None:  # fmt: skip
        """Let what the layer puts out be kept in the span of `right` (d, r), about its mean.

        Of the weight exactly so, although in floating-point numbers, to 2^-10 of its size; or
        else to rounding, for maps that keep the rank. `again`: of the same map, once more, after
        the weights have changed.
        """
        shift = mean - right @ (left.T @ mean)
        axis, embeds = self.axis, isinstance(self.module, nn.Embedding)
        Q, T = np.linalg.qr(right)

        def weight(x: Tensor) -> Tensor:
            W = np.moveaxis(_array(x), axis, 0)
            within = T @ (left.T @ W.reshape(len(W), -1))
            # Each word's row tells of itself, so its rounding tells no more.
            rounded = embeds or not exact
            product = Q @ within if rounded else exact_product(Q, within, _DIGITS[x.dtype])
            W = product.reshape(W.shape) + (shift[:, None] if embeds else 0.0)
            return torch.from_numpy(np.ascontiguousarray(np.moveaxis(W, 0, axis)))

        edit_weight(self.module.get_parameter("weight"), weight)
        if self.norm is not None:
            if again:  # a norm's mean has its shift, which would add up
                return
            mean_of = self.norm.get_buffer("running_mean")
            edit_weight(mean_of, lambda x: torch.from_numpy(_array(x) - shift))
        elif self.shifts and not embeds:
            bias = self.module.get_parameter("bias")
            edit_weight(bias, lambda x: torch.from_numpy(right @ (left.T @ _array(x)) + shift))


def _array(x: Tensor) -> FloatArray:
    return np.asarray(x.detach().to("cpu", torch.float64).numpy())


@dataclass(frozen=True)
class Layers:
    """What of a network can be erased in place, in the order in which it runs.

    Attributes
    ----------
    layers : dict of str to Layer
    head : str
        The layer that makes the logits; it is left alone.
    skipped : dict of str to str
        Layers with weights that no map can be folded into, and why.
    """

    layers: dict[str, Layer]
    head: str
    skipped: dict[str, str]


def layers_of(model: nn.Module, inputs: Any, head: str | None) -> Layers:
    """Find candidates by two forward passes; the model is in evaluation mode."""
    with torch.enable_grad():
        seen = _seen(model, inputs)
    run, logits, used = seen.shapes, seen.logits, seen.used()
    named = dict(model.named_modules())
    if not bool(logits.isfinite().all()):
        raise ValueError("the network's logits on the first batch of primary are not finite")
    if head is None:
        found = [
            name
            for name, shape in run.items()
            if isinstance(named[name], nn.Linear) and shape[-1:] == logits.shape[-1:]
        ]
        # Another linear layer as wide may make an output that is no logits.
        made = {name for name, x in seen.outputs if x is logits}
        for of in (made, used):
            found = [name for name in found if name in of] or found
        if not found:
            raise ValueError("no linear layer makes the logits: name the head (split=)")
        head = found[-1]
    elif head not in named:
        raise ValueError(f"split must name a module of the model, and is {head!r}")
    shared, twice, by_sample = tied(model), repeated(model), _by_sample(model, inputs, run)
    layers, skipped = {}, {}
    for name in sorted(named, key=lambda n: list(run).index(n) if n in run else len(run)):
        module = named[name]
        weight = module._parameters.get("weight")
        computed = is_parametrized(module)
        if name == head or not (computed or _holds_matrices(module)):
            continue
        layer = _layer(name, module, seen.feeds.get(name))
        reason = (
            "its weight is computed from others" if computed
            else "no layer that a map can be folded into" if layer is None
            else "it never ran by itself" if name not in run
            else "what it puts out is not by samples" if name not in by_sample
            else "it stands at several places" if name in twice
            else "its weight is tied to another" if f"{name}.weight" in shared
            else "its weight holds no numbers of its own"
            if weight is None or not weight.is_floating_point()
            else ""
        )  # fmt: skip
        if reason or layer is None:
            skipped[name] = reason
        else:
            layers[name] = replace(layer, used=name in used)
    return Layers(layers, head, skipped)


def _by_sample(model: nn.Module, inputs: Any, run: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Layers whose outputs' first axis is that of samples, which another number of them tells."""
    size = size_of(inputs) or 0
    found = {name for name, shape in run.items() if shape[:1] == (size,)}
    other_size = size - 1 if size > 1 else 2
    rows = torch.arange(other_size) % max(size, 1)
    try:
        with torch.no_grad():
            other = _seen(model, rows_at(rows, inputs, size)).shapes
    except (IndexError, RuntimeError, ValueError):  # a network of one size of batches
        return found
    return {name for name in found if other.get(name, ())[:1] == (other_size,)}


def _layer(name: str, module: nn.Module, norm: nn.Module | None) -> Layer | None:
    whole = isinstance(module, CONVOLUTIONS) and module.groups == 1
    if isinstance(module, nn.Linear) or whole:
        biased = isinstance(module._parameters.get("bias"), nn.Parameter)
        return Layer(name, module, 0, None if biased else norm)
    if isinstance(module, nn.Embedding) or is_conv1d(module):
        return Layer(name, module, 1)
    return None


def _holds_matrices(module: nn.Module) -> bool:
    """Whether a module has matrices of its own, and not those that another's are computed from."""
    mine = not isinstance(module, ParametrizationList)
    return mine and any(p is not None and p.ndim > 1 for p in module._parameters.values())


class _Seen(NamedTuple):
    """Of a forward pass: outputs of leaf modules and their shapes, norms that read them, logits."""

    outputs: list[tuple[str, Tensor]]
    shapes: dict[str, tuple[int, ...]]
    feeds: dict[str, nn.Module]
    logits: Tensor

    def used(self) -> set[str]:
        """Return the modules that the logits depend on."""
        for name, x in [*self.outputs, ("the head", self.logits)]:
            if x.is_floating_point() and not x.requires_grad:
                raise ValueError(
                    f"no gradient reaches what {name!r} puts out: the network runs it without any, "
                    "as under torch.no_grad"
                )
        real = [of for of in self.outputs if of[1].requires_grad]
        if not real:
            return set()
        outputs = [x for _, x in real]
        found = torch.autograd.grad(self.logits.sum(), outputs, allow_unused=True)
        return {name for (name, _), g in zip(real, found, strict=True) if g is not None}


def _seen(model: nn.Module, inputs: Any) -> _Seen:
    """Run once."""
    outputs: list[tuple[str, Tensor]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    feeds: dict[str, nn.Module] = {}

    def see(name: str, _: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return None
        shapes.pop(name, None)
        shapes[name] = tuple(output.shape)
        output = started(output)
        outputs.append((name, output))
        return output

    def enter(module: nn.Module, args: Any) -> None:
        if args and isinstance(module.running_mean, Tensor):
            feeds.update({name: module for name, x in outputs if x is args[0]})

    handles = []
    try:
        for name, module in model.named_modules():
            if next(module.children(), None) is None or is_parametrized(module):
                handles.append(module.register_forward_hook(partial(see, name)))
            if isinstance(module, _BATCH_NORMS):
                handles.append(module.register_forward_pre_hook(enter))
        with running_on("primary"):
            output = call(model, inputs)
        return _Seen(outputs, shapes, feeds, logits_of(output))
    finally:
        for handle in handles:
            handle.remove()
