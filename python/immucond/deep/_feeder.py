"""The linear layer whose output is what the head takes in, and serves for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ._batches import Batches
from ._network import SplitModel


def feeder(model: SplitModel, tasks: Iterable[Batches]) -> str | None:
    """Return the name of the linear layer before the head, where a map can be folded into it.

    The head must take in its very output, and no other operation of a forward pass may read that
    output or a weight of the two. Where the model does not run under such a watch there is none.
    """
    firsts = [(task, next(iter(task.in_order()))) for task in tasks]
    names = {_before_head(model, *first) for first in firsts}
    if len(names) != 1 or (name := names.pop()) is None:
        return None
    layer = model.model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    if not (_plain(layer) and _plain(model.head) and _alone(model.model, layer, model.head)):
        return None
    return name if all(_read_by_head_alone(model, layer, *first) for first in firsts) else None


def _before_head(model: SplitModel, task: Batches, batch: Any) -> str | None:
    """Return the linear layer that ran once, and whose output is the input of the head."""
    outputs: dict[str, list[Tensor]] = {}
    entered: list[Tensor] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs.setdefault(name, []).append(output)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.model.named_modules():
            fits = type(module) is nn.Linear and module.out_features == model.head.in_features
            if fits and module is not model.head:
                stack.callback(module.register_forward_hook(keep(name)).remove)
        handle = model.head.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        stack.callback(handle.remove)
        task.run(model, batch)
    found = [name for name, seen in outputs.items() if len(seen) == 1 and seen[0] is entered[0]]
    return found[0] if len(found) == 1 else None


def _plain(layer: nn.Linear) -> bool:
    """Whether a layer is no more than its own weight and bias."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    named = set(layer._parameters) == {"weight", "bias"} and layer._parameters["weight"] is not None
    return type(layer) is nn.Linear and named and not any(hooks) and "forward" not in vars(layer)


def _alone(model: nn.Module, *layers: nn.Linear) -> bool:
    """Whether nothing else in the model has memory of these layers' weights."""
    mine = [p for layer in layers for p in layer.parameters()]
    ids, places = {id(p) for p in mine}, [_storage(p) for p in mine]
    owners = {id(layer) for layer in layers}
    elsewhere = (
        tensor
        for module in model.modules()
        if id(module) not in owners
        for tensor in chain(module._parameters.values(), module._buffers.values())
        if tensor is not None
    )
    own = len(set(places)) == len(places)
    return own and not any(id(x) in ids or _storage(x) in places for x in elsewhere)


def _storage(x: Tensor) -> int | None:
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else None


class _Watch(TorchDispatchMode):
    """Notes whether an operation outside the two layers reads what they alone may read."""

    def __init__(self, storages: set[int | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.storages, self.inside, self.read = storages, False, False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = tree_leaves((args, kwargs or {}))
        if not self.inside:
            read = any(_storage(x) in self.storages for x in given if isinstance(x, Tensor))
            self.read = self.read or read
        return function(*args, **(kwargs or {}))


def _read_by_head_alone(model: SplitModel, layer: nn.Linear, task: Batches, batch: Any) -> bool:
    watched = {_storage(p) for module in (layer, model.head) for p in module.parameters()}
    watch = _Watch(watched)
    held: list[Tensor] = []  # so that its memory is nobody else's

    def enter(*_: Any) -> None:
        watch.inside = True

    def leave(module: nn.Module, _: Any, output: Tensor) -> None:
        watch.inside = False
        if module is layer:
            held.append(output)
            watch.storages.add(_storage(output))

    with _hooked((layer, model.head), enter, leave), torch.no_grad():
        try:
            with watch:
                task.run(model, batch)
        except Exception:  # such as of compiled code, which knows no watch
            return False
    return not watch.read


@contextmanager
def _hooked(
    modules: Iterable[nn.Module], enter: Callable[..., None], leave: Callable[..., None]
) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield
