"""Figures of several seeds as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._format import number, reworded
from .._harmful import MARK, NOTE, marked
from ._units import Values


def at(values: Values, path: Sequence[str]) -> Any:
    """Value under a path of keys; an infinite number comes back from its string."""
    found: Any = values
    for key in path:
        found = found[key]
    return float(found) if found in ("inf", "-inf") else found


def over_seeds(results: Sequence[Values], *path: str) -> tuple[float, float]:
    """Mean and standard deviation of a number over the seeds that did not fail."""
    numbers = [float(at(values, path)) for values in results if "failure" not in values]
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
    return float(np.mean(numbers)), spread


def cell(results: Sequence[Values], *path: str) -> str:
    """Mean, and the standard deviation where it shows."""
    mean, spread = over_seeds(results, *path)
    return number(mean) if spread <= 0.001 * abs(mean) else f"{number(mean)} ± {number(spread)}"


def rir_cell(results: Sequence[Values], *path: str) -> str:
    """`cell` of the RIR of a report, marked where the harmful task got no harder."""
    i, rir = (over_seeds(results, *path, figure)[0] for figure in ("i", "rir"))
    return marked(cell(results, *path, "rir"), i, rir)


def immunity_cells(results: Sequence[Values], key: str) -> list[str]:
    """Cells of (i), (ii) and RIR in the ridge and in the exact convention."""
    cells = []
    for convention in ("ridge", "exact"):
        cells += [cell(results, key, convention, figure) for figure in ("i", "ii")]
        cells.append(rir_cell(results, key, convention))
    return cells


def decoded(note: str, rows: Sequence[Sequence[str]]) -> str:
    """Return the note of a table, with what the mark means where a row has one."""
    return f"{note}\n{NOTE}" if any(MARK in text for row in rows for text in row) else note


def failures(results: Sequence[Values]) -> list[str]:
    """Tell what seeds that reached nothing said."""
    return [values["failure"] for values in results if "failure" in values]


def remarks(label: str, results: Sequence[Values]) -> list[str]:
    """Tell what failed and what was warned of."""
    told = [f"{label} failed: {message}." for message in failures(results)]
    told += [f"{label}: {message}." for values in results for message in values["warnings"]]
    return list(dict.fromkeys(map(reworded, told)))


def finished(results: Sequence[Values]) -> list[Values]:
    """Seeds that reached an extractor."""
    return [values for values in results if "failure" not in values]
