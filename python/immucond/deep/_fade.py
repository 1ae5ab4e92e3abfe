"""Fade for a network: its map folded into the layer before the head, or put between the two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._validate import FloatArray, check_real
from ..linear import FadeMap, fade
from ._batches import Batches, Outcome, array, refuse_arrays, running_on
from ._closed_form import put_before_head
from ._feeder import feeder
from ._network import SplitModel

TOLERANCE = 1e-2
"""By how much of the largest primary logit another one may change."""


@dataclass(frozen=True, repr=False)
class NetworkFade:
    """Where the map of `immucond.linear.fade` stands in a network, and what rounding did there.

    Attributes
    ----------
    place : str
        The name of the layer that holds the map A: the linear layer before the head, whose weight
        and bias are multiplied by it, or one that was put between the two.
    inserted : bool
        Whether it was put there.
    logits_changed : float
        The largest change of a primary logit, relative to the largest primary logit.
    map : FadeMap
        A, with the label alignment before and after on the rows that it was made from.
    """

    place: str
    inserted: bool
    logits_changed: float
    map: FadeMap = field(repr=False)

    def __repr__(self) -> str:
        A = self.map
        return (
            f"NetworkFade(A in {self.place!r}{', inserted' if self.inserted else ''}, "
            f"tau={A.tau:g}, rho {A.rho_before:.3g} -> {A.rho:.3g}, kappa(A) {A.kappa:.3g}, "
            f"primary logits changed by {self.logits_changed:.1e})"
        )


def checked_tau(tau: Any) -> float:
    """Return tau, finite and at least 1."""
    if isinstance(tau, (int, float, np.number)) and tau == math.inf:
        raise ValueError(
            "tau must be finite: what is erased has no inverse for the head, so that primary "
            "logits would change. immucond.linear.fade(..., tau=np.inf) gives the map that erases"
        )
    return check_real(tau, "tau", low=1.0)


def fade_network(
    model: SplitModel,
    tasks: Mapping[str, Batches],
    tau: float,
    delta: Any,
    computed_in: Any,
) -> tuple[str, NetworkFade]:
    """Put the map and the head that undoes it into the model; return the head's name."""
    primary, harmful = tasks["primary"], tasks["harmful"]
    of_P, of_H = everything(model, primary, "primary"), everything(model, harmful, "harmful")
    before = of_P.logits
    try:
        A = fade(
            array(of_P.features),
            array(of_H.features),
            targets(of_H),
            tau=tau,
            delta=delta,
            computed_in=of_P.features.dtype if computed_in is None else computed_in,
        )
    except ValueError as error:
        raise ValueError(
            "fade cannot be made from the primary features X_P, the harmful ones X_H and their "
            f"labels Y_H: {error}"
        ) from error
    head = model.head
    omega = A.solve(array(head.weight).T)
    name = feeder(model, tasks.values())
    split = model.split
    if name is None:
        split = put_before_head(model, A.theta, primary, "fade", omega)
        name = f"{model.split}.0"
    else:
        _fold(model.model.get_submodule(name), head, A, omega)
    after = everything(SplitModel(model.model, split), primary, "primary").logits
    changed = _change(before, after)
    if not changed <= TOLERANCE:
        raise ValueError(
            f"fade would change primary logits by {changed:.3g} of the largest one, and "
            f"{TOLERANCE:g} is tolerated: its map has condition number {A.kappa:.3g}, and the "
            f"network computes in {head.weight.dtype}. Give a smaller tau (it is {A.tau:g}), a "
            f"larger delta (it is {A.delta:g}), or the network in float64, model.double()"
        )
    return split, NetworkFade(name, split != model.split, changed, A)


def everything(model: SplitModel, batches: Batches, name: str) -> Outcome:
    """Return features, logits and labels of all samples of a task, on the CPU."""
    rows = []
    with torch.no_grad():
        for batch in batches.in_order():
            refuse_arrays(batch, name)
            with running_on(name):
                found = batches.run(model, batch)
            labels = found.labels.cpu() if isinstance(found.labels, Tensor) else None
            rows.append(Outcome(found.features.cpu(), found.logits.cpu(), labels))
    features, logits = (torch.cat([row[at] for row in rows]) for at in (0, 1))
    known = all(row.labels is not None for row in rows)
    return Outcome(features, logits, torch.cat([r.labels for r in rows]) if known else None)


def targets(found: Outcome) -> FloatArray:
    """Return harmful labels for `fade`: names of classes as they are, targets in float64."""
    labels = found.labels
    if labels is None or labels.ndim == 0 or len(labels) != len(found.features):
        raise ValueError("harmful must have labels for fade, a tensor with one a sample")
    values: FloatArray = (labels.double() if labels.is_floating_point() else labels).numpy()
    return values


@torch.no_grad()
def _fold(layer: nn.Module, head: nn.Linear, A: FadeMap, omega: FloatArray) -> None:
    """Multiply the layer's weight and bias by A, and the head's weight by its inverse."""
    assert isinstance(layer, nn.Linear)
    layer.weight.copy_(torch.from_numpy((array(layer.weight).T @ A).T.copy()))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy((array(layer.bias)[None] @ A)[0]))
    head.weight.copy_(torch.from_numpy(omega.T.copy()))


def _change(before: Tensor, after: Tensor) -> float:
    """Return the largest change of a logit relative to the largest logit."""
    size = float(before.double().abs().max())
    change = float((after.double() - before.double()).abs().max())
    return change / size if size else math.inf if change else 0.0
