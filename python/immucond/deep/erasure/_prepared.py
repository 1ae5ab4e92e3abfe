"""Networks and data of a call: refused, copied to be changed, and put back into their dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..._errors import ToleranceError
from .._activations import task_of
from .._batches import Loaded, first_of
from .._leak import LeakProfile
from .._loaders import moved, parse_batch
from .._memory import in_dtype
from .._network import copied, device_of
from ._layers import Layers, layers_of
from ._run import Tasks
from ._utility import Utility
from ._verify import verified

_HALF = (torch.float16, torch.bfloat16)


class Finished(NamedTuple):
    """A network as it was given otherwise, what it is worth, and the error of what it lost."""

    model: nn.Module
    primary: float
    lost_error: float | None
    utility: Utility


@dataclass(frozen=True)
class Prepared:
    """What a call changes and measures: in float32 where the network is in half precision.

    Attributes
    ----------
    model, given : nn.Module and dict of str to Loaded
        As they were given.
    work : nn.Module
        A copy to be changed, in evaluation mode.
    tasks, data : Tasks and dict of str to Loaded
        The loaders that fit it.
    found : Layers
    begun : bool
        Whether `work` is a copy of what another call made of `model`.
    """

    model: nn.Module
    given: dict[str, Loaded]
    work: nn.Module
    tasks: Tasks
    data: dict[str, Loaded]
    found: Layers
    begun: bool = False

    @cached_property
    def utility(self) -> Utility:
        """What the network that was given is worth."""
        model = self.teacher() if self.begun else self.work
        return Utility(model, self.found.head, self.data["held_out"])

    @property
    def half(self) -> bool:
        """Whether the network is in half precision."""
        return any(p.dtype in _HALF for p in self.model.parameters())

    def teacher(self) -> nn.Module:
        """Return another copy, which stays as it is."""
        network = copied(self.model, device_of(self.model)).eval()
        return in_dtype(network, torch.float32) if self.half else network

    def leak(self, network: nn.Module, mask: Any, seed: int) -> LeakProfile | None:
        """Measure what is read of a network of this call, which may be in the dtype given."""
        if self.half:
            network = in_dtype(copied(network, device_of(network)), torch.float32)
        return self.tasks.leak(network, self.found.head, mask, seed)

    def finished(self, primary: float, tol: float) -> Finished:
        """Return the copy in the dtypes and modes that were given, and what it is worth."""
        work, utility = self.work, self.utility
        if self.half:
            work = _rounded(work, self.model)
            served = copied(self.model, device_of(self.model)).eval()
            utility = Utility(served, self.found.head, self.given["held_out"])
            primary = utility.of(work)
            lost = utility.lost_at(primary)
            if lost > tol:
                stored = next(p.dtype for p in self.model.parameters() if p.dtype in _HALF)
                raise ToleranceError(
                    f"rounding to {stored} loses {lost:.3g} of the primary {utility.measure}, "
                    f"more than tol={tol:g}: erase in float32, or give a larger tol"
                )
        error = utility.error(work)
        for mine, theirs in zip(work.modules(), self.model.modules(), strict=True):
            mine.training = theirs.training
        return Finished(work, primary, error, utility)


def prepared(
    model: nn.Module, given: Tasks, split: str | None, seed: int, start: nn.Module | None = None
) -> Prepared:
    """Refuse what cannot be used, copy the network, and find its layers and what it is worth.

    With `start`, which was made of it, the copy is of that.
    """
    where = device_of(model)
    loaded = _all_loaded(given, where, seed)
    _refuse_same(loaded)
    work = copied(model if start is None else start, where).eval()
    tasks, data = given, loaded
    if any(p.dtype in _HALF for p in model.parameters()):
        work = in_dtype(work, torch.float32)
        tasks = Tasks(**{name: _Widened(x) for name, x in given.parts().items()})
        data = _all_loaded(tasks, where, seed)
    inputs = moved(parse_batch(first_of(data["primary"], "primary"))[0], where)
    found = layers_of(work, inputs, split)
    layers = verified(work, found.layers, inputs)
    other = {name: "it is no plain layer: a map of its output does not go into its weight"
             for name in found.layers if name not in layers}  # fmt: skip
    found = replace(found, layers=layers, skipped=found.skipped | other)
    return Prepared(model, loaded, work, tasks, data, found, start is not None)


def _all_loaded(tasks: Tasks, where: torch.device, seed: int) -> dict[str, Loaded]:
    return {name: _loaded(x, where, name, seed) for name, x in tasks.parts().items()}


def _loaded(loader: Any, where: torch.device, name: str, seed: int) -> Loaded:
    found = task_of(loader, where, name, seed=seed)
    if not isinstance(found, Loaded):
        raise TypeError(f"{name} must give whole batches, and is of keep_activations")
    return found


def _refuse_same(loaded: Mapping[str, Loaded]) -> None:
    """Refuse two parts that give the same rows."""
    seen: dict[str, str] = {}
    for name, of in loaded.items():
        mark = of.fingerprint()
        if mark in seen and of.repeats():  # else it is of shapes alone
            raise ValueError(
                f"{seen[mark]} and {name} are the same rows: what is measured must be other rows "
                "than those used, and the tasks different ones"
            )
        seen[mark] = name


class _Widened:
    """Batches whose numbers are float32."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield tree_map_only(Tensor, lambda x: x.float() if x.dtype in _HALF else x, batch)


def _rounded(work: nn.Module, like: nn.Module) -> nn.Module:
    """Return a network with each number in the dtype that another has it in."""
    held = like.state_dict()
    state = {
        name: x.to(held[name].dtype) if isinstance(x, Tensor) else x
        for name, x in work.state_dict().items()
    }
    result = copied(like, device_of(like))
    result.load_state_dict(state)
    return result.eval()
