"""The formulation of the published code, as it is: a preset for comparison."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .._errors import DegenerateSpectrumError, underflow_is_zero
from .._extreme import feature_extreme_pairs
from .._regularizers import SpectralRegularizer
from .._task import with_ones
from .._two_tasks import roots
from .._validate import FloatArray, as_array, as_count, as_float64, as_matrix
from ..linear import ImmunityReport
from ..linear.of_roots import report_of
from ._hessians import BatchHessian, LowRank
from ._losses import task_loss
from ._objective import Conditioning, PrimaryLoss
from ._problem import EVERY, Batches, Callback, Path, Problem, Rows, Setup, entropy
from ._result import ImmunizationResult
from ._run import run


@underflow_is_zero
def published(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, *,
    loss: Literal["squared", "logistic"] = "squared",
    lambda_P: float = 100.0, lambda_H: float = 1e7, lr: float = 5e-3,
    epochs: int = 100, batch_size: int = 64, ridge: tuple[float, float] = (1.0, 1.0),
    seed: int | None = 0, computed_in: Any = None,
    checkpoint: Path | None = None, checkpoint_every: int = EVERY,
    callback: Callback | None = None,
) -> ImmunizationResult:  # fmt: skip
    r"""Immunize by the formulation of the published code, for comparison with it.

    What it does other than Algorithm 1 as printed:

    - Adam moves theta and the head, not gradient descent.
    - The extractor is a linear layer with a bias, started at random: weights and bias uniform in
      :math:`\pm d^{-1/2}`, the head standard normal.
    - Gram matrices are those of a mini-batch, of fewer rows than features as a rule. The
      regularizers of these Hessians count all d eigenvalues: R_ill has 2d in place of 2k, and the
      smallest eigenvalue is that of ``H + 1e-6 I``, so 1e-6 where rows are fewer: nothing is left
      of its end of the spectrum there, and R_ill is ``2 d / ||H_H||_F^2``.
    - The preconditioner ``(K + ridge I)^-1`` stands on the side of the features, where the output
      of the layer is, not on that of the inputs; the bias goes without.
    - Row i of one task comes with row i of the other; the longer one's surplus is left out.

    Parameters
    ----------
    X_P, y_P, X_H
        As in :func:`algorithm1`; the House Price protocol takes the first 200 rows of each set.
    loss : {"squared", "logistic"}
        Primary loss.
    lambda_P, lambda_H : float
        Weights; by default those of its House Price settings. (MNIST: 1 and 5e7, ``lr=1e-3``,
        ``epochs=30``, ``ridge=(1, 1e-7)``.)
    lr : float
        Step size of Adam.
    epochs : int
        Passes over the rows; its settings file says 10 for House Price, the paper 100.
    batch_size : int
        Rows in a step.
    ridge : (float, float)
        Ridges of the preconditioners of the primary and of the harmful step.
    seed : int, optional
        Seed of the start and of the batches.
    computed_in, checkpoint, checkpoint_every, callback
        As in :func:`algorithm1`.

    Returns
    -------
    ImmunizationResult
        With a `bias`. Its report is in the exact convention; ``result.measure(X_P, X_H,
        ridge=1e-6)`` gives the published one. History: that of :func:`algorithm1`.

    Raises
    ------
    ImmucondError, OverflowError, ValueError
        As :func:`algorithm1`.

    Notes
    -----
    Source: the code that arXiv 2505.23760 points to. The 1e-6 that it adds to eigenvalues is below
    rounding in R_well and R_ill themselves, and is left out of them here.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.published(X_P, X_P @ np.ones(4), X_H, batch_size=16, epochs=20)
    >>> result.bias.shape, result.history["loss"].shape
    ((4,), (61,))
    """
    inputs_P, inputs_H = as_float64(X_P, "X_P"), as_float64(X_H, "X_H")
    d = inputs_P.shape[1]
    pair = as_float64(np.atleast_1d(as_array(ridge, "ridge", ndim=None)), "ridge", ndim=1)
    if pair.shape != (2,) or not (pair > 0.0).all():
        raise ValueError(f"ridge must be a pair of numbers above 0, got {ridge!r}")
    passes = as_count(epochs, "epochs", least=0)
    size = as_count(batch_size, "batch_size", least=1)
    if loss not in ("squared", "logistic"):
        raise ValueError(f"loss must be one of 'squared', 'logistic', and is {loss!r}")
    whole = task_loss(loss, inputs_P, y_P)
    paired = min(inputs_P.shape[0], inputs_H.shape[0])
    if size > paired:
        raise ValueError(
            f"batch_size must be at most {paired}, the number of rows that both tasks have, and is "
            f"{size}"
        )
    setup = Setup.of(
        locals(), batch_size=size, ridge=pair, steps=passes * (paired // size), optimizer="adam"
    )
    kept = np.arange(paired)
    primary = replace(whole.rows(kept), X=with_ones(inputs_P[:paired]))
    ones_H = with_ones(inputs_H[:paired])
    given_P, given_H = (with_ones(as_matrix(X, "X")[:paired]) for X in (X_P, X_H))
    P, H = roots(given_P, given_H, None, None, computed_in=computed_in)
    dtypes = given_P.dtype, given_H.dtype
    drawn = entropy(seed)
    rng = np.random.default_rng(drawn)
    reach = 1.0 / math.sqrt(d)
    problem = _Problem(
        P=P, H=H, loss=primary, inputs_H=ones_H, theta=rng.uniform(-reach, reach, size=(d + 1, d)),
        omega=rng.normal(size=(d, primary.heads)), seed=drawn, batch_size=size,
        full_hessians=False, ridge=(float(pair[0]), float(pair[1])),
        computed_in=dtypes if computed_in is None else (computed_in,) * 2, single=np.ndim(y_P) == 1,
        given={"X_P": inputs_P, "y_P": whole.targets, "X_H": inputs_H},
    )  # fmt: skip
    terms = [
        PrimaryLoss("loss", 1.0),
        Conditioning("well", setup.lambda_P, 0, _well_of(d), "r_well"),
        Conditioning("ill", setup.lambda_H, 1, _ill_of(d), "r_ill"),
    ]
    lower = ("lr", "lambda_P", "lambda_H")
    return run(published, setup, problem, terms, lower=lower, own={"epochs": passes})


class _Problem(Problem):
    """Paired rows, with an input of ones at the end whose row of theta is the bias."""

    def rows(self, step: int) -> Rows:
        assert self.batch_size is not None
        index = Batches(self.loss.X.shape[0], self.batch_size, self.seed, 0)(step)
        P, H = (
            _Hessian(X[index], root.name, min(root.rank, self.theta.shape[1]), dtype, ridge)
            for X, root, dtype, ridge in zip(
                (self.loss.X, self.inputs_H),
                (self.P, self.H),
                self.computed_in,
                self.ridge,
                strict=True,
            )
        )
        return Rows(self.loss.rows(index), (P, H), None)

    def given_theta(self, theta: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        return theta[:-1], theta[-1]

    def report(self, theta: FloatArray) -> ImmunityReport:
        return report_of(self.P, self.H, theta, np.eye(*theta.shape))


class _Hessian(BatchHessian):
    """With the preconditioner on the side of the features, and none for the bias."""

    def __init__(self, X: FloatArray, name: str, most: int, computed_in: Any, ridge: float) -> None:
        super().__init__(X, name, most, computed_in, None, None, ridge)
        inputs = feature_extreme_pairs(X[:, :-1], computed_in=computed_in)
        self.kappa_identity = float(inputs.condition_number)

    def _step(self, A: FloatArray, Vt: FloatArray) -> LowRank:
        inputs = self._X[:, :-1]
        # V^T (K + ridge I)^-1, by Woodbury through the (B, B) matrix.
        small = inputs @ inputs.T + self._ridge * np.eye(inputs.shape[0])
        solved = scipy.linalg.solve(small, inputs @ Vt.T, assume_a="pos")
        right = (Vt - solved.T @ inputs) / self._ridge
        zero = np.zeros((1, A.shape[1]))
        weights, bias = np.vstack([inputs.T @ A, zero]), np.zeros((self._X.shape[1], A.shape[1]))
        bias[-1] = A.sum(axis=0)
        return LowRank(np.hstack([weights, bias]), np.vstack([right, Vt]))


def _well_of(columns: int) -> SpectralRegularizer:
    """R_well that counts so many singular values, of which a matrix may hold the nonzero alone."""

    def coefficients(s: Any) -> tuple[float, float, float, float]:
        below = s.below_max + (columns - s.p) * s.sigma_max**2
        return below / (2 * columns), s.sigma_max, 0.0, -1.0 / columns

    return SpectralRegularizer("r_well", 2, coefficients)


def _ill_of(columns: int) -> SpectralRegularizer:
    """R_ill with 2d for 2k, and the smallest of all d eigenvalues."""

    def coefficients(s: Any) -> tuple[float, float, float, float]:
        # The smallest of d eigenvalues is sigma_k only where k = d: F - d sigma_d^2, or F itself.
        full = s.rank == columns
        smallest = s.sigma_min if full else 0.0
        D = (s.above_min if full else s.above_min + s.rank * s.sigma_min**2) / (2 * columns)
        if D == 0.0:
            raise DegenerateSpectrumError(
                f"R_ill is infinite where all {columns} eigenvalues are equal, and has no gradient "
                "there; start from another theta"
            )
        return 1.0 / D, 0.0, smallest / D**2, -1.0 / (columns * D**2)

    return SpectralRegularizer("r_ill", -2, coefficients)
