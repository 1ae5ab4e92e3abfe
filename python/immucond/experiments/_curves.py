"""Curves of descent by method: their styles, and norm ratio and loss on both tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._show import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    before_or,
    legend_below,
    print_style,
)
from ._methods import Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    "fade": (GREEN, "-"),
    "leace": ("#777777", (0, (1, 1))),
}


def line_style(name: str) -> dict[str, Any]:
    """Style of a method's curves; that of fade is wide, and lies below those that it meets."""
    colour, dashes = STYLES[name]
    wide = {"linewidth": 3.5, "zorder": 1.9} if name == "fade" else {}
    return {"color": colour, "linestyle": dashes, **wide}


# Below, a curve cannot be seen: of the norm ratio on its linear axis, of the loss on its
# logarithmic one, which starts there at the lowest.
CUT_OFF = (0.01, 1e-8)


def curves(
    methods: Mapping[str, Method], drawn: Mapping[str, Any], titles: Mapping[str, str]
) -> Figure:
    """Draw norm ratio and loss on both tasks: 2 x 2 panels, the axes alike left and right.

    Parameters
    ----------
    methods : mapping
        Every method by its name; the legend names those without a curve as failed.
    drawn : mapping
        :func:`._methods.descent` by task, by the method's name.
    titles : mapping
        What the tasks "primary" and "harmful" are.
    """
    failed = [method.label for name, method in methods.items() if name not in drawn]
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 7.0), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True, sharey="row")
        for column, (task, title) in enumerate(titles.items()):
            for name, by_task in drawn.items():
                curve = by_task[task]
                ratio = np.asarray(curve["norm_ratio"], dtype=float)
                excess = np.asarray(curve["loss"], dtype=float) - curve["best_loss"]
                if curve["best_loss"] == 1.0:  # of that at w = 0: nothing to learn, which is no end
                    ratio, excess = np.full((2, len(excess)), np.nan)
                for row, values in enumerate((ratio, excess)):
                    label = before_or(methods[name].label, name)
                    panels[row, column].plot(curve["step"], values, label=label, **line_style(name))
            panels[0, column].set_title(title)
            panels[1, column].set_xlabel("steps of gradient descent, exact line search")
        for row, label in enumerate(
            (r"norm ratio  $\|w_t-w^*\|^2\,/\,\|w_0-w^*\|^2$", "excess loss, relative to $w_0=0$")
        ):
            panels[row, 0].set_ylabel(label)
            panels[row, 0].set_xscale("log")
            for ax in panels[row]:
                _tell_hidden(ax, CUT_OFF[row])
        panels[0, 0].set_ylim(0.0, 1.15)
        excess = np.concatenate([line.get_ydata() for ax in panels[1] for line in ax.lines])
        panels[1, 0].set_yscale("log")
        panels[1, 0].set_ylim(max(CUT_OFF[1], float(excess[excess > 0.0].min()) / 2), 8.0)
        for label in failed:
            panels[0, 0].plot([], [], linestyle="none", label=f"{label}: failed")
        legend_below(panels[0, 0], 3 if failed else 4)
        return figure


def _tell_hidden(ax: Axes, cut_off: float) -> None:
    """Name the curves that lie below what can be seen from their first point on, or are none."""
    top = {str(line.get_label()): np.max(line.get_ydata()) for line in ax.lines}
    below = f"below {cut_off:g} throughout".replace("e-0", "e-")
    names = {
        below: [name for name, value in top.items() if value < cut_off],
        "nothing to learn": [name for name, value in top.items() if np.isnan(value)],
    }
    told = "\n".join(f"{what}: {', '.join(of)}" for what, of in names.items() if of)
    if told:
        ax.text(0.98, 0.97, told, transform=ax.transAxes, ha="right", va="top", fontsize=9)
