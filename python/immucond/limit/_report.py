"""The limit of two files: streamed, and told as a table, as JSON and as a figure."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .._errors import AccuracyWarning
from .._format import NOTE, brief, marked, not_harder, number, plain
from .._gram import GramAccumulator
from .._rank import default_rtol
from .._show import LIMIT_SYMBOLS, empty_table, print_style
from .._task import Root, root_of_gram, root_of_inputs, warn_if_lost
from .._triangle import TriangleAccumulator
from .._validate import as_delta
from ..linear import Frontier, ImmunityLimit, NoiseCurve
from ..linear.of_roots import frontier_of, limit_of, noise_curve_of, usual_variances
from ._rows import Rows, open_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table


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
    deltas = as_delta(settings.delta)
    P, H = (root.plus(delta) for root, delta in zip(exact, deltas, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AccuracyWarning)
        warn_if_lost(*exact)
        limit = limit_of(*exact)
        line = frontier_of(P, H, np.geomspace(1.0, P.kappa, settings.points), deltas)
        noise = noise_curve_of(
            *exact,
            (primary.rows, harmful.rows),
            usual_variances(exact[0], primary.rows, settings.points),
            lambda done, total: report("noise floor", done, total),
        )
    notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    return Result(settings, (primary, harmful), limit, line, noise, notes)


def _task(rows: Rows, rank: int | None, settings: Settings, report: Progress) -> Task:
    """Sum the Gram matrix or merge the R factors of the file's blocks."""
    by_gram = settings.through == "gram"
    computed_in = settings.computed_in or rows.dtype.name
    name = rows.name.encode(errors="backslashreplace").decode()  # as the core takes it
    seen = GramAccumulator(rows.columns) if by_gram else TriangleAccumulator(rows.columns)
    nonzero = False
    for block, done in rows.blocks():
        nonzero = nonzero or bool(block.any())
        try:
            # Only a Gram matrix wants exact integers.
            seen.update(block if by_gram else block.astype(np.float64, copy=False))
        except (OverflowError, ValueError) as error:
            raise type(error)(f"{rows.name}: {error}") from error
        report(rows.name, round(_PERMILLE * min(1.0, done)), _PERMILLE)
    if isinstance(seen, GramAccumulator):
        if nonzero and not seen.gram.any():
            raise OverflowError(
                f"the squares of all entries of {rows.name} are below the float range: scale them"
            )
        root = root_of_gram(
            seen.gram,
            name,
            rank=rank,
            rtol=min(0.5, default_rtol((seen.count, rows.columns), computed_in, "gram")),
        )
    else:
        R = seen.R[: seen.count]
        root = root_of_inputs(R, name, rank=rank, computed_in=computed_in)
    return Task(rows.name, seen.count, rows.columns, computed_in, root)


_SHOWN = 7  # rows of a curve that a terminal has room for
CASES = {
    "definite": "both tasks use every feature",
    "singular harmful": "the harmful task uses fewer directions than the primary one",
    "restricted": "both count on the directions that the primary task uses",
    "rank-one harmful": "kappa_H is 1 whatever theta is",
    "single feature": "both condition numbers are 1",
}


# ---- tables, JSON and a figure ----


