"""The table of a run: medians and ratios by group, goals, and where a peer is faster."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from scaling_plot import Curves

FLOOR = "floor:"
PAIRED = ("goals", "limits")  # of a group: by ours and a peer
LEGEND = "! beside a median: other processes took over 5% of the machine meanwhile."


@dataclass(frozen=True)
class Timing:
    """One contestant's median and interquartile range, in seconds."""

    median: float
    spread: float
    disturbed: bool

    def __str__(self) -> str:
        mark = " !" if self.disturbed else ""
        return f"{duration(self.median)} ±{50 * self.spread / self.median:.0f}%{mark}"


def duration(seconds: float) -> str:
    unit, factor = next(
        (u, f) for u, f in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or f == 1e6
    )
    return f"{seconds * factor:.3g} {unit}"


@dataclass
class Group:
    """Everything measured on one problem."""

    ours: dict[str, Timing] = field(default_factory=dict)
    peers: dict[str, Timing] = field(default_factory=dict)
    goals: dict[tuple[str, str], float] = field(default_factory=dict)
    limits: dict[tuple[str, str], float] = field(default_factory=dict)  # seconds
    memory: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # MiB measured, MiB allowed
    left_out: dict[str, str] = field(default_factory=dict)  # peers, and why
    at: tuple[str, str, int] | None = None  # figure, panel and abscissa, where it has a place

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a file keeps them; what goes by a pair of names is a list of them."""
        pairs = {of: [[*pair, value] for pair, value in getattr(self, of).items()] for of in PAIRED}
        return {**asdict(self), **pairs}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "Group":
        """What `as_dict` told."""
        timed = {
            of: {name: Timing(**timing) for name, timing in told[of].items()}
            for of in ("ours", "peers")
        }
        pairs = {of: {(ours, peer): value for ours, peer, value in told[of]} for of in PAIRED}
        memory = {name: (used, allowed) for name, (used, allowed) in told["memory"].items()}
        at = None if told["at"] is None else tuple(told["at"])
        return cls(**timed, **pairs, memory=memory, left_out=told["left_out"], at=at)

    def rows(self, name: str, *, only_goals: bool = False) -> Iterator[tuple[str, ...]]:
        for ours, mine in self.ours.items():
            for peer, theirs in self.peers.items():
                ratio = theirs.median / mine.median
                goal = self.goals.get((ours, peer))
                if only_goals and goal is None:
                    continue
                yield (
                    name,
                    ours,
                    peer,
                    str(mine),
                    str(theirs),
                    f"{ratio:.2f}",
                    "" if goal is None else f"≥ {goal:.3g}",
                    "" if goal is None else met(ratio >= goal),
                )
        for (ours, peer), seconds in self.limits.items():
            if ours in self.ours and (not peer or peer in self.peers):
                over = self.ours[ours].median - (self.peers[peer].median if peer else 0.0)
                yield (
                    name,
                    ours,
                    f"(over {peer})" if peer else "(time)",
                    duration(over),
                    "",
                    "",
                    f"≤ {duration(seconds)}",
                    met(over <= seconds),
                )
        for ours, (used, allowed) in self.memory.items():
            goal_text = f"≤ {allowed:g} MiB"
            yield (
                name,
                ours,
                "(extra memory)",
                f"{used:.0f} MiB",
                "",
                "",
                goal_text,
                met(used <= allowed),
            )


HEAD = ("group", "ours", "peer", "our median", "peer median", "ratio", "goal", "met")


def met(yes: bool) -> str:
    return "yes" if yes else "**no**"


def curves(groups: dict[str, Group]) -> dict[str, Curves]:
    """Medians by figure, panel, contestant and abscissa, of the groups that have a place."""
    figures: dict[str, Curves] = {}
    for group in groups.values():
        if group.at is not None:
            figure, panel, x = group.at
            curves = figures.setdefault(figure, {}).setdefault(panel, {})
            for name, timing in (group.ours | group.peers).items():
                curves.setdefault(name, {})[x] = timing.median
    return figures


def lost(groups: dict[str, Group]) -> list[str]:
    """Every row where a peer that does the same job is faster, the worst first."""
    behind, count = [], 0
    for name, group in groups.items():
        for ours, mine in group.ours.items():
            for peer, theirs in group.peers.items():
                if peer.startswith(FLOOR) or "immucond" in peer:
                    continue
                count += 1
                ratio = theirs.median / mine.median
                if ratio < 1.0:
                    behind.append((ratio, f"- {ratio:.2f}: {name}, {ours} against {peer}"))
    if not behind:
        return [f"In none of {count} rows a peer is faster."]
    return [
        f"A peer is faster in {len(behind)} of {count} rows, by their ratios:",
        "",
        *(line for _, line in sorted(behind)),
    ]


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown(rows: list[tuple[str, ...]]) -> list[str]:
    body = [HEAD, ("---",) * 3 + ("---:",) * 3 + ("---",) * 2, *rows]
    return ["| " + " | ".join(row) + " |" for row in body]
