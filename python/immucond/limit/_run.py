"""Stream two files, then see how far any extractor can drive them apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .._errors import AccuracyWarning
from .._gram import GramAccumulator, TriangularSum
from .._rank import default_rtol
from .._task import Root, root_of_gram, root_of_inputs, warn_if_lost
from ..linear import Frontier, ImmunityLimit, NoiseCurve
from ..linear.of_roots import frontier_of, limit_of, noise_curve_of, usual_variances
from ._rows import Rows, open_rows

Through = Literal["gram", "qr"]
Progress = Callable[[str, int, int], None]

_PERMILLE = 1000


@dataclass(frozen=True)
class Settings:
    """What to compute.

    Attributes
    ----------
    primary, harmful : str
        The two files.
    through : {"gram", "qr"}
        Sum Gram matrices, or merge R factors: twice the digits, at about five times the work.
    delta : (float, float)
        Added to the diagonals of K_P and K_H.
    ranks : (int or None, int or None)
        Known ranks.
    computed_in : str or None
        Precision in which the numbers were computed; that of the file by default.
    points : int
        Points of the frontier, and of the noise-floor curve.
    """

    primary: str
    harmful: str
    through: Through = "gram"
    delta: tuple[float, float] = (0.0, 0.0)
    ranks: tuple[int | None, int | None] = (None, None)
    computed_in: str | None = None
    points: int = 41


@dataclass(frozen=True)
class Task:
    """One file, boiled down to d x d.

    Attributes
    ----------
    file : str
        Its name.
    rows, columns : int
        Its size.
    computed_in : str
        Precision that decided the rank.
    root : Root
        Square root of the Gram matrix, with its rank.
    """

    file: str
    rows: int
    columns: int
    computed_in: str
    root: Root


@dataclass(frozen=True)
class Result:
    """Everything that is shown.

    Attributes
    ----------
    settings : Settings
        What was asked for.
    tasks : (Task, Task)
        The primary and the harmful one.
    exact : ImmunityLimit
        The limit without delta.
    frontier : Frontier
        With delta, and its limit.
    noise : NoiseCurve
        The limit under feature noise.
    notes : tuple of str
        Where rounding was too large to say more.
    """

    settings: Settings
    tasks: tuple[Task, Task]
    exact: ImmunityLimit
    frontier: Frontier
    noise: NoiseCurve
    notes: tuple[str, ...]


def run(settings: Settings, progress: Progress | None = None) -> Result:
    """Read both files once and compute the report."""

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    opened = open_rows(settings.primary), open_rows(settings.harmful)
    if opened[0].columns != opened[1].columns:
        raise ValueError(
            f"both files must have as many columns, and {opened[0].name} has {opened[0].columns}, "
            f"{opened[1].name} {opened[1].columns}"
        )
    primary, harmful = (
        _task(rows, rank, settings, report)
        for rows, rank in zip(opened, settings.ranks, strict=True)
    )
    exact = primary.root, harmful.root
    P, H = (root.plus(delta) for root, delta in zip(exact, settings.delta, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AccuracyWarning)
        warn_if_lost(*exact)
        limit = limit_of(*exact)
        line = frontier_of(P, H, np.geomspace(1.0, P.kappa, settings.points), settings.delta)
        noise = noise_curve_of(
            *exact,
            (primary.rows, harmful.rows),
            usual_variances(exact[0], primary.rows, settings.points),
            lambda done, total: report("noise floor", done, total),
        )
    notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    return Result(settings, (primary, harmful), limit, line, noise, notes)


def _task(
    rows: Rows,
    rank: int | None,
    settings: Settings,
    report: Progress,
) -> Task:
    """Sum the Gram matrix or merge the R factors of the file's blocks."""
    by_gram = settings.through == "gram"
    computed_in = settings.computed_in or rows.dtype.name
    total, count = GramAccumulator(rows.columns), 0
    triangles = TriangularSum()
    for block, done in rows.blocks():
        if by_gram:
            try:
                total.update(block)
            except (OverflowError, ValueError) as error:
                raise type(error)(f"{rows.name}: {error}") from error
        else:
            triangles.add(block.astype(np.float64, copy=False))
        count += block.shape[0]
        report(rows.name, round(_PERMILLE * min(1.0, done)), _PERMILLE)
    if by_gram:
        root = root_of_gram(
            total.gram,
            rows.name,
            rank=rank,
            rtol=min(0.5, default_rtol((count, rows.columns), computed_in, "gram")),
        )
    else:
        root = root_of_inputs(triangles.R, rows.name, rank=rank, computed_in=computed_in)
    return Task(rows.name, count, rows.columns, computed_in, root)
