"""The experiment: every method and seed a unit of work; immunize, measure, probe."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import linear, probing
from ..._errors import ImmucondError, extra
from ..._files import passing
from .._experiment import Experiment, method_units
from .._methods import RIDGE, Method, Parameters
from .._units import Progress, Unit, Values, silent
from ._settings import Settings, chosen_methods

with extra("deep"):
    import torch
    from torch import nn

from ...deep import DeepImmunity, DeepImmunization, immunize
from ...deep.parts import (
    FoldedHead,
    Kept,
    array,
    immunity_of,
    kappa_and_rank,
    refuse_saving,
    replace_module,
)
from . import _saved
from ._attackers import ATTACKERS, Curve, attack
from ._prepare import Features, Loaded, Prepared, features, loaded, of_parts, prepared
from ._tuning import TUNED, TUNED_EPOCHS, fine_tune
from ._unaided import Unaided, unaided

SPECTRUM = 100  # points of a spectrum that are kept
BENIGN = ("sgd", "adam")  # how benign tasks are learned from scratch


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
    unaided : Unaided
        What an attacker without any network gets of the harmful task.
    """

    settings: Settings
    fingerprints: dict[str, str]
    counts: dict[str, int]
    trainable: tuple[str, ...]
    methods: dict[str, Method]
    units: dict[str, list[Values]]
    unaided: Unaided


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
        methods = chosen_methods(
            self.settings.methods, self.settings.parameters, self.settings.defender_rows
        )
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
            "fine_tune": settings.fine_tune,
        }

        given, half = len(data.defender.inputs), len(data.harmful.train.inputs) // 2

        def of(name: str, seed: int) -> Values:
            first = seed == 0
            # Attackers have the others, which "rows" does not tell where they are no half.
            told = (half, methods[name].parameters.get("rows"))
            parted = {} if given in told else {"defender": given}
            return {
                "attackers": first, "save": first and name in settings.save, "name": name, **parted
            }  # fmt: skip

        return method_units(methods, settings.seeds, common, of)

    def check(self, folder: Path, plan: Mapping[Any, Sequence[Unit]]) -> None:
        """Refuse a network beside a finished unit that is another one's, and files of others."""
        for unit in chain(*plan.values()):
            place = folder / "models" / unit.parameters["name"]
            if not unit.parameters["save"]:
                continue
            kept = (folder / unit.file_name).exists()
            if not kept:
                _saved.refuse_foreign(place)
            elif _saved.unit_of(place) not in (None, unit.file_name):
                raise ValueError(
                    f"{place} is the network of another run: give another folder, or remove "
                    f"{folder / unit.file_name}, and this one's is made anew"
                )

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
        counts["H defender"] = max(self.settings.defender_rows, default=len(data.defender.inputs))
        counts["H attacker"] = len(data.attacker.inputs)
        trainable = data.backbone.trainable
        alone = unaided(data.attacker, data.harmful.test)
        return Result(self.settings, data.fingerprints, counts, trainable, methods, units, alone)


def compute(
    settings: Settings, folder: Path, unit: Parameters, progress: Progress = silent
) -> Values:
    """Immunize by one method, one seed, write the network, and measure what is read back."""
    here = prepared(settings, folder, progress)
    start = time.perf_counter()
    file_name = Unit(f"{unit['name']}-{unit['seed']}", unit).file_name
    checkpoint = (folder / "checkpoints" / file_name).with_suffix(".pt")
    try:
        done = _immunized(here, unit, checkpoint)
    except ImmucondError as error:
        return {"failure": str(error)}
    seconds = time.perf_counter() - start
    with passing(folder / file_name) as draft:
        place = folder / "models" / unit["name"] if unit["save"] else draft
        _saved.save_anew(here.backbone, done.model, place, file_name)
        model = _saved.load_saved(place)
    after = here.after(model, done.split)
    values = _measured(here, done, after, unit)
    values |= _attacked(here, model, done.split, after, unit)
    if unit["save"]:
        values["read_back"] = _read_back(here, done, model, after)
    checkpoint.unlink(missing_ok=True)
    history = {name: _thinned(np.asarray(v), 200, "step") for name, v in done.history.items()}
    return {"seconds": seconds, **values, "history": history}


