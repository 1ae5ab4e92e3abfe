"""The result as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..._format import brief, number, plain
from ..._table import Table
from ...linear import ImmunityLimit
from .._common_tables import LIMIT_SYMBOLS, attackers, norm_ratios, parameters
from .._measure import CONVENTIONS, RIDGE
from .._summary import cell, decoded, finished, immunity_cells, remarks
from ._run import Result

_ROWS = (("held_out", "held-out rows"), ("training", "training rows"))


def tables(result: Result) -> list[Table]:
    """All tables of a run."""
    probed = {result.methods[n].label: v["curves"] for n, v in _first(result).items()}
    made = [_immunity(result), _limits(result), _losses(result), parameters(result.methods)]
    if probed:
        made.append(norm_ratios(probed))
    compared = {
        result.methods[name].label: values["attackers"]
        for name, values in _first(result).items()
        if "attackers" in values
    }
    if compared:
        made.append(attackers(compared))
    return made


def _first(result: Result) -> dict[str, dict[str, Any]]:
    """First finished seed of each method."""
    return {
        name: finished(results)[0] for name, results in result.units.items() if finished(results)
    }


def _immunity(result: Result) -> Table:
    rows: list[list[str]] = []
    for key, label in _ROWS:
        rows.append([label])
        for name, method in result.methods.items():
            results = result.units[name]
            if not finished(results):
                rows.append([method.label, "failed"])
                continue
            cells = immunity_cells(results, key)
            paper = [number(v) for v in method.paper or ()] if key == "training" else []
            rows.append([method.label, *cells, *(paper or [""] * 3)])
    count, runs = result.counts, result.settings.seeds
    seeds = f"Mean ± standard deviation over {runs} seeds where they differ." if runs > 1 else ""
    note = (
        "(i): kappa_H over that of the identity, large is immune. (ii): the same of kappa_P, small "
        f"is easy. RIR = (i) / (ii). Training rows: the first {count['P training']} of either set, "
        f"held-out: the other {count['P held-out']} (primary) and {count['H held-out']} (harmful). "
        f"{seeds}\n"
        f"ridge: kappa of H + {brief(RIDGE)} I, as in the published code; it depends on the scale "
        "of theta. exact: over the nonzero eigenvalues. paper: its Table 1, ridge convention."
    )
    for name, results in result.units.items():
        note += "".join(f"\n{told}" for told in remarks(result.methods[name].label, results))
    return Table(
        "House Price: immunity",
        ("", "(i)\nridge", "(ii)\nridge", "RIR\nridge", "(i)\nexact", "(ii)\nexact", "RIR\nexact",
         "(i)\npaper", "(ii)\npaper", "RIR\npaper"),
        rows,
        decoded(note, rows),
        (("ridge convention", 3), ("exact convention", 3), ("the paper", 3)),
    )  # fmt: skip


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
    note = ""
    if exact.case == "unbounded":
        note = (
            f"The exact limit is infinite: K_P has rank {exact.rank_P}, and K_H (rank "
            f"{exact.rank_H}) has energy in {exact.deficit} directions that no primary row uses. "
            "delta is added to the diagonals of both. "
        )
    note += LIMIT_SYMBOLS
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
        if finished(results):
            cells = [
                cell(results, "loss", key, head) for key, _ in _ROWS for head in ("own", "best")
            ]
            rows.append(
                [method.label, *cells, cell(results, "size"), cell(results, "seconds") + " s"]
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
    numbers: dict[str, Any] = plain(
        {
            "command": command,
            "versions": versions,
            "conventions": CONVENTIONS,
            "settings": {**asdict(result.settings), "data_dir": None},
            "source": "OpenML" if result.source == "OpenML" else "files",
            "fingerprint": result.fingerprint,
            "rows": result.counts,
            "limits": {
                rows: {name: asdict(limit) for name, limit in limits.items()}
                for rows, limits in result.limits.items()
            },
            "methods": {
                name: {**asdict(method), "seeds": result.units[name]}
                for name, method in result.methods.items()
            },
        }
    )
    return numbers
