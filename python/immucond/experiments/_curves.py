"""Curves of a linear probe on both tasks, one line a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, print_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = {
    "identity": (BLACK, "-"),
    "algorithm1": (BLUE, "--"),
    "closed-form": (VERMILION, "-."),
    "published": (SKY, (0, (5, 1))),
    "algorithm1-published": (SKY, (0, (1, 3))),
    "r-ill-only": (GREEN, ":"),
    "imma": (ORANGE, (0, (3, 1, 1, 1, 1, 1))),
    "opt-kappa": (PURPLE, (0, (9, 2, 1, 2))),
}


def curves(methods: Mapping[str, tuple[str, Any]], titles: Mapping[str, str]) -> Figure:
    """Draw norm ratio and loss on both tasks: 2 x 2 panels.

    Parameters
    ----------
    methods : mapping
        Label, and :func:`._measure.descent` by task, of each method by its name.
    titles : mapping
        What the tasks "primary" and "harmful" are.
    """
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 7.0), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True)
        for column, (task, title) in enumerate(titles.items()):
            for name, (label, drawn) in methods.items():
                colour, dashes = STYLES[name]
                curve = drawn[task]
                ratio = np.asarray(curve["norm_ratio"], dtype=float)
                excess = np.asarray(curve["loss"], dtype=float) - curve["best_loss"]
                for row, values in enumerate((ratio, excess)):
                    panels[row, column].plot(
                        curve["step"], values, color=colour, linestyle=dashes, label=label
                    )
            panels[0, column].set_title(title)
            panels[1, column].set_xlabel("steps of gradient descent, exact line search")
        for row, label in enumerate(
            (r"norm ratio  $\|w_t-w^*\|^2\,/\,\|w_0-w^*\|^2$", "excess loss, relative to $w_0=0$")
        ):
            panels[row, 0].set_ylabel(label)
            for ax in panels[row]:
                ax.set_xscale("log")
                shown = np.concatenate([line.get_ydata() for line in ax.lines])
                least = float(shown[shown > 0.0].min())
                if least > 0.1:  # a logarithmic axis would have no room for ticks
                    ax.set_ylim(0.0, 1.05)
                else:
                    ax.set_yscale("log")
                    ax.set_ylim(max(1e-8, least / 2), 2.0)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return figure
