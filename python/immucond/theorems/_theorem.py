"""A theorem as an object: what it says, its instances, and the verdict of a check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._display import Columns, Tabular
from .._errors import extra
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
