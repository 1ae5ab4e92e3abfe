"""The experiment: every method and seed a unit of work; immunize, measure, probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import probing
from ..._errors import ImmucondError, extra
from ..._files import staged
from .._experiment import Experiment, method_units
from .._methods import RIDGE, Method, Parameters
from .._units import Progress, Unit, Values, silent
from ._settings import Settings, chosen_methods

with extra("deep"):
    import torch
    from torch import nn

from ...deep import DeepImmunity, DeepImmunization, immunize, linear_probes
from ...deep.parts import array, immunity_of, kappa_and_rank
from . import _backbone
from ._prepare import Loaded, Prepared, features, loaded, of_tasks, prepared

SPECTRUM = 100  # points of a spectrum that are kept


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes
    ----------
    settings : Settings
        In full.
    fingerprints : dict of str to str
        Of the backbone and of both tasks.
    counts : dict of str to int
        Samples by task and part, classes by task, features.
    trainable : tuple of str
        Names of the trained blocks.
    methods : dict
        :class:`Method` by name.
    units : dict
        Results of each method, one a seed.
    """

    settings: Settings
    fingerprints: dict[str, str]
    counts: dict[str, int]
    trainable: tuple[str, ...]
    methods: dict[str, Method]
    units: dict[str, list[Values]]


class DeepExperiment(Experiment[Settings, Loaded, Result]):
    """A network and two tasks: a unit is a method with a seed.

    A checkpoint of the unit under way lies beside the finished ones. The frozen part of the network
    runs once in each process, over both tasks.
    """

    def load(self) -> Loaded:
        """Load the network and the tasks."""
        return loaded(self.settings)

    def methods(self) -> dict[str, Method]:
        """Methods of the run with its hyper-parameters."""
        methods = chosen_methods(self.settings.methods, self.settings.parameters)
        unwanted = [name for name in self.settings.save if name not in methods]
        if unwanted:
            raise ValueError(f"save must name methods that run, and names {', '.join(unwanted)}")
        return methods

    def plan(self, data: Loaded, methods: Mapping[str, Method]) -> dict[str, list[Unit]]:
        """Units by method."""
        settings = self.settings
        common = {
            "experiment": "deep",
            **data.fingerprints,
            "trainable": [*data.backbone.trainable],
            "batch_size": settings.batch_size,
            "probe_epochs": settings.probe_epochs,
            "probe_steps": settings.probe_steps,
            "groups": [settings.groups, settings.group_size],
        }

        def of(name: str, seed: int) -> Values:
            first = seed == 0
            return {"attackers": first, "save": first and name in settings.save, "name": name}

        return method_units(methods, settings.seeds, common, of)

    def work(self, folder: Path, progress: Progress | None) -> Callable[[Parameters], Values]:
        """Return what computes a unit, and tells how far the frozen part is where it can."""
        work = partial(compute, self.settings, folder)
        return work if progress is None else partial(work, progress=progress)

    def result(
        self, data: Loaded, methods: dict[str, Method], units: dict[Any, list[Values]]
    ) -> Result:
        """Put a run's results together."""
        prepared.cache_clear()
        counts = {
            f"{letter} {what}": count
            for letter, task in (("P", data.primary), ("H", data.harmful))
            for what, count in (
                ("training", len(task.train.inputs)),
                ("test", len(task.test.inputs)),
                ("classes", len(task.classes)),
            )
        }
        trainable = data.backbone.trainable
        return Result(self.settings, data.fingerprints, counts, trainable, methods, units)


def compute(
    settings: Settings, folder: Path, unit: Parameters, progress: Progress = silent
) -> Values:
    """Immunize by one method, one seed, and measure."""
    here = prepared(settings, folder, progress)
    start = time.perf_counter()
    checkpoint = folder / "checkpoints" / Unit(f"{unit['name']}-{unit['seed']}", unit).file_name
    checkpoint = checkpoint.with_suffix(".pt")
    try:
        done = _immunized(here, unit, checkpoint)
    except ImmucondError as error:
        return {"failure": str(error)}
    seconds = time.perf_counter() - start
    values = _measured(here, done, unit)
    if unit["save"]:
        place = folder / "models" / unit["name"]
        with staged(place, afresh=True) as stage:
            _backbone.save(here.backbone, done.model, stage)
        values["read_back"] = _read_back(here, done, place)
    checkpoint.unlink(missing_ok=True)
    history = {name: _thinned(np.asarray(v), 200, "step") for name, v in done.history.items()}
    return {"seconds": seconds, **values, "history": history}


def _thinned(series: npt.NDArray[Any], points: int, axis: str) -> dict[str, Any]:
    """So many points of a series at most, evenly spread, with their places from 1 on."""
    places = np.unique(np.linspace(0, series.size - 1, points).round().astype(int))
    return {axis: places + 1, "value": series[places]}


