"""What erasure came to: a network, and the curve of what it cost against what is left to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from ..._display import Columns, Curves, Line, Plotted
from ..._format import number, plain
from ..._show import aligned
from .._leak import LeakProfile
from ._utility import lost_of


@dataclass(frozen=True)
class Stage:
    """A network on the way from the one that was given, or a trial of `unlearn`.

    Attributes
    ----------
    price : float
        Of `immucond.linear.erasure`, in units of what a layer is worth; 0 at the start.
    kept : int
        Directions that are left, of all layers together.
    cost : float
        What the outputs change by, to first order, summed over the layers, in units of what a layer
        is worth; of this stage alone.
    primary : float
        As `EraseResult.primary`.
    ceiling : float or None
        Of the leak profile, and the cut where most is read.
    where : str or None
    settings : dict of str, or None
        Of a trial; its ceiling is None where it loses too much.
    """

    price: float
    kept: int
    cost: float
    primary: float
    ceiling: float | None = None
    where: str | None = None
    settings: Mapping[str, Any] | None = None

    def told(self) -> tuple[str, ...]:
        """Its settings as text; of the network that was given there are none."""
        if self.settings is None:
            return ()
        return tuple(number(x) if isinstance(x, float) else str(x) for x in self.settings.values())


@dataclass(frozen=True, repr=False)
class EraseResult(Plotted):
    """A network without what its primary task does not use; ``print`` it for a table.

    Attributes
    ----------
    model : nn.Module
        A copy, with nothing inserted: the network's own code loads it.
    method : str
        What was done: "erase", "pca", or the method of `unlearn`.
    ranks : dict of str to (int, int)
        Directions that are left of each layer's output, and features that it has; empty where
        weights were trained.
    bound : float
        Least sum of costs, to first order, of any maps of these ranks, in the last stage; 0 for
        `unlearn`.
    measure : {"accuracy", "logits"}
        What `primary` is: the accuracy on the held-out rows, or 1 less the logits' relative change.
    primary_before, primary : float
    lost_error : float or None
        Standard error of `lost`, row by row beside the network that was given; None of logits.
        That the same rows chose is not in it: of a dozen trials the one that is taken is lucky.
    rows : int
        Held-out primary rows.
    leak_before, leak : LeakProfile or None
        Of the harmful task, where its held-out rows were given.
    curve : tuple of Stage
        The trade-off, from the network that was given to the one that was made; or, of `unlearn`,
        the network that was given and all trials.
    skipped : dict of str to str
        Layers with weights that were left alone, and why.
    """

    model: nn.Module = field(repr=False)
    method: str
    ranks: dict[str, tuple[int, int]]
    bound: float
    measure: Literal["accuracy", "logits"]
    primary_before: float
    primary: float
    lost_error: float | None
    rows: int
    leak_before: LeakProfile | None
    leak: LeakProfile | None
    curve: tuple[Stage, ...]
    skipped: Mapping[str, str]

    @property
    def lost(self) -> float:
        """What the primary task has lost."""
        return lost_of(self.primary_before, self.primary, self.rows, self.measure)

    @property
    def kept(self) -> tuple[int, int]:
        """Directions that are left, and features, of all layers together."""
        return sum(r for r, _ in self.ranks.values()), sum(d for _, d in self.ranks.values())

    def __repr__(self) -> str:
        left, of = self.kept
        read = ""
        if self.leak is not None and self.leak_before is not None:
            read = f", ceiling {self.leak_before.ceiling:.1%} -> {self.leak.ceiling:.1%}"
        ranks = f", {left:,} of {of:,} directions left" if self.ranks else ""
        return (
            f"EraseResult({self.method}: primary {self.measure} {self.primary_before:.2%} -> "
            f"{self.primary:.2%}{read}{ranks})"
        )

    def __str__(self) -> str:
        names = next((tuple(s.settings) for s in self.curve if s.settings is not None), None)
        heads = ("price", "directions", "cost") if names is None else names
        rows = [[*heads, f"primary {self.measure}", "ceiling", "at"]]
        for s in self.curve:
            first = [number(s.price), f"{s.kept:,}", number(s.cost)]
            if names is not None:
                first = list(s.told() or [""] * len(names))
            ceiling = "" if s.ceiling is None else f"{s.ceiling:.1%}"
            rows.append([*first, f"{s.primary:.2%}", ceiling, s.where or ""])
        told = len(heads) + (1 if self.leak is None else 3)
        lines = aligned([row[:told] for row in rows], left=())
        error = "" if self.lost_error is None else f" ± {self.lost_error:.2%}"
        lines.append(f"lost {self.lost:.2%}{error} of {self.rows:,} held-out primary rows")
        if self.skipped:
            lines.append(f"left alone: {', '.join(self.skipped)}")
        return "\n".join(lines)

    def _columns(self) -> Columns:
        names = next((tuple(s.settings) for s in self.curve if s.settings is not None), ())
        return {
            **{name: [s.settings and s.settings[name] for s in self.curve] for name in names},
            **{
                name: [getattr(stage, name) for stage in self.curve]
                for name in ("price", "kept", "cost", "primary", "ceiling", "where")
            },
        }

    def _curves(self) -> Curves:
        """Draw what is left to read by what the primary task has; that alone of no harmful rows."""
        what = {"accuracy": "primary accuracy, held-out rows, %", "logits": "primary logits, %"}
        style = {"marker": "o", "markerfacecolor": "none"}
        if self.leak is None:
            kept, primary = ([getattr(s, x) for s in self.curve] for x in ("kept", "primary"))
            line = Line("stages", kept, [100.0 * x for x in primary], style=style)
            return Curves("directions that are left", what[self.measure], [line])
        measured = [(s.primary, s.ceiling) for s in self.curve if s.ceiling is not None]
        x, y = ([100.0 * value for value in values] for values in zip(*measured, strict=True))
        return Curves(
            what[self.measure],
            "harmful task: ceiling over all cuts, %",
            [Line("stages", x, y, style=style | ({} if self.ranks else {"linestyle": "none"}))],
            {"constant guess": 100.0 * self.leak.majority},
        )

    def as_dict(self) -> dict[str, Any]:
        """Every number as plain Python values, without the network."""
        names = ("method", "bound", "measure", "primary_before", "primary", "lost",
                 "lost_error", "rows")  # fmt: skip
        told: dict[str, Any] = plain({name: getattr(self, name) for name in names})
        return {
            **told,
            "ranks": {name: list(pair) for name, pair in self.ranks.items()},
            "curve": plain([asdict(stage) for stage in self.curve]),
            "skipped": dict(self.skipped),
            "leak_before": None if self.leak_before is None else self.leak_before.as_dict(),
            "leak": None if self.leak is None else self.leak.as_dict(),
        }
