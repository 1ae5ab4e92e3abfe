"""Tables of the experiments on a terminal: nothing is cut off, however narrow."""

import io

import pytest
from rich.console import Console

from immucond.experiments._table import Table


@pytest.mark.parametrize("width", [40, *range(70, 120), 200])
def test_every_cell_is_shown_whole(width):
    cells = [f"{i}.2345e-{i}" for i in range(9)]
    table = Table(
        "Title", ["row", *(f"method\n{i}" for i in range(9))], [["part"], ["one", *cells]]
    )
    table.show(Console(file=(output := io.StringIO()), width=width))
    assert all(cell in output.getvalue() for cell in cells)
    assert "…" not in output.getvalue()
    assert max(map(len, output.getvalue().splitlines())) <= width
    assert output.getvalue().count("one") == (1 if width >= 106 else 2 if width >= 70 else 4)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_column_of_words_gives_way_to_numbers(width):
    table = Table("Title", ["row", "words", "number"], [["one", "many words " * 9, "1.2345e-100"]])
    table.show(Console(file=(output := io.StringIO()), width=width))
    assert "1.2345e-100" in output.getvalue()
    assert output.getvalue().count("words") == 10
