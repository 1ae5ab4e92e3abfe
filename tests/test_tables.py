"""Tables of the experiments on a terminal: nothing is cut off, and what belongs together stays."""

import io
import re

import pytest
from rich.console import Console

from immucond.experiments._table import Table

FIGURES = ("(i)", "(ii)", "RIR")
CONVENTIONS = ("ridge", "exact", "paper")


def shown(table, width):
    table.show(Console(file=(output := io.StringIO()), width=width))
    assert "…" not in output.getvalue()
    assert max(map(len, output.getvalue().splitlines())) <= width
    return output.getvalue()


@pytest.mark.parametrize("width", [40, *range(70, 120), 200])
def test_every_cell_is_shown_whole(width):
    cells = [f"{i}.2345e-{i}" for i in range(9)]
    table = Table(
        "Title", ["row", *(f"method\n{i}" for i in range(9))], [["part"], ["one", *cells]]
    )
    text = shown(table, width)
    assert all(cell in text for cell in cells)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_column_of_words_gives_way_to_numbers(width):
    table = Table("Title", ["row", "words", "number"], [["one", "many words " * 9, "1.2345e-100"]])
    text = shown(table, width)
    assert "1.2345e-100" in text
    assert text.count("words") == 10


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120, 200])
def test_columns_of_a_group_stay_together_under_a_title_of_their_own(width):
    headings = ["", *(f"{figure}\n{of}" for of in CONVENTIONS for figure in FIGURES)]
    rows = [["a method of a long name", *(f"1.23e-{n}" for n in range(9))]]
    groups = [(f"{of} convention", 3) for of in CONVENTIONS]
    text = shown(Table("Immunity", headings, rows, "(i): what it is", groups), width)
    parts = re.split(r"^ *Immunity", text, flags=re.MULTILINE)[1:]
    titles = [part.splitlines()[0].strip() for part in parts]
    assert len(set(titles)) == len(titles) <= 3
    for part in parts:
        for of in CONVENTIONS:  # all three of a convention, or none
            numbers = [f"1.23e-{3 * CONVENTIONS.index(of) + k}" for k in range(3)]
            assert len({number in part for number in numbers}) == 1
            if len(parts) > 1 and numbers[0] in part:
                assert f"{of} convention" in part.splitlines()[0]
    assert text.count("(i): what it is") == 1


def test_a_group_that_fits_nowhere_is_split_and_says_how():
    headings = ["", *(f"step\n{10**n}" for n in range(9))]
    rows = [["row", *(["1.23e-100"] * 9)]]
    text = shown(Table("Loss", headings, rows, "", [("primary", 9)]), 60)
    titles = re.findall(r"^ *(Loss, .*?) *$", text, re.MULTILINE)
    assert titles[0].startswith("Loss, primary step 1 to step 1")
    assert len(set(titles)) == len(titles) > 1