def _immunized(here: Prepared, unit: Parameters, checkpoint: Path) -> DeepImmunization:
    """Immunize by one method, from kept activations."""
    backbone, parameters = here.backbone, dict(unit["parameters"])
    if unit["method"] == "identity":
        return DeepImmunization(backbone.model, backbone.split, {}, None)
    options: dict[str, Any] = {
        "split": backbone.split,
        "primary": here.kept["P"]["train"],
        "harmful": here.kept["H"]["train"],
        "held_out": (here.kept["P"]["test"], here.kept["H"]["test"]),
        "method": unit["method"],
    }
    if unit["method"] == "closed_form":
        before = features(backbone.model, backbone.split, here.kept["P"]["train"])
        kappa_P = max(1.0, parameters["ii"] * kappa_and_rank(before.Z)[0])
        return immunize(backbone.model, kappa_P=kappa_P, **options)
    smoothing = parameters.pop("label_smoothing")
    return immunize(
        backbone.model,
        loss=partial(nn.functional.cross_entropy, label_smoothing=smoothing),
        seed=unit["seed"],
        trainable=backbone.trainable,
        checkpoint=checkpoint,
        **options,
        **parameters,
    )


def _measured(here: Prepared, done: DeepImmunization, unit: Parameters) -> Values:
    """Measure an immunized network on held-out samples."""
    after = of_tasks(done.model, done.split, here.kept)
    before = here.before
    P, H = (after["P"].Z, before["P"].Z), (after["H"].Z, before["H"].Z)
    groups, size = unit["groups"]
    kappas = {name: [kappa_and_rank(Z)[0] for Z in pair] for name, pair in (("P", P), ("H", H))}
    i, ii = (pair[0] / pair[1] for pair in (kappas["H"], kappas["P"]))
    predicted = [found["P"].logits.argmax(1) for found in (after, before)]
    values: Values = {
        "accuracy": after["P"].accuracy,
        "changed_predictions": int((predicted[0] != predicted[1]).sum()),
        "groups": {
            name: _summary(immunity_of(P, H, groups=groups, size=size, ridge=ridge))
            for name, ridge in (("exact", 0.0), ("ridge", RIDGE))
        },
        "all": {"i": i, "ii": ii, "rir": i / ii, "kappa_P": kappas["P"][0],
                "kappa_H": kappas["H"][0]},
        "spectra": {"P": _spectrum(P[0]), "H": _spectrum(H[0])},
        "probe": linear_probes(
            *((after[part].Z, after[part].labels) for part in ("H train", "H")),
            classes=len(here.harmful.classes), epochs=unit["probe_epochs"], seed=unit["seed"],
        ),
    }  # fmt: skip
    if unit["attackers"]:
        one_hot = np.eye(len(here.harmful.classes))[after["H train"].labels.numpy()]
        values["attackers"] = probing.compare(
            array(before["H train"].Z),
            array(after["H train"].Z),
            one_hot,
            steps=unit["probe_steps"],
            computed_in="float32",
        ).as_dict()
    return values


def _read_back(here: Prepared, done: DeepImmunization, folder: Path) -> Values:
    """Measure what the files hold, the network that `load_saved` makes of them, on test samples.

    "i" is that of the features that enter its last layer, "i_before_the_map" that of the ones which
    whoever takes the network without its head gets.
    """
    model = _backbone.load_saved(folder)
    found = of_tasks(model, done.split, here.kept)
    wanted = of_tasks(done.model, done.split, here.kept)
    outer = here.backbone.split if done.split == here.backbone.split else f"{here.backbone.split}.0"
    before_the_map = of_tasks(model, outer, here.kept)["H"].Z
    after, start, outside = (
        kappa_and_rank(Z)[0] for Z in (found["H"].Z, here.before["H"].Z, before_the_map)
    )
    return {
        "accuracy": found["P"].accuracy,
        "changed_predictions": int(
            (found["P"].logits.argmax(1) != wanted["P"].logits.argmax(1)).sum()
        ),
        "i": after / start,
        "i_before_the_map": outside / start,
    }


def _summary(found: DeepImmunity) -> dict[str, Any]:
    """Mean and standard deviation over the groups."""
    return {
        name: {"mean": float(series.mean()), "std": float(series.std(ddof=1))}
        for name, series in (("i", found.i), ("ii", found.ii), ("rir", found.rir))
    }


def _spectrum(Z: torch.Tensor) -> dict[str, Any]:
    """Eigenvalues of the Hessian, from the largest down, thinned."""
    return _thinned(np.linalg.svd(array(Z), compute_uv=False) ** 2, SPECTRUM, "place")
