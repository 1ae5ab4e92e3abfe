"""What reports of experiments share: cells over several seeds, tables and the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from itertools import chain
from operator import getitem
from typing import Any

import numpy as np

from .._format import MARK, NOTE, brief, listed, marked, number, plain, reworded
from .._show import Table
from ..probing import LABELS, Effort
from ._methods import STEPS, Method
from ._units import Values

# ---- cells ----


def over_seeds(results: Sequence[Values], *path: str) -> tuple[float, float]:
    """Mean and standard deviation of a number over the seeds that did not fail."""
    numbers = [float(_at(values, path)) for values in finished(results)]
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
    return float(np.mean(numbers)), spread


def _at(values: Any, path: Sequence[str]) -> Any:
    return reduce(getitem, path, values)


def cell(results: Sequence[Values], *path: str) -> str:
    """Mean, and the standard deviation where it shows."""
    mean, spread = over_seeds(results, *path)
    return number(mean) if spread <= 0.001 * abs(mean) else f"{number(mean)} ± {number(spread)}"


def rir_cell(results: Sequence[Values], *path: str) -> str:
    """`cell` of the RIR of a report, marked where the harmful task got no harder."""
    i, rir = (over_seeds(results, *path, figure)[0] for figure in ("i", "rir"))
    return marked(cell(results, *path, "rir"), i, rir)


def felt_cell(results: Sequence[Values], rows: str, of: str = "rho", task: str = "harmful") -> str:
    """Cell of what a task's probe feels, before and after: its rho, or the loss "left"."""
    cells = [cell(results, "alignment", rows, task, when, of) for when in ("before", "after")]
    return " → ".join(dict.fromkeys(cells))


def eased(results: Sequence[Values], rows: str) -> bool:
    """Whether the RIR is above 1 and the harmful probe got easier all the same."""
    before, after = (
        over_seeds(results, "alignment", rows, "harmful", when, "left")[0]
        for when in ("before", "after")
    )
    return after < before and over_seeds(results, rows, "exact", "rir")[0] > 1.0


def left_after(curve: Mapping[str, Any], steps: int) -> float:
    """Share of the reducible loss that a curve leaves after so many steps, or at its end."""
    best = float(curve["best_loss"])
    loss = dict(zip(curve["step"], curve["loss"], strict=True)).get(steps, curve["loss"][-1])
    return max(0.0, float(loss) - best) / (float(curve.get("start_loss", 1.0)) - best)


def immunity_cells(results: Sequence[Values], key: str) -> list[str]:
    """Cells of (i), (ii) and RIR in the ridge and in the exact convention."""
    cells = []
    for convention in ("ridge", "exact"):
        cells += [cell(results, key, convention, figure) for figure in ("i", "ii")]
        cells.append(rir_cell(results, key, convention))
    return cells


def decoded(note: str, rows: Sequence[Sequence[str]]) -> str:
    """Return the note of a table, with what the mark means where a row has one."""
    return f"{note}\n{NOTE}" if any(MARK in text for row in rows for text in row) else note


def by_method(
    methods: Mapping[str, Method],
    units: Mapping[str, Sequence[Values]],
    cells: Callable[[str, list[Values]], Sequence[str]],
) -> list[list[str]]:
    """Lay out a row a method: its label, and its cells of what did not fail, or that all did."""
    return [
        [methods[name].label, *(cells(name, done) if (done := finished(results)) else ["failed"])]
        for name, results in units.items()
    ]


def remarked(
    note: str, methods: Mapping[str, Method], units: Mapping[str, Sequence[Values]]
) -> str:
    """Return a note with the `remarks` on all methods, a line each."""
    told = (remarks(methods[name].label, results) for name, results in units.items())
    return "\n".join([note, *chain(*told)])


def remarks(label: str, results: Sequence[Values]) -> list[str]:
    """Tell what failed and what was warned of."""
    told = [f"{label} failed: {v['failure']}." for v in results if "failure" in v]
    told += [f"{label}: {message}." for values in results for message in values["warnings"]]
    return list(dict.fromkeys(map(reworded, told)))


