"""The leak profile: how much of a task is read at every cut of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from .._display import Columns, Curves, Line, Plotted
from .._format import number, plain
from .._show import aligned
from .._validate import Array, FloatArray, as_count, check_choice
from ..probing import Ceiling, ceiling
from ..probing.parts import ConstantError, blind
from ._activations import Kept, task_of
from ._batches import Callback, Loaded, first_of
from ._cuts import Cut, Cuts, classes_of, counting, cuts_of, name_of, read, refuse_unlike
from ._network import device_of, modules_matching
from ._reading import Reading, summed
from ._record import unwrapped
from ._rows import Channels
from ._untrained import untrained_like

LOGITS = "served logits"
_PARTS = ("harmful", "primary", "held_out")


@dataclass(frozen=True, repr=False)
class LeakProfile(Plotted):
    """What linear probes read of a harmful task at the cuts of a network; ``print`` it for a table.

    Attributes
    ----------
    cuts : dict of str to Ceiling
        By the names of modules, in the order of the network: what a block puts out, and, where the
        name ends in " (input)", what enters the head.
    logits : Ceiling or None
        Of the served logits: a floor under any defence that keeps them.
    untrained : dict of str to Ceiling
        The same cuts of the same architecture with weights drawn anew: what no training explains.
    majority : float
        Share of held-out rows that a constant guess puts in their class.
    widths : dict of str to int
        Features at each cut.
    rows : dict of str to int
        Of the parts "harmful" (to train on), "primary" and "held_out".
    classes : int
        Of the harmful task.
    """

    cuts: dict[str, Ceiling]
    logits: Ceiling | None
    untrained: dict[str, Ceiling] = field(repr=False)
    majority: float
    widths: dict[str, int]
    rows: dict[str, int]
    classes: int

    @property
    def where(self) -> str:
        """The cut at which most is read."""
        return max(self.cuts, key=lambda name: self.cuts[name].accuracy)

    @property
    def ceiling(self) -> float:
        """Largest accuracy among the cuts.

        The largest of several, taken on the rows that they are measured on, is a little too high:
        by about one or two standard errors where the cuts are alike.
        """
        return self.cuts[self.where].accuracy

    def __repr__(self) -> str:
        floor = "" if self.logits is None else f", logits {self.logits.accuracy:.1%}"
        return (
            f"LeakProfile(ceiling {self.ceiling:.1%} at {self.where!r}{floor}, majority "
            f"{self.majority:.1%}; {len(self.cuts)} cuts, {self.rows['held_out']} held-out rows)"
        )

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("cut", "features", "rank", "kappa", "rho", "ceiling", "untrained")
        ]
        rows += [self._row(name, of, self.untrained.get(name)) for name, of in self.cuts.items()]
        if self.logits is not None:
            rows.append(self._row(LOGITS, self.logits, None))
        lines = aligned([row[: 7 if self.untrained else 6] for row in rows])
        counts = ", ".join(
            f"{count:,} {name.replace('_', '-')}" for name, count in self.rows.items()
        )
        lines.append(f"majority {self.majority:.1%} of {self.classes} classes; rows: {counts}")
        if any("!" in row[5] for row in rows):
            lines.append(
                "!: held-out rows use directions that no row of either task uses, and a map of the "
                "features changes what is read of them; more primary rows help"
            )
        return "\n".join(lines)

    def _row(self, name: str, found: Ceiling, untrained: Ceiling | None) -> tuple[str, ...]:
        return (
            name, str(self.widths[name]), str(found.rank), number(found.kappa), number(found.rho),
            found.told, "" if untrained is None else f"{untrained.accuracy:.1%}",
        )  # fmt: skip

    def _columns(self) -> Columns:
        every = self.cuts if self.logits is None else {**self.cuts, LOGITS: self.logits}
        names = ("rank", "kappa", "rho", "accuracy", "standard_error")
        told: dict[str, list[Any]] = {"cut": [*every], "features": [self.widths[n] for n in every]}
        told |= {of: [getattr(c, of) for c in every.values()] for of in names}
        if self.untrained:
            told["untrained"] = [getattr(self.untrained.get(n), "accuracy", None) for n in every]
        return told

    def _curves(self) -> Curves:
        def line(name: str, cuts: Mapping[str, Ceiling], **style: Any) -> Line:
            found = [(100.0 * cuts[n].accuracy, 100.0 * cuts[n].standard_error) for n in self.cuts]
            shares, errors = zip(*found, strict=True)
            return Line(name, range(len(found)), shares, bars=errors, style=style)

        lines = [line("release", self.cuts, marker="o")]
        if self.untrained:
            lines.append(line("untrained", self.untrained, marker="s", markerfacecolor="none"))
        levels = {} if self.logits is None else {LOGITS: 100.0 * self.logits.accuracy}
        return Curves(
            "cut, from the input to the head", "harmful task: held-out accuracy, %", lines,
            {**levels, "constant guess": 100.0 * self.majority}, ticks=tuple(self.cuts),
            ylim=(0.0, 100.0),
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Every number as plain Python values.

        Examples
        --------
        >>> import torch, immucond.deep as icd
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 3))
        >>> batches = [(torch.randn(50, 4), torch.arange(50) % 2)]
        >>> found = icd.leak_profile(net, batches, primary=batches, held_out=batches)
        >>> sorted(found.as_dict()["cuts"])
        ['0', '1 (input)']
        """

        def of(name: str, found: Ceiling) -> dict[str, Any]:
            other = self.untrained.get(name)
            return {
                "features": self.widths[name],
                **found.as_dict(),
                "untrained": None if other is None else other.as_dict(),
            }

        told: dict[str, Any] = plain(
            {
                "ceiling": self.ceiling,
                "where": self.where,
                "logits": None if self.logits is None else of(LOGITS, self.logits),
                "majority": self.majority,
                "classes": self.classes,
                "rows": self.rows,
            }
        )
        return {**told, "cuts": {name: of(name, found) for name, found in self.cuts.items()}}


