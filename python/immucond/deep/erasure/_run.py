"""Rounds of erasure: measure all layers, find the price that is allowed, fold, and recover."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...linear import Erasure
from .._batches import Callback, Loaded
from .._distillation import adam, imitation
from .._head import SplitModel
from .._leak import LeakProfile, leak_profile
from ._layers import Layer
from ._result import EraseResult, Stage
from ._utility import Utility
from ._worth import Metric, Worth, worth_of

_MOST, _LEAST = 0, -12  # decades of prices, in units of what a layer is worth
_HALVINGS = 5  # of the last decade: to within 7 %
RATES = (1e-3, 1e-4, 1e-5)  # of recovery: a network that was trained long bears short steps alone
_REACH = 3.0  # how many times as much a round may lose before it recovers


@dataclass(frozen=True)
class Tasks:
    """Loaders of the primary task, and of the harmful one where there is one."""

    primary: Any
    held_out: Any = None
    harmful: Any = None
    harmful_held_out: Any = None

    def parts(self) -> dict[str, Any]:
        """Return those that there are, by name."""
        return {n: x for n, x in vars(self).items() if n == "primary" or x is not None}

    def leak(self, model: nn.Module, head: str, mask: Any, seed: int) -> LeakProfile | None:
        """Measure what is read of the harmful task."""
        if self.harmful_held_out is None:
            return None
        return leak_profile(
            model, self.harmful, primary=self.primary, held_out=self.harmful_held_out,
            untrained=False, split=head, mask=mask, seed=seed,
        )  # fmt: skip


@dataclass
class Run:
    """A copy of a network on its way; `stages`, `ranks` and `bound` say how far it is."""

    work: nn.Module
    layers: Mapping[str, Layer]
    head: str
    tasks: Tasks
    utility: Utility
    tol: float
    metric: Metric
    mask: Any
    seed: int
    callback: Callback | None
    stages: list[Stage] = field(default_factory=list)
    ranks: dict[str, tuple[int, int]] = field(default_factory=dict)
    bound: float = 0.0
    trials: int = 0

    def begin(self, start: EraseResult | None = None) -> LeakProfile | None:
        """Measure the network that was given, or what was made of it."""
        self.ranks = {name: (width, width) for name, width in self.widths().items()}
        leak = self.leak()
        first = leak if start is None else start.leak_before
        self.stages = [self._stage(0.0, self.kept, 0.0, self.utility.before, first)]
        if start is not None:
            self.ranks |= {name: start.ranks[name] for name in self.ranks if name in start.ranks}
            self.stages.append(self._stage(0.0, self.kept, 0.0, self.utility.of(self.work), leak))
        return first

    @property
    def kept(self) -> int:
        """Directions that are left, of all layers together."""
        return sum(rank for rank, _ in self.ranks.values())

    def widths(self) -> dict[str, int]:
        """Features of each layer's output."""
        return {name: layer.width for name, layer in self.layers.items()}

    def leak(self) -> LeakProfile | None:
        """Measure what is read of the harmful task."""
        return self.tasks.leak(self.work, self.head, self.mask, self.seed)

    def round(
        self, turn: int, rounds: int, recovery: Recovery | None,
        worth: Mapping[str, Worth] | None = None,
    ) -> LeakProfile | None:  # fmt: skip
        """Erase as much as this round may, and recover."""
        allowed = self.tol * (turn / rounds)  # in the last round all of it
        if worth is None:
            worth = worth_of(
                self.work, self.layers, self.head, self.tasks.primary, self.tasks.harmful,
                self.metric, self.mask, self.seed + turn,
            )  # fmt: skip
        reached = self._dearest(worth, allowed, turn, rounds, recovery)
        none: dict[str, Erasure] = {}
        price, found = (0.0, none) if reached is None else reached
        unit = unit_of(worth)
        if found:
            self.ranks = {
                name: (min(found[name].rank, r), d) for name, (r, d) in self.ranks.items()
            }
            self.bound = sum(E.bound for E in found.values()) / unit
        leak = self.leak()
        cost = sum(E.cost for E in found.values()) / unit
        self.stages.append(self._stage(price, self.kept, cost, self.utility.of(self.work), leak))
        return leak

    def _dearest(
        self, worth: Mapping[str, Worth], allowed: float, turn: int, rounds: int,
        recovery: Recovery | None,
    ) -> tuple[float, dict[str, Erasure]] | None:  # fmt: skip
        """Fold the erasures of the highest price that is allowed, by halves of its logarithm."""
        before = self._snapshot()
        for reach in (1.0,) if recovery is None else (_REACH, 1.0):
            price = self._search(worth, reach * allowed, turn, rounds)
            if price is None:
                continue
            found = dict(_erasures(worth, price))
            self._fold(found.items(), worth)
            project = partial(self._fold, found.items(), worth, again=True)
            if recovery is None or self._recovered(recovery, project, allowed) or reach == 1.0:
                return price, found
            self._restore(before)
        return None

    def _recovered(self, recovery: Recovery, project: Callable[..., None], allowed: float) -> bool:
        """Recover at the longest steps that gain and lose no more than is allowed; else not."""
        folded, most = self._snapshot(), min(allowed, self.utility.lost(self.work))
        for lr in recovery.rates:
            recovery.run(self.work, self.head, partial(project, exact=False), lr)
            project()  # on the way to rounding is enough, at half of the cost
            if self.utility.lost(self.work) <= most:
                return True
            self._restore(folded)
        return False

    def _search(
        self, worth: Mapping[str, Worth], allowed: float, turn: int, rounds: int
    ) -> float | None:
        """Bisect decades of prices down from what a layer is worth, then halve the last one."""
        decades = _MOST - _LEAST + 1
        most = rounds * (decades.bit_length() + _HALVINGS)
        told = {"round": turn, "rounds": rounds, "allowed": allowed, "trials": most}
        least, beyond = _LEAST - 1, _MOST + 1  # at no price nothing is lost
        while beyond - least > 1:
            middle = (least + beyond) // 2
            if self._fits(worth, 10.0**middle, allowed, told):
                least = middle
            else:
                beyond = middle
        if least < _LEAST:
            return None
        exponent, step = float(least), 1.0
        for _ in range(_HALVINGS):
            step /= 2.0
            if self._fits(worth, 10.0 ** (exponent + step), allowed, told):
                exponent += step
        return float(10.0**exponent)

    def _fits(
        self, worth: Mapping[str, Worth], price: float, allowed: float, told: Mapping[str, Any]
    ) -> bool:
        """Whether a price's erasures lose no more than is allowed; the weights are put back."""
        before, kept = self._parts(), 0
        for name, E in _erasures(worth, price):  # of large networks all at once are too many
            self._fold([(name, E)], worth)
            kept += E.rank
        lost = self.utility.lost(self.work)
        self._put(before)
        self.trials += 1
        if self.callback is not None:
            self.callback(self.trials, {**told, "price": price, "kept": kept, "lost": lost})
        return lost <= allowed

    def _fold(
        self, found: Iterable[tuple[str, Erasure]], worth: Mapping[str, Worth], **how: bool
    ) -> None:
        for name, E in found:
            if E.rank == E.shape[0]:  # nothing goes, and the weights keep their digits
                continue
            self.layers[name].fold(E.left, E.right, worth[name].mean, **how)

    def _stage(
        self, price: float, kept: int, cost: float, primary: float, leak: LeakProfile | None
    ) -> Stage:
        if leak is None:
            return Stage(price, kept, cost, primary)
        return Stage(price, kept, cost, primary, leak.ceiling, leak.where)

    # ---- weights, kept and put back ----

    def _parts(self) -> list[Tensor]:
        return [x.detach().clone() for layer in self.layers.values() for x in layer.parameters]

    @torch.no_grad()
    def _put(self, parts: list[Tensor]) -> None:
        mine = [x for layer in self.layers.values() for x in layer.parameters]
        for x, value in zip(mine, parts, strict=True):
            x.copy_(value)

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(self.work.state_dict())  # which may hold more than tensors

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.work.load_state_dict(state)

    # ---- in a file ----

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "model": self._snapshot(), "stages": [asdict(stage) for stage in self.stages],
            "ranks": {name: list(pair) for name, pair in self.ranks.items()},
            "bound": self.bound, "trials": self.trials,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self._restore(state["model"])
        self.stages = [Stage(**stage) for stage in state["stages"]]
        self.ranks = {name: (r, d) for name, (r, d) in state["ranks"].items()}
        self.bound, self.trials = state["bound"], state["trials"]