def finished(results: Sequence[Values]) -> list[Values]:
    """Seeds that reached an extractor."""
    return [values for values in results if "failure" not in values]


def first(units: Mapping[str, Sequence[Values]]) -> dict[str, Values]:
    """First finished seed of each method, without the methods that have none."""
    return {name: finished(results)[0] for name, results in units.items() if finished(results)}


def labelled(
    methods: Mapping[str, Method], values: Mapping[str, Values], key: str
) -> dict[str, Any]:
    """Value of a key by the labels of the methods whose results have it."""
    return {methods[name].label: found[key] for name, found in values.items() if key in found}


# ---- tables ----

_UNDOING = ("whitening", "lstsq")  # attackers that nothing slows

# Of `immunity_cells`; they are read in two groups.
IMMUNITY = ("(i)\nridge", "(ii)\nridge", "RIR\nridge", "(i)\nexact", "(ii)\nexact", "RIR\nexact")
IN_CONVENTIONS = (("ridge convention", 3), ("exact convention", 3))
RHO = (
    "rho: label alignment of the harmful task, before → after; the loss of stable gradient descent "
    "falls no faster than (1 - 2 rho)^(2 t). Not centred: the heads here have no intercept."
)
EASED = " †"
EASED_NOTE = (
    "†: the RIR is above 1, and yet the harmful probe got easier: less of its loss is left than "
    "before."
)
ON_SCALE = "as in the published code; it depends on the scale of theta"


def symbols(before: str = "the identity") -> str:
    """Say what a table's (i), (ii) and RIR are."""
    return (
        f"(i): kappa_H over that of {before}, large is immune. (ii): the same of kappa_P, small is "
        "easy. RIR = (i) / (ii)."
    )


def overview(
    methods: Mapping[str, Method], units: Mapping[str, Sequence[Values]], rows: str, told: str = ""
) -> Table:
    """Say what the attacker gets, what the primary task pays, what undoes it; then rho and RIR."""

    def cells(_: str, done: list[Values]) -> list[str]:
        attackers = done[0].get("attackers", {"attackers": {}})["attackers"]
        return [
            cell(done, "alignment", rows, "harmful", "after", "left"),
            cell(done, "loss", "held_out", "own") if "loss" in done[0] else "",
            cell(done, "alignment", rows, "primary", "after", "left"),
            *(_effort(attackers[a]["after"]) if a in attackers else "" for a in _UNDOING),
            felt_cell(done, rows),
            rir_cell(done, rows, "exact") + EASED * eased(done, rows),
        ]

    made = by_method(methods, units, cells)
    done = next(filter(None, map(finished, units.values())), [])
    if "identity" not in units and done:
        before = [cell(done, "alignment", rows, task, "before", "left")
                  for task in ("harmful", "primary")]  # fmt: skip
        made.insert(0, ["identity", before[0], "", before[1]])
    marked_rows = any(EASED in row[-1] for row in made)
    note = (
        f"loss left: share of the reducible loss after {STEPS} steps of gradient descent by "
        "1 / sigma_1. The more of the harmful one, the harder; the less of the primary one, the "
        "easier; that of the identity is before. Then the steps of who whitens the features or "
        f"solves for least squares: no map with an inverse slows those. {RHO} {told}"
    )
    return Table(
        "What the attacker gets, what the primary task pays, what undoes it",
        ("", "harmful\nloss left", "primary loss\nheld-out", "primary\nloss left", "whitened\n"
         "features", "least\nsquares", "rho\nharmful", "RIR\nexact"),
        made,
        decoded(f"{note}\n{EASED_NOTE}" if marked_rows else note, made),
        (("the attacker", 1), ("the primary task", 2), ("what undoes it", 2), ("measures", 2)),
    )  # fmt: skip


def parameters(methods: Mapping[str, Method]) -> Table:
    """Hyper-parameters, and where they come from."""
    rows = [
        [method.label, method.source, shown(method)]
        for method in methods.values()
        if method.source != "none"
    ]
    return Table(
        "Hyper-parameters",
        ("", "where from", "values"),
        rows,
        "published: those of the paper or its code; searched: chosen on training rows by --search; "
        "by hand: a few trials, or given.",
    )


