"""How results show themselves: tables as text, HTML and data frames, curves on axes."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._errors import extra
from ._format import number
from ._show import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    aligned,
    label_ticks,
    print_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Columns = Mapping[str, Sequence[Any] | npt.NDArray[Any]]

_SHOWN = 24  # rows of a long table that a notebook or a terminal gets


class Tabular:
    """A result that is a table: of named columns, one row a thing.

    A notebook shows it as one, and `to_pandas` returns it with all its digits.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> limit = ic.linear.immunity_limit(np.diag([100.0, 1.0]), np.diag([2.0, 1.0]))
    >>> limit.to_pandas()[["rir", "kappa_M", "case"]]
          rir  kappa_M      case
    0  2500.0     50.0  definite
    """

    def _columns(self) -> Columns:
        """Return the columns by name, all of one length."""
        raise NotImplementedError

    def _caption(self) -> str:
        """Return what stands above the table."""
        return repr(self)

    def to_pandas(self) -> DataFrame:
        """Return the table as a pandas DataFrame.

        Raises
        ------
        ImportError
            Without pandas, which the extra ``experiments`` holds.
        """
        with extra("experiments"):
            import pandas
        return pandas.DataFrame({name: list(values) for name, values in self._columns().items()})

    def _repr_html_(self) -> str:
        heads, rows = _cells(self._columns())
        lines = ['<table class="dataframe">', f"<caption>{html.escape(self._caption())}</caption>"]
        for tag, group in (("th", [heads]), ("td", rows)):
            part = "thead" if tag == "th" else "tbody"
            lines.append(f"<{part}>")
            for row in group:
                told = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
                lines.append(f"<tr>{told}</tr>")
            lines.append(f"</{part}>")
        return "\n".join([*lines, "</table>"])

    def _as_text(self) -> str:
        columns = self._columns()
        heads, rows = _cells(columns)
        words = [at for at, values in enumerate(columns.values()) if isinstance(values[0], str)]
        return "\n".join([self._caption(), *aligned([heads, *rows], words)])


class Record(Tabular):
    """A result of single numbers: a table of one row, its fields."""

    def _columns(self) -> Columns:
        shown = (f.name for f in fields(self) if f.repr)  # type: ignore[arg-type]
        return {name: [getattr(self, name)] for name in shown}

    def _caption(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Line:
    """A curve: points, with a band or bars around them where something is not certain.

    `style` holds keywords of matplotlib's ``plot`` that take the place of the next free style.
    """

    name: str
    x: npt.ArrayLike
    y: npt.ArrayLike
    band: tuple[npt.ArrayLike, npt.ArrayLike] | None = None
    bars: npt.ArrayLike | None = None
    style: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Curves:
    """Curves of one panel.

    Attributes
    ----------
    x, y : str
        What the axes show, with units.
    lines : sequence of Line
    levels : dict
        Horizontal lines by name.
    scales : (str, str)
        Of the axes: "linear", "log", or "symlog" for steps from 0 on.
    ticks : sequence of str
        Names of the places 0, 1, ... along x.
    xlim, ylim : (float, float) or None
    title : str
    """

    x: str
    y: str
    lines: Sequence[Line]
    levels: Mapping[str, float] = field(default_factory=dict)
    scales: tuple[str, str] = ("linear", "linear")
    ticks: Sequence[str] = ()
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    title: str = ""


class Plotted(Tabular):
    r"""A table of curves, which `plot` draws.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> line = ic.linear.frontier(np.diag([100.0, 1.0]), np.diag([2.0, 1.0]), points=3)
    >>> line.to_pandas()["kappa_H"].round(6).tolist()
    [50.0, 500.0, 5000.0]
    >>> from matplotlib.figure import Figure
    >>> line.plot(Figure().subplots()).get_ylabel()
    'largest $\\kappa(H_H)$, harmful task'
    """

    def _curves(self) -> Curves:
        """Return what is drawn."""
        raise NotImplementedError

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the curves, on axes of a new figure of pyplot's if none are given; return the axes.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``experiments`` holds.
        """
        return draw(self._curves(), ax)


# ---- tables ----


