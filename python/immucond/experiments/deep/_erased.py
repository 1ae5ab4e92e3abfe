"""What ``immucond erase`` is asked, and what it came to: table, plot and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._format import number
from ..._show import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Table,
    legend_below,
    print_style,
)
from ...deep import LeakProfile
from ._release import Measured, ReleaseSettings
from ._unaided import Unaided

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERASING = {
    "erase": "erasure",
    "leace-erase": "LEACE, then erasure",
    "primary": "erasure by primary rows alone",
    "pca": "principal components",
}
METHODS = ERASING | {  # the others are those of `immucond.deep.unlearn`
    "leace": "LEACE",
    "graddiff": "gradient ascent",
    "npo": "NPO",
    "tar": "like TAR",
    "collapse": "collapsed features",
    "cir": "like CIR",
    "repselect": "like RepSelect",
}
_NOTE = (
    "primary: on the rows that chose, ± the standard error of what is lost; fresh: on others. "
    "ceiling: of the leak profile, the largest held-out accuracy of linear probes on the harmful "
    "task over all cuts, ± its standard error, trained on rows that the defender did not have. "
    "directions: of all layers' outputs together, where a method tells them. seconds: of making "
    "it, in the run that did."
)
_COLOURS = (BLUE, GREEN, VERMILION, PURPLE, ORANGE)
_STYLES = {name: (_COLOURS[i % 5], "os^Dv<>Xphd"[i]) for i, name in enumerate(METHODS)}


@dataclass(frozen=True, kw_only=True)
class EraseSettings(ReleaseSettings):
    """What a run depends on; the defaults are those of ``immucond erase``.

    Attributes
    ----------
    primary, harmful : str
        As in `Settings`.
    tols : tuple of float
        How much of the primary accuracy may be lost, each for a network of its own.
    methods : tuple of str
        Of `METHODS`.
    metric : {"fisher", "gram"}
        As in `immucond.deep.erase`, and so are rounds and recover.
    rounds, recover : int
    steps, trials : int
        Of each of the other methods, as in `immucond.deep.unlearn`.
    transfer : str or None
        Another benign task, of which the network's features are probed too.
    test_size : int or None
        Most held-out rows of each task; of the primary one half chooses, half is fresh.
    untrained : bool
        Whether the same network is profiled with weights drawn anew.
    """

    primary: str
    harmful: str
    tols: tuple[float, ...] = (0.003, 0.01, 0.03)
    methods: tuple[str, ...] = ("erase",)
    metric: str = "fisher"
    rounds: int = 1
    recover: int = 0
    steps: int = 200
    trials: int = 8
    transfer: str | None = None
    test_size: int | None = 2000
    untrained: bool = True


@dataclass(frozen=True)
class Point:
    """One network of the trade-off."""

    method: str
    tol: float
    kept: tuple[int, int]
    before: float
    chosen: float
    lost_error: float | None
    fresh: float
    leak: LeakProfile
    transfer: float | None
    seconds: float


@dataclass(frozen=True)
class Erased(Measured):
    """The network that was given, and those that were made of it."""

    settings: EraseSettings
    before: float
    leak: LeakProfile
    unaided: Unaided
    transfer: float | None
    points: list[Point]
    failures: dict[str, str]

    def table(self) -> Table:
        """Return the network that was given, and each that was made."""
        chosen = f"{self.points[0].before:.2%}"
        rows = [["as it is", "", "", chosen, f"{self.before:.2%}", *_read(self), ""]]
        rows += [
            [METHODS[p.method], number(p.tol), _left(*p.kept),
             f"{p.chosen:.2%} ± {p.lost_error or 0.0:.2%}", f"{p.fresh:.2%}", *_read(p),
             f"{p.seconds:.0f}"]
            for p in self.points
        ]  # fmt: skip
        benign = self.settings.transfer
        probed = "" if benign is None else (
            f"transfer: what a linear probe on what enters the head gets of {benign}. "
        )  # fmt: skip
        counts = ", ".join(f"{n:,} {name.replace('_', '-')}" for name, n in self.leak.rows.items())
        none = (f" No network by {n}: {why.rstrip('.')}." for n, why in self.failures.items())
        return Table(
            f"{self.settings.harmful} erased, {self.settings.primary} kept",
            (
                "",
                "tol",
                "directions",
                "primary",
                "fresh",
                "ceiling",
                "at",
                *(["transfer"] if benign else []),
                "seconds",
            ),
            rows,
            f"{_NOTE} {probed}Untrained: {self._untrained()}; {self.unaided}; "
            f"{self.leak.majority:.1%} by a constant guess. Rows of the profile: {counts}."
            + "".join(none),
        )

    def _untrained(self) -> str:
        found = self.leak.untrained
        return f"{max(c.accuracy for c in found.values()):.1%}" if found else "not measured"

    def figure(self) -> Figure:
        """Draw the ceiling against the fresh primary accuracy."""
        with print_style():
            from matplotlib.figure import Figure

            methods = list(dict.fromkeys(p.method for p in self.points))
            more = max(0, len(methods) - 3)  # than fit into a legend of three columns
            figure = Figure(figsize=(6.0, 4.6 + 0.15 * more), layout="constrained")
            ax = figure.subplots()
            ax.plot(100.0 * self.before, 100.0 * self.leak.ceiling, "k*", label="as it is")
            for method in methods:
                mine = [p for p in self.points if p.method == method]
                colour, marker = _STYLES[method]
                ax.errorbar(
                    [100.0 * p.fresh for p in mine], [100.0 * p.leak.ceiling for p in mine],
                    yerr=[100.0 * p.leak.cuts[p.leak.where].standard_error for p in mine],
                    color=colour, marker=marker, capsize=2, markerfacecolor="none",
                    label=METHODS[method],
                )  # fmt: skip
            if self.leak.untrained:
                untrained = max(c.accuracy for c in self.leak.untrained.values())
                ax.axhline(100.0 * untrained, color=SKY, linestyle="--", label="untrained")
            ax.axhline(
                100.0 * self.unaided.least_squares, color=BLACK, linestyle="-.", label="no network"
            )
            ax.axhline(
                100.0 * self.leak.majority, color=BLACK, linestyle=":", label="constant guess"
            )
            ax.set_xlabel("primary accuracy on fresh rows, %")
            ax.set_ylabel("harmful task: ceiling over all cuts, %")
            ax.invert_xaxis()
            legend_below(ax, 2 if more else 3)
            return figure

    def numbers(self) -> dict[str, Any]:
        """Return what was measured."""
        return {
            "before": {
                "fresh": self.before,
                "leak": self.leak.as_dict(),
                "transfer": self.transfer,
            },
            "unaided": self.unaided._asdict(),
            "points": [{**vars(p), "leak": p.leak.as_dict()} for p in self.points],
            "failures": self.failures,
        }


def _left(kept: int, width: int) -> str:
    return f"{kept:,} of {width:,}" if width else ""


def _read(of: Erased | Point) -> list[str]:
    leak, error = of.leak, of.leak.cuts[of.leak.where].standard_error
    transfer = [] if of.transfer is None else [f"{of.transfer:.1%}"]
    return [f"{leak.ceiling:.1%} ± {error:.1%}", leak.where, *transfer]