def _thinned(series: npt.NDArray[Any], points: int, axis: str) -> dict[str, Any]:
    """So many points of a series at most, evenly spread, with their places from 1 on."""
    places = np.unique(np.linspace(0, series.size - 1, points).round().astype(int))
    return {axis: places + 1, "value": series[places]}


# ---- immunize ----


def _immunized(here: Prepared, unit: Parameters, checkpoint: Path) -> DeepImmunization:
    """Immunize by one method, from kept activations."""
    backbone, parameters = here.backbone, dict(unit["parameters"])
    harmful = here.defended[parameters.pop("rows", None) or max(here.defended)]
    if unit["method"] == "identity":
        return DeepImmunization(backbone.model, backbone.split, {}, None)
    if unit["method"] == "leace":
        return _erased(here, harmful)
    options: dict[str, Any] = {
        "split": backbone.split,
        "primary": here.kept["P train"],
        "harmful": harmful,
        "held_out": (here.kept["P test"], here.kept["H test"]),
        "method": unit["method"],
    }
    if "ii" in parameters:
        kappa = kappa_and_rank(here.before["P train"].Z)[0]
        options["kappa_P"] = max(1.0, parameters.pop("ii") * kappa)
    if "epochs" in parameters:  # it trains
        options |= {"trainable": backbone.trainable, "checkpoint": checkpoint}
        options["seed"] = unit["seed"]
    if "label_smoothing" in parameters:
        smoothing = parameters.pop("label_smoothing")
        options["loss"] = partial(nn.functional.cross_entropy, label_smoothing=smoothing)
    try:
        return immunize(backbone.model, **options, **parameters)
    except ValueError as error:
        if unit["method"] != "fade":
            raise
        raise ImmucondError(str(error)) from error  # its map is too ill-conditioned to be served


def _erased(here: Prepared, harmful: Kept) -> DeepImmunization:
    """LEACE: the harmful labels erased in the metric of the harmful features themselves.

    Its map has no inverse. The head is fitted anew, by least squares to the logits that it gave.
    """
    backbone, primary = here.backbone, here.before["P train"]
    found = features(backbone.model, backbone.split, harmful)
    Z_H = array(found.Z)
    A = linear.fade(Z_H - Z_H.mean(0), Z_H, found.labels.numpy(), tau=np.inf, computed_in="float32")
    head = backbone.model.get_submodule(backbone.split)
    assert isinstance(head, nn.Linear)
    served, logits = array(primary.Z) @ A, array(primary.logits)
    means = [x.mean(0) if head.bias is not None else 0.0 for x in (served, logits)]
    cutoff = 4.0 * served.shape[1] ** 0.5 * np.finfo(np.float32).eps
    omega = np.linalg.lstsq(served - means[0], logits - means[1], rcond=cutoff)[0]
    folded = FoldedHead(head, A.theta, omega)
    if head.bias is not None:
        with torch.no_grad():
            folded.get_parameter("1.bias").copy_(torch.from_numpy(means[1] - means[0] @ omega))
    model = copy.deepcopy(backbone.model)
    replace_module(model, backbone.split, folded)
    refuse_saving(model)
    return DeepImmunization(model, f"{backbone.split}.1", {}, None)


# ---- measure ----


def _measured(
    here: Prepared, done: DeepImmunization, after: Mapping[str, Features], unit: Parameters
) -> Values:
    """Tell what became of the primary task, of the harmful labels' alignment and of kappa."""
    before = here.before
    P, H = ((after[part].Z, before[part].Z) for part in ("P test", "H test"))
    groups, size = unit["groups"]
    kappas = {name: [kappa_and_rank(Z)[0] for Z in pair] for name, pair in (("P", P), ("H", H))}
    i, ii = (pair[0] / pair[1] for pair in (kappas["H"], kappas["P"]))
    predicted = [found["P test"].logits.argmax(1) for found in (after, before)]
    moved = torch.linalg.norm(after["P train"].Z - before["P train"].Z)
    return {
        "accuracy": after["P test"].accuracy,
        "changed_predictions": int((predicted[0] != predicted[1]).sum()),
        "moved": float(moved / torch.linalg.norm(before["P train"].Z)),
        "kappa_A": _kappa_of_the_map(done),
        "rho": {
            "before": _rho(before["H train"]),
            "after": _rho(after["H train"]),
            "defender's rows": None if done.fade is None else done.fade.map.rho,
        },
        "groups": {
            name: _summary(immunity_of(P, H, groups=groups, size=size, ridge=ridge))
            for name, ridge in (("exact", 0.0), ("ridge", RIDGE))
        },
        "all": {"i": i, "ii": ii, "rir": i / ii, "kappa_P": kappas["P"][0],
                "kappa_H": kappas["H"][0]},
        "spectra": {"P": _spectrum(P[0]), "H": _spectrum(H[0])},
    }  # fmt: skip


