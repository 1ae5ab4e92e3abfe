"""Algorithm 1 of the paper, full batch or by mini-batches, with an inverse-free step."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from .._errors import underflow_is_zero
from .._regularizers import r_ill, r_well
from .._task import Ranks
from .._validate import check_real
from ._hessians import Preconditioner
from ._movers import Monotone, mover_of
from ._objective import Conditioning, PrimaryLoss
from ._problem import EVERY, Balance, Callback, LossName, Optimizer, Path, Setup, problem_of
from ._result import ImmunizationResult
from ._run import balanced, run


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
    own: dict[str, Any] = {
        "lambda_P": check_real(lambda_P, "lambda_P", low=0.0),
        "lambda_H": check_real(lambda_H, "lambda_H", low=0.0),
        "balance": balance,
        "monotone": bool(monotone),
    }
    setup = Setup(
        X_P, y_P, X_H, loss=loss, lr=lr, steps=steps, batch_size=batch_size, hessian=hessian,
        preconditioner=preconditioner, ridge=ridge, optimizer=optimizer, theta=theta, omega=omega,
        seed=seed, ranks=ranks, computed_in=computed_in, checkpoint=checkpoint,
        checkpoint_every=checkpoint_every, callback=callback,
    )  # fmt: skip
    if monotone:
        _refuse_unproved(setup)
    problem = problem_of(setup, reducible=not monotone)  # the intervals count theta's columns
    terms = [
        PrimaryLoss("loss", 1.0),
        Conditioning("well", own["lambda_P"], 0, r_well, "r_well"),
        Conditioning("ill", own["lambda_H"], 1, r_ill, "r_ill"),
    ]
    return run(
        algorithm1, setup, own, problem, balanced(problem, terms, balance),
        Monotone.of(problem, setup.lr) if monotone else mover_of(optimizer, setup.lr),
        lower=("lr", "lambda_P", "lambda_H"),
    )  # fmt: skip


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
