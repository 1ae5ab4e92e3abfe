"""The features of all samples of a task."""

from __future__ import annotations

import torch
from torch import Tensor

from .._validate import FloatArray
from ._activations import Batches
from ._split import SplitModel


def all_features(model: SplitModel, batches: Batches) -> Tensor:
    """Return the features of a task's samples, on the CPU."""
    with torch.no_grad():
        return torch.cat([batches.run(model, b).features.cpu() for b in batches.in_order()])


def array(Z: Tensor) -> FloatArray:
    """Return features as a float64 array."""
    found: FloatArray = Z.detach().double().cpu().numpy()
    return found
