"""What the processes of a torch.distributed group hold, brought together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ._errors import extra
from ._validate import Array, FloatArray

_SAID = 2048  # bytes of an error's text that other ranks hear


class Ranks:
    """The processes of a group, seen from one of them. All must call, and call the same.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or DeviceMesh, optional
        A mesh of one dimension; by default every process.
    """

    def __init__(self, group: Any = None) -> None:
        with extra("torch"):
            import torch
            from torch import distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            raise RuntimeError("torch.distributed has no process group: init_process_group first")
        get_group = getattr(group, "get_group", None)  # of a mesh
        if get_group is not None:
            group = get_group()
        self.group: Any = distributed.group.WORLD if group is None else group
        self._torch, self._dist = torch, distributed
        self.size = distributed.get_world_size(self.group)
        self.rank = distributed.get_rank(self.group)
        nccl = distributed.get_backend(self.group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu"

    def gathered(self, x: Array) -> list[Array]:
        """Return the array of every rank, in their order; all have one shape and dtype."""
        mine = self._tensor(x)
        found = [self._torch.empty_like(mine) for _ in range(self.size)]
        self._dist.all_gather(found, mine, group=self.group)
        return [t.cpu().numpy() for t in found]

    def agree(self, error: Exception | None) -> None:
        """Raise on every rank where one has an error: there its own, elsewhere what it says."""
        said = np.zeros(_SAID, np.uint8)
        text = "" if error is None else f"{type(error).__name__}: {error}"
        held = text.encode()[:_SAID]
        said[: len(held)] = list(held)
        told = [x.tobytes().rstrip(b"\0").decode(errors="ignore") for x in self.gathered(said)]
        if error is not None:
            raise error
        for rank, what in enumerate(told):
            if what:
                raise RuntimeError(f"rank {rank} failed: {what}")

    def joined(self, x: FloatArray, join: Callable[[FloatArray, FloatArray], Any]) -> FloatArray:
        """Return all ranks' arrays as one, by a binary tree that `join` makes of neighbours.

        A rank receives at most ceil(log2 P) arrays before the result goes to all. That is one for
        all, to the bit.
        """
        step = 1
        while step < self.size:
            if self.rank % (2 * step):
                self._dist.send(self._tensor(x), self._of_world(self.rank - step), self.group)
                break
            if self.rank + step < self.size:
                other = self._tensor(np.empty_like(x))
                self._dist.recv(other, self._of_world(self.rank + step), self.group)
                x = join(x, other.cpu().numpy())
            step *= 2
        result = self._tensor(x)
        self._dist.broadcast(result, self._of_world(0), group=self.group)
        found: FloatArray = result.cpu().numpy()
        return found

    def _of_world(self, rank: int) -> int:
        return int(self._dist.get_global_rank(self.group, rank))

    def _tensor(self, x: Array) -> Any:
        return self._torch.from_numpy(np.array(x)).to(self._device)
