"""The result as tables, as a figure and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..._format import brief, number
from ..._show import LIMIT_SYMBOLS, Table
from ...linear import ImmunityLimit
from .. import _report as shared
from .._experiment import Result
from .._methods import CONVENTIONS, RIDGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = (("held_out", "held-out rows"), ("training", "training rows"))


def tables(result: Result) -> list[Table]:
    """All tables of a run."""
    found = shared.first(result.units)
    compared = shared.labelled(result.methods, found, "attackers")
    made = [shared.overview(result.methods, result.units, "training", "All on training rows.")]
    made += [shared.attackers(compared)] if compared else []
    made += [shared.norm_ratios(shared.labelled(result.methods, found, "curves"))] if found else []
    made += [_losses(result), _immunity(result), _limits(result), shared.parameters(result.methods)]
    return made


def figures(result: Result) -> dict[str, Figure]:
    """Figures by file name without suffix, ready for ``savefig``."""
    drawn = {name: values["curves"] for name, values in shared.first(result.units).items()}
    titles = {"primary": "primary task: LotArea", "harmful": "harmful task: SalePrice"}
    return {"curves": shared.curves(result.methods, drawn, titles)}


def _immunity(result: Result) -> Table:
    rows: list[list[str]] = []
    for key, label in _ROWS:
        rows.append([label])
        for name, method in result.methods.items():
            results = result.units[name]
            if not shared.finished(results):
                rows.append([method.label, "failed"])
                continue
            cells = [
                shared.felt_cell(shared.finished(results), key),
                *shared.immunity_cells(results, key),
            ]
            paper = [number(v) for v in method.paper or ()] if key == "training" else []
            rows.append([method.label, *cells, *(paper or [""] * 3)])
    count, runs = result.counts, result.settings.seeds
    seeds = f"Mean ± standard deviation over {runs} seeds where they differ." if runs > 1 else ""
    note = (
        f"{shared.symbols()} Training rows: the first {count['P training']} of either set, "
        f"held-out: the other {count['P held-out']} (primary) and {count['H held-out']} (harmful). "
        f"{seeds}\n"
        f"ridge: kappa of H + {brief(RIDGE)} I, {shared.ON_SCALE}. exact: over the nonzero "
        f"eigenvalues. paper: its Table 1, ridge convention. {shared.RHO}"
    )
    for name, results in result.units.items():
        note += "".join(f"\n{told}" for told in shared.remarks(result.methods[name].label, results))
    return Table(
        "House Price: what the measures say",
        ("", "rho\nharmful", *shared.IMMUNITY, "(i)\npaper", "(ii)\npaper", "RIR\npaper"),
        rows,
        shared.decoded(note, rows),
        (("alignment", 1), *shared.IN_CONVENTIONS, ("the paper", 3)),
    )


def _limits(result: Result) -> Table:
    rows = []
    for key, label in _ROWS:
        for convention, shown in (
            ("exact", "exact"), ("delta", f"delta = {brief(result.settings.delta)}"),
        ):  # fmt: skip
            limit: ImmunityLimit = result.limits[key][convention]
            rows.append(
                [f"{label}, {shown}", number(limit.rir), number(limit.kappa_M),
                 number(limit.kappa_P), number(limit.kappa_H), f"{limit.rank_P}",
                 f"{limit.rank_H}", limit.case]
            )  # fmt: skip
    exact: ImmunityLimit = result.limits["training"]["exact"]
    note = LIMIT_SYMBOLS
    if exact.case == "unbounded":
        why = f"The exact limit is infinite: {exact.why_unbounded}"
        note = f"{why} delta is added to the diagonals of both. {note}"
    return Table(
        "Limit of the RIR, exact convention",
        ("", "RIR*", "kappa(M)", "kappa(K_P)", "kappa(K_H)", "rank P", "rank H", "case"),
        rows,
        note,
        (("limit and condition numbers", 4), ("ranks and case", 3)),
    )


def _losses(result: Result) -> Table:
    rows = []
    for name, method in result.methods.items():
        results = result.units[name]
        if shared.finished(results):
            cells = [
                shared.cell(results, "loss", key, head)
                for key, _ in _ROWS
                for head in ("own", "best")
            ]
            rows.append(
                [
                    method.label,
                    *cells,
                    shared.cell(results, "size"),
                    shared.cell(results, "seconds") + " s",
                ]
            )
    return Table(
        "Primary loss (mean squared error), size of theta, time",
        ("", "held-out\nown head", "held-out\nbest head", "training\nown head",
         "training\nbest head", "size", "time"),
        rows,
        "best head: least squares on the training rows' features; own head: the one that the "
        "method leaves. size: root mean square singular value of theta, 1 for the identity.",
    )  # fmt: skip


def as_json(result: Result, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every number of the run as plain Python values; an infinite one is the string "inf"."""
    return shared.record(
        result, command, versions, CONVENTIONS, lambda name: {"seeds": result.units[name]},
        source="OpenML" if result.source == "OpenML" else "files",
        fingerprint=result.fingerprint,
        rows=result.counts,
        limits={
            rows: {name: asdict(limit) for name, limit in limits.items()}
            for rows, limits in result.limits.items()
        },
    )  # fmt: skip
