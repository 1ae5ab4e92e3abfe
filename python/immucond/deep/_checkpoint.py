"""A run's state on disk: from there it goes on to the same bits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from .._files import whole
from .._validate import plain, refuse_other


class Checkpoint:
    """Where a run is kept, every how many steps, and which run it is.

    Parameters
    ----------
    path : Path
        A file of ``torch.save``, which ``torch.load(weights_only=True)`` reads.
    every : int
        Steps from one writing to the next.
    settings : dict
        All that decides the run's bits, except how many epochs it takes.
    """

    def __init__(self, path: Path, every: int, settings: dict[str, Any]) -> None:
        self.path, self.every, self.settings = path, every, plain(settings)
        self._readable = False

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, whole or not at all; the first time, see that it can be read."""
        # NumPy's numbers, such as a learning rate in an optimizer's state, would not load.
        state = tree_map_only(np.generic, lambda x: x.item(), state | {"settings": self.settings})
        if not self._readable:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            buffer.seek(0)
            try:
                torch.load(buffer, weights_only=True)
            except Exception as error:
                raise TypeError(
                    f"checkpoint {self.path} could not be read again: the state of the optimizer "
                    f"or of the objective holds more than tensors and numbers ({_first(error)})"
                ) from error
            self._readable = True
        with whole(self.path) as file:
            torch.save(state, file)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state of this run, None where there is none; refuse that of another run."""
        if not self.path.exists():
            return None
        if not self.path.is_file():
            raise ValueError(f"checkpoint {self.path} must be a regular file")
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
            there: dict[str, Any] = state["settings"]
        except Exception as error:
            reason = "it has no settings of a run" if isinstance(error, KeyError) else _first(error)
            raise ValueError(
                f"checkpoint {self.path} is not one of immunize; name another ({reason})"
            ) from error
        what = f"checkpoint {self.path}"
        refuse_other(there, self.settings, what, "Give another path, or remove it")
        return state


def _first(error: Exception) -> str:
    """Return the first sentence of PyTorch's long messages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
