"""How what directions are worth shows itself: by rank, the last one's worth and the least cost."""

from __future__ import annotations

import numpy as np

from .._display import Columns, Curves, Line, Plotted
from .._validate import FloatArray


class Worths(Plotted):
    """A result that has what each direction is worth to the outputs, descending."""

    def _worths(self) -> FloatArray:
        raise NotImplementedError

    def _columns(self) -> Columns:
        values = self._worths()
        beyond = np.append(np.cumsum(values[::-1])[::-1], 0.0)[1:]
        return {"rank": np.arange(1, values.size + 1), "value": values, "bound": beyond}

    def _curves(self) -> Curves:
        at, style = self._columns(), {"marker": "."}
        return Curves(
            "rank: directions that are kept",
            r"change of the primary outputs, as $\mathrm{tr}(G K_P)$",
            [
                Line("least cost of the rank", at["rank"], at["bound"], style=style),
                Line("worth of its last direction", at["rank"], at["value"], style=style),
            ],
            scales=("linear", "log"),
        )