def print_tables(result: Result, console: Console) -> None:
    """Print the two tasks, their limit, the frontier and the noise floor."""
    limit, line, noise = result.frontier.limit, result.frontier, result.noise
    table = _table("Tasks", "file", "rows", "columns", "rank", "kappa")
    for name, task, rank, kappa in (
        ("primary", result.tasks[0], result.exact.rank_P, result.exact.kappa_P),
        ("harmful", result.tasks[1], result.exact.rank_H, result.exact.kappa_H),
    ):
        table.add_row(
            name, task.file, f"{task.rows:,}", f"{task.columns:,}", f"{rank:,}", number(kappa)
        )
    console.print(table)
    console.print(_convention(result) + "\n")

    table = _table("Limit", "RIR*", "kappa(M)", "kappa_P", "kappa_H", "case")
    pairs = [("exact", result.exact)]
    if result.settings.delta != (0.0, 0.0):
        pairs.append(("with delta", limit))
    for name, shown in pairs:
        table.add_row(
            name, number(shown.rir), number(shown.kappa_M), number(shown.kappa_P),
            number(shown.kappa_H), shown.case,
        )  # fmt: skip
    console.print(table)
    console.print(LIMIT_SYMBOLS)
    for why in dict.fromkeys(_why(shown) for _, shown in pairs):
        console.print(why)
    if result.settings.delta != (0.0, 0.0):
        P, H = (brief(delta, 3) for delta in result.settings.delta)
        console.print(f"delta = {P} (P), {H} (H)")

    if limit.attained:
        table = _table("Frontier: the largest kappa_H for each kappa_P", "kappa_H", "(i)", "(ii)")
        for t in _spread(line.kappa_P.size if line.kappa_P[-1] > 1.0 else 1):
            i, ii = line.i[t], line.ii[t]
            table.add_row(number(line.kappa_P[t]), number(line.kappa_H[t]),
                          marked(number(i), i, i / ii), number(ii))  # fmt: skip
        console.print()
        console.print(table)
        console.print(
            "(i): kappa_H over that of the identity. (ii): the same of kappa_P. RIR = (i) / (ii)."
        )
        if any(not_harder(i, i / ii) for i, ii in zip(line.i, line.ii, strict=True)):
            console.print(NOTE)

    table = _table("Noise floor: RIR* with noise in every feature", "RIR*", "kappa(M)", "kappa_P",
                   "kappa_H")  # fmt: skip
    for t in _spread(noise.variance.size):
        curves = (noise.rir, noise.kappa_M, noise.kappa_P, noise.kappa_H)
        mark = "" if noise.determined[t] else " ?"
        table.add_row(number(noise.variance[t]), number(curves[0][t]) + mark,
                      *(number(curve[t]) for curve in curves[1:]))  # fmt: skip
    console.print()
    console.print(table)
    console.print(
        "First column: variance of the noise, in squared units of the data; rows times it is added "
        "to the diagonals."
    )
    if not noise.determined.all():
        console.print("?: rounding in a Gram matrix is as large as half its smallest eigenvalue.")
    for note in result.notes:
        console.print(f"Note: {note}.")
    if result.settings.through == "gram" and (result.notes or not noise.determined.all()):
        console.print("--through qr keeps twice the digits.")


def as_json(result: Result, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every number as plain Python values; an infinite one is the string "inf"."""
    line, noise = result.frontier, result.noise
    numbers: dict[str, Any] = plain(
        {
            "command": command,
            "versions": versions,
            "settings": asdict(result.settings),
            "convention": _convention(result),
            "tasks": {
                name: {
                    "file": task.file,
                    "rows": task.rows,
                    "columns": task.columns,
                    "computed_in": task.computed_in,
                }
                for name, task in zip(("primary", "harmful"), result.tasks, strict=True)
            },
            "exact": asdict(result.exact),
            "limit": asdict(line.limit),  # with delta
            "frontier": {
                "kappa_P": line.kappa_P, "kappa_H": line.kappa_H, "i": line.i, "ii": line.ii,
            },
            "noise_floor": {
                "variance": noise.variance, "delta": noise.delta, "kappa_M": noise.kappa_M,
                "kappa_P": noise.kappa_P, "kappa_H": noise.kappa_H, "rir": noise.rir,
                "determined": noise.determined,
            },
            "notes": result.notes,
        }
    )  # fmt: skip
    return numbers


def figure(result: Result) -> Figure:
    """Draw the frontier and the noise floor side by side, ready for ``savefig``."""
    with print_style():
        from matplotlib.figure import Figure

        drawn = Figure(figsize=(9.0, 3.8), layout="constrained")
        left, right = drawn.subplots(1, 2)
        result.frontier.plot(left)
        result.noise.plot(right)
        return drawn


def _table(title: str, *headings: str) -> Table:
    table = empty_table(title)
    first = {"Tasks": "", "Limit": ""}.get(title, "kappa_P" if "Frontier" in title else "variance")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        text = heading in ("file", "case")
        table.add_column(
            heading, justify="left" if text else "right", no_wrap=not text, overflow="fold"
        )
    return table


def _spread(size: int) -> list[int]:
    return sorted({round(t) for t in np.linspace(0, size - 1, min(size, _SHOWN))})


def _convention(result: Result) -> str:
    def decided(task: Task) -> str:
        return f"computed in {task.computed_in}"

    kinds = dict.fromkeys(map(decided, result.tasks))
    through = "Gram matrices" if result.settings.through == "gram" else "R factors of the rows"
    return (
        f"kappa over the nonzero eigenvalues, ranks from {through} of numbers "
        f"{' and '.join(kinds)}; not centred, not standardized"
    )


def _why(limit: ImmunityLimit) -> str:
    if limit.case != "unbounded":
        return f"RIR* = kappa(M) kappa_P / kappa_H: {CASES[limit.case]}."
    return f"No limit: {limit.why_unbounded} Give --delta for a finite one."
