"""Algorithm 1 with the label alignment as its harmful term: descent that the harmful loss feels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._alignment import r_align
from .._errors import ImmucondError, underflow_is_zero
from .._rank import default_rtol
from .._task import Ranks
from .._validate import FloatArray, check_real
from ..linear.of_roots import centred, labels_of, task_of_inputs
from ._hessians import Preconditioner
from ._losses import Loss, SquaredLoss
from ._movers import mover_of
from ._objective import Conditioning, Contribution, PrimaryLoss, Starts, Term
from ._problem import (
    EVERY,
    Balance,
    Callback,
    LossName,
    Optimizer,
    Path,
    Problem,
    Rows,
    Setup,
    problem_of,
)  # fmt: skip
from ._result import ImmunizationResult
from ._run import balanced, run


@underflow_is_zero
def alignment(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, y_H: npt.ArrayLike, *,
    loss: LossName = "squared", lambda_H: float = 1.0, lr: float, steps: int,
    batch_size: int | None = None, hessian: Literal["full", "batch"] = "full",
    preconditioner: Preconditioner | None = None, ridge: float = 1.0,
    balance: Balance | None = None, optimizer: Optimizer = "gd",
    theta: npt.ArrayLike | None = None, omega: npt.ArrayLike | None = None, seed: int | None = 0,
    ranks: Ranks | None = None, computed_in: Any = None,
    checkpoint: Path | None = None, checkpoint_every: int = EVERY,
    callback: Callback | None = None,
) -> ImmunizationResult:  # fmt: skip
    r"""Immunize by gradient descent on the primary loss and the harmful labels' alignment.

    .. math::
        \min_{\theta, \omega} L(\theta, \omega) + \lambda_H \log \rho(X_H \theta, Y_H), \qquad
        \nabla_\theta \log \rho = \frac{2\, b b^T \theta}{\|b^T \theta\|_F^2}
            - \frac{2\, K_H \theta v v^T}{\sigma_1},

    with :math:`\rho` that of ``ic.r_align``, inputs and labels centred, :math:`b = X_H^T Y_H`, and
    :math:`(\sigma_1, v)` the top pair of :math:`\theta^T K_H \theta`. Where Algorithm 1 makes the
    slowest direction of the harmful weights slower, this makes the directions slow that the labels
    are in, which is what the harmful loss feels. :func:`fade` does so without iterating.

    Parameters
    ----------
    X_P, y_P, X_H, loss, lr, steps, batch_size, ridge, optimizer, theta, omega, seed
        As in :func:`algorithm1`.
    y_H : (N_H,) or (N_H, c) array_like
        Harmful targets, or one label a row (integers, bools, strings), which become one-hot.
    lambda_H : float, default 1
        Weight of log rho, which has no units: theta's step is ``lr * lambda_H`` times a gradient of
        the order of ``1 / ||theta||``. Nothing bounds log rho from below, so that steps overshoot
        once ``b^T theta`` is small beside them.
    hessian : {"full", "batch"}
        Alignment and Hessians of all rows, or of the batch, centred by its own mean.
    preconditioner : {None, "projected", "ridge"}
        Plain gradient by default, or ``K_H^+`` or ``(K_H + ridge I)^-1`` times it, of the centred
        inputs. Log rho is no function of the Hessian alone, so no inverse cancels as it does for
        ``"right"``.
    balance : {None, "gradient-norm"}
        ``"gradient-norm"``: lambda_H is a share of the weight at which both parts of theta's first
        step have one norm.
    ranks, computed_in, checkpoint, checkpoint_every, callback
        As in :func:`algorithm1`.

    Returns
    -------
    ImmunizationResult
        History: ``loss, rho, kappa_P, kappa_H, rir, grad_loss, grad_alignment``. Its rho is
        ``ic.r_align``; :meth:`ImmunizationResult.alignment` divides by the share of the labels that
        the features explain.

    Raises
    ------
    ImmucondError, OverflowError, ValueError
        As :func:`algorithm1`; for harmful labels that are constant (in a batch too) or that the
        harmful inputs do not see.
    TypeError
        Without harmful labels.

    Notes
    -----
    Ours. Whitening the features, or a least-squares solve, undoes it, as it does every invertible
    extractor.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(2, 100, 4)) * [4, 3, 2, 1]
    >>> y_H = X_H[:, 0] > 0
    >>> result = ic.immunize.alignment(X_P, X_P @ np.ones(4), X_H, y_H, lr=0.01, steps=200)
    >>> bool(result.history["rho"][-1] < 0.1 * result.history["rho"][0])
    True
    """
    if y_H is None:
        raise TypeError("y_H is None: the alignment is that of harmful labels, one a row of X_H")
    if preconditioner == "right":
        raise ValueError(
            "preconditioner must be 'projected', 'ridge' or None for alignment, and is 'right': "
            "log rho is no function of the Hessian alone, so that no inverse cancels"
        )
    own: dict[str, Any] = {
        "lambda_H": check_real(lambda_H, "lambda_H", low=0.0), "balance": balance,
    }  # fmt: skip
    setup = Setup(
        X_P, y_P, X_H, loss=loss, lr=lr, steps=steps, batch_size=batch_size, hessian=hessian,
        preconditioner=preconditioner, ridge=ridge, optimizer=optimizer, theta=theta, omega=omega,
        seed=seed, ranks=ranks, computed_in=computed_in, checkpoint=checkpoint,
        checkpoint_every=checkpoint_every, callback=callback,
    )  # fmt: skip
    problem = _labelled(problem_of(setup), setup, y_H)
    assert problem.harmful_loss is not None
    terms = [
        PrimaryLoss("loss", 1.0),
        LabelAlignment.of(problem, own["lambda_H"]),
        Conditioning("well", 0.0, 0),
        Conditioning("ill", 0.0, 1),
    ]
    terms, mover = balanced(problem, terms, balance), mover_of(optimizer, setup.lr)
    lower = ("lr", "lambda_H")
    return run(alignment, setup, own, problem, terms, mover, lower=lower, by_kappa=False)


def _labelled(problem: Problem, setup: Setup, y_H: npt.ArrayLike) -> Problem:
    """Problem whose harmful rows carry their labels, both centred."""
    names = ("X_H", "y_H")
    task = task_of_inputs(setup.X_H, y_H, names, computed_in=setup.computed_in)
    if task.reached == 0.0:
        raise ValueError("X_H does not see its labels, X_H^T y_H is 0: there is nothing to align")
    labels = labels_of(y_H, problem.inputs_H.shape[0], "y_H", "X_H")
    return replace(
        problem,
        harmful_loss=SquaredLoss(centred(problem.inputs_H), centred(labels)),
        given=problem.given | {"y_H": labels},
    )


@dataclass(frozen=True)
class LabelAlignment(Term):
    """``log rho`` of the harmful labels, by theta.

    Attributes
    ----------
    preconditioner, ridge
        Which step.
    whole : Loss or None
        Centred inputs and labels of all rows, condensed; None for those of each batch.
    back : (d, n) array or None
        What takes a gradient by the features ``X theta`` of `whole` to the step of theta.
    """

    preconditioner: Preconditioner | None
    ridge: float
    whole: Loss | None
    back: FloatArray | None

    @classmethod
    def of(cls, problem: Problem, weight: float) -> LabelAlignment:
        """On a problem whose harmful rows carry labels."""
        assert problem.harmful_loss is not None
        kind, ridge = problem.preconditioner, problem.ridge[1]
        if not problem.full_hessians:
            return cls("alignment", weight, kind, ridge, None, None)
        whole = problem.harmful_loss.whole()
        return cls("alignment", weight, kind, ridge, whole, _back(whole.X, kind, ridge))

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
            back = _back(centred(task.X), self.preconditioner, self.ridge)
        rho, by_features = r_align.value_and_grad_features(
            task.X @ theta, task.targets, center=self.whole is None
        )
        if rho == 0.0:
            raise ValueError("the features do not see the harmful labels: rho is 0, without a log")
        return Contribution({"rho": rho}, back @ (by_features / rho))


def _back(X: FloatArray, preconditioner: Preconditioner | None, ridge: float) -> FloatArray:
    """``X^T``, ``X^+`` or ``(X^T X + ridge I)^-1 X^T``, through (n, n) matrices."""
    if preconditioner is None:
        return X.T
    U, s, Wt = np.linalg.svd(X, full_matrices=False)
    k = int(np.count_nonzero(s > default_rtol(X.shape, np.float64) * s[0]))
    added = ridge if preconditioner == "ridge" else 0.0
    back: FloatArray = (Wt[:k].T * (s[:k] / (s[:k] ** 2 + added))) @ U[:, :k].T
    return back
