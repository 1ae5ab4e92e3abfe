"""What random instances say of a theorem, and the smallest one on which it fails.

The search and the shrinking are our own, a few lines each, so that ``immucond theorems`` runs where
Hypothesis, which the tests use for both, is not installed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from .._display import Columns, Record, Tabular
from .._validate import as_count
from ._theorem import Theorem, Verdict

# Instances tried at most while making a counterexample smaller.
_EFFORT = 2000


@dataclass(frozen=True)
class Counterexample(Tabular):
    """An instance on which a statement fails.

    Attributes
    ----------
    parameters : dict
        ``theorem.instance(**parameters)`` builds it.
    verdict : Verdict
        What the check said of it.
    """

    parameters: Mapping[str, Any]
    verdict: Verdict

    def _columns(self) -> Columns:
        return {"parameter": [*self.parameters], "value": [*self.parameters.values()]}


@dataclass(frozen=True, repr=False)
class Examination(Record):
    """What random instances say of a theorem.

    Attributes
    ----------
    theorem : Theorem
        The one tried.
    instances : int
        How many instances were tried.
    held : int
        On how many of them it held.
    worst : Verdict
        A failed one, else the one nearest to failing.
    counterexample : Counterexample or None
        As small as could be made of the failed ones.
    """

    theorem: Theorem
    instances: int
    held: int
    worst: Verdict
    counterexample: Counterexample | None

    def __repr__(self) -> str:
        as_known = "" if self.expected else ", which was not expected"
        return (
            f"Examination({self.theorem.name}: held on {self.held} of {self.instances} "
            f"instances{as_known})"
        )

    def _columns(self) -> Columns:
        told = {"theorem": self.theorem.name, "instances": self.instances, "held": self.held,
                "expected": self.expected, "worst claim": self.worst.claim.name,
                "slack": self.worst.slack, "rounding": self.worst.rounding}  # fmt: skip
        return {name: [value] for name, value in told.items()}

    @property
    def expected(self) -> bool:
        """Whether it came out as known: true statements hold, false ones fail somewhere."""
        return (self.counterexample is None) == (self.theorem.corrected_by is None)


def examine(
    theorem: Theorem,
    *,
    instances: SupportsIndex = 100,
    seed: SupportsIndex = 0,
    progress: Callable[[int], None] | None = None,
) -> Examination:
    """Try a theorem on random instances, without Hypothesis.

    Parameters
    ----------
    theorem : Theorem
        Out of ``ic.theorems.THEOREMS``.
    instances : int, default 100
        How many to try.
    seed : int, default 0
        Of the instances; the same seed draws the same ones, whatever else is examined.
    progress : callable, optional
        Called with the number of instances done, after each.

    Returns
    -------
    Examination

    Raises
    ------
    ValueError
        For fewer than one instance or a negative seed.

    Examples
    --------
    >>> import immucond as ic
    >>> found = ic.theorems.examine(ic.theorems.THEOREMS["proposition-3.2"], instances=20)
    >>> found.counterexample is None, found.theorem.corrected_by
    (False, 'rayleigh-majorization')
    """
    count = as_count(instances, "instances", least=1)
    rng = np.random.default_rng(
        [as_count(seed, "seed", least=0), zlib.crc32(theorem.name.encode())]
    )
    held, worst, failed = 0, None, None
    for done in range(1, count + 1):
        parameters = theorem.draw(rng)
        verdict = theorem.check(theorem.instance(**parameters))
        held += verdict.holds
        if worst is None or verdict.claim.rank < worst.claim.rank:
            worst = verdict
            failed = None if verdict.holds else parameters
        if progress is not None:
            progress(done)
    assert worst is not None
    return Examination(
        theorem=theorem,
        instances=count,
        held=held,
        worst=worst,
        counterexample=None if failed is None else _smallest(theorem, failed),
    )


def _smallest(theorem: Theorem, failed: Mapping[str, Any]) -> Counterexample:
    """Put simpler values in place of one parameter at a time, as long as the statement fails."""
    parameters = dict(failed)
    verdict = theorem.check(theorem.instance(**parameters))
    effort, shrinking = 0, True
    while shrinking:
        shrinking = False
        for name, kind in theorem.parameters.items():
            for value in kind.simpler(parameters[name]):
                candidate = parameters | {name: value}
                effort += 1
                if effort > _EFFORT:
                    return Counterexample(parameters, verdict)
                found = theorem.check(theorem.instance(**candidate))
                if not found.holds:
                    parameters, verdict, shrinking = candidate, found, True
                    break
    return Counterexample(parameters, verdict)
