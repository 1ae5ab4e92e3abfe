"""Search for hyper-parameters on a grid, by what training rows say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._format import brief, number, plain
from .._show import Table
from ._methods import Method
from ._units import Values

# That convention depends on the scale of theta: beyond this factor RIRs do not compare.
_SIZE = 2.0
RULE = (
    "The score is log10 of the smallest RIR on training rows, over tasks, in the ridge convention, "
    f"the paper's. Candidates that keep the size of theta within a factor of {_SIZE:g} come first, "
    "among these the ones that immunize everywhere, (i) > 1 > (ii) in both conventions."
)
_SHOWN = 8

Grid = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Candidate:
    """Hyper-parameters, and what they led to on each task tried.

    Attributes
    ----------
    parameters : dict
        Keyword arguments of the method.
    outcomes : list
        :func:`outcome` by task.
    """

    parameters: dict[str, Any]
    outcomes: list[Values]

    @property
    def _reports(self) -> list[Values]:
        return [o[convention] for o in self.outcomes for convention in ("ridge", "exact")]

    @property
    def failed(self) -> bool:
        """Whether it reached no extractor on some task."""
        return any("failure" in values for values in self.outcomes)

    @property
    def comparable(self) -> bool:
        """Whether theta is about as large as the identity on every task."""
        return not self.failed and all(
            1.0 / _SIZE <= float(values["size"]) <= _SIZE for values in self.outcomes
        )

    @property
    def immunizes(self) -> bool:
        """Whether (i) > 1 > (ii) on every task, in both conventions."""
        return not self.failed and all(
            float(report["i"]) > 1.0 > float(report["ii"]) for report in self._reports
        )

    @property
    def score(self) -> float:
        """By `RULE`; -inf where the candidate failed."""
        if self.failed:
            return -math.inf
        return math.log10(min(float(outcome["ridge"]["rir"]) for outcome in self.outcomes))


@dataclass(frozen=True)
class Search:
    """All candidates of a method, the best first."""

    method: Method
    grid: Grid
    candidates: list[Candidate]
    tasks: list[str]


def candidates(grid: Grid, fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's values, with what is the same in all."""
    return [
        {**fixed, **dict(zip(grid, values, strict=True))}
        for values in itertools.product(*grid.values())
    ]


def ranked(
    method: Method,
    grid: Grid,
    tried: Sequence[dict[str, Any]],
    outcomes: Sequence[list[Values]],
    tasks: list[str],
) -> Search:
    """Order candidates by score."""
    made = [Candidate(p, o) for p, o in zip(tried, outcomes, strict=True)]
    made.sort(key=lambda c: (not c.comparable, not c.immunizes, -c.score))
    return Search(method, grid, made, tasks)


def table(search: Search) -> Table:
    """Best candidates, and the values that the experiment runs with."""
    rows = []
    for candidate in search.candidates[:_SHOWN]:
        if candidate.failed:
            break
        worst = [min(float(o[c]["rir"]) for o in candidate.outcomes) for c in ("ridge", "exact")]
        rows.append(
            [*(f"{brief(candidate.parameters[name], 3)}" for name in search.grid),
             f"{candidate.score:.2f}", "yes" if candidate.immunizes else "no",
             *map(number, worst), number(max(o["size"] for o in candidate.outcomes))]
        )  # fmt: skip
    immunizing = sum(candidate.immunizes for candidate in search.candidates)
    spans = "; ".join(
        f"{k} {brief(min(v), 3)} to {brief(max(v), 3)} ({len(v)})" for k, v in search.grid.items()
    )
    values = ", ".join(
        f"{name} = {brief(search.method.parameters[name], 3)}" for name in search.grid
    )
    return Table(
        f"Hyper-parameters: {search.method.label}",
        (
            *search.grid,
            "score",
            "immunizes",
            "least RIR\nridge",
            "least RIR\nexact",
            "size of theta",
        ),
        rows,
        f"{RULE} Grid: {spans}. {immunizing} of {len(search.candidates)} candidates immunize "
        f"{', '.join(search.tasks)}. The experiment runs with {values}.",
    )


def as_json(searches: Sequence[Search], command: str, versions: dict[str, str]) -> dict[str, Any]:
    """Every candidate as plain Python values."""
    numbers: dict[str, Any] = plain(
        {
            "command": command,
            "versions": versions,
            "rule": RULE,
            "methods": {
                search.method.label: {
                    "tasks": search.tasks,
                    "candidates": [
                        {
                            "parameters": candidate.parameters,
                            "score": candidate.score,
                            "immunizes": candidate.immunizes,
                            "outcomes": candidate.outcomes,
                        }
                        for candidate in search.candidates
                    ],
                }
                for search in searches
            },
        }
    )
    return numbers
