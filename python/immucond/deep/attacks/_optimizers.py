"""The rules by which a step is made: PyTorch's optimizers, and K-FAC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._search import Settings
from ._kfac import KFAC

if TYPE_CHECKING:
    from ._trial import Victim


class Muon:
    """`torch.optim.Muon` for matrices, and AdamW for all else."""

    def __init__(self, module: nn.Module, rate: float, momentum: float, others: float) -> None:
        trained = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2]
        rest = [p for p in trained if p.ndim != 2]
        self._optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            self._optimizers.append(
                torch.optim.Muon(matrices, lr=rate, momentum=momentum, weight_decay=0.0)
            )
        if rest:
            self._optimizers.append(torch.optim.AdamW(rest, lr=rate * others, weight_decay=0.0))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def step(self, closure: Any) -> Any:
        """Take a step, and return the loss before it."""
        loss = closure()
        for optimizer in self._optimizers:
            optimizer.step()
        return loss


def optimizer_for(rule: str, victim: Victim, settings: Settings, unit: float, seed: int) -> Any:
    """Return what takes a rule's steps; `unit` is that of the rate."""
    rate = settings["rate"] * unit
    trained = [p for p in victim.module.parameters() if p.requires_grad]
    if rule in ("gd", "momentum"):
        return torch.optim.SGD(trained, lr=rate, momentum=settings.get("momentum", 0.0))
    if rule == "adam":
        return torch.optim.Adam(trained, lr=rate, betas=tuple(settings["betas"]))
    if rule == "adamw":
        return torch.optim.AdamW(trained, lr=rate, weight_decay=settings["weight_decay"])
    if rule == "muon":
        return Muon(victim.module, rate, settings["momentum"], settings["others"])
    if rule == "lbfgs":
        # Its tolerances are in units of the features, and small ones would end it at the start.
        return torch.optim.LBFGS(
            trained, lr=rate, max_iter=1, history_size=settings["history"],
            line_search_fn="strong_wolfe", tolerance_grad=0.0, tolerance_change=0.0,
        )  # fmt: skip
    assert rule == "kfac"
    return KFAC(victim, rate, settings["damping"], seed)
