"""What is measured of an immunized network, on held-out samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ... import probing
from ..._extras import extra
from .._measure import RIDGE
from .._units import Values

with extra("deep"):
    import torch

from ...deep.parts import array, immunity_of, kappa_and_rank
from ...torch import DeepImmunity, DeepImmunization, linear_probes
from ._backbone import load_saved
from ._prepare import Prepared, of_tasks

SPECTRUM = 100  # points of a spectrum that are kept


def measured(here: Prepared, done: DeepImmunization, unit: Mapping[str, Any]) -> Values:
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


def reloaded(here: Prepared, done: DeepImmunization, folder: Path) -> Values:
    """Measure what the files hold, the network that `load_saved` makes of them, on test samples.

    "i" is that of the features that enter its last layer, "i_before_the_map" that of the ones which
    whoever takes the network without its head gets.
    """
    model = load_saved(folder)
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
    values = np.linalg.svd(array(Z), compute_uv=False) ** 2
    places = np.unique(np.linspace(0, values.size - 1, SPECTRUM).round().astype(int))
    return {"place": places + 1, "value": values[places]}
