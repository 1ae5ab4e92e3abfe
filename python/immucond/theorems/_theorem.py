"""A theorem as an object: what it says, the verdict of a check, and a trial on random instances.

The search and the shrinking are our own, a few lines each, so that ``immucond theorems`` runs where
Hypothesis, which the tests use for both, is not installed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._display import Columns, Record, Tabular
from .._errors import extra
from .._validate import as_count
from ._parameters import Parameter

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Claim:
    """One inequality or equality of a statement, measured on an instance.

    Attributes
    ----------
    name : str
        Which one.
    slack : float
        0 at the edge, negative where violated, in relative terms.
    rounding : float
        Relative rounding error that the computation may carry: a slack down to minus this decides
        nothing against the claim. 0 where it was decided in exact rational arithmetic.
    holds : bool
        Whether the claim stands.
    equality : bool
        Whether it is one: then the slack cannot pass 0.
    """

    name: str
    slack: float
    rounding: float
    holds: bool
    equality: bool = False

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """What claims are ordered by, the worst first.

        Failed ones, then inequalities by how near they are to the edge, then equalities.
        """
        return self.holds, self.equality, self.slack + self.rounding


@dataclass(frozen=True)
class Verdict(Tabular):
    """Whether a statement holds on an instance.

    Attributes
    ----------
    claim : Claim
        The worst of the statement's claims: one that fails; else the inequality nearest to its
        edge; else, of a statement that is nothing but equalities, the least accurate one.
    witness : dict
        The numbers that show it: floats, integers and lists of them.

    Examples
    --------
    >>> import immucond as ic
    >>> remark = ic.theorems.THEOREMS["alignment-remark"]
    >>> verdict = remark.check(remark.instance(primary=[2.0], harmful=[], extractor=[1.0]))
    >>> verdict.holds, round(verdict.witness["rir"])
    (False, 2500)
    """

    claim: Claim
    witness: Mapping[str, Any]

    @property
    def holds(self) -> bool:
        """Whether every claim of the statement stands, rounding considered."""
        return self.claim.holds

    @property
    def slack(self) -> float:
        """``(b - a) / max(|a|, |b|)`` for a claim ``a <= b``: 0 at the edge, negative if violated.

        Minus the relative difference for an equality.
        """
        return self.claim.slack

    @property
    def rounding(self) -> float:
        """Relative rounding error behind the slack, from the condition of the instance."""
        return self.claim.rounding

    def __repr__(self) -> str:
        holds = "holds" if self.holds else "fails"
        return f"Verdict({holds}: {self.claim.name}, slack={self.slack:.3g})"

    def _columns(self) -> Columns:
        claim = self.claim
        told = {"claim": claim.name, "holds": claim.holds, "slack": claim.slack,
                "rounding": claim.rounding, **self.witness}  # fmt: skip
        return {"": [*told], "value": [*told.values()]}

    @classmethod
    def of(cls, *claims: Claim, **witness: Any) -> Verdict:
        """Verdict on all claims."""
        return cls(
            claim=min(claims, key=lambda claim: claim.rank),
            witness={name: _plain(value) for name, value in witness.items()},
        )


def at_most(name: str, a: float, b: float, rounding: float = 0.0) -> Claim:
    """Claim that ``a <= b``, up to rounding."""
    slack = _relative(a, b)
    return Claim(name, slack, float(rounding), bool(slack >= -rounding))


def below(name: str, a: Fraction, b: Fraction) -> Claim:
    """Claim that ``a < b``, decided exactly."""
    return Claim(name, _relative(a, b), 0.0, a < b)


def not_below(name: str, a: Fraction, b: Fraction) -> Claim:
    """Claim that ``a >= b``, decided exactly."""
    return Claim(name, _relative(b, a), 0.0, a >= b)


def equal(
    name: str, a: npt.ArrayLike, b: npt.ArrayLike, rounding: float, *, scale: float | None = None
) -> Claim:
    """Claim that ``a = b`` entry by entry, up to rounding, relative to each or to a scale."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    size = np.maximum(np.abs(x), np.abs(y)) if scale is None else np.full(x.shape, scale)
    difference = np.abs(np.subtract(x, y, out=np.zeros_like(x), where=x != y))
    off = float(np.max(difference / np.where((size > 0) & np.isfinite(size), size, 1.0)))
    return Claim(name, 0.0 - off, float(rounding), bool(off <= rounding), equality=True)


def _relative(a: Any, b: Any) -> float:
    if a == b:
        return 0.0
    if abs(b) == np.inf:
        return 1.0 if b > 0 else -1.0
    if abs(a) == np.inf:
        return -1.0 if a > 0 else 1.0
    return float((b - a) / max(abs(a), abs(b)))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Fraction):
        return float(value)
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


PAPER = "arXiv 2505.23760"
NENOV = "Nenov, Haider, Balazs (2024)"
OURS = "ours"


@dataclass(frozen=True)
class Theorem:
    """A statement that a machine can check, on instances that meet its hypotheses.

    Attributes
    ----------
    name : str
        By which the catalogue knows it.
    statement : str
        In words.
    formula : str
        The same as a formula.
    hypotheses : str
        What is assumed of an instance.
    source : str
        Paper and number, or ``"ours"``.
    section : str
        Page and section of the documentation that prove or correct it.
    corrected_by : str or None
        Name of what is true instead; only statements that are false as printed have one.
    parameters : dict
        What instances are built from: each by name, with its range.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> limit = ic.theorems.THEOREMS["limit"]
    >>> limit.check(limit.random(np.random.default_rng(0))).holds
    True
    """

    name: str
    statement: str
    formula: str
    hypotheses: str
    source: str
    section: str
    parameters: Mapping[str, Parameter] = field(repr=False)
    build: Callable[..., Any] = field(repr=False)
    verify: Callable[[Any], Verdict] = field(repr=False)
    corrected_by: str | None = None

    def check(self, instance: Any) -> Verdict:
        """Check the statement on one instance.

        Parameters
        ----------
        instance
            From :meth:`instance`, :meth:`random` or :meth:`strategy`, or made by hand.

        Returns
        -------
        Verdict
        """
        return self.verify(instance)

    def instance(self, **parameters: Any) -> Any:
        """Build the instance that these parameters describe.

        Raises
        ------
        TypeError
            For an unknown or a missing parameter.
        """
        if set(parameters) != set(self.parameters):
            raise TypeError(
                f"{self.name} takes the parameters {', '.join(self.parameters)}, "
                f"got {', '.join(parameters) or 'none'}"
            )
        return self.build(**parameters)

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Random parameters."""
        return {name: kind.draw(rng) for name, kind in self.parameters.items()}

    def random(self, rng: np.random.Generator) -> Any:
        """Random instance, without Hypothesis."""
        return self.instance(**self.draw(rng))

    def strategy(self) -> SearchStrategy[Any]:
        """Hypothesis strategy of instances that meet the hypotheses, hard ones included.

        Raises
        ------
        ImportError
            Without Hypothesis, an extra; the message names it.
        """
        with extra("test"):
            from hypothesis import strategies as st
        kinds = {name: kind.strategy() for name, kind in self.parameters.items()}
        return st.fixed_dictionaries(kinds).map(lambda drawn: self.instance(**drawn))


# ---- tried on random instances, and the smallest counterexample ----

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
