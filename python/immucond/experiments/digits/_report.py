"""The result as tables for a terminal, as figures and as JSON for a program."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._format import brief, marked, not_harder, plain
from ..._format import number as _n
from ..._show import BLACK, BLUE, VERMILION, Table, before_or, legend_below, print_style, thin
from ..._validate import FloatArray
from ...linear import ImmunityLimit, ImmunityReport
from ...probing import ProbeTrace
from .._methods import RIDGE, report_as_dict
from .._report import decoded, symbols
from ._run import TOLERANCE, Measured, Result, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

_ROWS = (("held_out", "held-out"), ("training", "training"))
_ATTACKERS = {
    "gd": "gradient descent, line search",
    "cg": "conjugate gradients",
    "lstsq": "exact least squares",
}
CONVENTIONS = {
    "exact": "kappa over the nonzero eigenvalues of H, ranks decided on the inputs",
    "ridge": f"kappa of H + {brief(RIDGE)} I, as the published code does; no limit bounds it",
    "noisy": "exact, with delta added to the diagonals of K_P and K_H",
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
    """One sentence on what came out, on rows that no method saw."""
    before, *others = result.methods.items()
    start = before[1].probes["harmful", "gd"]
    conditioned, attacked = [], []
    for name, method in others:
        report = method.held_out.exact
        became = not_harder(report.i, report.rir)
        easier = f", so {became}," if became else ""
        conditioned.append(
            f"{_the(name)} made the condition number of the harmful task {_times(report.i)}"
            f"{easier} and that of the primary task {_times(report.ii)}"
        )
        attacked.append(f"{_taken(method.probes['harmful', 'gd'])} after {_the(name)}")
    solve = others[-1][1].probes["harmful", "lstsq"].steps_to(TOLERANCE)
    return (
        f"On held-out rows {'; '.join(conditioned)}; an attacker's gradient descent on the harmful "
        f"training rows takes {_taken(start)} steps before, {' and '.join(attacked)}, while a "
        f"least-squares solve still takes {'one' if solve == 1 else solve}."
    )


def _the(name: str) -> str:
    return f"the {name}" if name == "closed form" else name


def _times(ratio: float) -> str:
    """Say a factor as people do."""
    return f"{_n(ratio)} times larger" if ratio >= 1 else f"{_n(1 / ratio)} times smaller"


def _taken(trace: ProbeTrace) -> str:
    reached = trace.steps_to(TOLERANCE)
    return f"more than {trace.loss.size - 1:,}" if reached is None else f"{reached:,}"


def print_tables(result: Result, console: Console) -> None:
    """Print what was immunized, how far, at what cost, and what it is worth."""
    for table in (_immunity(result), _losses(result), _attackers(result)):
        table.show(console)


def _immunity(result: Result) -> Table:
    first = next(iter(result.methods.values()))
    rows: list[list[str]] = []
    for key, label in _ROWS:
        rows.append([f"{label} rows"])
        for name, method in result.methods.items():
            m: Measured = getattr(method, key)
            rows.append(
                [name, _n(m.exact.i), _n(m.exact.ii), _rir(m.exact), _rir(m.noisy),
                 _n(m.ridge.i), _n(m.ridge.ii), _rir(m.ridge)]
            )  # fmt: skip
        m = getattr(first, key)
        rows.append(["limit", "", "", _n(m.exact.limit.rir), _n(m.noisy.limit.rir)])
    note = (
        f"{symbols()} Limit: the most any theta can reach.\n"
        f"exact: over the nonzero eigenvalues. delta: exact, with feature noise, {_delta(result)}. "
        f"ridge: of H + {brief(RIDGE)} I, as in the published code; the limit does not bound it.\n"
        f"{_why(first.training.exact.limit)}"
    )
    return Table(
        f"Immunity: primary digit {result.settings.primary}, harmful digit "
        f"{result.settings.harmful}",
        ("", "(i)\nexact", "(ii)\nexact", "RIR\nexact", "RIR\ndelta", "(i)\nridge", "(ii)\nridge",
         "RIR\nridge"),
        rows,
        decoded(note, rows),
        (("exact convention", 4), ("ridge convention", 3)),
        strong=("limit",),
    )  # fmt: skip


def _losses(result: Result) -> Table:
    return Table(
        "Primary loss (mean squared error)",
        ("", *(f"{rows}\n{head} head" for _, rows in _ROWS for head in ("own", "best"))),
        [
            [name, *(_n(v) for loss in (m.loss_held_out, m.loss) for v in (loss.own, loss.best))]
            for name, m in result.methods.items()
        ],
        "best head: least squares on the features; own head: what the method serves, for "
        f"Algorithm 1 the one it trained along in {result.settings.steps:,} steps.",
    )


def _attackers(result: Result) -> Table:
    methods = result.methods
    when = {name: "before" if name == "identity" else "after" for name in methods}
    return Table(
        f"What immunity is worth: steps to within {TOLERANCE:.0%} of the best harmful loss",
        ("", *(f"{name}\n{told}" for name, told in when.items())),
        [
            [label, *(_steps(method.probes["harmful", attacker]) for method in methods.values())]
            for attacker, label in _ATTACKERS.items()
        ],
        "The last line is not slowed: kappa binds first-order methods, not a least-squares solve.",
    )


def _steps(trace: ProbeTrace) -> str:
    reached = trace.steps_to(TOLERANCE)
    if reached is None:
        return f"> {trace.loss.size - 1:,}\n({trace.above[-1]:.0%} above)"
    return f"{reached:,}"


def _rir(report: ImmunityReport) -> str:
    return marked(_n(report.rir), report.i, report.rir)


def _delta(result: Result) -> str:
    P, H = result.delta
    shown = f"delta = {brief(P, 3)}" if P == H else f"delta = {brief(P, 3)} (P), {brief(H, 3)} (H)"
    return shown + (" (rounding of the pixels)" if result.settings.delta is None else "")


def _why(limit: ImmunityLimit) -> str:
    if limit.case != "unbounded":
        return f"Exact limit on training rows: {_n(limit.rir)} ({limit.case})."
    return f"The exact limit is infinite: {limit.why_unbounded}"


# ---- figures ----

_STYLE = {"identity": (BLACK, "-"), "Algorithm 1": (BLUE, "--"), "closed form": (VERMILION, "-.")}


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name, ready for ``savefig``."""
    with print_style():
        return {"norm_ratio.png": _norm_ratio(result), "loss.png": _loss(result)}