def _kappa_of_the_map(done: DeepImmunization) -> float | None:
    """Condition number of the map that was put after the features; None where there is none."""
    if done.fade is not None:
        return done.fade.map.kappa
    above = done.model.get_submodule(done.split.rpartition(".")[0])
    if not isinstance(above, FoldedHead):
        return None
    s = np.linalg.svd(array(above.get_parameter("0.weight")), compute_uv=False)
    return float(s[0] / s[-1]) if s[-1] > np.finfo(np.float32).eps * s[0] else np.inf


def _rho(found: Features) -> float:
    return linear.alignment(array(found.Z), found.labels.numpy(), computed_in="float32").rho


def _attacked(
    here: Prepared, model: nn.Module, split: str, after: Mapping[str, Features], unit: Parameters
) -> Values:
    """Tell what attackers get of the harmful task, and what benign probes get of theirs."""
    epochs, seed = unit["probe_epochs"], unit["seed"]

    def learned(
        found: Mapping[str, Features], letter: str, names: Sequence[str]
    ) -> dict[str, Curve]:
        train, test = (found[f"{letter} {part}"] for part in ("train", "test"))
        return attack(
            (train.Z, train.labels), (test.Z, test.labels),
            attackers=names, epochs=epochs, seed=seed,
        )  # fmt: skip

    values: Values = {"probe": learned(after, "H", tuple(ATTACKERS))}
    trained = here.backbone.trainable
    if renormalized := here.reestimated(model, split):
        (found,) = learned(renormalized, "H", ["adam"]).values()
        values["probe"]["batch-norm-reestimated"] = found
    for name in TUNED if unit["fine_tune"] else ():
        values["probe"][name] = fine_tune(
            model, split, trained, here.kept["H train"], here.kept["H test"],
            classes=len(here.harmful.classes), epochs=min(epochs, TUNED_EPOCHS), seed=seed,
            lora=name == "lora",
        )  # fmt: skip
    values["primary_probe"] = learned(after, "P", BENIGN)
    if here.benign is not None:
        values["transfer"] = learned(after, "T", BENIGN)
    if unit["attackers"]:
        one_hot = np.eye(len(here.harmful.classes))[after["H train"].labels.numpy()]
        values["attackers"] = probing.compare(
            array(here.before["H train"].Z),
            array(after["H train"].Z),
            one_hot,
            steps=unit["probe_steps"],
            computed_in="float32",
        ).as_dict()
    return values


def _read_back(
    here: Prepared, done: DeepImmunization, model: nn.Module, after: Mapping[str, Features]
) -> Values:
    """Compare what was read from the files with the network in memory, on test samples.

    "i" is that of the features that enter its last layer, "i_before_the_map" that of the ones which
    whoever takes the network without its head gets, and so are both rho.
    """
    kept = {name: here.kept[name] for name in ("P test", "H test")}
    memory = of_parts(done.model, done.split, kept)
    outer = here.backbone.split if done.split == here.backbone.split else f"{here.backbone.split}.0"
    outside = features(model, outer, kept["H test"])
    start, i, i_outside = (
        kappa_and_rank(found.Z)[0] for found in (here.before["H test"], memory["H test"], outside)
    )
    predicted = [found["P test"].logits.argmax(1) for found in (after, memory)]
    return {
        "accuracy": memory["P test"].accuracy,
        "changed_predictions": int((predicted[0] != predicted[1]).sum()),
        "i": i / start,
        "i_before_the_map": i_outside / start,
        "rho_before_the_map": _rho(outside),
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
