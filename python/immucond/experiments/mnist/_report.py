"""The result as tables, as figures, the 10 x 10 grids among them, and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._format import MARK, brief, not_harder, number
from ..._show import Table, print_style
from .._curves import curves
from .._methods import CONVENTIONS, RIDGE, STEPS
from .._report import (
    IMMUNITY,
    IN_CONVENTIONS,
    ON_SCALE,
    RHO,
    attackers,
    cell,
    decoded,
    felt_cell,
    finished,
    immunity_cells,
    labelled,
    norm_ratios,
    over_seeds,
    parameters,
    record,
    remarks,
    symbols,
)
from ._experiment import Pair, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_ROWS = (("held_out", "held-out images"), ("training", "training images"))
# Smallest and largest log RIR, and pairs with a positive one, in the paper; None: not told.
_PAPER = {"algorithm1": ("2.2", "6.3", "90 of 90"), "opt-kappa": ("", "", "58 of 90")}


def log_rir(result: Result, method: str, rows: str, convention: str) -> dict[Pair, float]:
    """log10 of the mean RIR over seeds, by pair; pairs where the method failed are left out."""
    found = {}
    for pair in result.settings.pairs:
        results = result.units[method, pair]
        if finished(results):
            found[pair] = math.log10(over_seeds(results, rows, convention, "rir")[0])
    return found


def not_harder_in(result: Result, method: str, rows: str, convention: str) -> set[Pair]:
    """Pairs whose harmful task the method made easier, or no harder, whatever the RIR."""
    return {
        pair
        for pair, log in log_rir(result, method, rows, convention).items()
        if not_harder(over_seeds(result.units[method, pair], rows, convention, "i")[0], 10.0**log)
    }


def of_probes(
    result: Result, method: str, of: str, rows: str = "training", task: str = "harmful"
) -> dict[Pair, tuple[float, ...]]:
    """Rho or the loss "left", before and after, by pair; without pairs where the method failed."""
    return {
        pair: tuple(
            over_seeds(result.units[method, pair], "alignment", rows, task, when, of)[0]
            for when in ("before", "after")
        )
        for pair in result.settings.pairs
        if finished(result.units[method, pair])
    }


def log_slowing(result: Result, method: str, rows: str) -> dict[Pair, float]:
    """log10 of rho before over rho after, by pair: above 0, the labels moved to slower directions.

    Infinite where features see nothing of the labels any more, rho 0.
    """
    told = of_probes(result, method, "rho", rows)
    return {p: math.log10(was / rho) if rho > 0.0 else math.inf for p, (was, rho) in told.items()}


def _overview(result: Result) -> Table:
    total = len(result.settings.pairs)
    rows = []
    for name, method in result.methods.items():
        left = of_probes(result, name, "left")
        if not left:
            rows.append([method.label, "failed"])
            continue
        harder = sum(after > before for before, after in left.values())
        rir = log_rir(result, name, "training", "exact")
        deceived = sum(after < left[pair][0] and rir[pair] > 0 for pair, (_, after) in left.items())
        rows.append(
            [method.label, _medians(left), f"{harder} of {total}",
             _medians(of_probes(result, name, "left", task="primary")),
             *(_medians(of_probes(result, name, "rho", key)) for key in ("training", "held_out")),
             f"{np.median([*rir.values()]):.2f}", f"{deceived} of {total}"]
        )  # fmt: skip
    return Table(
        "MNIST: what the attacker gets, what the primary task pays, and what the measures say",
        ("", "harmful\nloss left", "harder\nin", "primary\nloss left", "rho\ntraining",
         "rho\nheld-out", "log RIR\nexact", "RIR > 1, and\nprobe easier"),
        rows,
        f"Medians over {_pairs_of(total)}, before → after. loss left: share of the reducible loss "
        f"of the label 1 after {STEPS} steps of gradient descent by 1 / sigma_1; harder: more of "
        "it. Whitening the features, or solving for least squares, undoes every method that has an "
        "inverse: see the attackers on the first pair. "
        f"{RHO} Last column: pairs for which the RIR says harder, and the probe says easier.",
        (("the attacker", 2), ("the primary task", 1), ("alignment", 2), ("RIR", 2)),
    )  # fmt: skip


def _medians(told: dict[Pair, tuple[float, ...]]) -> str:
    medians = np.median([*told.values()], axis=0)
    return " → ".join(dict.fromkeys(map(number, medians.tolist())))


def tables(result: Result) -> list[Table]:
    """All tables of a run."""
    made = [_overview(result), _immunity(result), _limits(result)]
    if len(result.settings.pairs) <= 6:
        made.append(_pairs(result))
    made.append(parameters(result.methods))
    if result.probed:
        made.append(norm_ratios(labelled(result.methods, result.probed, "curves")))
        made.append(
            attackers(
                labelled(result.methods, result.probed, "attackers"),
                "Targets: signs drawn at random, which no direction favours; the labels of the "
                "task itself are all 1, and a pixel that is never lit fits them exactly.",
            )
        )
    if len(result.settings.pairs) > 6:
        made += _grids(result)
    return made


def _immunity(result: Result) -> Table:
    total = len(result.settings.pairs)
    rows: list[list[str]] = []
    told = Counter(
        line
        for name, method in result.methods.items()
        for pair in result.settings.pairs
        for line in remarks(method.label, result.units[name, pair])
    )
    for key, label in _ROWS:
        for convention in ("ridge", "exact"):
            rows.append([f"{label}, {convention}"])
            for name, method in result.methods.items():
                if name == "identity":
                    continue
                rows.append([method.label, *_line(result, name, key, convention)])
    note = (
        f"Over {_pairs_of(total)} of digits (primary, harmful), {result.settings.protocol}. "
        f"log: to base 10; the paper does not name its base, and signs do not depend on it.\n"
        "(i): kappa_H over that of the identity. (ii): the same of kappa_P. RIR = (i) / (ii).\n"
        f"ridge: kappa of H + {brief(RIDGE)} I, {ON_SCALE}. exact: over the nonzero eigenvalues.\n"
    )
    return Table(
        "MNIST: immunity",
        ("", "log RIR > 0", "(i) > 1", "(ii) < 1", "log RIR\nleast", "log RIR\nmedian",
         "log RIR\nlargest", "size of theta\nmedian", "paper\n> 0", "paper\nleast",
         "paper\nlargest"),
        rows,
        decoded(
            note + "\n".join(f"{line} ({n} of {_pairs_of(total, '')})" for line, n in told.items()),
            rows,
        ),
        (("signs and log RIR", 6), ("size, and the paper", 4)),
    )  # fmt: skip


def _pairs_of(count: int, kind: str = "ordered ") -> str:
    return f"{count} {kind}pair{'s' if count != 1 else ''}"


def _line(result: Result, name: str, key: str, convention: str) -> Iterator[str]:
    found = log_rir(result, name, key, convention)
    if not found:
        yield "failed"
        return
    eased = not_harder_in(result, name, key, convention)
    order = sorted(found, key=lambda pair: found[pair])
    values = np.array([found[pair] for pair in order])
    middle = order[(len(order) - 1) // 2 : len(order) // 2 + 1]
    done = [finished(r) for (n, _), r in result.units.items() if n == name and finished(r)]
    total = len(result.settings.pairs)
    yield f"{int((values > 0).sum())} of {total}"
    for figure, sign in (("i", 1), ("ii", -1)):
        right = [sign * math.log(over_seeds(r, key, convention, figure)[0]) > 0 for r in done]
        yield f"{sum(right)} of {total}"
    for pairs in (order[:1], middle, order[-1:]):
        yield f"{np.mean([found[p] for p in pairs]):.2f}" + MARK * any(p in eased for p in pairs)
    yield number(float(np.median([over_seeds(r, "size")[0] for r in done])))
    paper = (
        _PAPER.get(name, ("", "", "")) if (key, convention) == ("training", "ridge") else ("",) * 3
    )
    yield from (paper[2], paper[0], paper[1])


def _limits(result: Result) -> Table:
    rows = []
    for name in ("exact", "delta"):
        values = np.array([float(result.limits[p][name]["rir"]) for p in result.settings.pairs])
        finite = values[np.isfinite(values)]
        spread = (
            [f"{f(np.log10(finite)):.2f}" for f in (np.min, np.median, np.max)]
            if finite.size
            else ["inf"] * 3
        )
        rows.append([name, *spread, f"{int(np.isinf(values).sum())} of {values.size}"])
    noise = result.settings.noise
    return Table(
        "Limit of log RIR, exact convention, training images",
        ("", "least", "median", "largest", "infinite"),
        rows,
        f"delta: noise of variance {brief(noise, 3)} in every normalized pixel, what rounding to "
        "256 grey levels adds by default; times the number of images it is added to the diagonals. "
        "Where pixels are never lit in any primary image and are in harmful ones, the exact limit "
        "is infinite.",
    )


def _pairs(result: Result) -> Table:
    rows = []
    for pair in result.settings.pairs:
        for key, label in _ROWS:
            rows.append([f"primary {pair[0]}, harmful {pair[1]}, {label}"])
            for name, method in result.methods.items():
                results = finished(result.units[name, pair])
                if not results:
                    rows.append([method.label, "failed"])
                    continue
                cells = [felt_cell(results, key), *immunity_cells(results, key)]
                rows.append([method.label, *cells, cell(results, "seconds") + " s"])
    return Table(
        "MNIST: pair by pair",
        ("", "rho\nharmful", *IMMUNITY, "time"),
        rows,
        decoded(
            f"{RHO} {symbols()} "
            f"ridge: kappa of H + {brief(RIDGE)} I. exact: over the nonzero eigenvalues.",
            rows,
        ),
        (("alignment", 1), *IN_CONVENTIONS, ("time", 1)),
    )


def _grids(result: Result) -> list[Table]:
    made = []
    for name, method in result.methods.items():
        if name == "identity":
            continue
        made.append(
            _grid_table(
                f"log rho before / rho after, held-out images: {method.label}",
                log_slowing(result, name, "held_out"), set(), "above 0 the labels got slower.",
            )
        )  # fmt: skip
        made += [
            _grid_table(
                f"log RIR on training images, {convention} convention: {method.label}",
                log_rir(result, name, "training", convention),
                not_harder_in(result, name, "training", convention),
                "above 0 the pair is immunized, by its condition numbers.",
            )
            for convention in ("ridge", "exact")
        ]
    return made


def _grid_table(title: str, values: dict[Pair, float], eased: set[Pair], told: str) -> Table:
    rows = [
        [f"P = {P}",
         *(f"{values[P, H]:.2f}" + MARK * ((P, H) in eased) if (P, H) in values else ""
           for H in range(10))]
        for P in range(10)
    ]  # fmt: skip
    note = f"P: the primary digit, H: the harmful one. log: to base 10; {told}"
    return Table(title, ("", *(f"H = {H}" for H in range(10))), rows, decoded(note, rows))


# ---- figures ----

_TITLES = (("ridge", "H + 1e-6 I, as published"), ("exact", "nonzero eigenvalues"))


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name without suffix, ready for ``savefig``."""
    P, H = result.settings.pairs[0]
    names = [name for name in result.methods if name != "identity"]
    made = {f"grid-{name}": _grid(result, name) for name in names}
    made |= {f"rho-{name}": _rho_grid(result, name) for name in names}
    if result.probed:
        drawn = {name: values["curves"] for name, values in result.probed.items()}
        titles = {"primary": f"primary task: digit {P}", "harmful": f"harmful task: digit {H}"}
        made["curves"] = curves(result.methods, drawn, titles)
    return made


