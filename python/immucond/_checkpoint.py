"""A run's state on disk, beside what decides the run: it goes on from there, and no other run does.

What is written, and in which format, is the affair of each kind of run.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from ._validate import plain, refuse_other

State = TypeVar("State")


class Checkpoint(ABC, Generic[State]):
    """Where a run is kept, every how many steps, and which run it is.

    Parameters
    ----------
    path : path-like
        The file.
    every : int
        Steps from one writing to the next.
    settings : dict
        All that decides the run's bits, except how many steps it takes.
    """

    def __init__(self, path: str | os.PathLike[str], every: int, settings: dict[str, Any]) -> None:
        self.path, self.every, self.settings = Path(path), every, plain(settings)

    @abstractmethod
    def save(self, state: State) -> None:
        """Write the state with the settings, whole or not at all."""

    @abstractmethod
    def read(self) -> tuple[dict[str, Any], State]:
        """Return the settings and the state in the file; ValueError where there are none."""

    def load(self) -> State | None:
        """Return the state of this run; None where there is no file.

        Raises
        ------
        ValueError
            Where the file is something else, or that of another run: the message says what differs.
        """
        if not self.path.exists():
            return None
        if not self.path.is_file():
            raise ValueError(f"checkpoint {self.path} must be a regular file")
        there, state = self.read()
        refuse_other(
            there,
            self.settings,
            f"checkpoint {self.path}",
            "Give another path, or remove it",
        )
        return state
