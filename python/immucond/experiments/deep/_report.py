"""The result as tables, as figures and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._format import brief, marked, number
from ..._show import Table, before_or, legend_below, print_style
from ...deep.parts import ATTACKERS, drop
from .._methods import RIDGE
from .._report import (
    STYLES,
    attackers,
    cell,
    decoded,
    finished,
    first,
    labelled,
    over_seeds,
    parameters,
    record,
    remarks,
    rir_cell,
    symbols,
)
from .._units import Values
from ._experiment import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONVENTIONS = {
    "exact": "kappa over the nonzero eigenvalues of H of a group's features",
    "ridge": f"kappa of H + {brief(RIDGE)} I, over the eigenvalues that are nonzero in H",
}
# What the paper reports for Algorithm 1 with ImageNet as the primary task.
REFERENCE = "ViT-B/16, ImageNet against Stanford Cars and Country211: 34 to 41"


def tables(result: Result) -> list[Table]:
    """All tables of a run."""
    made = [_immunity(result), _all_rows(result), _probes(result), parameters(result.methods)]
    made += _read_back(result)
    compared = labelled(result.methods, first(result.units), "attackers")
    if compared:
        made.append(attackers(compared, "One-hot targets of the harmful training samples."))
    return made


def _immunity(result: Result) -> Table:
    """Lay out as the paper's Table 3."""
    rows = []
    for name, method in result.methods.items():
        results = result.units[name]
        if not finished(results):
            rows.append([method.label, "failed"])
            continue
        cells = [
            _over_groups(results, convention, figure)
            for convention in ("exact", "ridge")
            for figure in ("i", "ii", "rir")
        ]
        accuracy, spread = over_seeds(results, "accuracy")
        shown = f"{accuracy:.2%}" + (f" ± {100 * spread:.2f}" if spread else "")
        rows.append([method.label, *cells, shown])
    settings, count = result.settings, result.counts
    note = (
        f"{settings.groups} groups of {settings.group_size} test samples, drawn at random; mean ± "
        f"standard deviation over the groups, averaged over the seeds. {symbols('theta_0')} "
        f"exact: {CONVENTIONS['exact']}; ridge: {CONVENTIONS['ridge']}. "
        f"Primary: {settings.primary}, {count['P classes']} classes, {count['P training']} "
        f"training and {count['P test']} test samples; harmful: {settings.harmful}, "
        f"{count['H classes']} classes, {count['H training']} and {count['H test']}. Trained: "
        f"{', '.join(result.trainable)}. The paper's RIR_theta0 of Algorithm 1 (its Table 3), "
        f"{REFERENCE}."
    )
    for name, results in result.units.items():
        note += "".join(f"\n{told}" for told in remarks(result.methods[name].label, results))
    return Table(
        "Immunity relative to theta_0, and primary test accuracy",
        ("", "(i)\nexact", "(ii)\nexact", "RIR_theta0\nexact", "(i)\nridge", "(ii)\nridge",
         "RIR_theta0\nridge", "primary test\naccuracy"),
        rows,
        decoded(note, rows),
        (("exact convention", 3), ("ridge convention", 3), ("accuracy", 1)),
    )  # fmt: skip


def _over_groups(results: Sequence[Values], convention: str, figure: str) -> str:
    mean, _ = over_seeds(results, "groups", convention, figure, "mean")
    spread, _ = over_seeds(results, "groups", convention, figure, "std")
    told = f"{number(mean)} ± {number(spread)}"
    i, _ = over_seeds(results, "groups", convention, "i", "mean")
    return marked(told, i, mean) if figure == "rir" else told


def _all_rows(result: Result) -> Table:
    rows = [
        [result.methods[name].label,
         *(cell(results, "all", key) for key in ("i", "ii")), rir_cell(results, "all"),
         *(cell(results, "all", key) for key in ("kappa_P", "kappa_H")),
         cell(results, "changed_predictions"), cell(results, "seconds") + " s"]
        for name, results in result.units.items()
        if finished(results)
    ]  # fmt: skip
    return Table(
        "All test samples at once, exact convention",
        ("", "(i)", "(ii)", "RIR_theta0", "kappa_P", "kappa_H", "changed primary\npredictions",
         "time"),
        rows,
        decoded(
            "(i): kappa_H over that of theta_0. (ii): the same of kappa_P. RIR_theta0 = (i) / "
            "(ii). Mean ± standard deviation over the seeds where they differ. time: of "
            "immunizing, from kept activations of the frozen blocks on.",
            rows,
        ),
        (("immunity", 3), ("condition numbers, predictions and time", 4)),
    )  # fmt: skip


