"""One trial of an attack: training with one choice of settings until the target is reached."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..._format import plain
from .._search import Settings
from ._attackers import RULES
from ._optimizers import optimizer_for

_DENSE, _APART = 20, 1.05  # every step is measured at first, then each 5 percent
_DIVERGED = 1e3  # times the loss at the start
_STALLED, _PATIENCE = 1e-3, 64  # relative gain of the training loss, and from which step on
_BEHIND = 0.5  # of the gain in held-out loss that an earlier trial had at the same step


@dataclass(frozen=True)
class Trial:
    """What training with one choice of settings came to.

    Attributes
    ----------
    settings : dict
        Its rate, and what else was chosen.
    steps : float
        Steps until the held-out loss was at the target; inf where it never was.
    passes, seconds : float
        Passes over the attacker's rows, and time of training, until then.
    loss, accuracy : float
        The best held-out ones that were seen; where the primary task was spoilt, those of the
        start, at which alone it is known to be as it was.
    ended : str
        "reached" the target; "budget": all steps were taken; "outrun" by an earlier trial, whose
        number of steps it passed; "pruned", "diverged", or at the target beyond the "utility" cap.
    utility : float or None
        Accuracy of the primary task at the end, where that was measured.
    curve : dict
        "step", and the held-out "loss" and "accuracy" there; nothing where not even the start was
        finite.
    """

    settings: Settings
    steps: float
    passes: float
    seconds: float
    loss: float
    accuracy: float
    ended: str
    utility: float | None = None
    curve: dict[str, list[float]] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> bool:
        """Whether the primary task was left what it must be."""
        return self.ended != "utility"

    def score(self) -> tuple[float, float]:
        """Return what is less the better it went."""
        return self.steps, self.loss if self.counts else math.inf

    def as_dict(self) -> dict[str, Any]:
        """Every number as plain Python values; an infinite one is the string "inf"."""
        told: dict[str, Any] = plain(asdict(self))
        return told

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Trial:
        """Return what `as_dict` told."""
        given = {f.name: told[f.name] for f in fields(cls)}
        for name in ("steps", "passes", "seconds", "loss", "accuracy"):
            given[name] = float(given[name])
        return cls(**given)


class Victim(Protocol):
    """What an attacker trains, on its rows.

    Attributes
    ----------
    module : nn.Module
        Whose parameters that need gradients are trained.
    train, held_out : list
        Batches.
    rows : int
        Of all batches of `train`: samples, or tokens that count.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def train(self) -> list[Any]: ...

    @property
    def held_out(self) -> list[Any]: ...

    @property
    def rows(self) -> int: ...

    def run(self, batch: Any, /) -> tuple[Tensor, Tensor]:
        """Return the logits (N, c) of a batch and its classes (N,)."""

    def scale(self) -> float:
        """Return the mean square norm of what enters the head."""

    def mode(self, settings: Settings, /) -> None:
        """Let the module's layers be in training mode where the settings say so."""

    def utility(self) -> float | None:
        """Return the accuracy of the primary task; None where nothing touches it."""


@dataclass(frozen=True)
class Budget:
    """What a trial may take, and what it is after.

    Attributes
    ----------
    target : float
        Held-out cross-entropy, in nats.
    steps : int
    rival : Trial or None
        The best trial before.
    floor : float
        Least accuracy of the primary task at the target.
    prune : bool
        Whether trials that stall, or stay far behind the rival, end early.
    """

    target: float
    steps: int
    rival: Trial | None = None
    floor: float = -math.inf
    prune: bool = True

    @property
    def best(self) -> float:
        """Fewest steps of a trial before."""
        return math.inf if self.rival is None else self.rival.steps

    def behind(self, step: int, losses: list[float]) -> bool:
        """Whether held-out losses up to a step gained less than half of what the rival had."""
        if self.rival is None or not self.rival.curve["step"]:
            return False
        curve = self.rival.curve
        theirs = [loss for at, loss in zip(curve["step"], curve["loss"], strict=True) if at <= step]
        return losses[0] - min(losses) < _BEHIND * (theirs[0] - min(theirs))


