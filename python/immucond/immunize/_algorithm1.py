"""Algorithm 1 of the paper, full batch, with an inverse-free preconditioned step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .._errors import ImmucondError
from .._extreme import ExtremePairs
from .._gram import gram
from .._regularizers import SpectralRegularizer, r_ill, r_well
from .._validate import FloatArray, as_count, as_float64, as_theta, check_choice, check_real
from ..linear._report import report_of
from ..linear._root import Ranks, Root, roots, span_of
from ._losses import primary_loss
from ._result import ImmunizationResult

Preconditioner = Literal["right", "projected", "ridge"]


class _Task:
    """One regularizer on one task: value, preconditioned gradient and kappa, warm-started."""

    def __init__(
        self,
        regularizer: SpectralRegularizer,
        root: Root,
        K: FloatArray,
        span: FloatArray | None,
        preconditioner: Preconditioner | None,
        ridge: float,
    ) -> None:
        self._regularizer, self._K = regularizer, K
        # Fixed while theta stays invertible: re-deciding it on a scaled spectrum would misjudge.
        self._rank = root.rank_within(span)
        if self._rank == 0:
            raise ValueError(f"theta maps {root.name} to 0: its Hessian has rank 0 and no kappa")
        self._free = preconditioner in ("right", "projected")
        self._range = root.range_basis if preconditioner == "projected" else None
        self._factor = (
            scipy.linalg.cho_factor(K + ridge * np.eye(root.dim))
            if preconditioner == "ridge"
            else None
        )
        self._pairs: ExtremePairs | None = None

    def __call__(self, theta: FloatArray) -> tuple[float, FloatArray, float]:
        value, grad, self._pairs = self._regularizer.value_and_grad_theta(
            theta,
            self._K,
            preconditioned=self._free,
            rank=self._rank,
            start=self._pairs,
            return_pairs=True,
        )
        if self._range is not None:
            grad = self._range @ (self._range.T @ grad)
        elif self._factor is not None:
            grad = scipy.linalg.cho_solve(self._factor, grad)
        return value, grad, self._pairs.condition_number


def algorithm1(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    *,
    loss: Literal["squared", "logistic"] = "squared",
    lambda_P: float,
    lambda_H: float,
    lr: float,
    steps: int,
    batch_size: None = None,
    hessian: Literal["full"] = "full",
    preconditioner: Preconditioner | None = "right",
    ridge: float = 1.0,
    theta: npt.ArrayLike | None = None,
    omega: npt.ArrayLike | None = None,
    seed: int | None = 0,
    ranks: Ranks | None = None,
    computed_in: Any = None,
    callback: Callable[[int, Mapping[str, float]], object] | None = None,
) -> ImmunizationResult:
    r"""Immunize a linear extractor by Algorithm 1 of the paper, full batch.

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
        Primary targets; labels 0/1 or -1/1 for the logistic loss.
    X_H : (N_H, d) array_like
        Harmful inputs; their targets play no part.
    loss : {"squared", "logistic"}
        Primary loss, a mean over samples and heads.
    lambda_P, lambda_H : float
        Weights of R_well on the primary and of R_ill on the harmful Hessian. What they mean
        depends on the scale of the inputs: ``lr * lambda_P`` is a step in the sense of
        :func:`immucond.linear.step_interval`.
    lr : float
        Step size eta.
    steps : int
        Number of steps.
    batch_size : None
        All rows in every step; mini-batches are not there yet.
    hessian : {"full"}
        Hessians of all rows.
    preconditioner : {"right", "projected", "ridge", None}
        For singular K three different algorithms: ``"right"`` steps along 2 theta G,
        ``"projected"`` along K^+ grad (moves theta on range(K) only), ``"ridge"`` along
        (K + ridge I)^-1 grad, as the published code does; ``None`` along the plain gradient
        2 K theta G.
    ridge : float, default 1
        For ``preconditioner="ridge"`` alone.
    theta : (d, m) array_like, optional
        Extractor to start from; the identity by default.
    omega : (m,) or (m, c) array_like, optional
        Head to start from; by default drawn from a normal distribution of variance 1/m^2.
    seed : int, optional
        Seed of that draw.
    ranks : (int or None, int or None), optional
        Known ranks of (X_P, X_H).
    computed_in : dtype, optional
        Precision in which the inputs were computed; sets the tolerance that decides the ranks.
    callback : callable, optional
        Called as ``callback(step, record)`` before each step and after the last, with the history's
        entries of that moment; a true return value stops.

    Returns
    -------
    ImmunizationResult
        History: ``loss, r_well, r_ill, kappa_P, kappa_H, rir`` and the Frobenius norms
        ``grad_loss, grad_well, grad_ill`` of the three (preconditioned) parts of theta's step. Its
        kappas are those of ``theta^T K theta``, good to about 16 - log10(kappa) digits; the report
        goes by the features and keeps twice as many.

    Raises
    ------
    ImmucondError
        When the iteration diverges: the message says at which step, and what to lower.
    OverflowError
        Where a Gram matrix of the inputs is not representable.
    DegenerateSpectrumError
        Where R_ill is infinite, all eigenvalues of a harmful Hessian being equal.
    ValueError
        For NaN, mismatched sizes, an unknown loss or preconditioner, or unfit parameters.

    Warns
    -----
    AccuracyWarning, DegenerateSpectrumWarning
        Where a gradient on the way was not determined; once each, after the last step.

    Notes
    -----
    Source: arXiv 2505.23760, Algorithm 1.

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
    if batch_size is not None:
        raise ValueError(f"batch_size must be None (all rows: no mini-batches), got {batch_size!r}")
    check_choice(hessian, "hessian", ("full",))
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")
    P, H = roots(X_P, X_H, None, None, ranks=ranks, computed_in=computed_in)
    lambda_P = check_real(lambda_P, "lambda_P", low=0.0)
    lambda_H = check_real(lambda_H, "lambda_H", low=0.0)
    lr, ridge = check_real(lr, "lr", low=0.0), check_real(ridge, "ridge", low=0.0)
    last = as_count(steps, "steps", least=0)
    if preconditioner is not None:
        check_choice(preconditioner, "preconditioner", ("right", "projected", "ridge"))
    primary = primary_loss(loss, as_float64(X_P, "X_P"), y_P)
    extractor = np.eye(P.dim) if theta is None else as_theta(theta, P.dim).copy()
    head = _start_head(omega, extractor.shape[1], np.shape(y_P), seed)
    span = span_of(extractor)
    well = _Task(r_well, P, _gram(X_P, "X_P"), span, preconditioner, ridge)
    ill = _Task(r_ill, H, _gram(X_H, "X_H"), span, preconditioner, ridge)

    records: list[dict[str, float]] = []
    seen: dict[type[Warning], str] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(last + 1):
            value, by_v = primary.value_and_grad(extractor @ head)
            if not (np.isfinite(value) and np.isfinite(extractor).all()):
                raise ImmucondError(_diverged(step, value, lr, lambda_P, lambda_H))
            by_theta = by_v @ head.T
            try:
                # Held back: on the way to a divergence they only distract from its message.
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    value_P, grad_P, kappa_P = well(extractor)
                    value_H, grad_H, kappa_H = ill(extractor)
            except ArithmeticError as error:
                raise ImmucondError(_diverged(step, value, lr, lambda_P, lambda_H)) from error
            for warning in caught:
                seen.setdefault(warning.category, f"at step {step}: {warning.message}")
            record = {
                "loss": value,
                "r_well": value_P,
                "r_ill": value_H,
                "kappa_P": kappa_P,
                "kappa_H": kappa_H,
                "rir": (kappa_H / H.kappa) / (kappa_P / P.kappa),
                "grad_loss": float(np.linalg.norm(by_theta)),
                "grad_well": float(np.linalg.norm(grad_P)),
                "grad_ill": float(np.linalg.norm(grad_H)),
            }
            records.append(record)
            stop = callback is not None and callback(step, record)
            if stop or step == last:
                break
            head = head - lr * (extractor.T @ by_v)
            extractor = extractor - lr * (by_theta + lambda_P * grad_P + lambda_H * grad_H)
    for category, message in seen.items():
        warnings.warn(message, category, stacklevel=2)
    return ImmunizationResult(
        theta=extractor,
        omega=head[:, 0] if np.ndim(y_P) == 1 else head,
        history={name: np.array([record[name] for record in records]) for name in records[0]},
        report=report_of(P, H, extractor),
    )


