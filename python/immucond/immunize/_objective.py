"""An objective evaluated at one point: the record for the history, and the steps from there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._errors import DegenerateSpectrumError, ImmucondError
from .._validate import FloatArray
from ._low_rank import Step, Weighted, norm
from ._problem import Problem
from ._terms import Conditioning, Starts, Term


class BeyondRangeError(ImmucondError):
    """The iteration has left the float range.

    Attributes
    ----------
    loss : float
        The primary loss, as far as it got.
    """

    def __init__(self, loss: float) -> None:
        super().__init__(f"beyond the float range, at a primary loss of {loss:g}")
        self.loss = loss


@dataclass(frozen=True)
class Evaluation:
    """All terms at one point.

    Attributes
    ----------
    record : dict of str to float
        Values, condition numbers, their RIR on the rows of the step, and norms of the steps.
    parts : list of (Term, step)
        What theta moves against, each times the term's weight.
    by_omega : (m, c) array
        What the head moves against.
    pairs : pair of ExtremePairs
        Of both Hessians.
    warned : dict
        First warning of each category.
    """

    record: dict[str, float]
    parts: list[tuple[Term, Step]]
    by_omega: FloatArray
    pairs: Starts
    warned: dict[type[Warning], str]

    @property
    def by_theta(self) -> Weighted:
        """Weighted steps."""
        return [(term.weight, step) for term, step in self.parts]


class Objective:
    """Terms on a problem's rows.

    Attributes
    ----------
    problem : Problem
    terms : sequence of Term
    """

    def __init__(self, problem: Problem, terms: Sequence[Term]) -> None:
        self.problem, self.terms = problem, tuple(terms)

    def __call__(
        self, step: int, theta: FloatArray, omega: FloatArray, starts: Starts
    ) -> Evaluation:
        """Evaluate on the rows of a step.

        Raises
        ------
        BeyondRangeError
            Where something is not finite.
        """
        record: dict[str, float] = {}
        norms: dict[str, float] = {}
        parts: list[tuple[Term, Step]] = []
        by_omega: FloatArray | None = None
        pairs = list(starts)
        if not np.isfinite(theta).all():
            raise BeyondRangeError(np.nan)
        with (
            np.errstate(over="ignore", invalid="ignore"),
            # Held back: on the way to a divergence they only distract from its message.
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            rows = self.problem.rows(step)
            for term in self.terms:
                try:
                    found = term(theta, omega, rows, starts)
                except (ArithmeticError, ValueError) as error:
                    # Later on an unfit value, such as a lost rank, is theta's.
                    fit = step == 0 and not isinstance(error, ArithmeticError)
                    if fit or isinstance(error, DegenerateSpectrumError):
                        raise
                    raise BeyondRangeError(record.get("loss", np.nan)) from error
                record |= found.values
                if not np.isfinite(list(found.values.values())).all():
                    raise BeyondRangeError(record.get("loss", np.nan))
                if found.by_theta is not None:
                    norms[f"grad_{term.name}"] = norm(found.by_theta)
                    parts.append((term, found.by_theta))
                if found.by_omega is not None:
                    by_omega = found.by_omega
                if isinstance(term, Conditioning):
                    pairs[term.task] = found.pairs
        warned: dict[type[Warning], str] = {}
        for warning in caught:
            warned.setdefault(warning.category, f"at step {step}: {warning.message}")
        identity = [hessian.kappa_identity for hessian in rows.hessians]
        record["rir"] = (record["kappa_H"] / identity[1]) / (record["kappa_P"] / identity[0])
        assert by_omega is not None
        return Evaluation(record | norms, parts, by_omega, (pairs[0], pairs[1]), warned)