def _grid(result: Result, name: str) -> Figure:
    """Log RIR by pair in both conventions."""
    found = {title: log_rir(result, name, "training", key) for key, title in _TITLES}
    eased = {title: not_harder_in(result, name, "training", key) for key, title in _TITLES}
    what, label = "log$_{10}$ RIR", result.methods[name].label
    return _grids_of(result, found, eased, what, f"{what} on training images, {label}")


def _rho_grid(result: Result, name: str) -> Figure:
    """Log of what rho was over what it is by pair, where it was made and on images held out."""
    found = {title: log_slowing(result, name, key) for key, title in _ROWS[::-1]}
    what = r"log$_{10}$ $\rho$ before / $\rho$ after"
    title = f"{what} of the harmful labels, {result.methods[name].label}"
    return _grids_of(result, found, {}, what, title)


def _grids_of(
    result: Result,
    found: dict[str, dict[Pair, float]],
    eased: dict[str, set[Pair]],
    what: str,
    heading: str,
) -> Figure:
    """Two grids by title, of the digits that took part, on one scale."""
    pairs = result.settings.pairs
    every = (abs(value) for values in found.values() for value in values.values())
    largest = max(filter(math.isfinite, every), default=1.0)
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 5.1), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        marks = set()
        for ax, (title, values) in zip(panels, found.items(), strict=True):
            here, bold = eased.get(title, set()), max(1.0, float(np.ceil(largest)))
            picture = _draw(ax, values, pairs, here, bold)
            ax.set_title(title)
            ax.set_xlabel("harmful digit")
            if here:
                marks.add("! : (i) is not above 1, the harmful condition number did not grow")
            if len(values) < len(pairs):
                marks.add("x : failed")
        panels[0].set_ylabel("primary digit")
        figure.colorbar(picture, ax=panels, label=what, shrink=0.85)
        figure.suptitle("\n".join([heading, "; ".join(sorted(marks))]).strip(), fontsize=11)
        return figure


