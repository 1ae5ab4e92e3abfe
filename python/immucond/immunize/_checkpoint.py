"""A run's state on disk: from there it goes on to the same bits."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._extreme import ExtremePairs
from .._validate import plain, refuse_other
from ._archive import read_archive, write_archive
from ._movers import State

Records = list[dict[str, float]]


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is kept, and which run it is.

    Attributes
    ----------
    path : path-like
        An .npz file.
    every : int
        Steps from one writing to the next.
    run : dict
        All that decides the run's bits, except how many steps it takes.
    """

    path: str | os.PathLike[str]
    every: int
    run: dict[str, Any]

    def save(self, state: State, records: Records) -> None:
        """Write the state before a step, and the records of all steps before it."""
        arrays: dict[str, npt.NDArray[Any]] = {"theta": state.theta, "omega": state.omega}
        for number, pairs in enumerate(state.starts):
            if pairs is not None:
                arrays |= {
                    f"start{number}/{part.name}": np.asarray(getattr(pairs, part.name))
                    for part in fields(pairs)
                }
        arrays |= {f"moment{number}": moment for number, moment in enumerate(state.moments)}
        done = records[: state.step]
        if done:
            arrays |= {
                f"history/{name}": np.array([record[name] for record in done]) for name in done[0]
            }
        write_archive(self.path, "checkpoint", {"run": plain(self.run), "step": state.step}, arrays)

    def load(self) -> tuple[State, Records] | None:
        """Read what was saved; None where nothing was.

        Raises
        ------
        ValueError
            Where the file is something else, or the checkpoint of another run: the message says
            what differs.
        """
        if not Path(self.path).exists():
            return None
        if not Path(self.path).is_file():
            raise ValueError(f"checkpoint {os.fspath(self.path)} must be a regular file")
        description, arrays = read_archive(self.path, "checkpoint")
        what, remedy = f"checkpoint {os.fspath(self.path)}", "Give another path, or remove it"
        refuse_other(description["run"], plain(self.run), what, remedy)
        step = int(description["step"])
        history = {
            name.removeprefix("history/"): values
            for name, values in arrays.items()
            if name.startswith("history/")
        }
        records = [
            {name: float(values[number]) for name, values in history.items()}
            for number in range(step)
        ]
        starts = [_pairs(arrays, f"start{number}/") for number in range(2)]
        moments = sum(name.startswith("moment") for name in arrays)
        state = State(
            step,
            arrays["theta"],
            arrays["omega"],
            (starts[0], starts[1]),
            tuple(arrays[f"moment{number}"] for number in range(moments)),
        )
        return state, records


def _pairs(arrays: dict[str, npt.NDArray[Any]], prefix: str) -> ExtremePairs | None:
    found: dict[str, Any] = {
        name.removeprefix(prefix): values.item() if values.ndim == 0 else values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
    return ExtremePairs(**found) if found else None
