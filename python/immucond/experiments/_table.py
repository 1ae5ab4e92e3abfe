"""Tables that look the same on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._extras import extra

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes
    ----------
    title : str
        What the table tells.
    headings : sequence of str
        Of the columns, the first of which names the rows. Lines within one are separated by a
        line feed.
    rows : sequence of sequences of str
        A row of one cell is the heading of a section.
    note : str
        What one has to know to read it.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def show(self, console: Console) -> None:
        """Print to a terminal."""
        with extra("experiments"):
            from rich import box
            from rich.table import Table as RichTable
            from rich.text import Text
        table = RichTable(
            title=self.title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            section = len(row) == 1
            table.add_row(*map(Text, row), style="italic" if section else "")
        console.print(table)
        if self.note:
            console.print(self.note + "\n", markup=False)

    def markdown(self) -> str:
        """As GitHub and MyST read it."""

        def line(cells: Sequence[str]) -> str:
            padded = [*cells, *[""] * (len(self.headings) - len(cells))]
            return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in padded) + " |"

        lines = [f"**{self.title}**", "", line(self.headings)]
        lines.append("|---" + "|--:" * (len(self.headings) - 1) + "|")
        lines += [line([f"*{row[0]}*"] if len(row) == 1 else row) for row in self.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines) + "\n"
