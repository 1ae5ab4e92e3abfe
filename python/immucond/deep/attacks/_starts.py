"""What attackers start from: the network as it is, without what was put in, or at another cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import gauge
from .._cuts import told_by
from .._network import call, module_named, prepared
from .._rows import (
    Layout,
    RefusedError,
    dimensions_of,
    features_last,
    first_tensor,
    mean_of_kept,
)
from ._rows import Batch

PLAIN, FROZEN, EQUALIZED = "plain", "frozen", "equalized"
RIDGES = (1e-6, 1e-3, 1e-9, 1e-1, 1e-12)


@dataclass(frozen=True)
class Start:
    """A network to attack, which no attacker changes.

    Attributes
    ----------
    name : str
        "plain"; "frozen": what was inserted is not trained; "equalized": in canonical form, what
        was inserted merged, and the head behind whitened features; perhaps with a cut's name.
    model : nn.Module
        In evaluation mode.
    split : str
        Its head.
    frozen : tuple of str
        Modules that are not trained.
    whitened : bool
    also : mapping
        Settings that its attackers choose besides their own.
    """

    name: str
    model: nn.Module
    split: str
    frozen: tuple[str, ...] = ()
    whitened: bool = False
    also: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    primary: str | None = None


def starts_of(
    model: nn.Module,
    split: str,
    device: torch.device,
    batch: Batch,
    *,
    forms: Sequence[str],
    training: bool = False,
) -> list[Start]:
    """Return what attackers start from; a form that would be another one's again is left out.

    `training`: whether BatchNorm and dropout are in training mode first, as for weights drawn anew.
    """
    own = prepared(model, device)
    modes = (training, not training) if _has_modes(own) else ()
    also: dict[str, tuple[Any, ...]] = {"training": modes} if modes else {}
    found = []
    if PLAIN in forms:
        found.append(Start(PLAIN, own, split, also=also))
    inserted = tuple(name for name in gauge.inserted(own) if name != split)
    if FROZEN in forms and inserted:
        found.append(Start(FROZEN, own, split, inserted, also=also))
    if EQUALIZED in forms:
        found.append(_equalized(own, split, batch, also))
    return found


def _equalized(
    model: nn.Module, split: str, batch: Batch, also: Mapping[str, tuple[Any, ...]]
) -> Start:
    try:
        balanced = gauge.equalize(model, data=batch, merge=gauge.inserted(model)).model.eval()
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"the network cannot be equalized: {error}; equalize=False attacks it as it is"
        ) from error
    also = {**also, "ridge": RIDGES}
    return Start(EQUALIZED, balanced, _left(model, balanced, split), whitened=True, also=also)


def _left(model: nn.Module, merged: nn.Module, split: str) -> str:
    """Return the head's name where layers were merged: its own, or of what took it in."""
    parent, _, key = split.rpartition(".")
    before = [name for name, _ in model.get_submodule(parent).named_children()]
    prefix = f"{parent}." if parent else ""
    candidates = [split, *(prefix + name for name in before[before.index(key) :: -1]), parent]
    there = dict(merged.named_modules())
    found = next((name for name in candidates if isinstance(there.get(name), nn.Linear)), None)
    if found is None:
        raise ValueError(f"no linear layer is left of {split!r} once inserted layers are merged")
    return found


def _has_modes(model: nn.Module) -> bool:
    """Whether a layer runs otherwise in training."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    return any(isinstance(m, kinds) and getattr(m, "p", 1.0) for m in model.modules())


# ---- from other cuts ----


class AtCut(nn.Module):
    """A network up to a module, whose output's mean over places or tokens enters a head."""

    def __init__(self, model: nn.Module, cut: str, width: int) -> None:
        super().__init__()
        self.model, self.cut = model, cut
        like = next(p for p in model.parameters() if p.is_floating_point())
        self.head = nn.Linear(width, 1).to(like.device, like.dtype)

    def forward(self, *args: Any, **keywords: Any) -> Tensor:
        """Return what the head makes of the cut."""
        (pooled,) = pooled_at(self.model, [self.cut], keywords or args)
        logits: Tensor = self.head(pooled)
        return logits


class _SeenError(Exception):
    """All cuts were reached: nothing after them needs to run."""


def at_cuts(start: Start, cuts: Sequence[str], batch: Batch) -> list[Start]:
    """Return starts whose networks end at one of the cuts each."""
    try:
        with torch.no_grad():
            widths = [pooled.shape[1] for pooled in pooled_at(start.model, cuts, batch[0])]
    except RefusedError as refused:
        raise ValueError(str(refused)) from None
    return [
        replace(
            start,
            name=f"{start.name}, {cut}",
            model=AtCut(start.model, cut, width).eval(),
            split="head",
            frozen=tuple(f"model.{name}" for name in start.frozen),
            primary=start.split,
        )
        for cut, width in zip(cuts, widths, strict=True)
    ]


def pooled_at(model: nn.Module, cuts: Sequence[str], inputs: Any) -> list[Tensor]:
    """Return what each cut puts out when it first runs, one row a sample, from one pass."""
    seen: dict[str, Tensor] = {}

    def see(cut: str, module: nn.Module, *passed: Any) -> None:
        if cut not in seen:
            seen[cut] = pooled(first_tensor(passed[-1], f"the output of {cut!r}"), cut, module)
        if len(seen) == len(cuts):
            raise _SeenError

    def pooled(x: Tensor, cut: str, module: nn.Module) -> Tensor:
        if x.ndim == 2:
            return x.clone() if len(cuts) > 1 else x  # a layer after it may write over it
        layout = told_by(module, x, Layout("mean", False, None, dimensions_of(model)))
        x, _ = features_last(x, module, layout, f"the output of {cut!r}")
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if mask is None or mask.shape != x.shape[:2]:
            return x.flatten(1, -2).mean(1)
        return mean_of_kept(x, mask)

    with ExitStack() as hooks:
        for cut in cuts:
            module = module_named(model, cut, "cuts")
            hooks.callback(module.register_forward_hook(partial(see, cut)).remove)
        with suppress(_SeenError):
            call(model, inputs)
    for cut in cuts:
        if cut not in seen:
            raise ValueError(f"the module {cut!r} of cuts never ran")
    return [seen[cut] for cut in cuts]