@torch.random.fork_rng(devices=[])
def leak_profile(
    model: nn.Module,
    harmful: Any,
    *,
    primary: Any,
    held_out: Any,
    cuts: str | Sequence[str] = "auto",
    logits: bool = True,
    untrained: bool | nn.Module = True,
    split: str | None = None,
    mask: str | Callable[[Any], Tensor] | None = "attention_mask",
    channels: Channels | None = None,
    ridges: Sequence[float] | FloatArray | None = None,
    computed_in: Any = None,
    max_bytes: SupportsIndex = 2**30,
    seed: SupportsIndex = 0,
    callback: Callback | None = None,
) -> LeakProfile:
    """Measure how much of a harmful task linear probes read at the cuts of a network.

    At each cut, which is the mean of a sample's features over its tokens or places,
    `immucond.probing.ceiling`: the held-out accuracy of a probe whose ridge is measured by the
    primary task's features. Invertible maps of the features change none of it, so that no lock
    hides what it shows; erasure and noise do.

    Parameters
    ----------
    model : nn.Module
        Runs in evaluation mode, and is left as it was.
    harmful, held_out : DataLoader or iterable of batches
        The harmful task, with a class a sample: rows to train on, and others to measure on.
        Classes are named by whole numbers, of which -100 is none: such samples are left out.
    primary : DataLoader or iterable of batches
        The primary task; its labels are not needed.
    cuts : "auto", or str or sequence of str
        Modules whose output is a cut, by names or patterns as in `record`. By default blocks (the
        items of lists of modules, and what stands beside these; without lists the children of the
        network), and what enters the head.
    logits : bool, default: True
        Whether the network's own logits are probed too.
    untrained : bool or nn.Module, default: True
        Whether the same is measured of a copy whose weights are drawn anew, or such a network.
    split : str, optional
        Name of the head; by default the last linear layer that runs, if it has as many outputs as
        there are logits.
    mask, channels
        As in `record`. Where channels stand in a block's output is by default told by its layers.
    ridges, computed_in
        As in `immucond.probing.ceiling`.
    max_bytes : int, default: 2^30
        Memory for features: where all cuts need more, the last ones wait for another pass.
    seed : int, default: 0
        Of weights that are drawn anew, and of what loaders draw.
    callback : callable, optional
        Called as ``callback(batch, record)`` after each batch, with ``"network"`` ("release" or
        "untrained"), ``"data"``, ``"batches"`` (0 where the loader has no length) and ``"pass"``;
        and before each ceiling is computed, a cut for a batch, with "ceilings" for the data.

    Returns
    -------
    LeakProfile

    Raises
    ------
    ValueError
        For patterns that match nothing, modules that never ran or ran twice, features that are NaN
        (with the module and the batch), labels that are missing or no classes, classes that
        training or held-out rows lack, and weights that cannot be drawn anew.
    TypeError
        For what is no loader, and an `untrained` that is neither a bool nor a network.

    Notes
    -----
    What preserves the logits everywhere preserves their ceiling: a defence can only be below it
    where the network's outputs change. Of a cut that is the same, to rounding, for all rows to
    train on, as one from which all was erased, the ceiling is that of a constant guess, its rank 0,
    its kappa infinite.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> X = torch.randn(600, 6)
    >>> batches = list(zip(X.split(200), (X[:, 0] > 0).long().split(200)))
    >>> found = icd.leak_profile(net, batches[:1], primary=batches[1:2], held_out=batches[2:])
    >>> list(found.cuts), found.ceiling > 0.9
    (['0', '1', '2 (input)'], True)
    """
    if channels is not None:
        check_choice(channels, "channels", ("first", "last"))
    if not isinstance(untrained, (bool, nn.Module)):
        raise TypeError(f"untrained must be True, False or a network, and is {untrained!r}")
    budget = as_count(max_bytes, "max_bytes", least=1)
    drawn = as_count(seed, "seed", least=0)
    model = unwrapped(model)
    where = device_of(model)
    data: dict[str, Loaded] = {}
    for name, loader in zip(_PARTS, (harmful, primary, held_out), strict=True):
        if isinstance(loader, Kept):
            raise TypeError(f"{name} must give whole batches, and is of keep_activations")
        task = task_of(loader, where, name, seed=drawn)
        assert isinstance(task, Loaded)
        data[name] = task

    def reading(network: nn.Module, part: str) -> Reading:
        return Reading(network, data[part], mask, None, summed, drawn)

    first = first_of(data["harmful"], "harmful")
    found = cuts_of(model, cuts, reading(model, "harmful"), first, split)
    other = untrained if isinstance(untrained, nn.Module) else None
    if untrained is True:
        other = untrained_like(model, where, drawn, argument="untrained")

    def profile(network: nn.Module, of: str, with_logits: bool) -> _Measured:
        wanted = found
        if network is not model:
            modules, _ = modules_matching(network, [name_of(name) for name in found])
            wanted = {n: cut._replace(module=modules[name_of(n)]) for n, cut in found.items()}
        return _measured(
            wanted, {part: reading(network, part) for part in _PARTS}, channels, budget,
            LOGITS if with_logits else "", partial(ceiling, ridges=ridges), computed_in,
            partial(_told, callback or _silent, of),
        )  # fmt: skip

    mine = profile(model, "release", logits)
    served = mine.found.pop(LOGITS, None)
    theirs = {} if other is None else profile(other, "untrained", False).found
    return LeakProfile(
        cuts=mine.found,
        logits=served,
        untrained=theirs,
        majority=next(iter(mine.found.values())).majority,
        widths=mine.widths,
        rows=mine.rows,
        classes=mine.classes,
    )