def _norm_ratio(result: Result) -> Figure:
    curves = {
        (task, name): method.probes[task, "gd"].norm_ratio
        for name, method in result.methods.items()
        for task in ("primary", "harmful")
    }
    label = r"norm ratio  $\|w_t-w^*\|^2\,/\,\|w_0-w^*\|^2$"
    return _panels(result, curves, label)


def _loss(result: Result) -> Figure:
    curves = {}
    for name, method in result.methods.items():
        for task in ("primary", "harmful"):
            curves[task, name] = method.probes[task, "gd"].above
    return _panels(result, curves, "loss above the best, relative to the best", mark=TOLERANCE)


def _panels(
    result: Result, curves: dict[tuple[str, str], FloatArray], label: str, mark: float | None = None
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    digits = {"primary": result.settings.primary, "harmful": result.settings.harmful}
    for ax, task in zip(axes, digits, strict=True):
        for name, (colour, dashes) in _STYLE.items():
            steps, values = thin(curves[task, name])
            ax.plot(steps, values, color=colour, linestyle=dashes, label=before_or(name))
        if mark is not None:
            ax.axhline(mark, color="0.45", linewidth=1.0)
            ax.annotate(
                f"{mark:.0%}", (0.0, mark), xycoords=("axes fraction", "data"), xytext=(3, 3),
                textcoords="offset points", color="0.3", fontsize=9,
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("steps of gradient descent, exact line search")
        ax.set_title(f"{task} task: digit {digits[task]}")
    shown = np.concatenate([values[1:] for values in curves.values()])
    axes[0].set_ylim(max(1e-8, float(shown[shown > 0].min())) / 2, 2 * float(shown.max()))
    axes[0].set_ylabel(label)
    legend_below(axes[0], 3)
    return figure


# ---- the record ----


def as_json(result: Result, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every number of the run as plain Python values; an infinite one is the string "inf"."""
    data = result.data
    numbers: dict[str, Any] = plain(
        {
            "command": command,
            "versions": versions,
            "conventions": CONVENTIONS,
            "settings": asdict(result.settings),
            "delta": {"P": result.delta[0], "H": result.delta[1]},
            "kappa_primary": result.kappa_primary,
            "lambda_P": result.lambda_P,
            "lambda_H": result.lambda_H,
            "ridge": RIDGE,
            "tolerance": TOLERANCE,
            "rows": {name: value.shape[0] for name, value in vars(data).items()},
            "methods": {
                name: {
                    **{
                        key: {
                            convention: report_as_dict(getattr(getattr(method, key), convention))
                            for convention in ("exact", "ridge", "noisy")
                        }
                        for key, _ in _ROWS
                    },
                    "primary_loss": {
                        "training": asdict(method.loss),
                        "held_out": asdict(method.loss_held_out),
                    },
                    "probes": {
                        task: {
                            attacker: _probe(method.probes[task, attacker])
                            for attacker in _ATTACKERS
                        }
                        for task in ("primary", "harmful")
                    },
                    "history": method.history,
                }
                for name, method in result.methods.items()
            },
        }
    )
    return numbers


def _probe(trace: ProbeTrace) -> dict[str, Any]:
    steps, loss = thin(trace.loss)
    return {
        "steps_to_tolerance": trace.steps_to(TOLERANCE),
        "steps_taken": trace.loss.size - 1,
        "kappa": trace.kappa,
        "rank": trace.rank,
        "slow_share": trace.slow_share,
        "best_loss": trace.best_loss,
        "step": steps,
        "loss": loss,
        "norm_ratio": trace.norm_ratio[steps],
    }
