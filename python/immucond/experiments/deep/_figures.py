"""The figures of the deep experiment: probe accuracy by epoch, spectra before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...deep.parts import ATTACKERS
from .._curves import STYLES, before_or
from .._style import print_style
from .._summary import finished
from ._run import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name without suffix, ready for ``savefig``."""
    drawn = {
        name: (before_or(result.methods[name].label, name), finished(results)[0])
        for name, results in result.units.items()
        if finished(results)
    }  # fmt: skip
    return {"probe": _probe(drawn), "spectra": _spectra(drawn)}


def _probe(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Accuracy and loss of the harmful probe by epoch, a column an attacker."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 5.6), layout="constrained")
        panels = figure.subplots(2, len(ATTACKERS), sharex=True, sharey="row")
        for column, (attacker, (title, _, _)) in enumerate(ATTACKERS.items()):
            for name, (label, values) in drawn.items():
                colour, dashes = STYLES[name]
                curve = values["probe"][attacker]
                for row, key in enumerate(("accuracy", "loss")):
                    panels[row, column].plot(
                        np.asarray(curve[key], dtype=float) * (100.0 if key == "accuracy" else 1.0),
                        color=colour, linestyle=dashes, label=label,
                    )  # fmt: skip
            panels[0, column].set_title(title)
            panels[1, column].set_xlabel("epoch")
        panels[0, 0].set_ylabel("test accuracy, %")
        panels[1, 0].set_ylabel("training loss")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6)
        return figure


def _spectra(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Eigenvalues of both Hessians over the largest one."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, task, title in zip(panels, "PH", ("primary", "harmful"), strict=True):
            for name, (label, values) in drawn.items():
                colour, dashes = STYLES[name]
                spectrum = values["spectra"][task]
                value = np.asarray(spectrum["value"], dtype=float)
                ax.plot(spectrum["place"], value / value[0], color=colour, linestyle=dashes,
                        label=label)  # fmt: skip
            ax.set_yscale("log")
            ax.set_title(f"{title} test features")
            ax.set_xlabel("eigenvalue, from the largest down")
        panels[0].set_ylim(1e-10, 2.0)
        panels[0].set_ylabel(r"$\lambda_i(H)\,/\,\lambda_1(H)$")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6)
        return figure