class _Measured(NamedTuple):
    """Ceilings by cut, with the features that each has, and of how many rows and classes."""

    found: dict[str, Ceiling]
    widths: dict[str, int]
    rows: dict[str, int]
    classes: int


def _measured(
    cuts: Mapping[str, Cut],
    readings: Mapping[str, Reading],
    channels: Channels | None,
    budget: int,
    logits: str,
    probe: Callable[..., Ceiling],
    computed_in: Any,
    tell: Callable[..., object],
) -> _Measured:
    """Read the data as often as it takes to hold some cuts at a time, and probe each cut."""
    found: dict[str, Ceiling] = {}
    widths: dict[str, int] = {}
    waiting, number = dict(cuts), 0
    while waiting:
        number += 1
        held = {part: Cuts(waiting, channels, of.model) for part, of in readings.items()}
        named = logits if number == 1 else ""
        active, counts, labels = _pass(held, readings, budget, named, partial(tell, number))
        probed = [*active, *([named] if named else [])]
        for done, name in enumerate(probed):
            tell(number, "ceilings", done, len(probed))
            Z, Z_P, test = (held[part].taken(name) for part in _PARTS)
            widths[name] = Z.shape[1]
            precision = held["harmful"].dtypes[name] if computed_in is None else computed_in
            try:
                found[name] = probe(
                    Z, labels["harmful"], Z_P, held_out=(test, labels["held_out"]),
                    computed_in=precision,
                )  # fmt: skip
            except ConstantError:
                found[name] = blind(labels["harmful"], labels["held_out"])
            except ValueError as error:
                raise ValueError(f"at the cut {name!r}: {error}") from error
        waiting = {name: cut for name, cut in waiting.items() if name not in active}
    order = [name for name in (*cuts, logits) if name in found]
    classes = len(np.unique(labels["harmful"]))
    return _Measured({name: found[name] for name in order}, widths, counts, classes)


def _pass(
    held: Mapping[str, Cuts],
    readings: Mapping[str, Reading],
    budget: int,
    logits: str,
    tell: Callable[..., object],
) -> tuple[list[str], dict[str, int], dict[str, Array]]:
    """Read all data once; return the cuts that were held to the end, the rows, and the labels."""
    active = list(held["harmful"].blocks)

    def after(part: str, batch: int, batches: int) -> None:
        while sum(cuts.bytes for cuts in held.values()) > budget and len(active) > 1:
            last = active.pop()
            for cuts in held.values():
                cuts.drop(last)
        tell(part, batch, batches)

    counts: dict[str, int] = {}
    labels: dict[str, Array] = {}
    for part, reading in readings.items():
        counts[part], y = read(reading, held[part], part, partial(after, part), logits)
        held[part].refuse_unseen()
        if part != "primary":
            classes = classes_of(y, part)
            held[part].counted = counted = counting(classes, part)
            labels[part], counts[part] = classes[counted], int(np.count_nonzero(counted))
    refuse_unlike(labels["harmful"], labels["held_out"])
    return active, counts, labels


def _silent(*_: Any) -> None:
    """Tell nobody."""


def _told(callback: Callback, of: str, number: int, part: str, batch: int, batches: int) -> None:
    record = {"network": of, "data": part, "batches": batches, "pass": number}
    callback(batch, record)
