"""Curves of a linear probe on both tasks, before and after immunization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._curves import before_or
from .._style import BLACK, BLUE, VERMILION, print_style, thin
from ._run import TOLERANCE, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = {
    "identity": (BLACK, "-"),
    "Algorithm 1": (BLUE, "--"),
    "closed form": (VERMILION, "-."),
}


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
    result: Result,
    curves: dict[tuple[str, str], npt.NDArray[np.float64]],
    label: str,
    mark: float | None = None,
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
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure
