"""A network in a folder with a task erased, at several tolerances: ``immucond erase``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..._errors import ToleranceError, extra
from ..._files import write_whole
from ..._format import number, plain
from ..._show import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Table,
    legend_below,
    print_style,
)
from ..._validate import refuse_other
from ...deep.parts import SplitModel
from ...probing import ceiling
from .._units import Progress, silent
from . import _saved
from ._data import load
from ._prepare import refuse_lacking, same_kind
from ._release import Measured, ReleaseSettings, accuracy_of, fit_head, load_release, loader_of
from ._unaided import Unaided, unaided

with extra("deep"):
    import torch
    from torch import nn

from ...deep import (
    EraseResult,
    LeakProfile,
    NetworkPath,
    erase,
    erasure_path,
    leak_profile,
    unlearn,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERASING = {
    "erase": "erasure",
    "primary": "erasure by primary rows alone",
    "pca": "principal components",
}
METHODS = ERASING | {  # the others are those of `immucond.deep.unlearn`
    "leace": "LEACE at every cut",
    "graddiff": "gradient ascent",
    "npo": "NPO",
    "tar": "like TAR",
    "collapse": "collapsed features",
    "cir": "like CIR",
    "repselect": "like RepSelect",
}
_DATA = ("primary", "harmful")
_NOTE = (
    "primary: on the rows that chose, ± the standard error of what is lost; fresh: on others. "
    "ceiling: of the leak profile, the largest held-out accuracy of linear probes on the harmful "
    "task over all cuts, ± its standard error, trained on rows that the defender did not have. "
    "directions: of all layers' outputs together, where a method tells them. seconds: of making "
    "it, in the run that did."
)
_COLOURS = (BLUE, GREEN, VERMILION, PURPLE, ORANGE)
_STYLES = {name: (_COLOURS[i % 5], "os^Dv<>Xph"[i]) for i, name in enumerate(METHODS)}


@dataclass(frozen=True, kw_only=True)
class EraseSettings(ReleaseSettings):
    """What a run depends on; the defaults are those of ``immucond erase``.

    Attributes
    ----------
    primary, harmful : str
        As in `Settings`.
    tols : tuple of float
        How much of the primary accuracy may be lost, each for a network of its own.
    methods : tuple of str
        Of `METHODS`.
    metric : {"fisher", "gram"}
        As in `immucond.deep.erase`, and so are rounds and recover.
    rounds, recover : int
    steps, trials : int
        Of each of the other methods, as in `immucond.deep.unlearn`.
    transfer : str or None
        Another benign task, of which the network's features are probed too.
    test_size : int or None
        Most held-out rows of each task; of the primary one half chooses, half is fresh.
    untrained : bool
        Whether the same network is profiled with weights drawn anew.
    """

    primary: str
    harmful: str
    tols: tuple[float, ...] = (0.003, 0.01, 0.03)
    methods: tuple[str, ...] = ("erase",)
    metric: str = "fisher"
    rounds: int = 1
    recover: int = 0
    steps: int = 200
    trials: int = 8
    transfer: str | None = None
    test_size: int | None = 2000
    untrained: bool = True


@dataclass(frozen=True)
class Point:
    """One network of the trade-off."""

    method: str
    tol: float
    kept: tuple[int, int]
    before: float
    chosen: float
    lost_error: float | None
    fresh: float
    leak: LeakProfile
    transfer: float | None
    seconds: float


@dataclass(frozen=True)
class Erased(Measured):
    """The network that was given, and those that were made of it."""

    settings: EraseSettings
    before: float
    leak: LeakProfile
    unaided: Unaided
    transfer: float | None
    points: list[Point]
    failures: dict[str, str]

    def table(self) -> Table:
        """Return the network that was given, and each that was made."""
        chosen = f"{self.points[0].before:.2%}"
        rows = [["as it is", "", "", chosen, f"{self.before:.2%}", *_read(self), ""]]
        rows += [
            [METHODS[p.method], number(p.tol), _left(*p.kept),
             f"{p.chosen:.2%} ± {p.lost_error or 0.0:.2%}", f"{p.fresh:.2%}", *_read(p),
             f"{p.seconds:.0f}"]
            for p in self.points
        ]  # fmt: skip
        benign = self.settings.transfer
        probed = "" if benign is None else (
            f"transfer: what a linear probe on what enters the head gets of {benign}. "
        )  # fmt: skip
        counts = ", ".join(f"{n:,} {name.replace('_', '-')}" for name, n in self.leak.rows.items())
        none = (f" No network by {n}: {why.rstrip('.')}." for n, why in self.failures.items())
        return Table(
            f"{self.settings.harmful} erased, {self.settings.primary} kept",
            (
                "",
                "tol",
                "directions",
                "primary",
                "fresh",
                "ceiling",
                "at",
                *(["transfer"] if benign else []),
                "seconds",
            ),
            rows,
            f"{_NOTE} {probed}Untrained: {self._untrained()}; {self.unaided}; "
            f"{self.leak.majority:.1%} by a constant guess. Rows of the profile: {counts}."
            + "".join(none),
        )

    def _untrained(self) -> str:
        found = self.leak.untrained
        return f"{max(c.accuracy for c in found.values()):.1%}" if found else "not measured"

    def figure(self) -> Figure:
        """Draw the ceiling against the fresh primary accuracy."""
        with print_style():
            from matplotlib.figure import Figure

            methods = list(dict.fromkeys(p.method for p in self.points))
            more = max(0, len(methods) - 3)  # than fit into a legend of three columns
            figure = Figure(figsize=(6.0, 4.6 + 0.15 * more), layout="constrained")
            ax = figure.subplots()
            ax.plot(100.0 * self.before, 100.0 * self.leak.ceiling, "k*", label="as it is")
            for method in methods:
                mine = [p for p in self.points if p.method == method]
                colour, marker = _STYLES[method]
                ax.errorbar(
                    [100.0 * p.fresh for p in mine], [100.0 * p.leak.ceiling for p in mine],
                    yerr=[100.0 * p.leak.cuts[p.leak.where].standard_error for p in mine],
                    color=colour, marker=marker, capsize=2, markerfacecolor="none",
                    label=METHODS[method],
                )  # fmt: skip
            if self.leak.untrained:
                untrained = max(c.accuracy for c in self.leak.untrained.values())
                ax.axhline(100.0 * untrained, color=SKY, linestyle="--", label="untrained")
            ax.axhline(
                100.0 * self.unaided.least_squares, color=BLACK, linestyle="-.", label="no network"
            )
            ax.axhline(
                100.0 * self.leak.majority, color=BLACK, linestyle=":", label="constant guess"
            )
            ax.set_xlabel("primary accuracy on fresh rows, %")
            ax.set_ylabel("harmful task: ceiling over all cuts, %")
            ax.invert_xaxis()
            legend_below(ax, 2 if more else 3)
            return figure

    def numbers(self) -> dict[str, Any]:
        """Return what was measured."""
        return {
            "before": {
                "fresh": self.before,
                "leak": self.leak.as_dict(),
                "transfer": self.transfer,
            },
            "unaided": self.unaided._asdict(),
            "points": [{**vars(p), "leak": p.leak.as_dict()} for p in self.points],
            "failures": self.failures,
        }


def _left(kept: int, width: int) -> str:
    return f"{kept:,} of {width:,}" if width else ""


def _read(of: Erased | Point) -> list[str]:
    leak, error = of.leak, of.leak.cuts[of.leak.where].standard_error
    transfer = [] if of.transfer is None else [f"{of.transfer:.1%}"]
    return [f"{leak.ceiling:.1%} ± {error:.1%}", leak.where, *transfer]


def erase_release(
    settings: EraseSettings, progress: Progress = silent, *, folder: Path | None = None
) -> Erased:
    """Load a network and both tasks, erase at each tolerance, and measure with rows of others.

    Each network is written into the folder as soon as it is made.

    A method that finds no network within the tolerance is told of, where another does.

    Raises
    ------
    OSError, ValueError
        Where they are not there or do not fit, and as `immucond.deep.erase` and `unlearn`.
    ImportError
        For "repselect" without PEFT, before any work.
    """
    if "repselect" in settings.methods:
        with extra("lora"):
            import peft  # noqa: F401
    if len({f"{tol:g}" for tol in settings.tols}) < len(settings.tols):
        raise ValueError(f"tols must be told apart by six digits, and are {settings.tols}")
    data = {name: load(getattr(settings, name), settings.data_dir) for name in _DATA}
    primary, harmful = (
        task.subset(settings.train_size, settings.test_size, settings.seed)
        for task in data.values()
    )
    same_kind(primary, harmful)
    defender, attacker = harmful.train.parted(len(harmful.train.inputs) // 2)
    refuse_lacking(harmful, attacker)
    prints = {name: task.fingerprint for name, task in data.items()}
    if len(set(prints.values())) == 1:
        raise ValueError(f"{settings.primary} and {settings.harmful} are the same rows")
    benign = None
    if settings.transfer is not None:
        other = load(settings.transfer, settings.data_dir)
        benign = other.subset(settings.train_size, settings.test_size, settings.seed)
        same_kind(primary, benign)
        refuse_lacking(benign, benign.train)
        prints["transfer"] = other.fingerprint
    torch.manual_seed(settings.seed)
    backbone = load_release(settings, settings.backbone, primary, own=True)
    loader = partial(loader_of, backbone, batch_size=settings.batch_size)
    prints["release"] = backbone.features_fingerprint
    if not backbone.fitted:
        fit_head(backbone, loader(primary.train), progress)
    choosing, fresh = primary.test.parted(len(primary.test.inputs) // 2)
    rows = loader(primary.train)

    def told(what: str, net: nn.Module, untrained: bool) -> LeakProfile:
        def tell(batch: int, about: Mapping[str, Any]) -> None:
            name = f"{what}, {about['network']}, {about['data'].replace('_', '-')}"
            progress(name, batch, about["batches"])

        return leak_profile(
            net, loader(attacker), primary=rows, held_out=loader(harmful.test),
            untrained=untrained, split=backbone.split, seed=settings.seed, callback=tell,
        )  # fmt: skip

    def transferred(what: str, net: nn.Module) -> float | None:
        if benign is None:
            return None
        model, parts = SplitModel(net, backbone.split), (benign.train, benign.test)
        with torch.no_grad():
            Z_P, Z, Z_test = (
                torch.cat([model(inputs).features for inputs, _ in batches]).numpy()
                for batches in (rows, *map(loader, parts))
            )
        progress(f"{what}, transfer", 1, 1)
        return ceiling(Z, benign.train.labels, Z_P, held_out=(Z_test, benign.test.labels)).accuracy

    def made(method: str, tol: float, name: str) -> EraseResult:
        def tell(trial: int, about: Mapping[str, Any]) -> None:
            most = about.get("trials", settings.trials)
            progress(f"{name}, trial", trial, max(trial, most))

        given: dict[str, Any] = {
            "held_out": loader(choosing), "tol": tol, "split": backbone.split,
            "seed": settings.seed, "callback": tell,
        }  # fmt: skip
        if method not in ERASING:
            return unlearn(
                backbone.model, rows, loader(defender), harmful_held_out=loader(harmful.test),
                method=method, steps=settings.steps, trials=settings.trials,  # type: ignore[arg-type]
                **given,
            )  # fmt: skip
        measured: dict[str, Any] = {
            "harmful": loader(defender) if method == "erase" else None,
            "metric": "variance" if method == "pca" else settings.metric,
            "split": backbone.split, "seed": settings.seed,
        }  # fmt: skip
        if method not in paths:  # for all tolerances
            paths[method] = erasure_path(backbone.model, rows, **measured)
        return erase(
            backbone.model, rows, path=paths[method], rounds=settings.rounds,
            recover=settings.recover,
            checkpoint=None if folder is None else folder / f"{name}.pt", **measured | given,
        )  # fmt: skip

    leak = told("as it is", backbone.model, settings.untrained)
    alone = unaided(attacker, harmful.test, progress)
    paths: dict[str, NetworkPath] = {}
    points, failures = [], dict[str, ToleranceError]()
    made_of = {name: value for name, value in prints.items() if name != "transfer"}
    for method, tol in product(settings.methods, settings.tols):
        name = f"{method}-{tol:g}"
        place = None if folder is None else folder / name
        of = plain({**_asked(settings, method), "fingerprints": made_of, "tol": tol})
        model, about = _kept(place, of)
        if model is None:
            begun = perf_counter()
            try:
                done = made(method, tol, name)
            except ToleranceError as error:
                failures[name] = error
                continue
            model = done.model
            about = {"kept": done.kept, "before": done.primary_before, "chosen": done.primary,
                     "lost_error": done.lost_error, "seconds": perf_counter() - begun}  # fmt: skip
            if place is not None:
                _saved.save_anew(backbone, model, place)
                write_whole(place.with_name(f"{name}.json"), json.dumps({"of": of, "made": about}))
        points.append(Point(
            method=method, tol=tol, fresh=accuracy_of(model, backbone, loader(fresh)),
            leak=told(name, model, False), transfer=transferred(name, model), **about,
        ))  # fmt: skip
        progress(name, 1, 1)
    if not points:
        raise next(iter(failures.values()))
    before = accuracy_of(backbone.model, backbone, loader(fresh))
    return Erased(
        settings, prints, before, leak, alone, transferred("as it is", backbone.model), points,
        {name: str(error) for name, error in failures.items()},
    )  # fmt: skip


def _asked(settings: EraseSettings, method: str) -> dict[str, Any]:
    """Return what a network depends on: not where data lie, nor what else is made and measured."""
    others = ["data_dir", "methods", "tols", "transfer", "untrained"]
    others += ["steps", "trials"] if method in ERASING else ["metric", "rounds", "recover"]
    return {**{k: v for k, v in asdict(settings).items() if k not in others}, "method": method}


def _kept(place: Path | None, of: Mapping[str, Any]) -> tuple[nn.Module | None, dict[str, Any]]:
    """Return a network that was made before with what was told of it; of another run refuse it."""
    if place is None or not place.is_dir():
        return None, {}
    if not (about := place.with_name(f"{place.name}.json")).exists():
        _saved.refuse_foreign(place)
        return None, {}
    try:
        told, made = map(json.loads(about.read_text(encoding="utf-8")).__getitem__, ("of", "made"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{about} is not what immucond erase writes: remove it") from error
    refuse_other(told, of, str(place), f"Give another folder, or remove it and {place.name}.pt")
    return _saved.load_saved(place), made
