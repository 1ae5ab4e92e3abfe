"""Search for hyper-parameters of Algorithm 1 on a grid, by what training rows say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._format import number, plain
from ._measure import conventions, size
from ._methods import FailedFitError, Method, Tasks, fit
from ._table import Table
from ._units import Values

RULE = (
    "A candidate counts if on training rows (i) > 1 and (ii) < 1 in both conventions, for every "
    "task tried; among those, the largest score wins: log10 of the smallest RIR over tasks and "
    "conventions."
)
_SHOWN = 8


@dataclass(frozen=True)
class Candidate:
    """Hyper-parameters, and what they led to on each task tried.

    Attributes
    ----------
    parameters : dict
        Keyword arguments of Algorithm 1.
    outcomes : list
        :func:`outcome` by task.
    """

    parameters: dict[str, Any]
    outcomes: list[Values]

    @property
    def score(self) -> float:
        """By `RULE`; -inf where the candidate does not count."""
        smallest = math.inf
        for values in self.outcomes:
            if "failure" in values:
                return -math.inf
            for report in (values["ridge"], values["exact"]):
                if not (float(report["i"]) > 1.0 > float(report["ii"])):
                    return -math.inf
                smallest = min(smallest, float(report["rir"]))
        return math.log10(smallest)


@dataclass(frozen=True)
class Search:
    """All candidates, the best first."""

    title: str
    candidates: list[Candidate]
    tasks: list[str]


def candidates(
    grid: Mapping[str, Sequence[float]], fixed: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every combination of the grid's values, with what is the same in all."""
    return [
        {**fixed, **dict(zip(grid, values, strict=True))}
        for values in itertools.product(*grid.values())
    ]


def ranked(
    title: str, tried: Sequence[dict[str, Any]], outcomes: Sequence[list[Values]], tasks: list[str]
) -> Search:
    """Order candidates by score."""
    made = [Candidate(p, o) for p, o in zip(tried, outcomes, strict=True)]
    return Search(title, sorted(made, key=lambda c: -c.score), tasks)


def outcome(tasks: Tasks, rows: Any, parameters: Mapping[str, Any], seed: int) -> Values:
    """Measure a candidate on training rows, or tell how it failed."""
    try:
        found = fit("algorithm1", tasks, parameters, seed)
        reports = conventions(found.theta, *rows, ranks=tasks.ranks)
    except FailedFitError as error:
        return {"failure": str(error)}
    kept = ("i", "ii", "rir")
    return {
        "size": size(found.theta),
        **{name: {key: report[key] for key in kept} for name, report in reports.items()},
    }


def table(search: Search, grid: Mapping[str, Sequence[float]], used: Method) -> Table:
    """Best candidates, and the values that the experiment runs with."""
    rows = []
    for candidate in search.candidates[:_SHOWN]:
        if math.isinf(candidate.score):
            break
        worst = [min(float(o[c]["rir"]) for o in candidate.outcomes) for c in ("ridge", "exact")]
        rows.append(
            [", ".join(f"{name} = {candidate.parameters[name]:g}" for name in grid),
             f"{candidate.score:.2f}", *map(number, worst),
             number(max(o["size"] for o in candidate.outcomes))]
        )  # fmt: skip
    counted = sum(math.isfinite(candidate.score) for candidate in search.candidates)
    spans = "; ".join(f"{name} {min(v):g} to {max(v):g} ({len(v)})" for name, v in grid.items())
    values = ", ".join(f"{name} = {used.parameters[name]:g}" for name in grid)
    return Table(
        search.title,
        ("", "score", "least RIR\nridge", "least RIR\nexact", "largest\nsize of theta"),
        rows,
        f"{RULE} Grid: {spans}. {counted} of {len(search.candidates)} candidates count, on "
        f"{', '.join(search.tasks)}. The experiment runs with {values}.",
    )


def as_json(search: Search, command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every candidate as plain Python values."""
    numbers: dict[str, Any] = plain(
        {
            "command": command,
            "versions": versions,
            "rule": RULE,
            "tasks": search.tasks,
            "candidates": [
                {
                    "parameters": candidate.parameters,
                    "score": candidate.score,
                    "outcomes": candidate.outcomes,
                }
                for candidate in search.candidates
            ],
        }
    )
    return numbers
