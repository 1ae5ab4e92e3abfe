"""Algorithm 1 of the paper, and the same with the label alignment as its harmful term."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._labels import labels_of
from .._regularizers import r_ill, r_well
from .._two_tasks import Ranks
from ..linear.of_roots import centred, task_of_inputs
from ._hessians import Preconditioner
from ._losses import SquaredLoss
from ._movers import Monotone
from ._objective import Conditioning, LabelAlignment, PrimaryLoss
from ._problem import (
    EVERY,
    Balance,
    Callback,
    LossName,
    Optimizer,
    Path,
    Problem,
    Setup,
    problem_of,
)
from ._result import ImmunizationResult
from ._run import run


@underflow_is_zero
def algorithm1(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, *,
    loss: LossName = "squared", lambda_P: float, lambda_H: float, lr: float, steps: int,
    batch_size: int | None = None, hessian: Literal["full", "batch"] = "full",
    preconditioner: Preconditioner | None = "right", ridge: float = 1.0,
    balance: Balance | None = None, monotone: bool = False, optimizer: Optimizer = "gd",
    theta: npt.ArrayLike | None = None, omega: npt.ArrayLike | None = None, seed: int | None = 0,
    ranks: Ranks | None = None, computed_in: Any = None,
    checkpoint: Path | None = None, checkpoint_every: int = EVERY,
    callback: Callback | None = None,
) -> ImmunizationResult:  # fmt: skip
    r"""Immunize a linear extractor by Algorithm 1 of the paper.

    Each step moves the head and the extractor together,

    .. math::
        \omega &\leftarrow \omega - \eta \nabla_\omega L \\
        \theta &\leftarrow \theta - \eta (\nabla_\theta L
            + \lambda_P\, 2 \theta G_P + \lambda_H\, 2 \theta G_H),

    where G is the gradient of a regularizer by the Hessian, :math:`G_P = \nabla R_{well}(H_P)` and
    :math:`G_H = \nabla R_{ill}(H_H)`. :math:`2 \theta G` is the paper's
    :math:`K^{-1} \nabla_\theta R` with the inverse cancelled.

    Parameters
    ----------
    X_P : (N_P, d) array_like
        Primary inputs, one row a sample.
    y_P : (N_P,) or (N_P, c) array_like
        Primary targets; labels 0/1 or -1/1 for the logistic loss, any two or more labels (one a
        sample) for softmax.
    X_H : (N_H, d) array_like
        Harmful inputs; their targets play no part.
    loss : {"squared", "logistic", "softmax"}
        Primary loss, a mean over samples (and heads).
    lambda_P, lambda_H : float
        Weights of R_well on the primary and of R_ill on the harmful Hessian. What they mean
        depends on the scale of the inputs: ``lr * lambda_P`` is a step in the sense of
        :func:`immucond.linear.step_interval`.
    lr : float
        Step size eta.
    steps : int
        Number of steps.
    batch_size : int, optional
        Rows of each task in a step. Every epoch goes through all rows of a task in a new order
        (what is left over when they are cut into batches is left out). All rows by default.
    hessian : {"full", "batch"}
        Hessians of all rows, or of the batch: then a step costs O(batch_size d^2), not O(d^3), and
        R_well counts the nonzero eigenvalues only (``p="rank"``).
    preconditioner : {"right", "projected", "ridge", None}
        For singular K three different algorithms: ``"right"`` steps along 2 theta G,
        ``"projected"`` along K^+ grad (moves theta on range(K) only), ``"ridge"`` along
        (K + ridge I)^-1 grad; ``None`` along the plain gradient 2 K theta G.
    ridge : float, default 1
        For ``preconditioner="ridge"`` alone.
    balance : {None, "gradient-norm"}
        ``"gradient-norm"`` sets the weights from norms, as the paper asks for: lambda_P and
        lambda_H are then shares of the weights ``||grad_theta L|| / ||S||``, S the (preconditioned)
        step of R_well or of R_ill, in Frobenius norm, measured once, on the rows of the first
        step. At 1 and 1 all three parts of the first step of theta have one norm.
    monotone : bool, default False
        Guarantee that kappa(H_P) never rises and kappa(H_H) never falls from step to step, as
        computed: each regularizer's part stays within its sharp interval, the step is turned as
        little as it takes to move both condition numbers the right way to first order, and halved
        until both did. Where no step does, theta stays (as at the Pareto frontier). For Hessians
        of all rows, and for ``preconditioner="right"`` or ``"projected"``.
    optimizer : {"gd", "adam"}
        Gradient descent, as in the paper, or Adam with its usual constants.
    theta : (d, m) array_like, optional
        Extractor to start from; the identity by default.
    omega : (m,) or (m, c) array_like, optional
        Head to start from; by default drawn from a normal distribution of variance 1/m^2.
    seed : int, optional
        Seed of that draw and of the batches. None draws a fresh one, kept in the result's
        parameters; a run that shall go on from a checkpoint needs it.
    ranks : (int or None, int or None), optional
        Known ranks of (X_P, X_H).
    computed_in : dtype, optional
        Precision in which the inputs were computed; sets the tolerance that decides the ranks.
    checkpoint : path-like, optional
        An .npz file that keeps the run's state. Where it is there already, and of the same data
        and parameters (`steps` may differ), the run goes on from it, to the same bits.
    checkpoint_every : int, default 100
        Steps from one writing of it to the next; it is written at the end and on Ctrl-C too.
    callback : callable, optional
        Called as ``callback(step, record)`` before each step and after the last, with the history's
        entries of that moment; a true return value stops.

    Returns
    -------
    ImmunizationResult
        History: ``loss, r_well, r_ill, kappa_P, kappa_H, rir`` and the Frobenius norms
        ``grad_loss, grad_well, grad_ill`` of the three (preconditioned) parts of theta's step, all
        on the rows that the step saw. Its kappas are those of ``theta^T K theta``, good to about
        16 - log10(kappa) digits; the report goes by the features of all rows and keeps twice as
        many.

    Raises
    ------
    ImmucondError
        When the iteration diverges: the message says at which step, and what to lower.
    OverflowError
        Where a Gram matrix of the inputs is not representable.
    DegenerateSpectrumError
        Where R_ill is infinite, all eigenvalues of a harmful Hessian being equal.
    ValueError
        For NaN, mismatched sizes, an unknown loss or preconditioner, unfit parameters, or a
        checkpoint of another run: the message says what differs.

    Warns
    -----
    AccuracyWarning, DegenerateSpectrumWarning
        Where a gradient on the way was not determined; once each, after the last step. And where
        rounding to half precision has cut off some of a rank.
    ImmunityWarning
        Where the harmful Hessian is better conditioned than it was, (i) below 1.

    Notes
    -----
    Source: arXiv 2505.23760, Algorithm 1. Directions that no row of either task has are left out of
    gradient descent where it starts at the identity, and put back at the end: theta is the identity
    there, and the result the same to rounding.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.algorithm1(
    ...     X_P, X_P @ np.ones(4), X_H, lambda_P=0.05, lambda_H=1e4, lr=0.01, steps=100)
    >>> result.report.i > 1, result.report.ii < 1
    (True, True)
    """
    setup = Setup.of(locals())
    if monotone:
        _refuse_unproved(setup)
    problem = problem_of(setup, reducible=not monotone)  # the intervals count theta's columns
    terms = [
        PrimaryLoss("loss", 1.0),
        Conditioning("well", setup.lambda_P, 0, r_well, "r_well"),
        Conditioning("ill", setup.lambda_H, 1, r_ill, "r_ill"),
    ]
    mover = Monotone.of(problem, setup.lr) if monotone else None
    lower = ("lr", "lambda_P", "lambda_H")
    return run(algorithm1, setup, problem, terms, lower=lower, mover=mover)


def _refuse_unproved(setup: Setup) -> None:
    """Refuse monotone steps where no interval is proved."""
    if setup.hessian != "full":
        raise ValueError(f"hessian must be 'full' for monotone steps, and is {setup.hessian!r}")
    if setup.optimizer != "gd":
        raise ValueError(f"optimizer must be 'gd' for monotone steps, and is {setup.optimizer!r}")
    if setup.preconditioner not in ("right", "projected"):
        raise ValueError(
            "preconditioner must be 'right' or 'projected' for monotone steps, whose intervals "
            f"are proved, and is {setup.preconditioner!r}"
        )


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
    setup = Setup.of(locals(), y_H=None)
    problem, rank = _labelled(problem_of(setup), setup, y_H)
    terms = [
        PrimaryLoss("loss", 1.0),
        LabelAlignment.of(problem, setup.lambda_H, rank),
        Conditioning("well", 0.0, 0),
        Conditioning("ill", 0.0, 1),
    ]
    return run(alignment, setup, problem, terms, lower=("lr", "lambda_H"), by_kappa=False)


def _labelled(problem: Problem, setup: Setup, y_H: npt.ArrayLike) -> tuple[Problem, int]:
    """Problem whose harmful rows carry their labels, both centred, and the rank of these rows."""
    names = ("X_H", "y_H")
    task = task_of_inputs(setup.X_H, y_H, names, computed_in=setup.computed_in)
    if task.reached == 0.0:
        raise ValueError("X_H does not see its labels, X_H^T y_H is 0: there is nothing to align")
    labels = labels_of(y_H, problem.inputs_H.shape[0], "y_H", "X_H")
    loss = SquaredLoss(centred(problem.inputs_H), centred(labels / np.abs(labels).max()))
    given = problem.given | {"y_H": labels}
    return replace(problem, harmful_loss=loss, given=given), min(task.rank, problem.H.rank)
