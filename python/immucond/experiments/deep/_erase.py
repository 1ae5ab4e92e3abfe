"""A network in a folder with a task erased, at several tolerances: ``immucond erase``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

from ..._errors import ToleranceError, extra
from ..._files import write_whole
from ..._format import plain
from ..._validate import refuse_other
from ...deep.parts import SplitModel
from ...probing import ceiling
from .._units import Progress, silent
from . import _saved
from ._data import load
from ._erased import ERASING, Erased, EraseSettings, Point
from ._prepare import refuse_lacking, same_kind
from ._release import accuracy_of, fit_head, load_release, loader_of
from ._unaided import unaided

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

_DATA = ("primary", "harmful")
_CLOSED = ("leace", *ERASING)  # of which nothing is trained in trials


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

        def unlearned(by: Any, **more: Any) -> EraseResult:
            return unlearn(
                backbone.model, rows, loader(defender), harmful_held_out=loader(harmful.test),
                method=by, steps=settings.steps, trials=settings.trials, **given | more,
            )  # fmt: skip

        if method not in ERASING:
            return unlearned(method)
        measured: dict[str, Any] = {
            "harmful": loader(defender) if method in ("erase", "leace-erase") else None,
            "metric": "variance" if method == "pca" else settings.metric,
            "split": backbone.split, "seed": settings.seed,
        }  # fmt: skip
        if method == "leace-erase":
            measured["start"] = unlearned("leace", tol=tol / 2)
        elif method not in paths:  # for all its tolerances; it may be as large as the network
            paths.clear()
            paths[method] = erasure_path(backbone.model, rows, **measured)
        return erase(
            backbone.model, rows, path=paths.get(method), rounds=settings.rounds,
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
                told_of = place.with_name(f"{name}.json")
                told_of.unlink(missing_ok=True)  # of a network that was removed
                _saved.save_anew(backbone, model, place)
                write_whole(told_of, json.dumps({"of": of, "made": about}))
        if place is not None:  # what an interrupted run would have gone on from
            place.with_name(f"{name}.pt").unlink(missing_ok=True)
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
    others += ["steps", "trials"] if method in _CLOSED else []
    others += [] if method in ERASING else ["metric", "rounds", "recover"]
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
    refuse_other(told, of, str(place), "Give another folder, or remove it")
    return _saved.load_saved(place), made
