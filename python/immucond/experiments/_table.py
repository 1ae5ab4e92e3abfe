"""Tables that look the same on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
        A row of one cell is the heading of a section; where the last cells are missing they are
        empty.
    note : str
        What one has to know to read it.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def show(self, console: Console) -> None:
        """Print to a terminal, a table too wide for it in parts."""
        self._show(console, range(1, len(self.headings)))
        if self.note:
            console.print(self.note + "\n", markup=False)

    def _show(self, console: Console, columns: Sequence[int]) -> None:
        with extra("experiments"):
            from rich import box
            from rich.table import Table as RichTable
            from rich.text import Text
        table = RichTable(
            title=self.title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        needed = 1
        for number in (0, *columns):
            cells = [row[number] for row in self.rows if len(row) > number]
            # At its spaces a column may be wrapped; without, rich would cut it off.
            whole = number == 0 or not any(" " in cell for cell in cells)
            justify: Literal["left", "right"] = "right" if number else "left"
            table.add_column(self.headings[number], justify=justify, no_wrap=whole)
            texts = [self.headings[number], *cells]
            parts = [
                part for text in texts for part in (text.split("\n") if whole else text.split())
            ]
            needed += max(map(len, parts), default=0) + 2
        if needed > console.width and len(columns) > 1:
            middle = (len(columns) + 1) // 2
            self._show(console, columns[:middle])
            self._show(console, columns[middle:])
            return
        for row in self.rows:
            section = len(row) == 1
            shown = [row[number] for number in (0, *columns) if number < len(row)]
            table.add_row(*map(Text, shown), style="italic" if section else "")
        console.print(table)

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
