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


def save_plot(panels: Curves, path: Path) -> None:
    """Draw the panels, and write the file whole or not at all."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    look = styles(panels)
    lines = {}
    with mpl.rc_context({"font.size": 10, "svg.hashsalt": "immucond"}):
        figure = Figure(figsize=(4.2 * len(panels) + 2.6, 5.0), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (panel, curves) in zip(row, panels.items(), strict=True):
            for name, points in curves.items():
                (lines[name],) = ax.plot(*zip(*sorted(points.items()), strict=True), **look[name])
            sizes = sorted({x for points in curves.values() for x in points})
            ax.set(xscale="log", yscale="log", title=panel, xlabel="size n")
            ax.set_xticks(sizes, [str(x) for x in sizes])
            ax.minorticks_off()
            ax.grid(color="0.88")
            ax.set_axisbelow(True)
        row[0].set_ylabel("median time of one call, seconds")
        # From the slowest to the fastest at its largest size, as the curves end.
        names = sorted(lines, key=lambda name: lines[name].get_ydata()[-1], reverse=True)
        figure.legend(
            [lines[name] for name in names],
            names,
            loc="outside right center",
            frameon=False,
            handlelength=4,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(draft, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})
    os.replace(draft, path)
