"""The figures of the MNIST experiment: the 10 x 10 grids, and curves of one pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._curves import curves
from .._style import print_style
from ._report import log_rir, not_harder_in
from ._run import Pair, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

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
        failed = [method.label for name, method in result.methods.items() if name not in drawn]
        made["curves"] = curves(drawn, titles, failed)
    return made


def _grid(result: Result, name: str) -> Figure:
    """Log RIR by pair in both conventions, of the digits that took part, on one scale."""
    pairs = result.settings.pairs
    found = {key: log_rir(result, name, "training", key) for key, _ in CONVENTIONS}
    largest = max((abs(v) for values in found.values() for v in values.values()), default=1.0)
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 5.1), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        marks = set()
        for ax, (key, title) in zip(panels, CONVENTIONS, strict=True):
            eased = not_harder_in(result, name, "training", key)
            picture = _draw(ax, found[key], pairs, eased, max(1.0, float(np.ceil(largest))))
            ax.set_title(title)
            ax.set_xlabel("harmful digit")
            if eased:
                marks.add("! : (i) is not above 1, the harmful task got no harder")
            if len(found[key]) < len(pairs):
                marks.add("x : failed")
        panels[0].set_ylabel("primary digit")
        figure.colorbar(picture, ax=panels, label="log$_{10}$ RIR", shrink=0.85)
        title = f"log$_{{10}}$ RIR on training images, {result.methods[name].label}"
        figure.suptitle("\n".join([title, "; ".join(sorted(marks))]).strip(), fontsize=11)
        return figure


def _draw(
    ax: Axes, values: dict[Pair, float], pairs: tuple[Pair, ...], eased: set[Pair], bold: float
) -> AxesImage:
    """Blue where positive, red where not; the sign in print tells without colours."""
    rows, columns = (sorted(set(digits)) for digits in zip(*pairs, strict=True))
    shown = np.full((len(rows), len(columns)), np.nan)
    for (P, H), value in values.items():
        shown[rows.index(P), columns.index(H)] = value
    picture = ax.imshow(shown, cmap="RdBu", vmin=-bold, vmax=bold)
    for P, H in pairs:
        value = values.get((P, H), np.nan)
        colour = "white" if abs(value) > 0.6 * bold else "black"
        # A value that rounds to 0 is told by its first digit: its sign counts.
        told = f"{value:.1f}" if abs(value) >= 0.05 else f"{value:.0e}".replace("e-0", "e-")
        told = "x" if np.isnan(value) else told + " !" * ((P, H) in eased)
        ax.text(
            columns.index(H), rows.index(P), told,
            ha="center", va="center", fontsize=7.5, color=colour,
        )  # fmt: skip
    ax.set_xticks(range(len(columns)), map(str, columns))
    ax.set_yticks(range(len(rows)), map(str, rows))
    ax.grid(False)
    return picture
