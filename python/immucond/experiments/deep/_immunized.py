"""One network immunized by one method, from kept activations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..._extras import extra

with extra("deep"):
    from torch import nn

from ...deep.parts import kappa_and_rank
from ...torch import DeepImmunization, immunize
from ._activations import features
from ._prepare import Prepared


def immunized(here: Prepared, unit: Mapping[str, Any], checkpoint: Path) -> DeepImmunization:
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
