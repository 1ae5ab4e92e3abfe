"""One network immunized by one method, from kept activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..._extras import extra

with extra("deep"):
    import torch
    from torch import nn

from ...torch import DeepImmunization, immunize
from ...torch._objectives import objective_of
from ...torch._split import SplitModel
from ._activations import features
from ._measure import kappa
from ._prepare import Prepared

_BATCHES = 8  # to find the size of a term by


def immunized(here: Prepared, unit: Mapping[str, Any], checkpoint: Path) -> DeepImmunization:
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
        kappa_P = max(1.0, parameters["ii"] * kappa(before.Z))
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


def _weights(here: Prepared, method: Any, terms: Sequence[float]) -> tuple[float, float]:
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
