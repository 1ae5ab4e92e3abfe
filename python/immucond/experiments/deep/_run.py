"""The experiment: every method and seed a unit of work; immunize, measure, probe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ... import probing
from ..._condition import condition_number
from ..._errors import ImmucondError
from ..._extras import extra
from .._measure import RIDGE
from .._methods import Method
from .._units import Progress, Unit, Values, run_units
from ._methods import chosen_methods
from ._task import Task

with extra("deep"):
    import torch
    from torch import nn

from ...torch import DeepImmunization, immunize
from ...torch._activations import Kept
from ...torch._features import array
from ...torch._objectives import objective_of
from ...torch._rir import immunity_of
from ...torch._split import SplitModel
from . import _backbone
from ._activations import Features, features, kept
from ._head import fit_head
from ._probe import probes
from ._sources import load

GROUPS, GROUP = 20, 100  # the paper's protocol
SPECTRUM = 100  # points of a spectrum that are kept
_BATCHES = 8  # to find the size of a term by


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond deep``.

    Attributes
    ----------
    backbone, primary, harmful : str
        See `_backbone.load` and `_sources.load`.
    data_dir : Path or None
        Where data sets lie.
    trainable, max_length, image_size, mean, std
        See `_backbone.load`.
    methods : tuple of str, or None
        Names; all by default.
    parameters : mapping
        Hyper-parameters that replace those of the methods, see `chosen_methods`.
    seeds : int
        Runs of each method that depends on one.
    batch_size : int
        Of immunization.
    train_size, test_size : int or None
        Most samples of each task that are used, drawn at random.
    probe_epochs, probe_steps : int
        Of the linear probes by mini-batches, and most steps of an attacker under the squared loss.
    groups, group_size : int
        Of the RIR.
    save : tuple of str
        Methods whose network is written, of seed 0.
    """

    backbone: str
    primary: str
    harmful: str
    data_dir: Path | None = None
    trainable: tuple[str, ...] = ("1",)
    max_length: int = 32
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    methods: tuple[str, ...] | None = None
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = 3
    batch_size: int = 64
    train_size: int | None = None
    test_size: int | None = None
    probe_epochs: int = 20
    probe_steps: int = 2000
    groups: int = GROUPS
    group_size: int = GROUP
    save: tuple[str, ...] = ()


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


@dataclass(frozen=True, eq=False)
class _Setting:
    """Network, tasks and kept activations, and what the network makes of them before."""

    backbone: _backbone.Backbone
    primary: Task
    harmful: Task
    kept: dict[str, dict[str, Kept]]
    before: dict[str, Features]


def run(
    settings: Settings,
    folder: Path,
    *,
    jobs: int = 1,
    progress: Progress = lambda *_: None,
) -> Result:
    """Run what the folder does not hold yet.

    Parameters
    ----------
    settings : Settings
        Network, tasks, methods and seeds.
    folder : Path
        Keeps one file a finished unit, and a checkpoint of the one under way: an interrupted run
        goes on from there.
    jobs : int, default 1
        Processes; each runs the frozen part of the network for itself.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    OSError, ValueError
        Before any work, for a backbone or a data set that is not there or does not fit.
    """
    backbone, primary, harmful = loaded(settings)
    methods = chosen_methods(settings.methods, settings.parameters)
    unwanted = [name for name in settings.save if name not in methods]
    if unwanted:
        raise ValueError(f"save must name methods that run, and names {', '.join(unwanted)}")
    fingerprints = {
        "backbone": backbone.fingerprint,
        "primary": primary.fingerprint,
        "harmful": harmful.fingerprint,
    }
    units, owners = [], []
    for name, method in methods.items():
        for seed in range(settings.seeds if method.seeded else 1):
            parameters = {
                "experiment": "deep",
                **fingerprints,
                "trainable": [*backbone.trainable],
                "batch_size": settings.batch_size,
                "method": method.fit,
                "parameters": {key: _plain(value) for key, value in method.parameters.items()},
                "seed": seed,
                "probe_epochs": settings.probe_epochs,
                "probe_steps": settings.probe_steps,
                "groups": [settings.groups, settings.group_size],
                "attackers": seed == 0,
                "save": seed == 0 and name in settings.save,
                "name": name,
            }
            units.append(Unit(f"{name}-{seed}", parameters))
            owners.append(name)
    found = run_units(
        units, partial(compute, settings, folder), folder, jobs=jobs, progress=progress
    )
    setting.cache_clear()
    results: dict[str, list[Values]] = {name: [] for name in methods}
    for name, result in zip(owners, found, strict=True):
        results[name].append(result)
    counts = {
        "P training": len(primary.train.inputs), "P test": len(primary.test.inputs),
        "P classes": len(primary.classes),
        "H training": len(harmful.train.inputs), "H test": len(harmful.test.inputs),
        "H classes": len(harmful.classes),
    }  # fmt: skip
    return Result(settings, fingerprints, counts, backbone.trainable, methods, results)


