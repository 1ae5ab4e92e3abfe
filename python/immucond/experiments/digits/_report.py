"""The result as tables for a terminal, as figures and as JSON for a program."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._format import brief, not_harder, number
from ..._show import Table, before_or, legend_below, print_style
from ...linear import ImmunityLimit
from .._curves import line_style
from .._experiment import Result
from .._methods import RIDGE, STEPS
from .._report import (
    RHO,
    cell,
    decoded,
    felt_cell,
    left_after,
    limits_as_dict,
    record,
    remarked,
    rir_cell,
    symbols,
)
from .._units import Values
from ._experiment import ATTACKERS, TOLERANCE, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

_ROWS = (("held_out", "held-out"), ("training", "training"))
_MARKS = (1, 10, 100, 1000)  # steps of descent after which losses are told, within the budget
_ATTACKERS = {
    "gd": "gradient\ndescent", "cg": "conjugate\ngradients", "whitening": "whitened\nfeatures",
    "lstsq": "least\nsquares",
}  # fmt: skip
CONVENTIONS = {
    "exact": "kappa over the nonzero eigenvalues of H, ranks decided on the inputs",
    "ridge": f"kappa of H + {brief(RIDGE)} I, as the published code does; no limit bounds it",
    "noisy": "exact, with delta added to the diagonals of K_P and K_H",
    "alignment": "rho of features and targets, not centred: the heads have no intercept",
    "primary_loss": "mean squared error; own: the method's head, best: a least-squares head",
    "probe_loss": "squared error summed over rows",
}


# ---- for a terminal ----


def opening(settings: Settings) -> str:
    """One sentence on the tasks and their target."""
    return (
        "Each task is to predict the target 1 from the pixels of one handwritten digit by a linear "
        f"head: that of the digit {settings.primary} (primary) is to stay easy to learn by "
        f"gradient descent, that of the digit {settings.harmful} (harmful) is to get hard."
    )


def closing(result: Result) -> str:
    """Say what came out: the attacker, the primary task, what undoes it, rho, and the RIR."""
    told = {_the(name): values for name, (values,) in result.units.items()}
    steps = min(STEPS, result.settings.probe_steps)
    left = {name: left_after(v["probes"]["harmful"]["gd"], steps) for name, v in told.items()}
    losses = {name: v["primary_loss"]["held_out"]["own"] for name, v in told.items()}
    rho = {name: v["alignment"]["held_out"]["harmful"]["after"]["rho"] for name, v in told.items()}
    rir = {name: v["held_out"]["exact"]["rir"] for name, v in told.items() if name != "before"}
    undoing = [v["probes"]["harmful"][a] for v in told.values() for a in ("whitening", "lstsq")]
    slowest = max(p["steps_to_tolerance"] or p["steps_taken"] + 1 for p in undoing)
    hardest, largest = (max(of, key=lambda name: of[name]) for of in (left, rir))
    eased = {name: not_harder(told[name]["held_out"]["exact"]["i"], rir[name]) for name in rir}
    but = f": largest after {largest}, while the attacker is slowest after {hardest}"
    solve = "one step" if slowest == 1 else f"{slowest} steps"
    return (
        f"After {steps} steps of gradient descent on the harmful training rows an attacker has "
        f"this share of the reducible loss left: {_listed(left)}. The primary loss on held-out "
        f"rows is {_listed(losses)}. Descent on whitened features and a least-squares solve undo "
        f"all of them, in {solve}. The label alignment rho on held-out rows is {_listed(rho)}, and "
        f"the RIR {_listed(rir, eased)}"
        f"{but if hardest != largest else ''}."
    )


def _the(name: str) -> str:
    return {"identity": "before", "closed form": "the closed form"}.get(name, name)


def _listed(values: Mapping[str, float], remarks: Mapping[str, str] = MappingProxyType({})) -> str:
    *cells, last = (
        f"{number(value)} {'' if name == 'before' else 'after '}{name}"
        + (f" (by (i), {remarks[name]})" if remarks.get(name) else "")
        for name, value in values.items()
    )
    return f"{', '.join(cells)} and {last}"


def print_tables(result: Result, console: Console) -> None:
    """Print what the attacker gets, what the primary task pays, and what the measures say."""
    for table in (_attack(result), _losses(result), _immunity(result)):
        table.show(console)


def _attack(result: Result) -> Table:
    marks = [steps for steps in _MARKS if steps <= result.settings.probe_steps]
    rows = []
    for name, (values,) in result.units.items():
        probes = values["probes"]["harmful"]
        cells = [number(left_after(probes["gd"], steps)) for steps in marks]
        rows.append([before_or(name), *cells, *(_steps(probes[a]) for a in ATTACKERS)])
    return Table(
        f"What the attacker gets: the harmful task, digit {result.settings.harmful}",
        ("", *(f"loss left\n{steps:,} step{'s' * (steps > 1)}" for steps in marks),
         *(_ATTACKERS[attacker] for attacker in ATTACKERS)),
        rows,
        "Training rows. loss left: share of the reducible loss after t steps of gradient descent "
        f"with exact line search. Last columns: steps to within {TOLERANCE:.0%} of the best loss. "
        "The last two are not slowed: whitening and a least-squares solve undo every method.",
        (("descent", len(marks)), ("steps of each attacker", len(ATTACKERS))),
    )  # fmt: skip


def _steps(probe: Values) -> str:
    if probe["steps_to_tolerance"] is not None:
        return f"{probe['steps_to_tolerance']:,}"
    return f"> {probe['steps_taken']:,}\n({probe['above'][-1]:.0%} above)"


def _losses(result: Result) -> Table:
    steps, rows = min(STEPS, result.settings.probe_steps), []
    for name, (values,) in result.units.items():
        loss, probe = values["primary_loss"], values["probes"]["primary"]["gd"]
        rows.append(
            [before_or(name),
             *(number(loss[key][head]) for key, _ in _ROWS for head in ("own", "best")),
             number(left_after(probe, steps)), _steps(probe)]
        )  # fmt: skip
    return Table(
        f"What the primary task pays: digit {result.settings.primary}",
        ("", *(f"{rows}\n{head} head" for _, rows in _ROWS for head in ("own", "best")),
         f"loss left\n{steps} steps", f"steps to\n{TOLERANCE:.0%}"),
        rows,
        "Mean squared error. best head: least squares on the features; own head: what the method "
        f"serves, for Algorithm 1 the one it trained along in {result.settings.steps:,} steps. "
        "Last columns: a probe from scratch, by gradient descent on the training rows.",
        (("mean squared error", 4), ("a probe from scratch", 2)),
    )  # fmt: skip


def _immunity(result: Result) -> Table:
    rows: list[list[str]] = []
    for key, label in _ROWS:
        rows.append([f"{label} rows"])
        for name, results in result.units.items():
            cells = [felt_cell(results, key)]
            for convention in ("exact", "noisy", "ridge"):
                cells += [cell(results, key, convention, of) for of in ("i", "ii")]
                cells.append(rir_cell(results, key, convention))
            del cells[4:6]  # (i) and (ii) with delta
            rows.append([before_or(name), *cells])
        limits: dict[str, ImmunityLimit] = result.limits[key]
        rows.append(["limit", "", "", "", *(number(limits[of].rir) for of in ("exact", "delta"))])
    limit: ImmunityLimit = result.limits["training"]["exact"]
    why = f"The exact limit is infinite: {limit.why_unbounded}"
    if limit.case != "unbounded":
        why = f"Exact limit on training rows: {number(limit.rir)} ({limit.case})."
    note = (
        f"{RHO}\n{symbols()} Limit: the most any theta can reach.\n"
        f"exact: over the nonzero eigenvalues. delta: exact, with feature noise, {_delta(result)}. "
        f"ridge: of H + {brief(RIDGE)} I, as in the published code; the limit does not bound it.\n"
        f"{why}"
    )
    note = remarked(note, result.methods, result.units)
    return Table(
        f"What the measures say: primary digit {result.settings.primary}, harmful digit "
        f"{result.settings.harmful}",
        ("", "rho\nharmful", "(i)\nexact", "(ii)\nexact", "RIR\nexact", "RIR\ndelta",
         "(i)\nridge", "(ii)\nridge", "RIR\nridge"),
        rows,
        decoded(note, rows),
        (("alignment", 1), ("exact convention", 4), ("ridge convention", 3)),
        strong=("limit",),
    )  # fmt: skip


def _delta(result: Result) -> str:
    P, H = result.methods["closed form"].parameters["delta"]
    shown = f"delta = {brief(P, 3)}" if P == H else f"delta = {brief(P, 3)} (P), {brief(H, 3)} (H)"
    return shown + (" (rounding of the pixels)" if result.settings.delta is None else "")


# ---- figures ----


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name, ready for ``savefig``."""
    with print_style():
        return {
            "norm_ratio.png": _panels(
                result, "norm_ratio", r"norm ratio  $\|w_t-w^*\|^2\,/\,\|w_0-w^*\|^2$"
            ),
            "loss.png": _panels(result, "above", "loss above the best, relative to the best"),
        }


