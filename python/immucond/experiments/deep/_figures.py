"""Figures of a run: attackers, their accuracy by epoch, label alignment beside RIR, spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._show import BLUE, SKY, before_or, legend_below, print_style
from .._curves import STYLES
from .._report import first
from ._experiment import BENIGN, Result
from ._report import LABELS, UNDOING, last_accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {
    **STYLES,
    "fade": (SKY, "-"),
    "fade-distilled": (SKY, "--"),
    "alignment": (BLUE, ":"),
    "leace": ("#777777", (0, (5, 1))),
}
_MARKERS = dict(zip(_STYLES, "oDs<>^vX*PdHp8", strict=False))
_DRAWN = ("sgd", "adam", "lbfgs", "whitening")  # by epoch


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name without suffix, ready for ``savefig``; none where all methods failed.

    Methods with fewer rows of the defender are in the tables alone.
    """
    drawn = {
        name: (before_or(result.methods[name].label, name), values)
        for name, values in first(result.units).items()
        if name in _STYLES
    }
    if not drawn:
        return {}
    return {
        "attackers": _drawn_attackers(drawn),
        "probe": _probe(drawn),
        "alignment": _drawn_alignment(drawn),
        "spectra": _spectra(drawn),
    }


def _drawn_attackers(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Held-out accuracy by attacker, on the harmful task and on the primary one."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.0, 6.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 1))
        some = next(iter(drawn.values()))[1]["probe"]
        harmful = [name for name in LABELS if name in some]
        # One above the other: what is alike is seen to be.
        shifts = dict(zip(drawn, np.linspace(-0.32, 0.32, len(drawn)), strict=True))
        for name, (label, values) in drawn.items():
            style: dict[str, Any] = {
                "color": _STYLES[name][0], "marker": _MARKERS[name], "linestyle": "none",
                "markersize": 6, "markerfacecolor": "none" if name == "identity" else None,
            }  # fmt: skip
            found = [100.0 * last_accuracy(values, attacker) for attacker in harmful]
            left.plot(found, np.arange(len(harmful)) + shifts[name], label=label, **style)
            primary = [values["accuracy"]]
            primary += [values["primary_probe"][a]["accuracy"][-1] for a in BENIGN]
            right.plot(100.0 * np.array(primary), np.arange(len(primary)) + shifts[name], **style)
        for ax, names, title in (
            (left, [LABELS[name] for name in harmful], "harmful task"),
            (right, ["own head", *(f"new, {LABELS[a]}" for a in BENIGN)], "primary task"),
        ):
            ax.set_yticks(range(len(names)), names)
            ax.set_title(title)
            ax.set_xlabel("held-out accuracy, %")
            ax.grid(visible=False, axis="y")
            ax.set_ylim(len(names) - 0.5, -0.5)
            for place in range(1, len(names)):
                ax.axhline(place - 0.5, color="0.85", linewidth=0.8, zorder=0)
        left.set_xlim(0.0, 100.0)
        undone = [place for place, name in enumerate(harmful) if name in UNDOING]
        left.axhspan(min(undone) - 0.5, max(undone) + 0.5, color="0.93", zorder=0)
        left.text(1.5, min(undone) - 0.3, "undoes it", va="top", color="0.35")
        legend_below(left, 5)
        return figure


def _drawn_alignment(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Accuracy of the probe against rho, and against RIR."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 4.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for name, (label, values) in drawn.items():
            style: dict[str, Any] = {"marker": _MARKERS[name], "linestyle": "none", "markersize": 7}
            for ax, figure_of in zip(
                panels, (float(values["rho"]["after"]), float(values["all"]["rir"])), strict=True
            ):
                for attacker, filled in (("sgd", True), ("adam", False)):
                    ax.plot(
                        figure_of, 100.0 * last_accuracy(values, attacker), color=_STYLES[name][0],
                        label=label if filled else None,
                        markerfacecolor=None if filled else "none", **style,
                    )  # fmt: skip
        for ax, told in zip(
            panels,
            (r"label alignment $\rho$ (small: slow)", "RIR (large: badly conditioned)"),
            strict=True,
        ):
            ax.set_xscale("log")
            ax.set_xlabel(told)
        panels[0].set_ylabel("harmful accuracy, % (filled: SGD, open: Adam)")
        panels[0].set_ylim(0.0, 100.0)
        legend_below(panels[0], 5)
        return figure


def _probe(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Accuracy and loss of the harmful probe by epoch, a column an attacker."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 5.6), layout="constrained")
        panels = figure.subplots(2, len(_DRAWN), sharex=True, sharey="row")
        for column, attacker in enumerate(_DRAWN):
            for name, (label, values) in drawn.items():
                colour, dashes = _STYLES[name]
                curve = values["probe"][attacker]
                for row, key in enumerate(("accuracy", "loss")):
                    panels[row, column].plot(
                        np.asarray(curve[key], dtype=float) * (100.0 if key == "accuracy" else 1.0),
                        color=colour, linestyle=dashes, label=label,
                    )  # fmt: skip
            panels[0, column].set_title(LABELS[attacker])
            panels[1, column].set_xlabel("epoch")
        panels[0, 0].set_ylabel("held-out accuracy, %")
        panels[1, 0].set_ylabel("training loss")
        legend_below(panels[0, 0], 6)
        return figure


def _spectra(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Eigenvalues of both Hessians over the largest one."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, task, title in zip(panels, "PH", ("primary", "harmful"), strict=True):
            for name, (label, values) in drawn.items():
                colour, dashes = _STYLES[name]
                spectrum = values["spectra"][task]
                value = np.asarray(spectrum["value"], dtype=float)
                ax.plot(spectrum["place"], value / value[0], color=colour, linestyle=dashes,
                        label=label)  # fmt: skip
            ax.set_yscale("log")
            ax.set_title(f"{title} test features")
            ax.set_xlabel("eigenvalue, from the largest down")
        panels[0].set_ylim(1e-10, 2.0)
        panels[0].set_ylabel(r"$\lambda_i(H)\,/\,\lambda_1(H)$")
        legend_below(panels[0], 6)
        return figure
