"""An objective and its terms: values for the history at one point, and the steps from there."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .._alignment import r_align
from .._errors import DegenerateSpectrumError, ImmucondError
from .._extreme import ExtremePairs
from .._rank import default_rtol
from .._regularizers import SpectralRegularizer
from .._svd import svd
from .._validate import FloatArray
from ..linear.of_roots import centred
from ._hessians import LowRank, Preconditioner, Step, Weighted, norm
from ._losses import Loss
from ._problem import Problem, Rows

# Pairs of the primary and of the harmful Hessian, for the next ones to start from.
Starts = tuple[ExtremePairs | None, ExtremePairs | None]


@dataclass(frozen=True)
class Contribution:
    """What a term says at one (theta, omega).

    Attributes
    ----------
    values : dict of str to float
        For the history.
    by_theta : (d, m) step or None
        What theta moves against, times the term's weight.
    by_omega : (m, c) array or None
        What the head moves against.
    pairs : ExtremePairs or None
        Of the Hessian that the term looked at.
    """

    values: dict[str, float] = field(default_factory=dict)
    by_theta: Step | None = None
    by_omega: FloatArray | None = None
    pairs: ExtremePairs | None = None


@dataclass(frozen=True)
class Term(ABC):
    """One term of an objective.

    Attributes
    ----------
    name : str
        The history holds the norm of the term's step as ``grad_<name>``.
    weight : float
        Factor of its step by theta.
    """

    name: str
    weight: float

    @abstractmethod
    def __call__(
        self, theta: FloatArray, omega: FloatArray, rows: Rows, starts: Starts
    ) -> Contribution:
        """Values and steps; steps without the weight."""


@dataclass(frozen=True)
class PrimaryLoss(Term):
    """The loss on D_P, by theta and by the head; weight 0 leaves it to the head alone."""

    def __call__(
        self, theta: FloatArray, omega: FloatArray, rows: Rows, starts: Starts,  # noqa: ARG002
    ) -> Contribution:  # fmt: skip
        value, by_v = rows.loss.value_and_grad(theta @ omega)
        by_theta = LowRank(by_v, omega.T) if self.weight else None
        return Contribution({"loss": value}, by_theta, theta.T @ by_v)


@dataclass(frozen=True)
class Conditioning(Term):
    """A regularizer of one task's Hessian, whose condition number is recorded; or that alone.

    Attributes
    ----------
    task : {0, 1}
        Primary or harmful.
    regularizer : SpectralRegularizer or None
        None only watches.
    value_name : str or None
        Name of the regularizer's value in the history; None where it is the condition number.
    """

    task: int
    regularizer: SpectralRegularizer | None = None
    value_name: str | None = None

    def __call__(
        self, theta: FloatArray, omega: FloatArray, rows: Rows, starts: Starts,  # noqa: ARG002
    ) -> Contribution:  # fmt: skip
        hessian, start = rows.hessians[self.task], starts[self.task]
        kappa = f"kappa_{'PH'[self.task]}"
        if self.regularizer is None:
            pairs = hessian.pairs(theta, start)
            return Contribution({kappa: float(pairs.condition_number)}, pairs=pairs)
        found = hessian.evaluate(self.regularizer, theta, start)
        values = {} if self.value_name is None else {self.value_name: found.value}
        values[kappa] = float(found.pairs.condition_number)
        return Contribution(values, found.step, pairs=found.pairs)


@dataclass(frozen=True)
class AdaptedLoss(Term):
    """The harmful loss after a head was adapted to it, by theta through every inner step.

    The head goes from 0 by ``w <- w - a theta^T G(theta w)``, G the gradient of the harmful loss
    L_H by ``v = theta w``. The gradient of ``L_H(theta w_T)`` by theta follows by going back:
    with l the gradient by w_{t+1}, step t adds ``-a (G(v_t) l^T + G'(v_t)[theta l] w_t^T)`` and
    passes on ``l - a theta^T G'(v_t)[theta l]``.

    Attributes
    ----------
    inner_lr : float
        Step size a.
    inner_steps : int
        Number of steps T.
    """

    inner_lr: float
    inner_steps: int

    def __call__(
        self, theta: FloatArray, omega: FloatArray, rows: Rows, starts: Starts,  # noqa: ARG002
    ) -> Contribution:  # fmt: skip
        loss, a = rows.harmful_loss, self.inner_lr
        assert loss is not None
        heads = [np.zeros((theta.shape[1], loss.heads))]
        slopes = []
        for _ in range(self.inner_steps):
            slopes.append(loss.value_and_grad(theta @ heads[-1])[1])
            heads.append(heads[-1] - a * (theta.T @ slopes[-1]))
        value, slope = loss.value_and_grad(theta @ heads[-1])
        left, right = [slope], [heads[-1]]
        by_head = theta.T @ slope
        for w, slope in zip(heads[-2::-1], slopes[::-1], strict=True):
            bent = loss.curvature(theta @ w, theta @ by_head)
            left += [-a * slope, -a * bent]
            right += [by_head, w]
            by_head = by_head - a * (theta.T @ bent)
        step = LowRank(np.hstack(left), np.hstack(right).T)
        return Contribution({"adapted_loss": value}, step)


@dataclass(frozen=True)
class LabelAlignment(Term):
    """``log rho`` of the harmful labels, by theta.

    Attributes
    ----------
    preconditioner, ridge
        Which step.
    rank : int
        Of the centred inputs of all rows: a batch has no more.
    whole : Loss or None
        Centred inputs and labels of all rows, condensed; None for those of each batch.
    back : (d, n) array or None
        What takes a gradient by the features ``X theta`` of `whole` to the step of theta.
    """

    preconditioner: Preconditioner | None
    ridge: float
    rank: int
    whole: Loss | None
    back: FloatArray | None

    @classmethod
    def of(cls, problem: Problem, weight: float, rank: int) -> LabelAlignment:
        """On a problem whose harmful rows carry labels."""
        assert problem.harmful_loss is not None
        kind, ridge = problem.preconditioner, problem.ridge[1]
        if not problem.full_hessians:
            return cls("alignment", weight, kind, ridge, rank, None, None)
        whole = problem.harmful_loss.whole()
        back = _back(whole.X, kind, ridge, rank)
        return cls("alignment", weight, kind, ridge, rank, whole, back)

    def __call__(
        self, theta: FloatArray, omega: FloatArray, rows: Rows, starts: Starts,  # noqa: ARG002
    ) -> Contribution:  # fmt: skip
        task, back = self.whole, self.back
        if task is None or back is None:
            assert rows.harmful_loss is not None
            task = rows.harmful_loss
            if not np.ptp(task.targets, axis=0).any():
                raise ImmucondError(
                    f"the {task.targets.shape[0]} harmful rows of a batch have one label: give a "
                    "larger batch_size, or hessian='full'"
                )
            back = _back(centred(task.X), self.preconditioner, self.ridge, self.rank)
        rho, by_features = r_align.value_and_grad_features(
            task.X @ theta, task.targets, center=self.whole is None
        )
        if rho == 0.0:
            raise ValueError("the features do not see the harmful labels: rho is 0, without a log")
        return Contribution({"rho": rho}, back @ (by_features / rho))


def _back(
    X: FloatArray, preconditioner: Preconditioner | None, ridge: float, rank: int
) -> FloatArray:
    """``X^T``, ``X^+`` or ``(X^T X + ridge I)^-1 X^T``, through (n, n) matrices."""
    if preconditioner is None:
        return X.T
    U, s, Wt = svd(X, full_matrices=False)
    k = min(rank, int(np.count_nonzero(s > default_rtol(X.shape, np.float64) * s[0])))
    added = ridge if preconditioner == "ridge" else 0.0
    return np.asarray((Wt[:k].T * (s[:k] / (s[:k] ** 2 + added))) @ U[:, :k].T)


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


def evaluated(
    problem: Problem, terms: Sequence[Term], step: int, theta: FloatArray, omega: FloatArray,
    starts: Starts,
) -> Evaluation:  # fmt: skip
    """Evaluate an objective's terms on the problem's rows of a step.

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
        rows = problem.rows(step)
        for term in terms:
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
