"""A theorem as an object: what it says, where it is from, and how to try it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import extra
from ._parameters import Parameter
from ._verdict import Verdict

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

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