def loaded(settings: Settings) -> tuple[_backbone.Backbone, Task, Task]:
    """Load network and tasks, and see that they fit.

    Raises
    ------
    OSError, ValueError
        Where they do not.
    """
    primary, harmful = (
        load(spec, settings.data_dir).subset(settings.train_size, settings.test_size)
        for spec in (settings.primary, settings.harmful)
    )
    if primary.kind != harmful.kind:
        raise ValueError(
            f"both tasks must be of one kind: {settings.primary} has {primary.kind}s, "
            f"{settings.harmful} {harmful.kind}s"
        )
    for task in (primary, harmful):
        if len(task.test.inputs) < settings.group_size:
            raise ValueError(
                f"{task.name} has {len(task.test.inputs)} test samples, and a group of the RIR "
                f"has {settings.group_size}"
            )
        if len(task.train.inputs) < settings.batch_size:
            raise ValueError(
                f"{task.name} has {len(task.train.inputs)} training samples, and a batch has "
                f"{settings.batch_size}"
            )
    torch.manual_seed(0)  # a new head, before it is fitted
    backbone = _backbone.load(
        settings.backbone,
        primary,
        trainable=settings.trainable,
        max_length=settings.max_length,
        image_size=settings.image_size,
        mean=settings.mean,
        std=settings.std,
    )
    return backbone, primary, harmful


@lru_cache(maxsize=1)
def setting(settings: _Hashable) -> _Setting:
    """Run the frozen part of the network once in each process; fit a head where there is none."""
    backbone, primary, harmful = loaded(settings.value)
    activations = {
        name: kept(backbone, task, settings.value.batch_size)
        for name, task in (("P", primary), ("H", harmful))
    }
    if not backbone.fitted:
        found = features(backbone.model, backbone.split, activations["P"]["train"])
        head = backbone.model.get_submodule(backbone.split)
        assert isinstance(head, nn.Linear)
        fit_head(head, found.Z, found.labels)
    before = _features(backbone.model, backbone.split, activations)
    return _Setting(backbone, primary, harmful, activations, before)


