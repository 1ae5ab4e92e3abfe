"""A run's state on disk: from there it goes on to the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._files import whole


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is kept, every how many steps, and which run it is."""

    path: Path
    every: int
    settings: dict[str, Any]

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, whole or not at all."""
        with whole(self.path) as file:
            torch.save(state | {"settings": self.settings}, file)

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
            raise ValueError(
                f"checkpoint {self.path} is not one of immunize; name another"
            ) from error
        differing = [
            f"{name} is {there.get(name)!r} there and {mine!r} here"
            for name, mine in self.settings.items()
            if there.get(name) != mine
        ]
        if differing:
            raise ValueError(
                f"checkpoint {self.path} is that of another run: {'; '.join(differing)}. Give "
                "another path, or remove it"
            )
        return state
