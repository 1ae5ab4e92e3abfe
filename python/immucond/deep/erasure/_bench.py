"""What every way of unlearning works with: a network, its tasks, and a harmful head beside it."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._batches import Loaded, endless, everything
from .._head import SplitModel
from .._loaders import parse_batch
from .._network import device_of
from .._outcome import Outcome
from .._rows import rows_at, size_of
from ._layers import Layer

Rows = list[tuple[Any, Tensor]]
T = TypeVar("T")

_EVERY = 4  # which row of a class chooses between trials
_RATE = 1e-2  # of the harmful head's Adam, for features of size 1
_RIDGE = 1e-4
_STEPS = 100  # of L-BFGS


class Rival(nn.Module):
    """A linear head for the harmful task on a network's features, in units of their size."""

    def __init__(self, features: Tensor, classes: int) -> None:
        super().__init__()
        size = float(features.double().square().mean().sqrt())
        self.size = size if size > 0.0 else 1.0
        self.linear = nn.Linear(features.shape[1], classes).to(features)
        for p in self.linear.parameters():
            nn.init.zeros_(p)

    def forward(self, found: Outcome) -> Tensor:
        """Return the logits of features."""
        logits: Tensor = self.linear(found.features / self.size)
        return logits

    def loss(self, found: Outcome) -> Tensor:
        """Return the cross-entropy of the harmful classes."""
        return cross_entropy(self(found), found.labels.long())

    def fit(self, found: Outcome) -> Rival:
        """Minimise it on features that stay as they are; convex, with a slight ridge."""
        optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimizer.zero_grad()
            loss = self.loss(found) + _RIDGE * self.linear.weight.square().sum()
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)
        return self


@dataclass(frozen=True)
class Bench:
    """A network to be changed, its tasks, and what a method may use.

    Attributes
    ----------
    work, teacher : nn.Module
        The network to be changed, and the one that was given; in evaluation mode.
    head : str
        What makes the primary logits; it is not trained.
    layers : dict of str to Layer
    loaders : dict of str
        "primary", and "harmful": the rows that train.
    classes : int
        Of the harmful task.
    steps : int
        Of a descent.
    """

    work: nn.Module
    teacher: nn.Module
    head: str
    layers: Mapping[str, Layer]
    loaders: Mapping[str, Any]
    classes: int
    steps: int
    mask: Any
    seed: int
    _kept: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what is the same in every trial, made in the first one."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found

    @cached_property
    def primary(self) -> Loaded:
        """The primary rows through a network."""
        return Loaded(self.loaders["primary"], device_of(self.work), self.seed)

    @cached_property
    def harmful(self) -> Loaded:
        """The harmful rows through a network."""
        return Loaded(self.loaders["harmful"], device_of(self.work), self.seed)

    @property
    def trained(self) -> list[nn.Parameter]:
        """What of the network is trained: all but its head."""
        mine = {id(p) for p in self.work.get_submodule(self.head).parameters()}
        return [p for p in self.work.parameters() if p.is_floating_point() and id(p) not in mine]

    def state(self) -> dict[str, Any]:
        """Return a copy of what the network to be changed holds."""
        return copy.deepcopy(self.work.state_dict())

    def student(self) -> SplitModel:
        """Return the network to be changed, split at its head."""
        return SplitModel(self.work, self.head)

    def before(self) -> SplitModel:
        """Return the network that was given, split at its head."""
        return SplitModel(self.teacher, self.head)

    def rival(self) -> Rival:
        """Return the harmful head that fits the network that was given best, as a new copy."""

        def fitted() -> tuple[Tensor, dict[str, Tensor]]:
            found = everything(self.before(), self.harmful, "harmful")
            where = device_of(self.work)
            found = found._replace(features=found.features.to(where), labels=found.labels.to(where))
            rival = Rival(found.features, self.classes).fit(found)
            return found.features, rival.state_dict()

        features, state = self.once("rival", fitted)
        rival = Rival(features, self.classes)
        rival.load_state_dict(state)
        return rival

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Yield a batch of the primary and one of the harmful task for each step."""
        drawn = [torch.Generator().manual_seed(self.seed + i) for i in range(2)]
        with self.primary.anew(), self.harmful.anew():
            P = endless(partial(self.primary.epoch, drawn[0]), "primary")
            H = endless(partial(self.harmful.epoch, drawn[1]), "harmful")
            for _ in range(self.steps):
                yield next(P), next(H)


def adapting(rival: Rival) -> Callable[[Outcome], None]:
    """Return a step of the harmful head on its own loss, for features that stay as they are."""
    optimizer = torch.optim.Adam(rival.parameters(), lr=_RATE)

    def step(found: Outcome) -> None:
        optimizer.zero_grad()
        rival.loss(found._replace(features=found.features.detach())).backward()
        optimizer.step()

    return step


def norm_of(tensors: list[Tensor]) -> float:
    """Return the Frobenius norm of several tensors together."""
    return math.sqrt(sum(float(x.detach().double().square().sum()) for x in tensors))


# ---- rows that train, and rows that choose ----


def apart(harmful: Loaded) -> tuple[Rows, Rows]:
    """Return the harmful rows that train, and a quarter of each class that chooses."""
    train: Rows = []
    check: Rows = []
    seen: Counter[int] = Counter()
    for number, batch in enumerate(harmful.in_order(), 1):
        inputs, labels = parse_batch(batch)
        size = size_of(inputs)
        _refuse_labels(labels, size, number)
        chooses = []
        for label in labels.tolist():
            seen[label] += 1
            chooses.append(seen[label] % _EVERY == 0)
        mine = torch.tensor(chooses)
        for part, rows in ((train, ~mine), (check, mine)):
            if bool(rows.any()):
                part.append((rows_at(rows, inputs, size), labels[rows.to(labels.device)]))
    few = {label: count for label, count in seen.items() if count < _EVERY}
    if few or not seen:
        told = f"; of class {min(few)} there are {few[min(few)]}" if few else ""
        raise ValueError(
            f"harmful must have {_EVERY} rows of each class at least, a quarter of which chooses "
            f"between trials{told}"
        )
    return train, check


def _refuse_labels(labels: Any, size: int | None, number: int) -> None:
    if labels is None:
        raise ValueError(f"harmful must have labels, and batch {number} has none")
    whole = isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()
    if not whole or labels.dtype == torch.bool or len(labels) != size:
        shape = tuple(getattr(labels, "shape", ()))
        raise ValueError(
            f"the labels of harmful must be classes, a whole number for each of {size} samples, "
            f"and those of batch {number} have shape {shape}"
        )
    if bool((labels < 0).any()):
        raise ValueError(
            f"the labels of harmful must count classes from 0, and batch {number} holds "
            f"{int(labels.min())}"
        )
