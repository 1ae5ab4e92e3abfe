"""What the comparison with the paper shows of any run: where it is from, tables, marks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from immucond._format import MARK, NOTE, number
from immucond.experiments._methods import Method

CONVENTIONS = ("ridge", "exact")
CURVES = {"curves.svg": "Gradient descent on both tasks: norm ratio and loss"}
Grid = Mapping[str, Sequence[float]]


def load(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def seeds(method: dict[str, Any]) -> list[dict[str, Any]]:
    return [values for values in method["seeds"] if "failure" not in values]


def over_seeds(values: Sequence[dict[str, Any]], rows: str, convention: str, key: str) -> float:
    return mean(float(value[rows][convention][key]) for value in values)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], align: str = "--:"
) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield "|---" + f"|{align}" * (len(headings) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def provenance(results: dict[str, Any], commit: str) -> str:
    units = list(walk_units(results))
    seconds = sum(unit["unit_seconds"] for unit in units)
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    seeds = results["settings"]["seeds"]
    return (
        f"`{results['command']}`, commit {commit}, "
        f"seed{'s' if seeds > 1 else ''} {'0' if seeds == 1 else f'0 to {seeds - 1}'}: "
        f"{len(units)} units of work, {seconds:.0f} s of wall time summed over them (measuring and "
        f"probing included); data {results['fingerprint']}; {versions}."
    )


def walk_units(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for method in results["methods"].values():
        for values in method.get("pairs", {"all": method.get("seeds")}).values():
            yield from values


def legend(*tables: Sequence[Sequence[str]]) -> Iterator[str]:
    """What the mark of an RIR means, where there is one."""
    if any(MARK in text for rows in tables for row in rows for text in row):
        yield NOTE
        yield ""


def methods_of(results: dict[str, Any]) -> dict[str, Method]:
    """Methods by name, of a record."""
    keys = ("label", "fit", "parameters", "source")
    return {n: Method(*(m[key] for key in keys)) for n, m in results["methods"].items()}


def brief(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def hundredths(value: float) -> str:
    """Two decimals; what rounds to 0 by its first digit, for its sign counts."""
    return f"{value:.2f}" if abs(value) >= 0.005 else f"{value:.1g}"


def infinite(value: Any) -> str:
    return "infinite" if value == "inf" else number(float(value))


def parameters(methods: dict[str, Any], grids: Mapping[str, Grid]) -> Iterator[str]:
    rows = [
        [
            m["label"],
            m["source"],
            ", ".join(f"`{k}={brief(v)}`" for k, v in m["parameters"].items()),
            spans(grids[name]) if m["source"] == "searched" else "",
        ]
        for name, m in methods.items()
        if m["source"] != "none"
    ]
    headings = ["hyper-parameters", "where from", "values", "grid of the search"]
    yield from table(headings, rows, "---")


def spans(grid: Grid) -> str:
    """What a search tried, by name."""
    return ", ".join(
        f"`{name}` {brief(values[0])}"
        + (f" to {brief(values[-1])} ({len(values)})" if len(values) > 1 else "")
        for name, values in grid.items()
    )
