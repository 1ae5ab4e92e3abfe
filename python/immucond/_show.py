"""How results look: tables on a terminal and in Markdown, and the style of figures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ._errors import extra
from ._format import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

# Okabe-Ito colours: told apart by colour-blind readers; the dashes by those who print in grey.
BLACK, BLUE, VERMILION = "#000000", "#0072B2", "#D55E00"
GREEN, PURPLE, ORANGE, SKY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9"

# Settings of matplotlib.
PRINT: dict[Any, Any] = {
    "font.size": 10, "axes.grid": True, "axes.axisbelow": True, "grid.color": "0.88",
    "lines.linewidth": 1.8, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "immucond",  # text as text; same run, same file
}  # fmt: skip

LIMIT_SYMBOLS = (
    "RIR*: the largest RIR = (i) / (ii) that any extractor reaches. M: the pencil of K_H against "
    "K_P, K_P^(-1/2) K_H K_P^(-1/2); kappa: condition number."
)
_GAP = 2  # characters between columns


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
        empty. Columns without a cell that tells anything are not shown.
    note : str
        What one has to know to read it: what its symbols mean.
    groups : sequence of (str, int)
        Columns after the first that are read together, from the left: what they show, and how
        many. A table too wide for the terminal is shown group by group, each under its own title.
    strong : sequence of str
        Names of rows that stand in bold on a terminal and end their section.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()
    strong: Sequence[str] = ()

    def show(self, console: Console) -> None:
        """Print to a terminal, a table too wide for it in parts."""
        for columns, name in self._parts(console.width):
            self._show(console, columns, f"{self.title} ({name})" if name else self.title)
        if self.note:
            console.print(self.note + "\n", markup=False)

    def _parts(self, width: int) -> list[tuple[list[int], str]]:
        """Columns that fit side by side, with what they show: whole groups where one fits.

        Only a group of its own may need its cells wrapped for that.
        """
        told = self._told()
        if self._width(told, wrapped=False) <= width:
            return [(told, "")]
        parts: list[tuple[list[int], list[str]]] = []
        at = 1
        for name, count in self.groups or [("", len(self.headings) - 1)]:
            columns = [column for column in told if at <= column < at + count]
            at += count
            if not columns:
                continue
            if parts and self._width([*parts[-1][0], *columns], wrapped=False) <= width:
                parts[-1] = ([*parts[-1][0], *columns], [*parts[-1][1], name])
            elif self._width(columns) <= width:
                parts.append((columns, [name]))
            else:
                some: list[int] = []
                for column in columns:
                    if some and self._width([*some, column]) > width:
                        parts.append((some, [self._span(some, name)]))
                        some = []
                    some.append(column)
                parts.append((some, [self._span(some, name)]))
        return [(columns, _listed(names)) for columns, names in parts]

    def _told(self) -> list[int]:
        """Columns after the first that tell something; all where none does."""
        everything = list(range(1, len(self.headings)))
        return [c for c in everything if any(map(str.strip, self._cells(c)))] or everything

    def _span(self, columns: Sequence[int], name: str) -> str:
        first, last = (" ".join(self.headings[c].split()) for c in (columns[0], columns[-1]))
        return f"{name} {first if first == last else f'{first} to {last}'}".strip()

    def _cells(self, column: int) -> list[str]:
        return [row[column] for row in self.rows if len(row) > column]

    def _whole(self, column: int) -> bool:
        """Whether the cells hold no spaces at which they may be wrapped; rich would cut them."""
        return column == 0 or not any(" " in cell for cell in self._cells(column))

    def _width(self, columns: Sequence[int], wrapped: bool = True) -> int:
        needed = 0
        for column in (0, *columns):
            texts = [*self.headings[column].split("\n"), *self._cells(column)]
            if wrapped and not self._whole(column):
                texts = [part for text in texts for part in text.split()]
            needed += max((len(line) for text in texts for line in text.split("\n")), default=0)
        return needed + _GAP * (1 + len(columns)) + 1

    def _show(self, console: Console, columns: Sequence[int], title: str) -> None:
        with extra("experiments"):
            from rich.text import Text
        apart = self._width(columns) < len(title)  # else rich wraps it to the table's width
        if apart:
            console.print(Text(title, style="bold"))
        table = empty_table("" if apart else Text(title))
        for number in (0, *columns):
            justify: Literal["left", "right"] = "right" if number else "left"
            heading = Text(self.headings[number])
            whole = self._whole(number)
            table.add_column(heading, justify=justify, no_wrap=whole, overflow="fold")
        for row in self.rows:
            strong = row[0] in self.strong
            style = "italic" if len(row) == 1 else "bold" if strong else ""
            shown = [row[number] for number in (0, *columns) if number < len(row)]
            table.add_row(*map(Text, shown), style=style, end_section=strong)
        console.print(table)

    def markdown(self) -> str:
        """As GitHub and MyST read it."""
        shown = [0, *self._told()]

        def line(cells: Sequence[str]) -> str:
            padded = [cells[c] if c < len(cells) else "" for c in shown]
            return "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in padded) + " |"

        lines = [f"**{self.title}**", "", line(self.headings)]
        lines.append("|---" + "|--:" * (len(shown) - 1) + "|")
        lines += [line([f"*{row[0]}*"] if len(row) == 1 else row) for row in self.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines) + "\n"


def terminal() -> Console:
    """Return standard output as rich writes to it, names with brackets and colons as they are."""
    with extra("experiments"):
        from rich.console import Console
    return Console(highlight=False, markup=False, emoji=False)


def empty_table(title: str | Text) -> RichTable:
    """Return a table of rich's without columns, in the look that all tables have."""
    with extra("experiments"):
        from rich import box
        from rich.table import Table as RichTable
    return RichTable(title=title, title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return rows as lines of text, columns of one width; those in `left` flush left."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        (" " * _GAP)
        .join(
            f"{c:{'<' if i in left else '>'}{w}}"
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in rows
    ]


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


@contextmanager
def print_style() -> Iterator[None]:
    """Set matplotlib up for print, legible in grey too, within the block only."""
    with extra("experiments"):
        import matplotlib as mpl
    with mpl.rc_context(PRINT):
        yield


def thin(
    values: npt.NDArray[np.float64], points: int = 200
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """About as many points of a curve as a logarithmic axis can show, powers of ten among them."""
    last = values.size - 1
    spread = np.geomspace(1, max(last, 1), points).round().astype(np.int64)
    steps = np.unique(np.minimum([*spread, *(10**k for k in range(len(str(last))))], last))
    return steps, values[steps]


def legend_below(ax: Axes, columns: int) -> None:
    """Put what a panel's lines are called below the whole figure, beside no data."""
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def label_ticks(ax: Axes) -> None:
    """Label a logarithmic axis of less than a decade at a few plain numbers, not at each ninth."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    for axis, (low, high), widen, scale in (
        (ax.xaxis, ax.get_xlim(), ax.set_xlim, ax.get_xscale()),
        (ax.yaxis, ax.get_ylim(), ax.set_ylim, ax.get_yscale()),
    ):
        if scale != "log":
            continue
        if high < low * (1.0 + 1e-6):  # one value, but for rounding
            low, high = widen(low / 2.0, 2.0 * high)
        if high < 10.0 * low:
            axis.set_major_locator(MaxNLocator(4))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: brief(value, 9)))


def before_or(label: str, name: str = "") -> str:
    """Label of a method in a figure: "before" of what nothing was done to."""
    return "before" if "identity" in (label, name) else label