def _probes(result: Result) -> Table:
    """Accuracy of the harmful probe, and RFD."""
    start = finished(result.units.get("identity", []))
    epochs = result.settings.probe_epochs
    rows: list[list[str]] = []
    for attacker, (label, _, _) in ATTACKERS.items():
        rows.append([label])
        for name, results in result.units.items():
            done = finished(results)
            if not done:
                continue
            accuracies = (
                sum(float(v["probe"][attacker]["accuracy"][at]) for v in done) / len(done)
                for at in (min(1, epochs), epochs)
            )
            drops = [drop(s["probe"][attacker], v["probe"][attacker]) for s in start for v in done]
            rfd = f"{sum(drops) / len(drops):.1%}" if drops else ""
            rows.append([result.methods[name].label, *(f"{a:.1%}" for a in accuracies), rfd])
    return Table(
        "Harmful linear probe: test accuracy after 1 and after all epochs, and RFD",
        ("", "epoch 1", f"epoch {epochs}", "RFD"),
        rows,
        f"{epochs} epochs of mini-batches, cross-entropy, no bias, from w = 0; each attacker at "
        "the step length that ends with the lowest training loss. RFD: relative drop of the "
        "accuracy after all epochs, against theta_0. Whoever whitens the features is not slowed.",
    )


def _read_back(result: Result) -> list[Table]:
    """Lay out what the networks that were written are when they are read."""
    rows = [
        [result.methods[name].label, f"{found['accuracy']:.2%}",
         str(found["changed_predictions"]), number(found["i"]), number(found["i_before_the_map"])]
        for name, results in result.units.items()
        for found in (values.get("read_back") for values in finished(results))
        if found is not None
    ]  # fmt: skip
    if not rows:
        return []
    return [Table(
        "Networks written, and read back by load_saved",
        ("", "primary test\naccuracy", "changed\npredictions", "(i)", "(i) without\nhead"),
        rows,
        "(i): of the features that enter the last layer, all test samples, exact. Without head: "
        "of the features that whoever takes the network for an encoder gets. The closed form's map "
        "is a part of its head, and protects none of these.",
    )]  # fmt: skip


# ---- figures ----


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name without suffix, ready for ``savefig``."""
    drawn = {
        name: (before_or(result.methods[name].label, name), values)
        for name, values in first(result.units).items()
    }
    return {"probe": _probe(drawn), "spectra": _spectra(drawn)}


def _probe(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Accuracy and loss of the harmful probe by epoch, a column an attacker."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 5.6), layout="constrained")
        panels = figure.subplots(2, len(ATTACKERS), sharex=True, sharey="row")
        for column, (attacker, (title, _, _)) in enumerate(ATTACKERS.items()):
            for name, (label, values) in drawn.items():
                colour, dashes = STYLES[name]
                curve = values["probe"][attacker]
                for row, key in enumerate(("accuracy", "loss")):
                    panels[row, column].plot(
                        np.asarray(curve[key], dtype=float) * (100.0 if key == "accuracy" else 1.0),
                        color=colour, linestyle=dashes, label=label,
                    )  # fmt: skip
            panels[0, column].set_title(title)
            panels[1, column].set_xlabel("epoch")
        panels[0, 0].set_ylabel("test accuracy, %")
        panels[1, 0].set_ylabel("training loss")
        legend_below(panels[0, 0], 6)
        return figure


def _spectra(drawn: dict[str, tuple[str, Any]]) -> Figure:
    """Eigenvalues of both Hessians over the largest one."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for ax, task, title in zip(panels, "PH", ("primary", "harmful"), strict=True):
            for name, (label, values) in drawn.items():
                colour, dashes = STYLES[name]
                spectrum = values["spectra"][task]
                value = np.asarray(spectrum["value"], dtype=float)
                ax.plot(spectrum["place"], value / value[0], color=colour, linestyle=dashes,
                        label=label)  # fmt: skip
            ax.set_yscale("log")
            ax.set_title(f"{title} test features")
            ax.set_xlabel("eigenvalue, from the largest down")
        panels[0].set_ylim(1e-10, 2.0)
        panels[0].set_ylabel(r"$\lambda_i(H)\,/\,\lambda_1(H)$")
        legend_below(panels[0], 6)
        return figure


# ---- the record ----


def as_json(result: Result, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every number of the run as plain Python values; an infinite one is the string "inf"."""
    return record(
        result, command, versions, CONVENTIONS, lambda name: {"seeds": result.units[name]},
        fingerprints=result.fingerprints,
        samples=result.counts,
        trainable=result.trainable,
    )  # fmt: skip
