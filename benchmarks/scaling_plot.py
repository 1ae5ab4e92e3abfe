"""Times against sizes, log-log, one panel a family of problems."""

import os
from pathlib import Path

# Seconds by panel, contestant and size.
Curves = dict[str, dict[str, dict[int, float]]]

# Okabe-Ito colours, told apart by colour-blind readers; within a library, markers and dashes tell.
COLOURS = {"immucond": "#0072B2", "torch": "#D55E00", "scipy": "#007a5a"}
OTHERS = "#000000"
MARKERS = ["o", "s", "^", "D", "v", "P"]
DASHES = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3))]

MOST = 6  # curves that one panel can show apart


def styles(panels: Curves) -> dict[str, dict[str, object]]:
    """The same look in every panel; ours thicker, and in front."""
    seen: dict[str, int] = {}
    result: dict[str, dict[str, object]] = {}
    for name in dict.fromkeys(name for curves in panels.values() for name in curves):
        library = next((key for key in COLOURS if key in name), "")
        i = seen[library] = seen.get(library, -1) + 1
        ours = name.startswith("immucond")
        result[name] = {
            "color": COLOURS.get(library, OTHERS),
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i % len(DASHES)],
            "linewidth": 2.4 if ours else 1.2,
            "markersize": 6.5 if ours else 5,
            "zorder": 3 if ours else 2,
        }
    return result


def families(panels: Curves) -> list[list[str]]:
    """Contestants row by row, at most `MOST` in one: ours, then each library beside our first."""
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    if len(names) <= MOST:
        return [names]
    ours = [name for name in names if name.startswith("immucond")]
    by_library: dict[str, list[str]] = {"immucond": ours[1:]}
    for name in (name for name in names if name not in ours):
        library = next((key for key in COLOURS if key in name), "immucond")
        by_library.setdefault(library, []).append(name)
    size = MOST - len(ours[:1])
    return [
        [*ours[:1], *chosen[i : i + size]]
        for chosen in by_library.values()
        for i in range(0, len(chosen), size)
    ]


def save_plot(
    panels: Curves, path: Path, *, xlabel: str = "size n",
    ylabel: str = "median time of one call, seconds",
) -> None:  # fmt: skip
    """Draw a column a panel and a row a family, and write the file whole or not at all."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    look, rows = styles(panels), families(panels)
    times = [t for curves in panels.values() for points in curves.values() for t in points.values()]
    limits = (0.5 * min(times), 2.0 * max(times))  # one scale in all rows
    with mpl.rc_context({"font.size": 10, "svg.hashsalt": "immucond", "svg.fonttype": "none"}):
        figure = Figure(figsize=(3.6 * len(panels) + 0.6, 4.0 * len(rows)), layout="constrained")
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, names in zip(parts, rows, strict=True):
            row = part.subplots(1, len(panels), sharey=True, squeeze=False)[0]
            lines = {}
            for ax, (panel, curves) in zip(row, panels.items(), strict=True):
                for name in names:
                    if points := sorted(curves.get(name, {}).items()):
                        (lines[name],) = ax.plot(*zip(*points, strict=True), **look[name])
                sizes = sorted({x for points in curves.values() for x in points})
                ax.set(xscale="log", yscale="log", ylim=limits, xlabel=xlabel or panel)
                ax.set_xticks(sizes, [str(x) for x in sizes])
                ax.minorticks_off()
                ax.grid(color="0.88")
                ax.set_axisbelow(True)
                if part is parts[0] and xlabel:
                    ax.set_title(panel)
            row[0].set_ylabel(ylabel)
            # From the slowest to the fastest at its largest size, as the curves end.
            order = sorted(lines, key=lambda name: lines[name].get_ydata()[-1], reverse=True)
            part.legend(
                [lines[name] for name in order], order, loc="outside lower center",
                ncols=2 if len(panels) > 1 else 1, frameon=False, handlelength=4,
            )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(draft, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})
    os.replace(draft, path)
