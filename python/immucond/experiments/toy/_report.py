"""What the attacks on the toy came to, as a table and two pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._format import number, plain
from ..._show import BLUE, GREEN, ORANGE, VERMILION, Table, legend_below, print_style
from ._experiment import RELEASES, TRAINED, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Attack = Mapping[str, Any]

# Attacker and start of each column.
_COLUMNS = {
    "GD": ("gd", "plain"), "Adam": ("adam", "plain"), "Muon": ("muon", "plain"),
    "L-BFGS": ("lbfgs", "plain"), "K-FAC": ("kfac", "plain"), "LoRA-4": ("lora-4", "plain"),
    "probe GD": ("probe-gd", "plain"), "probe Adam": ("probe-adam", "plain"),
    "fr. GD": ("gd", "frozen"), "fr. Adam": ("adam", "frozen"),
    "eq. GD": ("gd", "equalized"), "eq. Adam": ("adam", "equalized"),
    "eq. LoRA": ("lora-4", "equalized"),
}  # fmt: skip
_NOTE = (
    "Median over seeds of the steps of the best trial until the held-out cross-entropy is at the "
    "target; inf: never. fr.: what was inserted is frozen; eq.: from the canonical form, inserted "
    "layers merged, features whitened before the head. strongest: the fewest steps of all, seed by "
    "seed, heads on any cut, least squares and whitening included. ceiling: of the leak profile, "
    "mean over seeds."
)


def tables(result: Result) -> list[Table]:
    """Every release, and from scratch."""
    s = result.settings
    heads = ("release", "primary", *_COLUMNS, "strongest", "ceiling")
    rows = [
        [RELEASES[name], f"{np.mean([u['primary'] for u in units]):.1%}",
         *_cells([u["attack"]["attacks"]["release"] for u in units]),
         ", ".join(number(x) for x in strongest(units)),
         f"{np.mean([u['ceiling'] for u in units]):.1%}"]
        for name, units in result.units.items()
    ]  # fmt: skip
    scratch = [
        u["attack"]["attacks"]["scratch"]
        for u in result.units.get("unprotected", [])
        if "scratch" in u["attack"]["attacks"]
    ]
    if scratch:
        best = [min(float(a["steps"]) for a in attacks) for attacks in scratch]
        rows.append(["from scratch", "", *_cells(scratch), ", ".join(map(number, best)), ""])
    return [
        Table(
            f"Steps to learn the harmful task, {s.rows} rows",
            heads,
            rows,
            f"{_NOTE} Target {number(s.target)} nats, at most {s.steps} steps and {s.trials} "
            f"trials, seeds 0 to {s.seeds - 1}. {_correlation(result)}",
        )
    ]


def _cells(attacks: Sequence[Sequence[Attack]]) -> list[str]:
    """Medians over seeds, column by column; empty where nobody attacked so."""
    cells = []
    for column in _COLUMNS.values():
        told = [
            float(a["steps"]) for of in attacks for a in of if (a["attacker"], a["start"]) == column
        ]
        cells.append(number(median(told)) if told else "")
    return cells


def strongest(units: Sequence[Mapping[str, Any]]) -> list[float]:
    """Fewest steps by seed."""
    return [float(u["attack"]["strongest"]["release"]["steps"]) for u in units]


def correlations(result: Result) -> list[float]:
    """Spearman's correlation of ceilings with the strongest attacker's steps, by seed.

    NaN where one of them is the same for all releases.
    """
    from scipy.stats import spearmanr  # which takes a second to import

    found = []
    for seed in range(result.settings.seeds):
        ceilings = [units[seed]["ceiling"] for units in result.units.values()]
        steps = [strongest(units)[seed] for units in result.units.values()]
        varied = len(set(ceilings)) > 1 and len(set(steps)) > 1
        found.append(float(spearmanr(ceilings, steps)[0]) if varied else math.nan)
    return found


def _correlation(result: Result) -> str:
    told = ", ".join("none" if math.isnan(x) else f"{x:.2f}" for x in correlations(result))
    return f"Spearman's correlation of ceiling and strongest attacker's steps, by seed: {told}."


# How an attack is drawn, by what it starts from; what solves is by itself.
_KINDS = {
    "plain": ("from the parameters as they are", BLUE, "o"),
    "frozen": ("inserted layers frozen", ORANGE, "s"),
    "equalized": ("from the canonical form", GREEN, "^"),
    "solved": ("K-FAC, least squares, whitening", VERMILION, "x"),
}
_SOLVED = ("kfac", "lstsq", "whitening")
_LARGE = 10  # markers that are seen around others


def figures(result: Result) -> dict[str, Figure]:
    """Draw steps of every attacker by release, and of the strongest against the ceiling."""
    with print_style():
        return {"toy": _by_release(result), "toy-ceiling": _by_ceiling(result)}


def _by_release(result: Result) -> Figure:
    from matplotlib.figure import Figure

    height = 1.6 + 0.38 * len(result.units)
    figure = Figure(figsize=(7.0, height), layout="constrained")
    ax = figure.subplots()
    for at, units in enumerate(result.units.values()):
        found: dict[tuple[str, str], list[float]] = {}
        for unit in units:
            best: dict[tuple[str, str], float] = {}  # of all cuts
            for a in unit["attack"]["attacks"]["release"]:
                start = a["start"].partition(",")[0]
                key = "solved" if a["attacker"] in _SOLVED else start, a["attacker"]
                best[key] = min(best.get(key, math.inf), float(a["steps"]))
            for key, steps in best.items():
                found.setdefault(key, []).append(steps)
        for (kind, _), of_seeds in found.items():
            _, colour, marker = _KINDS[kind]
            offset = 0.2 * (list(_KINDS).index(kind) - 1.5)
            ax.plot(
                _drawn(result, [median(of_seeds)]), [at + offset], marker, color=colour,
                markerfacecolor="none", markersize=5,
            )  # fmt: skip
    _steps_axis(ax, result, "x")
    ax.set_yticks(range(len(result.units)), [RELEASES[name] for name in result.units])
    ax.set_ylim(len(result.units) - 0.5, -0.5)
    ax.set_xlabel("steps, median over seeds (right of the line: never)")
    for label, colour, marker in _KINDS.values():
        ax.plot([], [], marker, color=colour, markerfacecolor="none", label=label)
    legend_below(ax, 2)
    return figure


def _by_ceiling(result: Result) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.5), layout="constrained")
    ax = figure.subplots()
    kinds = {
        "unprotected": (GREEN, "o"), "with an inverse": (BLUE, "o"), "PCA": (VERMILION, "s"),
        "erased, or trained": (ORANGE, "^"),
    }  # fmt: skip
    told = set()
    for name, units in result.units.items():
        kind = "PCA" if name.startswith("compressed") else "with an inverse"
        kind = "erased, or trained" if name in TRAINED else kind
        kind = name if name in kinds else kind
        told.add(kind)
        colour, marker = kinds[kind]
        ax.plot(
            [100.0 * u["ceiling"] for u in units], _drawn(result, strongest(units)), marker,
            color=colour, markerfacecolor="none", linestyle="none",
            markersize=_LARGE if name in kinds else None,
        )  # fmt: skip
    for label in (kind for kind in kinds if kind in told):
        colour, marker = kinds[label]
        size = _LARGE if label in result.units else None
        ax.plot([], [], marker, color=colour, markerfacecolor="none", markersize=size, label=label)
    _steps_axis(ax, result, "y")
    ax.set_xlabel("ceiling of the leak profile, % (one point a seed)")
    ax.set_ylabel("strongest attacker, steps (above the line: never)")
    legend_below(ax, 2)
    return figure


def _drawn(result: Result, steps: Sequence[float]) -> list[float]:
    """Return steps as they are drawn: beyond the budget where an attacker never got there."""
    return [min(x, 1.6 * result.settings.steps) for x in steps]


def _steps_axis(ax: Axes, result: Result, which: str) -> None:
    """Make an axis logarithmic from one step on, with the budget as a line."""
    steps = result.settings.steps
    scale, limits, line = (
        (ax.set_xscale, ax.set_xlim, ax.axvline)
        if which == "x"
        else (ax.set_yscale, ax.set_ylim, ax.axhline)
    )
    scale("symlog", linthresh=1.0, linscale=0.3)
    limits(-0.2, 2.1 * steps)
    line(steps, color="0.6", linewidth=0.8)


def as_json(result: Result, command: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """Every number as plain Python values; an infinite one is the string "inf"."""
    told: dict[str, Any] = plain({
        "command": command,
        "versions": versions,
        "settings": asdict(result.settings),
        "correlations": [None if math.isnan(x) else x for x in correlations(result)],
        "releases": {name: {"label": RELEASES[name], "seeds": units}
                     for name, units in result.units.items()},
    })  # fmt: skip
    return told
