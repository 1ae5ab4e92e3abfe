"""From one point to the next: gradient descent, Adam, and descent that may not lose ground."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .._errors import ImmucondError
from .._regularizers import r_ill, r_well
from .._validate import FloatArray
from ..linear.of_roots import interval_by_theta
from ._hessians import FullHessian, Weighted, combined
from ._objective import Conditioning, Evaluation, Starts
from ._problem import Optimizer, Problem

# Adam's constants, as its authors give them and torch has them.
_BETA = (0.9, 0.999)
_EPS = 1e-8

# The step must turn from a bound by at least this cosine: along the bound itself the second order
# decides, and no halving helps.
_MARGIN = 1e-3
_HALVINGS = 20


@dataclass(frozen=True)
class State:
    """Where an iteration stands before a step; nothing else is carried on.

    Attributes
    ----------
    step : int
        Steps taken.
    theta, omega : (d, m) and (m, c) arrays
        Extractor and head.
    starts : pair of ExtremePairs or None
        What the extreme pairs at theta are looked for from.
    moments : tuple of arrays
        What an optimizer remembers.
    """

    step: int
    theta: FloatArray
    omega: FloatArray
    starts: Starts = (None, None)
    moments: tuple[FloatArray, ...] = ()


Evaluate = Callable[[State], Evaluation]


class Mover(ABC):
    """One step."""

    def moments(self, theta: FloatArray, omega: FloatArray) -> tuple[FloatArray, ...]:  # noqa: ARG002
        """Return what is remembered at the start."""
        return ()

    @abstractmethod
    def __call__(
        self, state: State, found: Evaluation, evaluate: Evaluate
    ) -> tuple[State, Evaluation | None]:
        """Return the next state, and its evaluation where that was needed to find it."""


@dataclass(frozen=True)
class Descent(Mover):
    """``theta - lr * step``, and the head likewise."""

    lr: float

    def __call__(
        self, state: State, found: Evaluation, evaluate: Evaluate,  # noqa: ARG002
    ) -> tuple[State, Evaluation | None]:  # fmt: skip
        moved = [(-self.lr * weight, step) for weight, step in found.by_theta]
        return State(
            state.step + 1,
            combined(moved, state.theta),
            state.omega - self.lr * found.by_omega,
            found.pairs,
        ), None


@dataclass(frozen=True)
class Adam(Mover):
    """Adam (Kingma and Ba 2015) on theta and on the head."""

    lr: float

    def moments(self, theta: FloatArray, omega: FloatArray) -> tuple[FloatArray, ...]:
        return tuple(np.zeros_like(x) for x in (theta, theta, omega, omega))

    def __call__(
        self, state: State, found: Evaluation, evaluate: Evaluate,  # noqa: ARG002
    ) -> tuple[State, Evaluation | None]:  # fmt: skip
        count = state.step + 1
        remembered: list[FloatArray] = []
        moved = []
        for x, grad, (first, second) in zip(
            (state.theta, state.omega),
            (combined(found.by_theta), found.by_omega),
            (state.moments[:2], state.moments[2:]),
            strict=True,
        ):
            first = _BETA[0] * first + (1.0 - _BETA[0]) * grad
            second = _BETA[1] * second + (1.0 - _BETA[1]) * grad * grad
            size = np.sqrt(second / (1.0 - _BETA[1] ** count)) + _EPS
            moved.append(x - (self.lr / (1.0 - _BETA[0] ** count)) * first / size)
            remembered += [first, second]
        return State(count, moved[0], moved[1], found.pairs, tuple(remembered)), None


def mover_of(optimizer: Optimizer, lr: float) -> Mover:
    """Return an optimizer by name."""
    return Adam(lr) if optimizer == "adam" else Descent(lr)


@dataclass(frozen=True)
class Monotone(Mover):
    """Descent under which kappa(H_P) never rises and kappa(H_H) never falls.

    The regularizers' parts are cut to their sharp intervals. The whole step is then turned as
    little as it takes to lower log kappa(H_P) and to raise log kappa(H_H) to first order, and
    halved until both kappas, computed at the new theta, are where they should be and more than
    rounding. Where neither helps theta stays; so it does at the Pareto frontier, where the two
    gradients are parallel.

    Attributes
    ----------
    lr : float
        Largest step.
    hessians : pair of FullHessian
        Of all rows.
    """

    lr: float
    hessians: tuple[FullHessian, FullHessian]

    @classmethod
    def of(cls, problem: Problem, lr: float) -> Monotone:
        """On a problem whose Hessians are those of all rows."""
        P, H = (h for h in problem.rows(0).hessians if isinstance(h, FullHessian))
        return cls(lr, (P, H))

    def __call__(
        self, state: State, found: Evaluation, evaluate: Evaluate
    ) -> tuple[State, Evaluation | None]:
        omega = state.omega - self.lr * found.by_omega
        stay = State(state.step + 1, state.theta, omega, state.starts)
        direction = self._turned(state.theta, combined(self._cut(state.theta, found)), found.pairs)
        if direction is None:
            return stay, None
        length = self.lr
        for _ in range(_HALVINGS):
            tried = replace(stay, theta=state.theta - length * direction, starts=found.pairs)
            length /= 2.0
            try:
                after = evaluate(tried)
            except ImmucondError:  # too far
                continue
            if (
                after.record["kappa_P"] <= found.record["kappa_P"]
                and after.record["kappa_H"] >= found.record["kappa_H"]
                and all(pairs is not None and pairs.determined_min for pairs in after.pairs)
            ):
                return tried, after
        return stay, None

    def _cut(self, theta: FloatArray, found: Evaluation) -> Weighted:
        """Weighted steps, those of the regularizers within their intervals."""
        cut = []
        for term, step in found.parts:
            weight = term.weight
            if isinstance(term, Conditioning) and term.regularizer in (r_well, r_ill):
                root = self.hessians[term.task].root
                end = interval_by_theta(term.regularizer, theta, root)
                weight = end / self.lr if weight * self.lr > end else weight
            cut.append((weight, step))
        return cut

    def _turned(self, theta: FloatArray, direction: FloatArray, pairs: Starts) -> FloatArray | None:
        """Nearest direction that both condition numbers allow; None where there is none."""
        size = float(np.linalg.norm(direction))
        if size == 0.0:
            return None
        bounds = []
        for hessian, of_task, sign in zip(self.hessians, pairs, (1.0, -1.0), strict=True):
            assert of_task is not None
            bound = combined([(sign, hessian.log_kappa_gradient(theta, of_task))])
            length = float(np.linalg.norm(bound))
            if length > 0.0:
                bounds.append(bound / length)
        least = _MARGIN * size
        short = [least - float(np.vdot(bound, direction)) for bound in bounds]
        if all(lack <= 0.0 for lack in short):
            return direction
        for i, bound in enumerate(bounds):
            if short[i] > 0.0:
                turned = direction + short[i] * bound
                if all(float(np.vdot(b, turned)) >= least * (1.0 - 1e-9) for b in bounds):
                    return turned
        if len(bounds) < 2:
            return None
        cosine = float(np.vdot(bounds[0], bounds[1]))
        rest = 1.0 - cosine**2
        if rest <= _MARGIN**2:
            return None
        shares = [(short[i] - cosine * short[1 - i]) / rest for i in range(2)]
        return direction + shares[0] * bounds[0] + shares[1] * bounds[1]
