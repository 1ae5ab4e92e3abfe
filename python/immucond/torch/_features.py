"""The features of all samples of a task."""

from __future__ import annotations

import torch
from torch import Tensor

from .._validate import FloatArray
from ._batches import Batches, running_on
from ._split import SplitModel


def all_features(model: SplitModel, batches: Batches, name: str) -> Tensor:
    """Return the features of a task's samples, on the CPU."""
    with running_on(name), torch.no_grad():
        rows = [batches.run(model, batch).features.cpu() for batch in batches.in_order()]
    if not rows:
        raise ValueError(f"{name} has no batches")
    return torch.cat(rows)


def array(Z: Tensor) -> FloatArray:
    """Return features as a float64 array."""
    found: FloatArray = Z.detach().double().cpu().numpy()
    return found
