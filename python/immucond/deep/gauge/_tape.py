"""One forward pass of a network, as the calls of its modules and the tensors between them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .._memory import storage
from .._network import call

Key = tuple[int, int]  # of a tensor: its memory, and how often that was changed in place


@dataclass
class Call:
    """A call of a module: its first tensor in and out."""

    name: str
    module: nn.Module
    entered: Key | None
    left: Key | None
    width: int = 0  # last axis of what left, for layers of features


@dataclass
class Tape:
    """The calls of one forward pass in order, those of leaf modules and the names of all."""

    leaves: list[Call] = field(default_factory=list)
    called: dict[str, int] = field(default_factory=dict)

    def readers(self, of: Call) -> list[Call]:
        """Return the leaf calls after a call that take in what it put out, as it left."""
        if of.left is None:
            return []
        place = self.leaves.index(of)
        return [c for c in self.leaves[place + 1 :] if c.entered == of.left]

    def produced(self, of: Call) -> bool:
        """Say whether what entered came out of a leaf module, unchanged."""
        place = self.leaves.index(of)
        # What hands on its input, such as dropout, makes nothing.
        return any(c.left == of.entered != c.entered for c in self.leaves[:place])


def run(model: nn.Module, batch: Any) -> Any:
    """Run the model without gradients, on a copy of the batch, which it may change."""
    with torch.no_grad():
        return call(model, copy.deepcopy(batch))


def taped(model: nn.Module, batch: Any) -> Tape:
    """Return the calls of one forward pass."""
    tape, kept, handles = Tape(), [], []

    def key(value: Any) -> Key | None:
        found = next(tensors(value), None)
        if found is None or not storage(found):
            return None
        kept.append(found)  # lest its memory be another tensor's later
        return storage(found), found._version

    entered: dict[str, list[Key | None]] = {}

    def enter(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        entered.setdefault(name, []).append(key((args, kwargs)))

    def leave(name: str, module: nn.Module, _: Any, __: Any, output: Any) -> None:
        tape.called[name] = tape.called.get(name, 0) + 1
        if leaf(module):
            tape.leaves.append(Call(name, module, entered[name].pop(), key(output)))
        else:
            entered[name].pop()

    try:
        for name, module in model.named_modules():
            handles += [
                module.register_forward_pre_hook(partial(enter, name), with_kwargs=True),
                module.register_forward_hook(partial(leave, name), with_kwargs=True),
            ]
        run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return tape


def leaf(module: nn.Module) -> bool:
    """Whether a module has none within, as far as a tape goes."""
    return next(module.children(), None) is None


def captured(model: nn.Module, batch: Any, names: set[str]) -> dict[str, tuple[Any, Any]]:
    """Return what enters modules at their first call, copied: positional and keyword arguments."""
    found: dict[str, tuple[Any, Any]] = {}

    def see(name: str, entered: tuple[Any, Any]) -> None:
        if name not in found:
            found[name] = copy.deepcopy(entered)

    show_entering(model, batch, names, see)
    return found


def show_entering(
    model: nn.Module,
    batch: Any,
    names: set[str],
    see: Callable[[str, tuple[Any, Any]], None],
) -> None:
    """Run the model, and show what enters modules at every call: their names and arguments."""

    def enter(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        see(name, (args, kwargs))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(enter, name), with_kwargs=True)
        for name in names
    ]
    try:
        run(model, batch)
    finally:
        for handle in handles:
            handle.remove()


def replayed(
    module: nn.Module, arguments: tuple[Any, Any], within: Sequence[nn.Module] = ()
) -> list[Tensor]:
    """Return what modules within one put out, and it, for arguments that were captured."""
    args, kwargs = copy.deepcopy(arguments)
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found.extend(x.detach().clone() for x in tensors(output))

    handles = [each.register_forward_hook(keep) for each in (*within, module)]
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def tensors(value: Any) -> Iterator[Tensor]:
    """Give the tensors of numbers in outputs; what is cached for later tokens is none."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name != "past_key_values":
                yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def doubled(batch: Any, device: torch.device) -> Any:
    """Return a batch on a device, its numbers in float64."""
    return tree_map_only(
        Tensor, lambda x: (x.double() if x.is_floating_point() else x).to(device), batch
    )


def blank(outputs: list[Tensor]) -> bool:
    """Whether outputs tell nothing: there are no numbers, or a column is NaN in every row."""
    full = [x.reshape(-1, x.shape[-1] if x.ndim else 1) for x in outputs if x.numel()]
    return not full or any(bool(x.isnan().all(dim=0).any()) for x in full)


def change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest relative change of a row of the outputs.

    Infinite where one is not finite, or is NaN in every row: then nothing is known. A row that is
    small beside the others counts as a thousandth of their mean size.
    """
    if blank(before):
        return float("inf")
    worst = 0.0
    for x, y in zip(before, after, strict=True):
        if x.shape != y.shape:
            return float("inf")
        finite = x.isfinite() & y.isfinite()
        if not (finite | (x == y) | (x.isnan() & y.isnan())).all():
            return float("inf")
        if x.numel() == 0:
            continue
        x, y = (torch.where(finite, z, 0.0).double() for z in (x, y))  # such as masks of -inf
        rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
        size = rows.norm(dim=1)
        least = 1e-3 * float(size.square().mean().sqrt())
        off = (y.reshape(rows.shape) - rows).norm(dim=1) / size.clamp(min=max(least, 1e-300))
        worst = max(worst, float(off.max()))
    return worst
