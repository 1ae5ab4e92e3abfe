"""What the strongest attacker of a network in a folder pays: ``immucond attack``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._errors import extra
from ..._format import number
from ..._show import Table
from ...deep import Attack, AttackReport, attack
from ...deep.parts import parse_attackers as parse_attackers
from .._units import Progress, silent
from . import _backbone
from ._data import load
from ._prepare import refuse_lacking, same_kind
from ._release import Measured, ReleaseSettings, figure_of, fit_head, load_release, loader_of
from ._task import Part, Task
from ._unaided import Unaided, unaided

with extra("deep"):
    import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOTE = (
    "steps: fewest of any trial until the held-out cross-entropy is at the target (inf: never), "
    "with its passes over the attacker's rows and its seconds; loss: the least of any trial. "
    "Medians over seeds. From cuts the best one alone is shown. frozen: what was inserted stays; "
    "equalized: canonical form, what was inserted merged, whitened features before the head. "
    "Trials that spoil the primary task beyond the cap count as never there. K-FAC, L-BFGS and "
    "what solves take all rows a step, the others a batch."
)


@dataclass(frozen=True, kw_only=True)
class AttackSettings(ReleaseSettings):
    """What attacks depend on; the defaults are those of ``immucond attack``.

    Attributes
    ----------
    harmful : str
        As in `Settings`.
    primary, reference : str or None
        The task that must stay, and the unprotected network.
    attackers : tuple of str
        As in :func:`immucond.deep.attack`; "standard" is one of each.
    target : float or None
        Held-out cross-entropy.
    steps, trials, seeds : int
    max_utility_drop : float
    test_size : int or None
        Most held-out rows of each task.
    scratch : bool
    """

    harmful: str
    primary: str | None = None
    reference: str | None = None
    attackers: tuple[str, ...] = ("standard",)
    target: float | None = None
    train_size: int | None = 600
    test_size: int | None = 1000
    steps: int = 200
    trials: int = 20
    seeds: int = 1
    max_utility_drop: float = 0.1
    scratch: bool = True


@dataclass(frozen=True)
class Attacks(Measured):
    """Reports by seed, what they are of, and what the first seed's rows give without a network.

    `alike` says that there are no other rows for other seeds.
    """

    settings: AttackSettings
    reports: list[AttackReport]
    unaided: Unaided
    alike: bool

    def table(self) -> Table:
        """Every network and attacker."""
        rows: list[list[str]] = []
        for network in self.reports[0].attacks:
            rows.append([network])
            best = [report.best_by_cut(network) for report in self.reports]
            rows += [
                [attacker, *_cells([found[attacker, form] for found in best if (attacker, form)
                                    in found])]
                for attacker, form in best[0]
            ]  # fmt: skip
        first = self.reports[0]
        told = [f"{name} {_ratio(report, name)}" for report in self.reports
                for name in ("factor", "scratch_share")]  # fmt: skip
        strongest = "; ".join(repr(report.strongest) for report in self.reports)
        counts = ", ".join(f"{n:,} {name.replace('_', '-')}" for name, n in first.rows.items())
        return Table(
            f"What it takes to learn {self.settings.harmful}",
            ("", "start", "steps", "passes", "seconds", "loss", "accuracy", "trials"),
            rows,
            f"{_NOTE} Strongest, by seed: {strongest}. Steps over the reference's and over those "
            f"from scratch, by seed: {', '.join(told)}. Target {number(first.target)} nats of "
            f"{first.classes} classes, majority {first.majority:.1%}; rows: {counts}; at most "
            f"{first.steps} steps and {first.trials} trials of an attacker at a start. The "
            f"same rows give {self.unaided}."
            + " All seeds have the same rows: there are no more."
            * self.alike,
        )

    def figure(self) -> Figure:
        """Held-out loss by step, of each attacker's best trial with the first seed."""
        return figure_of(self.reports[0], (7.0, 4.5), self.table().title)

    def numbers(self) -> dict[str, Any]:
        """Return what was measured."""
        return {
            "runs": [report.as_dict() for report in self.reports],
            "unaided": self.unaided._asdict(),
        }


def _cells(attacks: list[Attack]) -> list[str]:
    best = [attack.best for attack in attacks]

    def middle(values: list[float]) -> str:
        return number(float(np.median(values)))

    return [
        ", ".join(dict.fromkeys(attack.start for attack in attacks)),
        middle([trial.steps for trial in best]), middle([trial.passes for trial in best]),
        middle([trial.seconds for trial in best]),
        middle([min(trial.loss for trial in attack.trials) for attack in attacks]),
        f"{np.median([trial.accuracy for trial in best]):.1%}",
        str(sum(len(attack.trials) for attack in attacks)),
    ]  # fmt: skip