def _gram(X: npt.ArrayLike, name: str) -> FloatArray:
    try:
        return gram(X)
    except OverflowError as error:
        raise OverflowError(
            f"the Gram matrix of {name} is beyond the float range: scale {name} down"
        ) from error


def _start_head(
    omega: npt.ArrayLike | None, m: int, shape: tuple[int, ...], seed: int | None
) -> FloatArray:
    wanted = (m, *shape[1:])
    if omega is None:
        start = None if seed is None else as_count(seed, "seed", least=0)
        head = np.random.default_rng(start).normal(scale=1.0 / m, size=wanted)
    else:
        head = as_float64(omega, "omega", ndim=len(wanted))
        if head.shape != wanted:
            raise ValueError(f"omega must have shape {wanted}, got {head.shape}")
    return head.reshape(m, -1)


def _diverged(step: int, loss: float, lr: float, lambda_P: float, lambda_H: float) -> str:
    if step == 0:
        return (
            f"Algorithm 1 cannot start: the primary loss ({loss:g}) or a regularizer is beyond the "
            "float range; scale X_P, y_P or X_H"
        )
    return (
        f"Algorithm 1 diverged at step {step} (primary loss {loss:g}): lower lr (given {lr:g}), "
        f"lambda_P (given {lambda_P:g}) or lambda_H (given {lambda_H:g})"
    )