def _panels(result: Result, of: str, label: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    shown = []
    whitened = [values["probes"]["harmful"]["whitening"] for (values,) in result.units.values()]
    solved = [probe["steps_to_tolerance"] for probe in whitened]
    for ax, task in zip(axes, ("primary", "harmful"), strict=True):
        for name, (values,) in result.units.items():
            curve = values["probes"][task]["gd"]
            style = line_style(result.methods[name].fit.replace("_", "-"))
            ax.plot(curve["step"], curve[of], label=before_or(name), **style)
            shown.append(np.asarray(curve[of], dtype=float))
        if of == "above":
            ax.axhline(TOLERANCE, color="0.45", linewidth=1.0)
            ax.annotate(
                f"{TOLERANCE:.0%}", (0.0, TOLERANCE), xycoords=("axes fraction", "data"),
                xytext=(3, 3), textcoords="offset points", color="0.3", fontsize=9,
            )  # fmt: skip
        if of == "above" and None not in solved and task == "harmful":
            many = "" if max(solved) == 1 else "s"
            steps = f"{max(solved)} step{many} to {TOLERANCE:.0%}"
            told = f"on whitened features, after any method:\n{steps}"
            ax.text(0.03, 0.05, told, transform=ax.transAxes, fontsize=9)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("steps of gradient descent, exact line search")
        ax.set_title(f"{task} task: digit {getattr(result.settings, task)}")
    every = np.concatenate(shown)
    axes[0].set_ylim(max(1e-8, float(every[every > 0].min())) / 2, 2 * float(every.max()))
    axes[0].set_ylabel(label)
    legend_below(axes[0], 4)
    return figure


# ---- the record ----


def as_json(result: Result, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every number of the run as plain Python values; an infinite one is the string "inf"."""
    trained, closed = (result.methods[n].parameters for n in ("Algorithm 1", "closed form"))

    def measured(name: str) -> Values:
        (values,) = result.units[name]
        return {key: value for key, value in values.items() if key != "unit_seconds"}

    return record(
        result, command, versions, CONVENTIONS, measured,
        delta=dict(zip("PH", closed["delta"], strict=True)), kappa_primary=closed["kappa_P"],
        lambda_P=trained["lambda_P"], lambda_H=trained["lambda_H"], ridge=RIDGE,
        tolerance=TOLERANCE, rows=result.counts, limits=limits_as_dict(result.limits),
    )  # fmt: skip
