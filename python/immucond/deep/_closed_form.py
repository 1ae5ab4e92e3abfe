"""The closed form for a network: the optimal map after its features, its inverse in the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..linear import optimal_extractor
from ._batches import Batches
from ._features import all_features, array
from ._fold import FoldedHead, refuse_saving, replace_module
from ._split import SplitModel


def closed_form(
    model: SplitModel,
    tasks: Mapping[str, Batches],
    kappa_P: float | None,
    delta: float | tuple[float, float],
    computed_in: Any,
) -> str:
    """Put the map and the folded head in the place of the head; return the last layer's name."""
    Z_P, Z_H = (all_features(model, task, name) for name, task in tasks.items())
    A = optimal_extractor(
        X_P=array(Z_P),
        X_H=array(Z_H),
        kappa_P=kappa_P,
        delta=delta,
        computed_in=Z_P.dtype if computed_in is None else computed_in,
    )
    replace_module(model.model, model.split, FoldedHead(model.head, A))
    done, primary = f"{model.split}.1", tasks["primary"]
    try:
        with torch.no_grad():
            primary.run(SplitModel(model.model, done), next(iter(primary.in_order())))
    except Exception as error:
        raise ValueError(
            f"the closed form puts two layers in the place of {model.split!r}, and the model does "
            f"not run with them: it reads the head elsewhere too ({error})"
        ) from error
    refuse_saving(model.model)
    return done