def shown(method: Method) -> str:
    """Hyper-parameters as text."""
    return ", ".join(f"{name} = {listed(value)}" for name, value in method.parameters.items())


def norm_ratios(probed: Mapping[str, Mapping[str, Any]]) -> Table:
    """Show norm ratio and loss of gradient descent after 10, 100, ... steps, by method."""
    last = max(curve["step"][-1] for curves in probed.values() for curve in curves.values())
    marks = [10**k for k in range(1, 7) if 10**k <= last]
    rows: list[list[str]] = []
    for figure, title in (("norm_ratio", "norm ratio"), ("loss", "excess loss, relative to w = 0")):
        rows.append([title])
        for label, curves in probed.items():
            cells = []
            for task in ("primary", "harmful"):
                curve = curves[task]
                if curve["best_loss"] == 1.0:  # of that at w = 0
                    cells += ["-"] * len(marks)
                    continue
                at = dict(zip(curve["step"], curve[figure], strict=True))
                floor = curve["best_loss"] if figure == "loss" else 0.0
                cells += [number(max(0.0, at.get(t, curve[figure][-1]) - floor)) for t in marks]
            rows.append([label, *cells])
    return Table(
        "Gradient descent with exact line search, after t steps",
        ("", *(f"{task}\n{t:,}" for task in ("primary", "harmful") for t in marks)),
        rows,
        "norm ratio: distance of the head to the best one, over that at w = 0, after t steps. "
        "Where a descent arrived before t, its value at its end; -: nothing to learn. "
        "Immunized is: slower than the identity on the harmful task, faster on the primary one.",
        (("primary task", len(marks)), ("harmful task", len(marks))),
    )


def attackers(compared: Mapping[str, Mapping[str, Any]], targets: str = "") -> Table:
    """Tell what each attacker needs after each method, as ``probing.compare`` found."""
    some = next(iter(compared.values()))
    rows = []
    for attacker in some["attackers"]:
        efforts = [told["attackers"][attacker]["after"] for told in compared.values()]
        rows.append([LABELS[attacker], *map(_effort, efforts)])
    rows.append(["kappa", *(number(float(c["kappa"]["after"])) for c in compared.values())])
    rows.append(
        ["label energy in slow directions",
         *(f"{c['slow_share']['after']:.2%}" for c in compared.values())]
    )  # fmt: skip
    return Table(
        f"What immunity is worth: steps to within {some['tolerance']:.0%} of the best harmful loss",
        ("attacker", *compared),
        rows,
        "> : not reached; in brackets how far the loss is above the best, relative to it. "
        f"kappa binds unpreconditioned first-order methods, not a least-squares solve. {targets}",
    )


def _effort(effort: Mapping[str, Any]) -> str:
    if effort["steps"] is not None:
        return str(Effort(**effort))
    return f"> {effort['taken']:,} ({brief(float(effort['above']), 2)})"


# ---- the record ----


def record(
    result: Any,
    command: str,
    versions: Mapping[str, str],
    conventions: Mapping[str, str],
    units: Callable[[str], Mapping[str, Any]],
    **own: Any,
) -> dict[str, Any]:
    """Every number of a run as plain Python values; an infinite one is the string "inf".

    Parameters
    ----------
    result
        With ``settings``, and ``methods`` by name.
    command, versions, conventions
        What ran, and what its condition numbers are.
    units : callable
        Results of the method of a name, by what they are called.
    **own
        What else this experiment records.
    """
    numbers: dict[str, Any] = plain(
        {
            "command": command,
            "versions": versions,
            "conventions": conventions,
            "settings": {**asdict(result.settings), "data_dir": None},
            **own,
            "methods": {
                name: {**asdict(method), **units(name)} for name, method in result.methods.items()
            },
        }
    )
    return numbers


def limits_as_dict(limits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return limits by name, by rows, as :func:`record` takes them."""
    return {rows: {name: asdict(of[name]) for name in of} for rows, of in limits.items()}