def _draw(
    ax: Axes, values: dict[Pair, float], pairs: tuple[Pair, ...], eased: set[Pair], bold: float
) -> AxesImage:
    """Blue where positive, red where not; the sign in print tells without colours."""
    rows, columns = (sorted(set(digits)) for digits in zip(*pairs, strict=True))
    shown = np.full((len(rows), len(columns)), np.nan)
    for (P, H), value in values.items():
        shown[rows.index(P), columns.index(H)] = min(value, bold)  # what is infinite has no colour
    picture = ax.imshow(shown, cmap="RdBu", vmin=-bold, vmax=bold)
    for P, H in pairs:
        value = values.get((P, H), np.nan)
        colour = "white" if abs(value) > 0.6 * bold else "black"
        # A value that rounds to 0 is told by its first digit: its sign counts.
        told = f"{value:.1f}" if abs(value) >= 0.05 else f"{value:.0e}".replace("e-0", "e-")
        told = "x" if np.isnan(value) else told + " !" * ((P, H) in eased)
        ax.text(
            columns.index(H), rows.index(P), told,
            ha="center", va="center", fontsize=7.5, color=colour,
        )  # fmt: skip
    ax.set_xticks(range(len(columns)), map(str, columns))
    ax.set_yticks(range(len(rows)), map(str, rows))
    ax.grid(False)
    return picture


# ---- the record ----


def as_json(result: Result, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every number of the run as plain Python values; an infinite one is the string "inf"."""
    pairs = {f"{P}-{H}": (P, H) for P, H in result.settings.pairs}

    def of_pairs(name: str) -> dict[str, Any]:
        return {"pairs": {told: result.units[name, pair] for told, pair in pairs.items()}}

    return record(
        result, command, versions, CONVENTIONS, of_pairs,
        source="OpenML" if result.source == "OpenML" else "files",
        fingerprint=result.fingerprint,
        images={str(digit): count for digit, count in result.counts.items()},
        limits={told: result.limits[pair] for told, pair in pairs.items()},
    )  # fmt: skip
