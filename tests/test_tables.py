"""Tables of the experiments on a terminal: nothing is cut off, however narrow."""

import io

import pytest
from rich.console import Console

from immucond.experiments._table import Table


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_cell_is_shown_whole(width):
    cells = [f"{i}.2345e-{i}" for i in range(9)]
    table = Table(
        "Title", ["row", *(f"method\n{i}" for i in range(9))], [["part"], ["one", *cells]]
    )
    table.show(Console(file=(output := io.StringIO()), width=width))
    assert all(cell in output.getvalue() for cell in cells)
    assert "…" not in output.getvalue()
    assert max(map(len, output.getvalue().splitlines())) <= width
    assert output.getvalue().count("one") == (1 if width == 200 else 2 if width == 80 else 3 + 1)
