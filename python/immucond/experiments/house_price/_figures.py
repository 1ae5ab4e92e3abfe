"""The figures of the House Price experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._curves import curves
from .._summary import finished
from ._run import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name without suffix, ready for ``savefig``."""
    drawn = {
        name: (result.methods[name].label, finished(results)[0]["curves"])
        for name, results in result.units.items()
        if finished(results)
    }
    titles = {"primary": "primary task: LotArea", "harmful": "harmful task: SalePrice"}
    failed = [method.label for name, method in result.methods.items() if name not in drawn]
    return {"curves": curves(drawn, titles, failed)}
