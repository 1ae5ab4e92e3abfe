"""How figures look: legible in print, in grey and to the colour-blind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ._extras import extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe-Ito colours: told apart by colour-blind readers; the dashes by those who print in grey.
BLACK, BLUE, VERMILION = "#000000", "#0072B2", "#D55E00"
GREEN, PURPLE, ORANGE, SKY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9"


@contextmanager
def print_style() -> Iterator[None]:
    """Set matplotlib up for print, within the block only."""
    with extra("experiments"):
        import matplotlib as mpl
    with mpl.rc_context():
        mpl.rc("font", size=10)
        mpl.rc("axes", grid=True, axisbelow=True)
        mpl.rc("grid", color="0.88")
        mpl.rc("lines", linewidth=1.8)
        mpl.rc("legend", frameon=False)
        mpl.rc("svg", fonttype="none", hashsalt="immucond")  # text as text; same run, same file
        yield


def thin(
    values: npt.NDArray[np.float64], points: int = 200
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """About as many points of a curve as a logarithmic axis can show, powers of ten among them."""
    last = values.size - 1
    spread = np.geomspace(1, max(last, 1), points).round().astype(np.int64)
    steps = np.unique([*spread, *(10**k for k in range(len(str(last))))])
    steps = steps[steps <= last]
    return steps, values[steps]


def legend_below(ax: Axes, columns: int) -> None:
    """Put what a panel's lines are called below the whole figure, beside no data."""
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def before_or(label: str, name: str = "") -> str:
    """Label of a method in a figure: "before" of what nothing was done to."""
    return "before" if "identity" in (label, name) else label
