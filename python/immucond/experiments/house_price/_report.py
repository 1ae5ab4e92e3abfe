"""The result as tables, as a figure and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..._format import brief, number
from ..._show import LIMIT_SYMBOLS, Table
from ...linear import ImmunityLimit
from .. import _report as shared
from .._curves import curves
from .._experiment import Result
from .._methods import CONVENTIONS, RIDGE
from .._units import Values

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
    """Figures by file name without suffix, ready for ``savefig``; none where all methods failed."""
    drawn = {name: values["curves"] for name, values in shared.first(result.units).items()}
    titles = {"primary": "primary task: LotArea", "harmful": "harmful task: SalePrice"}
    return {"curves": curves(result.methods, drawn, titles)} if drawn else {}


def _immunity(result: Result) -> Table:
    rows: list[list[str]] = []
    for key, label in _ROWS:
        rows.append([label])

        def cells(name: str, done: list[Values], key: str = key) -> list[str]:
            paper = [number(v) for v in result.methods[name].paper or ()]
            told = [shared.felt_cell(done, key), *shared.immunity_cells(done, key)]
            return told + (paper if key == "training" else [])

        rows += shared.by_method(result.methods, result.units, cells)
    count, runs = result.counts, result.settings.seeds
    seeds = f"Mean ± standard deviation over {runs} seeds where they differ." if runs > 1 else ""
    note = (
        f"{shared.symbols()} Training rows: the first {count['P training']} of either set, "
        f"held-out: the other {count['P held-out']} (primary) and {count['H held-out']} (harmful). "
        f"{seeds}\n"
        f"ridge: kappa of H + {brief(RIDGE)} I, {shared.ON_SCALE}. exact: over the nonzero "
        f"eigenvalues. paper: its Table 1, ridge convention. {shared.RHO}"
    )
    note = shared.remarked(note, result.methods, result.units)
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
        for shown, limit in result.limits[key].items():
            told = shown if shown == "exact" else f"delta = {brief(result.settings.delta)}"
            kappas = map(number, (limit.rir, limit.kappa_M, limit.kappa_P, limit.kappa_H))
            rows.append(
                [f"{label}, {told}", *kappas, f"{limit.rank_P}", f"{limit.rank_H}", limit.case]
            )
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
    def cells(_: str, done: list[Values]) -> list[str]:
        losses = [
            shared.cell(done, "loss", key, head) for key, _ in _ROWS for head in ("own", "best")
        ]
        return [*losses, shared.cell(done, "size"), shared.cell(done, "seconds") + " s"]

    units = {name: results for name, results in result.units.items() if shared.finished(results)}
    return Table(
        "Primary loss (mean squared error), size of theta, time",
        ("", "held-out\nown head", "held-out\nbest head", "training\nown head",
         "training\nbest head", "size", "time"),
        shared.by_method(result.methods, units, cells),
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
        limits=shared.limits_as_dict(result.limits),
    )  # fmt: skip
