"""The baseline that descends on the condition numbers themselves."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from .._floating import underflow_is_zero
from .._regularizers import kappa
from .._task import Ranks
from .._validate import check_real
from ._hessians import Preconditioner
from ._losses import LossName
from ._movers import Optimizer, mover_of
from ._problem import problem_of
from ._result import ImmunizationResult
from ._run import CHECKPOINT_EVERY, Balance, Callback, Path, balanced, run
from ._terms import Conditioning, PrimaryLoss, Term


@underflow_is_zero
def opt_kappa(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    *,
    loss: LossName = "squared",
    lambda_P: float = 1.0,
    lambda_H: float = 1.0,
    lr: float,
    steps: int,
    batch_size: int | None = None,
    hessian: Literal["full", "batch"] = "full",
    preconditioner: Preconditioner | None = None,
    ridge: float = 1.0,
    balance: Balance | None = None,
    optimizer: Optimizer = "gd",
    theta: npt.ArrayLike | None = None,
    omega: npt.ArrayLike | None = None,
    seed: int | None = 0,
    ranks: Ranks | None = None,
    computed_in: Any = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    callback: Callback | None = None,
) -> ImmunizationResult:
    r"""Immunize by gradient descent on kappa(H_P) - kappa(H_H) and the primary loss (a baseline).

    .. math::
        \theta \leftarrow \theta - \eta \nabla_\theta (L
            + \lambda_P \kappa(H_P) - \lambda_H \kappa(H_H))

    Condition numbers of real data are large, and their gradients as steep, most of all at the
    small end: weights that suit one pair of tasks make another one diverge, or leave it where it
    is. ``balance="gradient-norm"`` sets them by the size of the gradients at the start, and
    ``optimizer="adam"`` does not depend on it at all. Nothing bounds kappa(H_H) from above, and
    its gradient grows with it: too large a lambda_H ends in a blow-up.

    Parameters
    ----------
    X_P, y_P, X_H, loss, lr, steps, batch_size, hessian, ridge, optimizer, theta, omega, seed
        As in :func:`algorithm1`.
    lambda_P, lambda_H : float, default 1
        Weights of the two condition numbers.
    preconditioner : {None, "right", "projected", "ridge"}
        Plain gradient by default; the others as in :func:`algorithm1`.
    balance, ranks, computed_in, checkpoint, checkpoint_every, callback
        As in :func:`algorithm1`.

    Returns
    -------
    ImmunizationResult
        History: ``loss, kappa_P, kappa_H, rir, grad_loss, grad_kappa_P, grad_kappa_H``.

    Raises
    ------
    ImmucondError, OverflowError, ValueError
        As :func:`algorithm1`.

    Notes
    -----
    Source: arXiv 2505.23760, the baseline "Opt kappa".

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.opt_kappa(
    ...     X_P, X_P @ np.ones(4), X_H, lambda_P=1e-2, lambda_H=1e-2, lr=0.01, steps=100)
    >>> result.report.rir > 1
    True
    """
    parameters = {
        "loss": loss,
        "lambda_P": check_real(lambda_P, "lambda_P", low=0.0),
        "lambda_H": check_real(lambda_H, "lambda_H", low=0.0),
        "lr": check_real(lr, "lr", low=0.0),
        "steps": steps,
        "batch_size": batch_size,
        "hessian": hessian,
        "preconditioner": preconditioner,
        "ridge": ridge,
        "balance": balance,
        "optimizer": optimizer,
        "theta": theta,
        "omega": omega,
        "seed": seed,
        "ranks": ranks,
        "computed_in": computed_in,
    }
    problem = problem_of(
        X_P,
        y_P,
        X_H,
        loss=loss,
        batch_size=batch_size,
        hessian=hessian,
        preconditioner=preconditioner,
        ridge=ridge,
        theta=theta,
        omega=omega,
        seed=seed,
        ranks=ranks,
        computed_in=computed_in,
        reducible=optimizer == "gd",
    )
    terms: list[Term] = [
        PrimaryLoss("loss", 1.0),
        Conditioning("kappa_P", parameters["lambda_P"], 0, kappa),
        Conditioning("kappa_H", -parameters["lambda_H"], 1, kappa),
    ]
    return run(
        "opt_kappa",
        parameters,
        problem,
        balanced(problem, terms, balance),
        mover_of(optimizer, parameters["lr"]),
        steps=steps,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        knobs=("lr", "lambda_P", "lambda_H"),
    )
