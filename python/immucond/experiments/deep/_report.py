"""The result as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._format import brief, marked, number
from ..._show import Table
from ...deep.parts import drop
from .._methods import RIDGE
from .._report import (
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
from ._attackers import ATTACKERS, BATCH, LBFGS_STEPS
from ._experiment import BENIGN, Result
from ._tuning import TUNED

CONVENTIONS = {
    "exact": "kappa over the nonzero eigenvalues of H of a group's features",
    "ridge": f"kappa of H + {brief(RIDGE)} I, over the eigenvalues that are nonzero in H",
}
# What the paper reports for Algorithm 1 with ImageNet as the primary task.
REFERENCE = "ViT-B/16, ImageNet against Stanford Cars and Country211: 34 to 41"

# What undoes a map comes last: it is not seen, or the features are no longer those it was made for.
LABELS = {
    **{name: attacker.label for name, attacker in ATTACKERS.items()},
    "batch-norm-reestimated": "BatchNorm re-estimated, Adam",
    **TUNED,
}
UNDOING = tuple(name for name in LABELS if name not in ATTACKERS or ATTACKERS[name].undoes)


def tables(result: Result) -> list[Table]:
    """All tables of a run: attackers, what the primary task pays, what undoes it, rho, RIR."""
    made = [_attackers(result), _primary(result), _undone(result), _alignment(result)]
    made += [_immunity(result), _all_rows(result), _by_epoch(result), parameters(result.methods)]
    made += _read_back(result)
    compared = labelled(result.methods, first(result.units), "attackers")
    if compared:
        made.append(attackers(compared, "One-hot targets of the attackers' harmful samples."))
    return made


def _share(results: Sequence[Values], *path: str) -> str:
    """Mean accuracy in percent at the end, with the spread over the seeds where it shows."""
    last = []
    for values in finished(results):
        for key in path:
            values = values.get(key, {})
        if values:
            last.append(100.0 * values["accuracy"][-1])
    if not last:
        return ""
    spread = float(np.std(last, ddof=1)) if len(last) > 1 else 0.0
    return f"{np.mean(last):.1f}%" + (f" ± {spread:.1f}" if spread >= 0.05 else "")


def _by_method(result: Result, cells: Callable[[Sequence[Values]], list[str]]) -> list[list[str]]:
    """Lay out a row a method, with its cells, or that it failed."""
    return [
        [result.methods[name].label, *(cells(results) if finished(results) else ["failed"])]
        for name, results in result.units.items()
    ]


def _attackers(result: Result) -> Table:
    names = [name for name in LABELS if name not in UNDOING]
    count, settings = result.counts, result.settings
    return Table(
        "What attackers get of the harmful task: held-out accuracy",
        ("", *(LABELS[name].replace(", ", ",\n") for name in names)),
        _by_method(result, lambda v: [_share(v, "probe", name) for name in names]),
        f"Of the network as it is read back from its files. Harmful: {settings.harmful}, "
        f"{count['H classes']} classes; the defender has {count['H defender']:,} samples, unless a "
        f"method's name says another number, and the attackers {count['H attacker']:,} others; "
        f"tested on {count['H test']:,}. A head with a bias, from zero; by batches of {BATCH} over "
        f"{settings.probe_epochs} epochs, each at the step length with the highest accuracy; "
        f"L-BFGS takes {LBFGS_STEPS} steps for an epoch. The same samples give {result.unaided}.",
    )


def _primary(result: Result) -> Table:
    def cells(results: Sequence[Values]) -> list[str]:
        accuracy, spread = over_seeds(results, "accuracy")
        return [
            f"{accuracy:.2%}" + (f" ± {100 * spread:.2f}" if spread else ""),
            cell(results, "changed_predictions"),
            *(_share(results, task, name) for task in ("primary_probe", "transfer")
              for name in BENIGN),
            *("" if finished(results)[0][key] is None else cell(results, key)
              for key in ("moved", "kappa_A")),
        ]  # fmt: skip

    return Table(
        "What the primary task pays",
        ("", "primary test\naccuracy", "changed\npredictions",
         *(f"{task},\n{LABELS[name]}" for task in ("from scratch", "transfer") for name in BENIGN),
         "features\nmoved", "kappa(A)"),
        _by_method(result, cells),
        "changed predictions: of the test samples, by the network's own head. from scratch: a new "
        "head for the primary task on the features that are served; transfer: one for another "
        "benign task. moved: ||Z_P (A - I)|| over ||Z_P||. kappa(A): of the map after the "
        "features, where there is one; logits keep about kappa(A) times the rounding.",
    )  # fmt: skip


def _undone(result: Result) -> Table:
    return Table(
        "What undoes it: harmful held-out accuracy",
        ("", *(LABELS[name].replace(", ", ",\n") for name in UNDOING)),
        _by_method(result, lambda v: [_share(v, "probe", name) for name in UNDOING]),
        "Whoever whitens the features or solves for the least squares is not slowed by any map "
        "that has an inverse. What LEACE erased is gone for these too, but for its sampling "
        "error. BatchNorm re-estimated: the statistics of the trained blocks on the attackers' "
        "samples, which changes the features that a map was made for.",
    )


def _alignment(result: Result) -> Table:
    """Show rho and RIR beside what the probe did: the one tells, the other may not."""
    start = finished(result.units.get("identity", []))

    def changes(results: Sequence[Values]) -> list[float]:
        """Change of the accuracy, by attacker."""
        return [
            float(np.mean([last_accuracy(v, name) for v in finished(results)]))
            - last_accuracy(start[0], name)
            for name in (BENIGN if start else ())
        ]

    def cells(results: Sequence[Values]) -> list[str]:
        own = finished(results)[0]["rho"]["defender's rows"]
        return [
            cell(results, "rho", "after"),
            "" if own is None else number(float(own)),
            rir_cell(results, "all"),
            *(f"{100.0 * change:+.1f}" for change in changes(results)),
        ]

    chance = 2.0 * (0.5 / result.counts["H test"]) ** 0.5
    eased = [
        result.methods[name].label
        for name, results in result.units.items()
        if finished(results)
        and over_seeds(results, "all", "rir")[0] > 1.0
        and max(changes(results), default=0.0) > chance
    ]
    told = f"\nRIR above 1, and the harmful probe easier: {', '.join(eased)}." if eased else ""
    rows = _by_method(result, cells)
    return Table(
        "Label alignment and RIR, beside what the harmful probe did",
        ("", "rho", "rho,\ndefender's rows", "RIR_theta0",
         *(f"{LABELS[name]},\npoints" for name in BENIGN)),
        rows,
        decoded(
            "rho: alignment of the harmful labels with the attackers' features; small is slow. "
            "Defender's rows: those that the map was made from. RIR_theta0: of all test samples, "
            f"exact. points: change of the accuracy against theta_0.{told}",
            rows,
        ),
    )  # fmt: skip


def last_accuracy(values: Values, attacker: str) -> float:
    """Held-out accuracy of the harmful probe at the end."""
    return float(values["probe"][attacker]["accuracy"][-1])


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


def _by_epoch(result: Result) -> Table:
    """Accuracy of the harmful probe by epoch, and RFD."""
    start = finished(result.units.get("identity", []))
    epochs = result.settings.probe_epochs
    marks = sorted({at for at in (1, 5) if at < epochs} | {epochs})
    rows: list[list[str]] = []
    for attacker in ("sgd", "momentum", "adam", "whitening"):
        curves = {
            name: [values["probe"][attacker] for values in finished(results)]
            for name, results in result.units.items()
        }
        rows.append([LABELS[attacker]])
        for name, found in curves.items():
            if not found:
                continue
            accuracies = (np.mean([curve["accuracy"][at] for curve in found]) for at in marks)
            drops = [drop(s["probe"][attacker], curve) for s in start for curve in found]
            rfd = f"{np.mean(drops):.1%}" if drops else ""
            rows.append([result.methods[name].label, *(f"{a:.1%}" for a in accuracies), rfd])
    return Table(
        "Harmful probe by epoch: held-out accuracy, and RFD",
        ("", *(f"epoch {at}" for at in marks), "RFD"),
        rows,
        "RFD: relative drop of the accuracy after all epochs, against theta_0.",
    )


def _read_back(result: Result) -> list[Table]:
    """Lay out what the networks that were kept are in memory and when they are read."""
    rows = [
        [result.methods[name].label, f"{found['accuracy']:.2%}", str(found["changed_predictions"]),
         *(number(found[key]) for key in ("i", "i_before_the_map", "rho_before_the_map"))]
        for name, results in result.units.items()
        for found in (values.get("read_back") for values in finished(results))
        if found is not None
    ]  # fmt: skip
    if not rows:
        return []
    return [Table(
        "Networks that were kept: before writing, and who sees the map",
        ("", "primary test\naccuracy", "predictions changed\nby writing", "(i)",
         "(i) without\nhead", "rho without\nhead"),
        rows,
        "(i): of the features that enter the last layer, all test samples, exact. Without head: "
        "of the features that whoever takes the network for an encoder gets. A map that stands "
        "before the head as a layer of its own protects none of these.",
    )]  # fmt: skip


# ---- the record ----


def as_json(result: Result, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every number of the run as plain Python values; an infinite one is the string "inf"."""
    return record(
        result, command, versions, CONVENTIONS, lambda name: {"seeds": result.units[name]},
        fingerprints=result.fingerprints,
        samples=result.counts,
        trainable=result.trainable,
        unaided=result.unaided._asdict(),
    )  # fmt: skip
