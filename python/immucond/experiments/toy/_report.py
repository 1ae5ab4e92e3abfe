"""What the attacks on the toy came to, as a table and a scatter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from ..._format import number, plain
from ..._show import BLUE, GREEN, VERMILION, Table, print_style
from ._experiment import RELEASES, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Attack = Mapping[str, Any]

# Headings, and which attacks a column has the best of.
_COLUMNS: tuple[tuple[str, tuple[str, ...], Callable[[str], bool]], ...] = tuple(
    (heading, attackers, starts)
    for starts, told in (
        (lambda start: start == "plain",
         (("GD", "gd"), ("Adam", "adam"), ("Muon", "muon"), ("L-BFGS", "lbfgs"), ("K-FAC", "kfac"),
          ("LoRA-4", "lora-4"), ("probe GD", "probe-gd"), ("probe Adam", "probe-adam"))),
        (lambda start: start == "frozen", (("fr. GD", "gd"), ("fr. Adam", "adam"))),
        (lambda start: start == "equalized",
         (("eq. GD", "gd"), ("eq. Adam", "adam"), ("eq. LoRA", "lora-4"))),
    )
    for heading, name in told
    for attackers in ((name,),)
)  # fmt: skip
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
    heads = ("release", "primary", *(heading for heading, *_ in _COLUMNS), "strongest", "ceiling")
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
    for _, names, starts in _COLUMNS:
        found = [
            min((float(a["steps"]) for a in of if a["attacker"] in names and starts(a["start"])),
                default=math.nan)
            for of in attacks
        ]  # fmt: skip
        told = [x for x in found if not math.isnan(x)]
        cells.append(number(median(told)) if told else "")
    return cells


def strongest(units: Sequence[Mapping[str, Any]]) -> list[float]:
    """Fewest steps by seed."""
    return [float(u["attack"]["strongest"]["release"]["steps"]) for u in units]


def correlations(result: Result) -> list[float]:
    """Spearman's correlation of ceilings with the strongest attacker's steps, by seed.

    NaN where one of them is the same for all releases.
    """
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


def figures(result: Result) -> dict[str, Figure]:
    """Draw steps of the strongest attacker against the ceiling, a point a release and seed."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 4.5), layout="constrained")
        ax = figure.subplots()
        beyond = 1.6 * result.settings.steps
        for name, units in result.units.items():
            lost = name.startswith("compressed")
            colour, marker = (VERMILION, "s") if lost else (BLUE, "o")
            colour = GREEN if name == "unprotected" else colour
            steps = [min(x, beyond) for x in strongest(units)]
            ax.plot(
                [100.0 * u["ceiling"] for u in units], steps, marker, color=colour,
                markerfacecolor="none", linestyle="none",
            )  # fmt: skip
        for label, colour, marker in (
            ("unprotected", GREEN, "o"), ("with an inverse", BLUE, "o"), ("PCA", VERMILION, "s"),
        ):  # fmt: skip
            ax.plot([], [], marker, color=colour, markerfacecolor="none", label=label)
        ax.set_yscale("symlog", linthresh=1.0, linscale=0.3)
        ax.set_ylim(-0.2, 1.3 * beyond)
        ax.axhline(result.settings.steps, color="0.6", linewidth=0.8)
        ax.set_xlabel("ceiling of the leak profile, % (one point a seed)")
        ax.set_ylabel("strongest attacker, steps (above the line: never)")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return {"toy": figure}


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
