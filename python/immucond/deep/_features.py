"""The features of the samples of a task."""

from __future__ import annotations

import warnings
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from .._errors import DegenerateSpectrumWarning
from .._extreme import feature_extreme_pairs
from .._validate import FloatArray
from ._batches import Batches, Outcome, refuse_arrays, refuse_few, running_on
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


def gathered(model: SplitModel, batches: Batches, name: str, most: int) -> Outcome:
    """Return features, logits and labels of a task's first samples, on the CPU.

    Labels are None where they are no classes, one whole number a sample.
    """
    rows: list[Outcome] = []
    count = 0
    with torch.no_grad(), closing(batches.in_order()) as epoch:
        for batch in epoch:
            refuse_arrays(batch, name)
            with running_on(name):
                found = batches.run(model, batch)
            labels = found.labels if _classes(found.labels, len(found.features)) else None
            rows.append(
                Outcome(
                    found.features.detach().cpu(),
                    found.logits.detach().cpu(),
                    None if labels is None else labels.cpu(),
                )
            )
            count += len(found.features)
            if count >= most:
                break
    if not rows:
        raise ValueError(f"{name} has no batches")
    refuse_few(count, name)
    features, logits = (torch.cat([row[at] for row in rows])[:most] for at in (0, 1))
    if not bool(features.isfinite().all()):
        raise ValueError(f"the features of {name} must be finite, and are not")
    known = [row.labels for row in rows if row.labels is not None]
    return Outcome(features, logits, torch.cat(known)[:most] if len(known) == len(rows) else None)


def _classes(labels: Any, count: int) -> bool:
    if not isinstance(labels, Tensor) or labels.shape != (count,) or labels.dtype == torch.bool:
        return False
    whole = not (labels.is_floating_point() or labels.is_complex())
    return whole and bool((labels >= 0).all())


def kappa_and_rank(Z: Tensor, computed_in: Any = None) -> tuple[float, int]:
    """Return the condition number of the Hessian of features, and the rank that it is taken over.

    The precision in which they were computed is by default that of their dtype.
    """
    precision = Z.dtype if computed_in is None else computed_in
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateSpectrumWarning)  # vectors are not asked for
        pairs = feature_extreme_pairs(array(Z), computed_in=precision)
    return pairs.condition_number, pairs.rank
