"""The baseline that makes the harmful task hard, and does not look at the primary one."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from .._floating import underflow_is_zero
from .._regularizers import r_ill
from .._task import Ranks
from .._validate import check_real
from ._hessians import Preconditioner
from ._losses import LossName
from ._movers import Optimizer, mover_of
from ._problem import problem_of
from ._result import ImmunizationResult
from ._run import CHECKPOINT_EVERY, Callback, Path, run
from ._terms import Conditioning, PrimaryLoss


@underflow_is_zero
def r_ill_only(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    *,
    loss: LossName = "squared",
    lambda_H: float = 1.0,
    lr: float,
    steps: int,
    batch_size: int | None = None,
    hessian: Literal["full", "batch"] = "full",
    preconditioner: Preconditioner | None = None,
    ridge: float = 1.0,
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
    r"""Immunize by gradient descent on R_ill of the harmful Hessian alone (a baseline).

    .. math:: \theta \leftarrow \theta - \eta\, \lambda_H\, 2 K_H \theta G_H

    The primary loss trains the head, which theta does not feel.

    Parameters
    ----------
    X_P, y_P, X_H, loss, steps, batch_size, hessian, ridge, optimizer, theta, omega, seed
        As in :func:`algorithm1`.
    lambda_H : float, default 1
        Factor of the step; ``lr * lambda_H`` is what theta feels, lr what the head does. The
        primary features grow as well: where the head diverges on them, lower lr and raise this.
    lr : float
        Step size eta.
    preconditioner : {None, "right", "projected", "ridge"}
        Plain gradient by default; the others as in :func:`algorithm1`.
    ranks, computed_in, checkpoint, checkpoint_every, callback
        As in :func:`algorithm1`.

    Returns
    -------
    ImmunizationResult
        History: ``loss, r_ill, kappa_P, kappa_H, rir, grad_ill``.

    Raises
    ------
    ImmucondError, OverflowError, DegenerateSpectrumError, ValueError
        As :func:`algorithm1`.

    Notes
    -----
    Source: arXiv 2505.23760, the baseline "R_ill only".

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.r_ill_only(
    ...     X_P, X_P @ np.ones(4), X_H, lambda_H=1e3, lr=0.01, steps=100)
    >>> result.report.i > 1
    True
    """
    parameters = {
        "loss": loss,
        "lambda_H": check_real(lambda_H, "lambda_H", low=0.0),
        "lr": check_real(lr, "lr", low=0.0),
        "steps": steps,
        "batch_size": batch_size,
        "hessian": hessian,
        "preconditioner": preconditioner,
        "ridge": ridge,
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
    return run(
        "r_ill_only",
        parameters,
        problem,
        [
            PrimaryLoss("loss", 0.0),
            Conditioning("well", 0.0, 0),
            Conditioning("ill", parameters["lambda_H"], 1, r_ill, "r_ill"),
        ],
        mover_of(optimizer, parameters["lr"]),
        steps=steps,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        knobs=("lr", "lambda_H"),
    )
