"""The paper's baselines: R_ill alone, the condition numbers themselves, and the bi-level IMMA."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._regularizers import kappa, r_ill
from .._two_tasks import Ranks
from .._validate import as_count, check_real
from ._hessians import Preconditioner
from ._objective import AdaptedLoss, Conditioning, PrimaryLoss
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
def r_ill_only(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, *,
    loss: LossName = "squared", lambda_H: float = 1.0, lr: float, steps: int,
    batch_size: int | None = None, hessian: Literal["full", "batch"] = "full",
    preconditioner: Preconditioner | None = None, ridge: float = 1.0, optimizer: Optimizer = "gd",
    theta: npt.ArrayLike | None = None, omega: npt.ArrayLike | None = None, seed: int | None = 0,
    ranks: Ranks | None = None, computed_in: Any = None,
    checkpoint: Path | None = None, checkpoint_every: int = EVERY,
    callback: Callback | None = None,
) -> ImmunizationResult:  # fmt: skip
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
    setup = Setup.of(locals())
    terms = [
        PrimaryLoss("loss", 0.0),
        Conditioning("well", 0.0, 0),
        Conditioning("ill", setup.lambda_H, 1, r_ill, "r_ill"),
    ]
    return run(r_ill_only, setup, problem_of(setup), terms, lower=("lr", "lambda_H"))


@underflow_is_zero
def opt_kappa(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, *,
    loss: LossName = "squared", lambda_P: float = 1.0, lambda_H: float = 1.0,
    lr: float, steps: int,
    batch_size: int | None = None, hessian: Literal["full", "batch"] = "full",
    preconditioner: Preconditioner | None = None, ridge: float = 1.0,
    balance: Balance | None = None, optimizer: Optimizer = "gd",
    theta: npt.ArrayLike | None = None, omega: npt.ArrayLike | None = None, seed: int | None = 0,
    ranks: Ranks | None = None, computed_in: Any = None,
    checkpoint: Path | None = None, checkpoint_every: int = EVERY,
    callback: Callback | None = None,
) -> ImmunizationResult:  # fmt: skip
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
    preconditioner : {None, "right", "projected", "ridge"}
        Plain gradient by default; the others as in :func:`algorithm1`.
    lambda_P, lambda_H : float, default 1
        Weights of the two condition numbers.
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
    Source: arXiv 2505.23760, the baseline "Opt kappa". Both condition numbers are over the nonzero
    eigenvalues, of which theta keeps as many as there are.

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
    setup = Setup.of(locals())
    terms = [
        PrimaryLoss("loss", 1.0),
        Conditioning("kappa_P", setup.lambda_P, 0, kappa),
        Conditioning("kappa_H", -setup.lambda_H, 1, kappa),
    ]
    lower = ("lr", "lambda_P", "lambda_H")
    return run(opt_kappa, setup, problem_of(setup), terms, lower=lower)


@underflow_is_zero
def imma(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, y_H: npt.ArrayLike, *,
    loss: LossName = "squared", lambda_H: float = 1.0, lr: float, steps: int,
    inner_lr: float | None = None, inner_steps: int = 1,
    batch_size: int | None = None, optimizer: Optimizer = "gd",
    theta: npt.ArrayLike | None = None, omega: npt.ArrayLike | None = None, seed: int | None = 0,
    ranks: Ranks | None = None, computed_in: Any = None,
    checkpoint: Path | None = None, checkpoint_every: int = EVERY,
    callback: Callback | None = None,
) -> ImmunizationResult:  # fmt: skip
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
        As :func:`algorithm1`; for a theta that maps X_H to 0.
    TypeError
        Without harmful targets.

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
    if y_H is None:
        raise TypeError("y_H is None: a head is adapted to harmful targets, one a row of X_H")
    count = as_count(inner_steps, "inner_steps", least=1)
    length = None if inner_lr is None else check_real(inner_lr, "inner_lr", low=0.0)
    setup = Setup.of(locals())
    problem = problem_of(setup)
    if length is None:
        length = _inverse_curvature(problem)
    terms = [
        PrimaryLoss("loss", 1.0),
        AdaptedLoss("adapted", -setup.lambda_H, length, count),
        Conditioning("well", 0.0, 0),
        Conditioning("ill", 0.0, 1),
    ]
    own = {"inner_lr": length, "inner_steps": count}
    return run(imma, setup, problem, terms, lower=("lr", "lambda_H", "inner_lr"), own=own)


def _inverse_curvature(problem: Problem) -> float:
    """One over the largest curvature that the harmful loss can have by its head at the start."""
    rows = problem.rows(0)
    assert rows.harmful_loss is not None
    Z = rows.harmful_loss.X @ problem.theta
    size = float(np.linalg.norm(Z, 2))
    if size == 0.0:
        raise ValueError("theta maps X_H to 0: there is nothing to adapt a head to")
    return 1.0 / (rows.harmful_loss.smoothness() * size**2)