def descend(
    victim: Victim,
    rule: str,
    settings: Settings,
    budget: Budget,
    seed: int,
    tell: Callable[[int], object],
) -> Trial:
    """Train until the target, or whatever ends the trial; the victim is changed."""
    unit = 1.0 / victim.scale() if rule in ("gd", "momentum") else 1.0
    optimizer = optimizer_for(rule, victim, settings, unit, seed)
    whole = RULES[rule].whole
    batches = _drawn(victim.train, seed)
    record, training = _Record(budget), False
    for step in range(budget.steps + 1):
        if step:
            if not training:
                victim.mode(settings)
                training = True
            before = time.perf_counter()
            chosen, rows = (victim.train, victim.rows) if whole else ([next(batches)], None)
            try:
                loss = float(optimizer.step(_closure(victim, optimizer, chosen, rows, record)))
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of moments with NaN
                loss = math.nan
            record.seconds += time.perf_counter() - before
            record.rows += RULES[rule].before * sum(map(_size, chosen))
            if record.ends_by_training(step, loss):
                break
        if step <= _DENSE or step >= record.next or step + 1 in (budget.best, budget.steps + 1):
            record.next = step * _APART
            victim.module.eval()
            training = False
            record.add(step, *measured(victim))
            tell(step)
            if record.ended:
                break
        if step + 1 >= budget.best:  # it could at most draw level
            record.ended = "outrun"
            break
    ended, utility = record.ended or "budget", None
    if ended == "reached":
        utility = victim.utility()
        if utility is not None and utility < budget.floor:
            ended = "utility"
    return record.trial(settings, ended, utility, sum(map(_size, victim.train)))


@torch.no_grad()
def measured(victim: Victim) -> tuple[float, float]:
    """Return the held-out cross-entropy and accuracy."""
    loss = right = count = 0.0
    for batch in victim.held_out:
        logits, y = victim.run(batch)
        loss += float(cross_entropy(logits.double(), y, reduction="sum"))
        right += float((logits.argmax(1) == y).sum())
        count += len(y)
    return loss / count, right / count


class _Record:
    """What a trial has shown so far."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._curve: dict[str, list[float]] = {"step": [], "loss": [], "accuracy": []}
        self._training: list[float] = []
        self.ended, self.next = "", 0.0
        self.seconds, self.rows = 0.0, 0

    def add(self, step: int, loss: float, accuracy: float) -> None:
        """Keep what was measured, and see whether it is the end."""
        if not math.isfinite(loss):
            self.ended = "diverged"
            return
        for name, value in (("step", step), ("loss", loss), ("accuracy", accuracy)):
            self._curve[name].append(value)
        if loss <= self._budget.target:
            self.ended = "reached"
        elif loss > _DIVERGED * max(1.0, self._curve["loss"][0]):
            self.ended = "diverged"

    def ends_by_training(self, step: int, loss: float) -> bool:
        """Keep a step's training loss; return whether it is the end of the trial."""
        self._training.append(loss)
        if not math.isfinite(loss):
            self.ended = "diverged"
        elif self._budget.prune and step >= _PATIENCE and step & (step - 1) == 0:
            quarter = step // 4
            early = min(self._training[: 2 * quarter]), min(self._training[2 * quarter :])
            stalled = early[0] - early[1] < _STALLED * abs(early[0])
            if stalled or self._budget.behind(step, self._curve["loss"]):
                self.ended = "pruned"
        return bool(self.ended)

    def trial(self, settings: Settings, ended: str, utility: float | None, rows: int) -> Trial:
        """Return the trial."""
        reached, curve = ended == "reached", self._curve
        told = 1 if ended == "utility" else None
        return Trial(
            settings=settings,
            steps=curve["step"][-1] if reached else math.inf,
            passes=self.rows / rows if reached else math.inf,
            seconds=self.seconds if reached else math.inf,
            loss=min(curve["loss"][:told], default=math.inf),
            accuracy=max(curve["accuracy"][:told], default=0.0),
            ended=ended,
            utility=utility,
            curve=curve,
        )


def _closure(
    victim: Victim, optimizer: Any, chosen: Sequence[Any], rows: int | None, record: _Record
) -> Callable[[], Tensor]:
    """Return what computes the mean loss of batches, of so many rows, with its gradient.

    L-BFGS asks for it several times a step: each is a pass over them.
    """

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for batch in chosen:
            logits, y = victim.run(batch)
            # A line search compares losses, also of steps that gain less than float32 tells.
            loss = cross_entropy(logits if rows is None else logits.double(), y)
            loss = loss * (len(y) / (rows or len(y)))
            loss.backward()
            total += loss.detach().double().cpu()
            record.rows += _size(batch)
        return total

    return closure


def _drawn(batches: list[Any], seed: int) -> Iterator[Any]:
    """Yield batches, pass after pass, each time in another order."""
    order = torch.Generator().manual_seed(seed)
    while True:
        for at in torch.randperm(len(batches), generator=order).tolist():
            yield batches[at]


def _size(batch: Any) -> int:
    return len(batch[1])
