"""An attacker's rows and those that measure him, held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._validate import Array
from .._batches import held
from .._checkpoint import fingerprint_of
from .._cuts import refuse_unlike
from .._rows import rows_at

Batch = tuple[Any, Tensor]
"""Inputs and labels."""


@dataclass(frozen=True)
class Task:
    """The harmful task, and what must be kept of the primary one.

    Attributes
    ----------
    train, held_out : list
        Batches of the harmful task.
    utility : list
        Batches of the primary one, perhaps none.
    classes : int
        Of the harmful task.
    """

    train: list[Batch]
    held_out: list[Batch]
    utility: list[Batch]
    classes: int

    @property
    def rows(self) -> dict[str, int]:
        """Samples of each part."""
        parts = {"harmful": self.train, "held_out": self.held_out, "utility": self.utility}
        return {name: sum(len(y) for _, y in part) for name, part in parts.items() if part}

    @property
    def by_sample(self) -> bool:
        """Whether labels are one a sample, and none a token."""
        return all(y.ndim == 1 for _, y in self.train)

    @property
    def shares(self) -> Array:
        """Share of each class among the held-out labels."""
        counts = np.bincount(_flat(self.held_out), minlength=self.classes)
        found: Array = counts / counts.sum()
        return found

    @property
    def entropy(self) -> float:
        """Held-out cross-entropy of the shares themselves, in nats."""
        shares = self.shares[self.shares > 0]
        return float(-(shares * np.log(shares)).sum())

    def fingerprint(self) -> str:
        """Return a hash of all rows."""
        return fingerprint_of([self.train, self.held_out, self.utility])


def task_of(
    harmful: Any, held_out: Any, utility: Any, rows: int | None, device: torch.device, seed: int
) -> Task:
    """Read loaders, and refuse what nothing can be learned of or measured."""
    parts = {
        name: held(loader, name, device, seed)
        for name, loader in (("harmful", harmful), ("held_out", held_out), ("utility", utility))
        if loader is not None or name != "utility"
    }
    if rows is not None:
        parts["harmful"] = _first(parts["harmful"], rows)
    train, test = _flat(parts["harmful"]), _flat(parts["held_out"])
    refuse_unlike(train, test)
    if train.min() < 0:  # both have the same classes
        raise ValueError("the labels of harmful and held_out must count classes from 0")
    return Task(
        parts["harmful"], parts["held_out"], parts.get("utility", []),
        int(train.max()) + 1,
    )  # fmt: skip


def _first(batches: list[Batch], rows: int) -> list[Batch]:
    """Return the first samples of batches."""
    kept, left = [], rows
    for inputs, labels in batches:
        size = len(labels)
        kept.append((rows_at(slice(left), inputs, size), labels[:left]))
        left -= size
        if left <= 0:
            return kept
    raise ValueError(f"rows={rows} are more than the {rows - left} that harmful has")


def _flat(batches: list[Batch]) -> Array:
    """Return the labels that count, of samples or tokens."""
    labels = torch.cat([y.reshape(-1) for _, y in batches]).cpu().numpy()
    found: Array = labels[labels != -100].astype(np.int64)
    return found
