"""What reports of experiments share: cells over several seeds, tables, and the record of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np

from .._format import MARK, NOTE, brief, listed, marked, number, plain, reworded
from .._show import Table
from ..probing import LABELS
from ._methods import Method
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

# Of `immunity_cells`; they are read in two groups.
IMMUNITY = ("(i)\nridge", "(ii)\nridge", "RIR\nridge", "(i)\nexact", "(ii)\nexact", "RIR\nexact")
IN_CONVENTIONS = (("ridge convention", 3), ("exact convention", 3))
ON_SCALE = "as in the published code; it depends on the scale of theta"


def symbols(before: str = "the identity") -> str:
    """Say what a table's (i), (ii) and RIR are."""
    return (
        f"(i): kappa_H over that of {before}, large is immune. (ii): the same of kappa_P, small is "
        "easy. RIR = (i) / (ii)."
    )


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
                at = dict(zip(curve["step"], curve[figure], strict=True))
                floor = curve["best_loss"] if figure == "loss" else 0.0
                cells += [number(max(0.0, at.get(t, curve[figure][-1]) - floor)) for t in marks]
            rows.append([label, *cells])
    return Table(
        "Gradient descent with exact line search, after t steps",
        ("", *(f"{task}\n{t:,}" for task in ("primary", "harmful") for t in marks)),
        rows,
        "norm ratio: distance of the head to the best one, over that at w = 0, after t steps. "
        "Where a descent arrived before t, its value at its end. "
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
        return f"{effort['steps']:,}"
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
