"""Mini-batches: every row once an epoch, in an order that follows from the seed and the epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Batches:
    """Rows of each step; what an epoch leaves over when it is cut into batches is left out.

    No state is carried from step to step, so a run can start again anywhere.

    Parameters
    ----------
    rows, size : int
        Number of rows, and of those in a batch.
    seed : int
        Seed of the whole run.
    stream : int
        Tasks of different streams are shuffled independently.
    """

    def __init__(self, rows: int, size: int, seed: int, stream: int) -> None:
        self._rows, self._size, self._key = rows, size, (seed, stream)
        self._epoch, self._order = -1, np.empty(0, dtype=np.intp)

    def __call__(self, step: int) -> npt.NDArray[np.intp]:
        """Return the indices of the step's rows."""
        epoch, at = divmod(step, self._rows // self._size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([*self._key, epoch]).permutation(self._rows)
        return self._order[at * self._size : (at + 1) * self._size]
