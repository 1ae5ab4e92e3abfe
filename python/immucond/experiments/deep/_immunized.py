"""One network immunized by one method, from kept activations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..._extras import extra

with extra("deep"):
    from torch import nn

from ..._validate import FloatArray
from ...torch import immunize
from ...torch._features import kappa
from ._activations import features
from ._prepare import Prepared


class Immunized(NamedTuple):
    """A network, the name of the layer whose input are its features, and how it came about."""

    model: nn.Module
    split: str
    history: dict[str, FloatArray]


def immunized(here: Prepared, unit: Mapping[str, Any], checkpoint: Path) -> Immunized:
    backbone, parameters = here.backbone, dict(unit["parameters"])
    if unit["method"] == "identity":
        return Immunized(backbone.model, backbone.split, {})
    options: dict[str, Any] = {
        "split": backbone.split,
        "primary": here.kept["P"]["train"],
        "harmful": here.kept["H"]["train"],
        "held_out": (here.kept["P"]["test"], here.kept["H"]["test"]),
        "method": unit["method"],
    }
    if unit["method"] == "closed_form":
        before = features(backbone.model, backbone.split, here.kept["P"]["train"])
        kappa_P = max(1.0, parameters["ii"] * kappa(before.Z))
        done = immunize(backbone.model, kappa_P=kappa_P, **options)
    else:
        smoothing = parameters.pop("label_smoothing")
        done = immunize(
            backbone.model,
            loss=partial(nn.functional.cross_entropy, label_smoothing=smoothing),
            seed=unit["seed"],
            trainable=backbone.trainable,
            checkpoint=checkpoint,
            **options,
            **parameters,
        )
    return Immunized(done.model, done.split, done.history)
