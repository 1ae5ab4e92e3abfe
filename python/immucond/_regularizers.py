"""Spectral regularizers: functions of the two ends of a spectrum and of its Frobenius norm.

Each one is a value and three coefficients of

    grad_S r = alpha u_1 v_1^T + beta u_k v_k^T + gamma S;

one kernel does the rest, by S, by theta or by features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, SupportsIndex
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from . import _core
from ._core import Spectrum
from ._errors import warn_accuracy, warn_tied
from ._pairs import (
    ExtremePairs,
    every,
    explaining,
    pairs_from,
    search_from,
    warn_half,
    where_not,
)
from ._rank import Rule, rank_rule
from ._validate import FloatArray, as_integer, as_matrices, as_matrix

Coefficients = tuple[float, float, float, float]

# How many singular values p counts: all of them, the nonzero ones, or a number of them.
Counted = Literal["rank"] | SupportsIndex | None


class SpectralRegularizer:
    """A scalar function ``r(sigma_1, sigma_k, F)`` of a spectrum, with its gradient.

    Here ``sigma_1 >= ... >= sigma_k > 0`` are the nonzero singular values of a matrix S,
    ``F = ||S||_F^2``, and p is the smaller dimension of S. At fixed rank k, where the ends that it
    uses are simple, ``grad_S r = alpha u_1 v_1^T + beta u_k v_k^T + gamma S``. At a tie the mean of
    ``u_i v_i^T`` over the tied group stands in: a valid subgradient, and a descent direction.

    Parameters
    ----------
    name : str
        For messages.
    degree : int
        The degree of homogeneity: ``r(c S) = c^degree r(S)``.
    coefficients : callable
        From a spectrum (attributes ``p``, ``rank``, ``sigma_max``, ``sigma_min``,
        ``below_max = p sigma_1^2 - F`` and ``above_min = F - k sigma_k^2``, both without
        cancellation, and ``all_tied``) to ``(value, alpha, beta, gamma)``. Or the name of
        a built-in regularizer, whose coefficients the kernels know without Python.
    takes_p : bool
        Whether the number p of singular values has a meaning, and may be chosen.

    Attributes
    ----------
    name : str
    degree : int
    coefficients : callable
        From a spectrum to ``(value, alpha, beta, gamma)``, of a built-in regularizer too.
    takes_p : bool

    Notes
    -----
    All methods take the keywords `rank`, `rtol`, `computed_in` and `start` of `extreme_pairs`
    (for features those of `feature_extreme_pairs`), and ``return_pairs=True`` to return the
    certified `ExtremePairs` as well. Matrices and features may be stacks of them, with the stack's
    axis first: so have values and gradients, and threads share the stack.

    Examples
    --------
    A regularizer of one's own, the spectral norm:

    >>> import immucond as ic
    >>> norm = ic.SpectralRegularizer("norm", 1, lambda s: (s.sigma_max, 1.0, 0.0, 0.0))
    >>> value, grad = norm.value_and_grad([[3.0, 0.0], [0.0, 1.0]])
    >>> round(value, 12), grad.diagonal().round(12).tolist()
    (3.0, [1.0, 0.0])
    """

    # By their ids, by which PyTorch's dispatcher takes them: it takes no objects.
    alive: ClassVar[WeakValueDictionary[int, SpectralRegularizer]] = WeakValueDictionary()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        self = super().__new__(cls)
        cls.alive[id(self)] = self
        return self

    def __init__(
        self,
        name: str,
        degree: int,
        coefficients: Callable[[Spectrum], Coefficients] | str,
        *,
        takes_p: bool = False,
    ) -> None:
        if not (isinstance(coefficients, str) or callable(coefficients)):
            raise TypeError(
                f"coefficients must be a function of a spectrum, or a name, and is {coefficients!r}"
            )
        self.name = name
        self.degree = as_integer(degree, "degree")
        self.coefficients: Callable[[Spectrum], Coefficients] = (
            _core.BuiltIn(coefficients) if isinstance(coefficients, str) else coefficients
        )
        self.takes_p = takes_p

    def __repr__(self) -> str:
        return f"<spectral regularizer {self.name}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        # Those of this module are known by name: a copy, here or elsewhere, is the very one.
        known = globals().get(self.name) is self
        return self.name if known else super().__reduce_ex__(protocol)

    def __call__(
        self,
        S: npt.ArrayLike,
        *,
        rank: SupportsIndex | None = None,
        rtol: float | None = None,
        computed_in: Any = None,
        start: ExtremePairs | None = None,
        return_pairs: bool = False,
        p: Counted = None,
    ) -> Any:
        """Return the value at a matrix.

        Parameters
        ----------
        S : array_like, shape (p_r, p_c) or (b, p_r, p_c)
            Any finite real matrix, or a stack.
        rank, rtol, computed_in, start, return_pairs, p
            As in `value_and_grad`.

        Returns
        -------
        float, or (b,) array
            With ``return_pairs=True`` a pair of this and the `ExtremePairs`.
        """
        value, _, *pairs = self._evaluate(
            "S", S, rank, rtol, computed_in, start, return_pairs, p, gradient=False
        )
        return (value, *pairs) if pairs else value

    def value_and_grad(
        self,
        S: npt.ArrayLike,
        *,
        rank: SupportsIndex | None = None,
        rtol: float | None = None,
        computed_in: Any = None,
        start: ExtremePairs | None = None,
        return_pairs: bool = False,
        p: Counted = None,
    ) -> tuple[Any, ...]:
        """Return the value and its gradient at a matrix.

        Parameters
        ----------
        S : array_like, shape (p_r, p_c) or (b, p_r, p_c)
            Any finite real matrix, or a stack.
        rank, rtol, computed_in, start
            As in `extreme_pairs`. The rank is fixed while differentiating.
        return_pairs : bool
            Return the `ExtremePairs` as a third item.
        p : None, "rank" or int
            For `r_well` only: count all singular values (default), the k nonzero ones, or so many,
            at least k: those of `S` with rows or columns of zeros left out or added.

        Returns
        -------
        value : float, or (b,) array
        gradient : ndarray, shape of `S`

        Raises
        ------
        DegenerateSpectrumError
            For `r_ill` where all nonzero singular values are equal.
        OverflowError
            Where the value or the gradient is not representable in float64.
        ValueError, TypeError
            As in `extreme_pairs`.

        Warns
        -----
        DegenerateSpectrumWarning
            Where an end that the gradient uses is not simple, unless all nonzero singular values
            are equal: there the natural subgradient has nothing to choose.
        AccuracyWarning
            Where it uses a smallest singular value that is not determined.
        """
        return self._evaluate("S", S, rank, rtol, computed_in, start, return_pairs, p)

    def value_and_grad_theta(
        self,
        theta: npt.ArrayLike,
        gram: npt.ArrayLike,
        *,
        preconditioned: bool = False,
        rank: SupportsIndex | None = None,
        rtol: float | None = None,
        computed_in: Any = None,
        start: ExtremePairs | None = None,
        return_pairs: bool = False,
        p: Counted = None,
    ) -> tuple[Any, ...]:
        """Return the value at ``H(theta) = theta^T K theta`` and the gradient by theta.

        Parameters
        ----------
        theta : array_like, shape (d, m)
            Linear feature extractor.
        gram : array_like, shape (d, d)
            The Gram matrix K of the inputs, symmetric positive semidefinite.
        preconditioned : bool
            False: the gradient ``2 K theta G``, G = grad_H r. True: ``2 theta G``, which is
            ``K^-1`` times it for nonsingular K (the step of Algorithm 1 in Zheng et al., 2025),
            without an inverse or a solve.
        rank, rtol, computed_in, start, return_pairs, p
            As in `value_and_grad`, for H. For invertible `theta` the rank of H is that of K: where
            K is singular, pass it.

        Returns
        -------
        value : float
        gradient : ndarray, shape (d, m)
        """
        map_, matrix = as_matrix(theta, "theta"), as_matrix(gram, "gram")
        size = map_.shape[1]
        search = search_from((size, size), start=start)
        rule = rank_rule(
            (size, size), matrix.dtype, rank=rank, rtol=rtol, computed_in=computed_in,
            given="product",
        )  # fmt: skip
        with explaining(rule):
            found = _core.evaluate_theta(
                map_, matrix, coefficients=self.coefficients, degree=self.degree, rule=rule,
                search=search, p=counted(p, self), preconditioned=preconditioned, gradient=True,
                pairs=return_pairs,
            )  # fmt: skip
        return self._told(found, "theta^T gram theta", rule, size)

    def value_and_grad_features(
        self,
        Z: npt.ArrayLike,
        *,
        rank: SupportsIndex | None = None,
        rtol: float | None = None,
        computed_in: Any = None,
        start: ExtremePairs | None = None,
        return_pairs: bool = False,
        p: Counted = None,
    ) -> tuple[Any, ...]:
        """Return the value at ``H = Z^T Z`` and the gradient by Z, ``2 Z G``.

        For fewer samples than features all is done with ``Z Z^T`` (N x N): O(N^2 m) flops.

        Parameters
        ----------
        Z : array_like, shape (N, m) or (b, N, m)
            Features, one row a sample, or a stack.
        rank, rtol, computed_in, start
            As in `feature_extreme_pairs`.
        return_pairs, p
            As in `value_and_grad`; the default p is m, however few samples there are.

        Returns
        -------
        value : float, or (b,) array
        gradient : ndarray, shape of `Z`
        """
        return self._evaluate("Z", Z, rank, rtol, computed_in, start, return_pairs, p)

    def _evaluate(
        self, name: Literal["S", "Z"], X: npt.ArrayLike, rank: SupportsIndex | None,
        rtol: float | None, computed_in: Any, start: ExtremePairs | None, return_pairs: bool,
        p: Counted, *, gradient: bool = True,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Return value, gradient and perhaps pairs at a matrix S or at features Z, or a stack."""
        array = as_matrices(X, name)
        given: Literal["features", "matrix"] = "features" if name == "Z" else "matrix"
        search = search_from(array.shape, start=start, given=given)
        rule = rank_rule(
            array.shape[-2:], array.dtype, rank=rank, rtol=rtol, computed_in=computed_in,
            given=given,
        )  # fmt: skip
        kernel = _core.evaluate_features if name == "Z" else _core.evaluate
        with explaining(rule):
            found = kernel(
                array, coefficients=self.coefficients, degree=self.degree, rule=rule,
                search=search, p=counted(p, self), gradient=gradient, pairs=return_pairs,
            )  # fmt: skip
        return self._told(found, "Z^T Z" if name == "Z" else "S", rule, min(array.shape[-2:]))

    def _told(
        self, found: tuple[Any, FloatArray | None, dict[str, Any] | None, Any, Any, Any],
        name: str, rule: Rule, size: int,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Return what a kernel found, with the warnings that it calls for."""
        value, gradient, pairs, tied, determined, rank = found
        warn_half(name, rank, size, rule)
        if not every(determined):
            warn_accuracy(name + where_not(determined))
        if gradient is not None and tied is not False and np.any(tied):
            warn_tied(name + where_not(np.logical_not(tied)), self.name)
        result = (value, gradient)
        return result if pairs is None else (*result, pairs_from(pairs, name))


def counted(p: Counted, regularizer: SpectralRegularizer) -> int:
    """Return p as the kernels take it: 0 for all singular values, -1 for the nonzero ones."""
    if p is None:
        return _core.ALL_VALUES
    if not regularizer.takes_p:
        raise TypeError(f"{regularizer.name} does not depend on p; r_well takes p='rank'")
    if isinstance(p, str):
        if p == "rank":
            return _core.NONZERO_VALUES
    elif not isinstance(p, bool | float) and 0 < (number := as_integer(p, "p")) < 2**63:
        return number
    raise ValueError(f"p must be None, 'rank' or a positive integer below 2^63, and is {p!r}")


r_well = SpectralRegularizer("r_well", 2, "r_well", takes_p=True)
"""``sigma_1^2 / 2 - F / (2 p)``: zero where all p singular values are equal; descent lowers kappa.

Nenov, Haider, Balazs (2024); Zheng et al. (2025), Eq. 11.
"""

r_ill = SpectralRegularizer("r_ill", -2, "r_ill")
"""``1 / (F / (2 k) - sigma_k^2 / 2)``: descent raises kappa. Zheng et al. (2025), Theorem 4.1."""

kappa = SpectralRegularizer("kappa", 0, "kappa")
"""``sigma_1 / sigma_k``, the condition number itself."""

log_kappa = SpectralRegularizer("log_kappa", 0, "log_kappa")
"""``log sigma_1 - log sigma_k``."""
