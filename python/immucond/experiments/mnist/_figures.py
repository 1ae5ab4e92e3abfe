"""The figures of the MNIST experiment: the 10 x 10 grids, and curves of one pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._curves import curves
from .._style import print_style
from ._report import log_rir
from ._run import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BOLD = 4.0  # log RIR at which the colours are strongest
CONVENTIONS = (("ridge", "H + 1e-6 I, as published"), ("exact", "nonzero eigenvalues"))


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name without suffix, ready for ``savefig``."""
    drawn = {
        name: (result.methods[name].label, values["curves"])
        for name, values in result.probed.items()
    }
    P, H = result.settings.pairs[0]
    made = {f"grid-{name}": _grid(result, name) for name in result.methods if name != "identity"}
    if drawn:
        titles = {"primary": f"primary task: digit {P}", "harmful": f"harmful task: digit {H}"}
        made["curves"] = curves(drawn, titles)
    return made


def _grid(result: Result, name: str) -> Figure:
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 4.9), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, (convention, title) in zip(panels, CONVENTIONS, strict=True):
            values = np.full((10, 10), np.nan)
            for (P, H), value in log_rir(result, name, "training", convention).items():
                values[P, H] = value
            _draw(ax, values)
            ax.set_title(title)
            ax.set_xlabel("harmful digit")
        panels[0].set_ylabel("primary digit")
        figure.suptitle(f"log$_{{10}}$ RIR, {result.methods[name].label}")
        return figure


def _draw(ax: Axes, values: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    """Blue where positive, red where not; the sign in print tells without colours."""
    ax.imshow(values, cmap="RdBu", vmin=-_BOLD, vmax=_BOLD)
    for (P, H), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.7 * _BOLD else "black"
            # A value that rounds to 0 is told by its first digit: its sign counts.
            told = f"{value:.1f}" if abs(value) >= 0.05 else f"{value:.0e}".replace("e-0", "e-")
            ax.text(H, P, told, ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(10))
    ax.set_yticks(range(10))
    ax.grid(False)