def told(value: Any) -> str:
    """Return a value as a cell shows it: three digits of a number."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return "nan" if math.isnan(value) else number(float(value))
    if isinstance(value, tuple | list):
        return ", ".join(map(told, value))
    return str(value)


def by_task(values: Mapping[str, float | tuple[float, ...]]) -> Columns:
    """Return columns, one row a harmful task, of a number each where there are several."""
    each = {name: x if isinstance(x, tuple) else (x,) for name, x in values.items()}
    return {"harmful task": range(len(next(iter(each.values())))), **each}


def _cells(columns: Columns) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as text; of a long table its beginning and its end."""
    count = len(next(iter(columns.values()), ()))
    most = range(count)
    shown = [*most] if count <= _SHOWN else [*most[: _SHOWN // 2], *most[-(_SHOWN // 2) :]]
    rows = [[told(values[at]) for values in columns.values()] for at in shown]
    if count > _SHOWN:
        left_out = f"... {count - _SHOWN:,} more"
        rows.insert(_SHOWN // 2, [left_out, *[""] * (len(columns) - 1)])
    return list(columns), rows


def history_columns(history: Mapping[str, npt.NDArray[np.float64]]) -> Columns:
    """Return what a method recorded at every step."""
    count = max(map(len, history.values()), default=0)
    return {"step": np.arange(count), **history}


# ---- curves ----


def history_curves(history: Mapping[str, npt.NDArray[np.float64]], names: Sequence[str]) -> Curves:
    """Return those of a history that have a name here, each relative to what it was at first."""
    shown = {name: history[name] for name in names if name in history and history[name][0] > 0.0}
    lines = [Line(name, np.arange(len(y)), y / y[0]) for name, y in shown.items()]
    return Curves(
        "step", "relative to the first step", lines, scales=("linear", "log"),
        title="" if lines else "no steps were taken",
    )  # fmt: skip


# Told apart by colour-blind readers, and by their dashes and markers where colours are not printed.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILION, "linestyle": "--"},
    {"color": GREEN, "linestyle": "-."},
    {"color": PURPLE, "linestyle": ":"},
    {"color": ORANGE, "linestyle": (0, (3, 1, 1, 1, 1, 1))},
    {"color": SKY, "linestyle": (0, (5, 1))},
    {"color": BLACK, "linestyle": (0, (9, 2, 1, 2))},
)
_LEVELS: tuple[dict[str, Any], ...] = (
    {"color": BLACK, "linestyle": ":", "linewidth": 1.2},
    {"color": GREEN, "linestyle": "-.", "linewidth": 1.2},
    {"color": ORANGE, "linestyle": "--", "linewidth": 1.2},
)


def draw(curves: Curves, ax: Axes | None = None) -> Axes:
    """Draw curves on axes, those of a new figure if none are given; the legend stands above."""

    def onto(ax: Axes) -> None:
        for line, free in zip(curves.lines, cycle(_STYLES), strict=False):
            _draw_line(ax, line, {**free, **line.style})
        for (name, level), style in zip(curves.levels.items(), cycle(_LEVELS), strict=False):
            ax.axhline(level, label=name, **style)
        _scale(ax, curves)
        if curves.ticks:
            ax.set_xticks(range(len(curves.ticks)), curves.ticks, rotation=40, ha="right",
                          rotation_mode="anchor")  # fmt: skip
        ax.set_xlabel(curves.x)
        ax.set_ylabel(curves.y)
        legend_above(ax, curves.title)

    return drawn(onto, ax)


def drawn(onto: Callable[[Axes], None], ax: Axes | None) -> Axes:
    """Draw in the house's style on axes, those of a new figure of pyplot's if none are given."""
    with print_style():
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots(layout="constrained")[1]
        onto(ax)
    return ax


def legend_above(ax: Axes, title: str = "") -> None:
    """Say above the axes what several lines are; beside no data, and below nothing of the ticks."""
    count = len(ax.get_legend_handles_labels()[0])
    if count > 1:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(count, 3), title=title)
    elif title:
        ax.set_title(title, fontsize=10)


def _draw_line(ax: Axes, line: Line, style: dict[str, Any]) -> None:
    x, y = (np.asarray(values, dtype=float) for values in (line.x, line.y))
    if line.band is not None:
        low, high = (np.asarray(values, dtype=float) for values in line.band)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    if line.bars is not None:
        ax.errorbar(x, y, yerr=line.bars, label=line.name, capsize=2, **style)
    else:
        alone = {"marker": "o"} if x.size == 1 else {}
        ax.plot(x, y, label=line.name, **{**alone, **style})


def _scale(ax: Axes, curves: Curves) -> None:
    """Set scales and limits; a logarithmic scale only where there is something that it shows."""
    given = {
        axis: [np.asarray(getattr(line, axis), dtype=float) for line in curves.lines]
        for axis in "xy"
    }
    how: dict[str, dict[str, Any]] = {"log": {"nonpositive": "mask"}, "symlog": {"linthresh": 1.0}}
    for axis, kind in zip("xy", curves.scales, strict=True):
        if any(np.any(np.isfinite(values) & (values > 0.0)) for values in given[axis]):
            getattr(ax, f"set_{axis}scale")(kind, **how.get(kind, {}))
    if ax.get_xscale() == "symlog":
        ax.set_xlim(left=0.0)
    for limits, widen in ((curves.xlim, ax.set_xlim), (curves.ylim, ax.set_ylim)):
        if limits is not None:
            widen(*limits)
    label_ticks(ax)
    if ax.get_xscale() == "linear" and all(np.all(x == np.round(x)) for x in given["x"]):
        ax.locator_params(axis="x", integer=True)
