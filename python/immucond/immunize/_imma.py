"""The bi-level baseline: raise the harmful loss that an attacker's own steps still reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._floating import underflow_is_zero
from .._task import Ranks
from .._validate import as_count, check_real
from ._losses import LossName
from ._movers import Optimizer, mover_of
from ._problem import Problem, problem_of
from ._result import ImmunizationResult
from ._run import CHECKPOINT_EVERY, Callback, Path, run
from ._terms import AdaptedLoss, Conditioning, PrimaryLoss


@underflow_is_zero
def imma(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    y_H: npt.ArrayLike,
    *,
    loss: LossName = "squared",
    lambda_H: float = 1.0,
    lr: float,
    steps: int,
    inner_lr: float | None = None,
    inner_steps: int = 1,
    batch_size: int | None = None,
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
    r"""Immunize by the bi-level program of IMMA, on a linear extractor (a baseline).

    .. math::
        \min_{\theta, \omega} L_P(\theta, \omega) - \lambda_H L_H(\theta, w_T(\theta)), \qquad
        w_{t+1} = w_t - a \nabla_w L_H(\theta, w_t), \quad w_0 = 0.

    The inner problem adapts a head to D_H by T steps; the outer one raises the loss it reaches,
    and keeps the primary loss. Its gradient by theta goes through all inner steps, exactly.

    Parameters
    ----------
    X_P, y_P, X_H, loss, lr, steps, batch_size, optimizer, theta, omega, seed, ranks, computed_in
        As in :func:`algorithm1`; the loss is that of both tasks. Condition numbers are those of all
        rows, batches or not.
    y_H : (N_H,) or (N_H, c) array_like
        Harmful targets.
    lambda_H : float, default 1
        Weight of the adapted loss.
    inner_lr : float, optional
        Step size a of the adaptation; by default 1/L at the start, L the largest curvature that
        the harmful loss can have by its head. An attacker's step does not follow theta: where theta
        grows until a is more than 2/L the inner steps diverge, and so does the loss.
    inner_steps : int, default 1
        Number T of adaptation steps.
    checkpoint, checkpoint_every, callback
        As in :func:`algorithm1`.

    Returns
    -------
    ImmunizationResult
        History: ``loss, adapted_loss, kappa_P, kappa_H, rir, grad_loss, grad_adapted``.

    Raises
    ------
    ImmucondError, OverflowError, ValueError
        As :func:`algorithm1`.

    Notes
    -----
    Source: Zheng and Yeh, "IMMA: Immunizing text-to-image models against malicious adaptation"
    (ECCV 2024), as the baseline of arXiv 2505.23760; the exact gradient is ours.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.imma(
    ...     X_P, X_P @ np.ones(4), X_H, X_H @ [1, -1, 1, -1], lr=0.01, steps=100)
    >>> bool(result.history["adapted_loss"][-1] > result.history["adapted_loss"][0])
    True
    """
    parameters = {
        "loss": loss,
        "lambda_H": check_real(lambda_H, "lambda_H", low=0.0),
        "lr": check_real(lr, "lr", low=0.0),
        "steps": steps,
        "inner_lr": None if inner_lr is None else check_real(inner_lr, "inner_lr", low=0.0),
        "inner_steps": as_count(inner_steps, "inner_steps", least=1),
        "batch_size": batch_size,
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
        y_H,
        loss=loss,
        batch_size=batch_size,
        hessian="full",
        preconditioner=None,
        theta=theta,
        omega=omega,
        seed=seed,
        ranks=ranks,
        computed_in=computed_in,
        reducible=optimizer == "gd",
    )
    if inner_lr is None:
        parameters["inner_lr"] = _inverse_curvature(problem)
    return run(
        "imma",
        parameters,
        problem,
        [
            PrimaryLoss("loss", 1.0),
            AdaptedLoss(
                "adapted",
                -parameters["lambda_H"],
                parameters["inner_lr"],
                parameters["inner_steps"],
            ),
            Conditioning("well", 0.0, 0),
            Conditioning("ill", 0.0, 1),
        ],
        mover_of(optimizer, parameters["lr"]),
        steps=steps,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        knobs=("lr", "lambda_H", "inner_lr"),
    )


def _inverse_curvature(problem: Problem) -> float:
    """One over the largest curvature that the harmful loss can have by its head at the start."""
    rows = problem.rows(0)
    assert rows.harmful_loss is not None
    Z = rows.harmful_loss.X @ problem.theta
    size = float(np.linalg.norm(Z, 2))
    if size == 0.0:
        raise ValueError("theta maps X_H to 0: there is nothing to adapt a head to")
    return 1.0 / (rows.harmful_loss.smoothness() * size**2)
