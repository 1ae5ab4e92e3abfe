"""The processes over which a trainer spreads its batches: means, norms, errors, harmful batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from .._ranks import Ranks as Group
from ._batches import endless


class Ranks:
    """A process group, or one process alone."""

    def __init__(self, group: Any = None) -> None:
        if group is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD if dist.get_world_size() > 1 else None
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def _all(self, value: float) -> list[float]:
        """Return every process's value."""
        if self.size == 1:
            return [value]
        where = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        mine = torch.tensor([value], dtype=torch.float64, device=where)
        all_ = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(all_, mine, group=self.group)
        return [float(x) for x in all_]

    def agree(self, error: Exception | None) -> None:
        """Raise on every process where one has an error, so that none waits for it."""
        if self.size > 1:
            Group(self.group).agree(error)
        elif error is not None:
            raise error

    def mean(self, value: float) -> float:
        """Return the mean over the processes."""
        return math.fsum(self._all(value)) / self.size

    def norm(self, value: float) -> float:
        """Return the norm of what all processes have parts of, from the norm of one's own."""
        return math.hypot(*self._all(value))


def harmful_by_rank(loader: Any, ranks: Ranks) -> Iterator[Any]:
    """Yield this process's batches, epoch after epoch: of each round of batches its own.

    A loader whose sampler knows the processes has parted the samples already.
    """
    sampler, epochs = getattr(loader, "sampler", None), count()

    def epoch() -> Iterator[Any]:
        number = next(epochs)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(number)
        return iter(loader)

    batches = endless(epoch, "harmful")
    if isinstance(sampler, DistributedSampler):
        return batches
    return islice(batches, ranks.rank, None, ranks.size)