def _ratio(report: AttackReport, name: str) -> str:
    """Tell a ratio of steps; one with a run that never got there, by the budget as a bound."""
    ratio, network = (
        getattr(report, name),
        {"factor": "reference", "scratch_share": "scratch"}[name],
    )
    other = report.strongest_of(network)
    if ratio is None or other is None:
        return "unknown"
    if ratio == 0.0:
        return f"< {number(report.strongest.steps / report.steps)}"
    return f"> {number(report.steps / other.steps)}" if math.isinf(ratio) else number(ratio)


def attack_release(
    settings: AttackSettings, progress: Progress = silent, *, folder: Path | None = None
) -> Attacks:
    """Load networks and tasks, and attack; the folder keeps each trial, and a run goes on there.

    Raises
    ------
    OSError, ValueError
        Where they are not there or do not fit, and as `immucond.deep.attack`.
    """
    data = {"harmful": load(settings.harmful, settings.data_dir)}
    if settings.primary is not None:
        data["primary"] = load(settings.primary, settings.data_dir)
        same_kind(data["primary"], data["harmful"])
    seeds = range(settings.seed, settings.seed + settings.seeds)
    for seed in seeds:
        rows = data["harmful"].subset(settings.train_size, settings.test_size, seed)
        refuse_lacking(rows, rows.train)
    of_head = data.get("primary", data["harmful"]).subset(settings.train_size, settings.test_size)
    torch.manual_seed(settings.seed)
    own = settings.primary is not None
    release = load_release(settings, settings.backbone, of_head, own=own)
    prints = {name: task.fingerprint for name, task in data.items()}
    prints["release"] = release.features_fingerprint
    reference = None
    if settings.reference is not None:
        torch.manual_seed(settings.seed)
        reference = load_release(settings, settings.reference, of_head, own=own)
        prints["reference"] = reference.features_fingerprint
        some = data["harmful"].train.some(settings.train_size, settings.seed)
        _refuse_read_otherwise(release, reference, some)
    if settings.primary is not None:
        for backbone in (release, reference):
            if backbone is not None and not backbone.fitted:
                fit_head(
                    backbone, loader_of(backbone, of_head.train, settings.batch_size), progress
                )
    whole = data["harmful"]
    harmful = whole.subset(settings.train_size, settings.test_size, settings.seed)
    alone = unaided(harmful.train, harmful.test, progress)
    reports = [
        _attacked(settings, seed, release, reference, data, progress, folder) for seed in seeds
    ]
    parts = ((whole.train, settings.train_size), (whole.test, settings.test_size))
    alike = len(seeds) > 1 and all(part.some(size, settings.seed) is part for part, size in parts)
    return Attacks(settings, prints, reports, alone, alike)


def _attacked(
    settings: AttackSettings, seed: int, release: _backbone.Backbone,
    reference: _backbone.Backbone | None, data: Mapping[str, Task], progress: Progress,
    folder: Path | None,
) -> AttackReport:  # fmt: skip
    """Attack with rows and draws of one seed."""
    loader = partial(loader_of, release, batch_size=settings.batch_size)
    harmful = data["harmful"].subset(settings.train_size, settings.test_size, seed)
    primary = data.get("primary")

    def tell(_: int, about: Mapping[str, Any]) -> None:
        trials = about["trials"]
        done = about["attack"] * trials + about["trial"]
        progress(f"seed {seed}, {about['network']}", done, about["attacks"] * trials)

    standard = settings.attackers == ("standard",)
    found = attack(
        release.model, loader(harmful.train), held_out=loader(harmful.test),
        split=release.split if reference is None else (release.split, reference.split),
        attackers="standard" if standard else settings.attackers, target=settings.target,
        steps=settings.steps, trials=settings.trials, max_utility_drop=settings.max_utility_drop,
        utility=None if primary is None
        else loader(primary.subset(settings.train_size, settings.test_size, seed).test),
        reference=None if reference is None else reference.model, scratch=settings.scratch,
        seed=seed, checkpoint=None if folder is None else folder / f"seed-{seed}", callback=tell,
    )  # fmt: skip
    progress(f"seed {seed}", 1, 1)
    return found


def _refuse_read_otherwise(one: _backbone.Backbone, other: _backbone.Backbone, rows: Part) -> None:
    """Refuse a reference that reads samples otherwise than the release, whose batches it gets."""
    for sample in rows.inputs:
        first, second = (b.preparation(sample) for b in (one, other))
        if first.keys() != second.keys() or not all(
            torch.equal(x, second[n]) for n, x in first.items()
        ):
            raise ValueError(
                "the reference must read inputs as the release does (tokenizer, length, image "
                "size, mean and standard deviation), and reads them otherwise"
            )