def _erasures(worth: Mapping[str, Worth], price: float) -> Iterator[tuple[str, Erasure]]:
    """Yield each layer's erasure at a price in units of what a layer is worth."""
    unit = unit_of(worth)
    return ((name, each.path.at(price * unit)) for name, each in worth.items())


def unit_of(worth: Mapping[str, Worth]) -> float:
    """Return what a layer is worth as a whole: the median over those that the logits need."""
    totals = [each.path.total for each in worth.values() if each.path.total > 0.0]
    return float(np.median(totals)) if totals else 1.0


@dataclass(frozen=True)
class Recovery:
    """Steps of distillation on the primary task, from the network that was given."""

    teacher: nn.Module
    primary: Loaded
    steps: int
    rates: Sequence[float]
    seed: int

    def run(self, work: nn.Module, head: str, project: Callable[[], None], lr: float) -> None:
        """Train all but the head; after each step the weights are projected again."""
        model, teacher = SplitModel(work, head), SplitModel(self.teacher, head)
        flags = {name: p.requires_grad for name, p in work.named_parameters()}
        mine = {id(p) for p in model.head.parameters()}
        for p in work.parameters():
            p.requires_grad_(p.is_floating_point() and id(p) not in mine)
        optimizer = adam([p for p in work.parameters() if p.requires_grad], lr, self.steps)
        generator = torch.Generator().manual_seed(self.seed)
        done = 0
        try:
            with self.primary.anew():
                while done < self.steps:
                    for batch in islice(self.primary.epoch(generator), self.steps - done):
                        with torch.no_grad():
                            lesson = self.primary.run(teacher, batch)
                        optimizer.zero_grad()
                        imitation(self.primary.run(model, batch).logits, lesson).backward()
                        optimizer.step()
                        project()
                        done += 1
        finally:
            for name, p in work.named_parameters():
                p.grad = None
                p.requires_grad_(flags[name])