class _Hashable:
    """Settings as the key of a cache: equal where they are."""

    def __init__(self, value: Settings) -> None:
        self.value = value
        self._key = repr(asdict(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def compute(settings: Settings, folder: Path, unit: Mapping[str, Any]) -> Values:
    """Immunize by one method, one seed, and measure."""
    here = setting(_Hashable(settings))
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
        _write(here.backbone, done.model, folder / "models" / unit["name"])
    checkpoint.unlink(missing_ok=True)
    history = {name: _thinned(series) for name, series in done.history.items()}
    return {"seconds": seconds, **values, "history": history}


def _immunized(here: _Setting, unit: Mapping[str, Any], checkpoint: Path) -> DeepImmunization:
    backbone, parameters = here.backbone, dict(unit["parameters"])
    if unit["method"] == "identity":
        return DeepImmunization(backbone.model, backbone.split, {})
    options: dict[str, Any] = {
        "split": backbone.split,
        "trainable": backbone.trainable,
        "primary": here.kept["P"]["train"],
        "harmful": here.kept["H"]["train"],
        "method": unit["method"],
    }
    if unit["method"] == "closed_form":
        before = features(backbone.model, backbone.split, here.kept["P"]["train"])
        kappa_P = max(1.0, parameters["ii"] * _kappa(before.Z))
        return immunize(backbone.model, kappa_P=kappa_P, **options)
    smoothing = parameters.pop("label_smoothing")
    if "terms" in parameters:
        parameters["lambdas"] = _weights(here, unit["method"], parameters.pop("terms"))
    return immunize(
        backbone.model,
        loss=partial(nn.functional.cross_entropy, label_smoothing=smoothing),
        seed=unit["seed"],
        checkpoint=checkpoint,
        **options,
        **parameters,
    )


def _weights(here: _Setting, method: Any, terms: Sequence[float]) -> tuple[float, float]:
    """Return weights that make the terms of theta_0 these, on the mean over some batches."""
    objective = objective_of(method)
    assert objective is not None
    network = SplitModel(here.backbone.model, here.backbone.split)
    generator = torch.Generator().manual_seed(0)
    batches = zip(*(here.kept[task]["train"].epoch(generator) for task in "PH"), strict=False)
    found = []
    for batch_P, batch_H in islice(batches, _BATCHES):
        with torch.no_grad():
            P, H = (
                here.kept[task]["train"].run(network, batch)
                for task, batch in (("P", batch_P), ("H", batch_H))
            )
        pair = objective.terms(P, H)
        found.append([0.0 if term is None else abs(float(term.detach())) for term in pair])
    well, ill = np.mean(found, axis=0)
    return (terms[0] / well if well else 0.0, terms[1] / ill if ill else 0.0)


def _features(
    model: nn.Module, split: str, activations: Mapping[str, Mapping[str, Kept]]
) -> dict[str, Features]:
    """Features of the primary test part and of both parts of the harmful task."""
    return {
        "P": features(model, split, activations["P"]["test"]),
        "H": features(model, split, activations["H"]["test"]),
        "H train": features(model, split, activations["H"]["train"]),
    }


def _measured(here: _Setting, done: DeepImmunization, unit: Mapping[str, Any]) -> Values:
    after = _features(done.model, done.split, here.kept)
    before = here.before
    P, H = (after["P"].Z, before["P"].Z), (after["H"].Z, before["H"].Z)
    groups, size = unit["groups"]
    kappas = {name: [_kappa(Z) for Z in pair] for name, pair in (("P", P), ("H", H))}
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
        "probe": probes(
            after["H train"], after["H"], len(here.harmful.classes), epochs=unit["probe_epochs"],
            seed=unit["seed"],
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


def _kappa(Z: torch.Tensor) -> float:
    return condition_number(
        features=array(Z), computed_in=str(Z.dtype).removeprefix("torch.")
    )  # fmt: skip


def _summary(found: Any) -> dict[str, Any]:
    """Mean and standard deviation over the groups."""
    return {
        name: {"mean": float(series.mean()), "std": float(series.std(ddof=1))}
        for name, series in (("i", found.i), ("ii", found.ii), ("rir", found.rir))
    }


def _spectrum(Z: torch.Tensor) -> dict[str, Any]:
    """Eigenvalues of the Hessian, from the largest down, thinned."""
    values = np.linalg.svd(array(Z), compute_uv=False) ** 2
    places = np.unique(np.linspace(0, values.size - 1, SPECTRUM).round().astype(int))
    return {"place": places + 1, "value": values[places]}


def _thinned(series: Any) -> dict[str, Any]:
    places = np.unique(np.linspace(0, len(series) - 1, 200).round().astype(int))
    return {"step": places + 1, "value": np.asarray(series)[places]}


def _write(backbone: _backbone.Backbone, model: nn.Module, folder: Path) -> None:
    """Write a network into a folder that appears whole."""
    stage = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    _backbone.save(backbone, model, stage)
    shutil.rmtree(folder, ignore_errors=True)
    stage.rename(folder)


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value
