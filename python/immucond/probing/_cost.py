"""What an attack by gradient descent costs, from a few products: bounds on its loss at any step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._display import Columns, Curves, Line, Plotted, draw
from .._errors import underflow_is_zero
from .._extreme import psd_extreme_pairs
from .._gram import gram
from .._rank import default_rtol, rank_rule, refuse_more
from .._validate import FloatArray, as_count, as_float64, as_matrix, as_targets, check_real
from ._curve import as_steps, decay
from .quadrature import Bidiagonal, bidiagonalize, gamma, rate_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 2**63  # steps beyond which nobody goes
_LEAST = 1e-9  # of the loss at the start, that a logarithmic axis takes
_SHOWN = 1e-3  # of it, that plots show
_RELATIVE = 1e-12  # of what is summed of rounded powers


class Bracket(NamedTuple):
    """A value between two bounds, and a guess at it: numbers, or arrays."""

    lower: Any
    forecast: Any
    upper: Any


@dataclass(frozen=True, eq=False)
class AttackCost(Plotted):
    r"""Loss of gradient descent on ``||Z w - y||^2`` from w = 0, at every step, from k products.

    Attributes
    ----------
    start : float
        ``||y||^2``, the loss at step 0.
    lambda_max : float
        Upper bound on the largest eigenvalue of ``Z^T Z``.
    residual : float
        How far that may lie above the eigenvalue itself.
    rate : float
        ``eta lambda_max``, below 2, of the step ``w <- w - eta Z^T (Z w - y)``.
    irreducible : (float, float)
        Bounds on the loss that no head gets below. The upper one is that of a head that was found;
        the lower one is above 0 where all products were made and the smallest singular value, or
        that of the rank that was given, is more than rounding.
    certified : bool
        Whether the bounds hold for certain, rounding included, or are a forecast.
    backward_error : float
        The rules are those of features that differ from Z by so much at most, relative to its
        largest singular value. What this can change is within the bounds.
    measure : Bidiagonal
        What the products gave, for Z relative to the root of `lambda_max`.
    closed : bool
        Whether no further product could tell more.
    """

    start: float
    lambda_max: float
    residual: float
    rate: float
    irreducible: tuple[float, float]
    certified: bool
    backward_error: float
    measure: Bidiagonal = field(repr=False)
    closed: bool

    @property
    def products(self) -> int:
        """Number k of products with Z and with its transpose."""
        return self.measure.products

    @property
    def step(self) -> float:
        """Step length eta."""
        return self.rate / self.lambda_max

    def loss(self, t: npt.ArrayLike) -> Bracket:
        r"""Bounds on the loss after t steps, and a forecast: numbers, or arrays where t is one.

        Up to step k the rules are exact. Later the Gauss rule is the lower bound, Gauss-Radau with
        a node at zero the upper one, and their mean the forecast.
        """
        steps = as_steps(t, "t")
        flat = steps.ravel()
        with np.errstate(over="ignore", under="ignore"):  # of powers, and steps near 1.8e308
            lower, upper = self._at(flat, -1), self._at(flat, 1)
            # The loss never rises, but what rounding can do to it does: earlier bounds hold too.
            powers, least = self._milestones
        earlier = np.searchsorted(powers, flat, side="right") - 1
        upper = np.where(earlier < 0, upper, np.minimum(upper, least[np.maximum(earlier, 0)]))
        found = (lower, 0.5 * (lower + upper), upper)
        if steps.ndim == 0:
            return Bracket(*(x.item() for x in found))
        return Bracket(*(x.reshape(steps.shape) for x in found))

    def steps(self, eps: float, *, reducible: bool = False) -> Bracket:
        """Bounds on the steps until the loss is eps times that at the start, and a forecast.

        ``inf`` where that is not reached within 2^63 steps. With `reducible`, it is the loss above
        the irreducible one that is to shrink to eps times what it was.
        """
        share = check_real(eps, "eps", low=0.0, high=1.0)
        least, most = self.irreducible if reducible else (0.0, 0.0)

        def first(at: str, floor: float) -> float:
            target = floor + share * (self.start - floor)
            return _first_step(lambda t: getattr(self.loss(t), at), target)

        # The larger the irreducible loss, the sooner a share of the rest is gone.
        return Bracket(first("lower", most), first("forecast", most), first("upper", least))

    def krylov_loss(self, t: SupportsIndex) -> float:
        r"""Least loss that any Krylov method can have after t products: ``1 / sum_j pi_j(0)^2``.

        Momentum, conjugate gradients, L-BFGS, whatever their step lengths: all whose head is after
        t products a polynomial of the Hessian times the first gradient, for each class its own. It
        is that of features within :attr:`backward_error` of Z; beyond k products it is 0, which
        says nothing, where more of them could tell.
        """
        at = as_count(t, "t", least=0)
        if at > self.products and not self.closed:
            return 0.0
        return float(self._krylov[min(at, self.products)])

    def krylov(self, eps: float) -> float:
        """Fewest products after which :meth:`krylov_loss` is eps times the loss at the start.

        ``k + 1`` where k are not enough, ``inf`` where none are.
        """
        share = check_real(eps, "eps", low=0.0, high=1.0)
        below = np.flatnonzero(self._krylov <= share * self.start)
        if below.size:
            return float(below[0])
        return math.inf if self.closed else self.products + 1.0

    def _steps(self) -> FloatArray:
        """Return steps at which the curve is shown: 0, and twenty a decade up to a million."""
        return np.unique([0.0, *np.geomspace(1.0, 1e6, 121).round()])

    def _columns(self) -> Columns:
        steps = self._steps()
        return {"step": steps.astype(int), **self.loss(steps)._asdict()}

    def _curves(self, label: str = "forecast", style: Mapping[str, Any] | None = None) -> Curves:
        steps = self._steps()[1:]
        gone = np.flatnonzero(self.loss(steps).upper < _SHOWN * self.start)
        if gone.size:  # nothing is seen beyond, but a decade there is
            steps = steps[: max(gone[0], 20) + 1]
        lower, forecast, upper = (x / self.start for x in self.loss(steps))
        band = np.maximum(lower, _LEAST), np.maximum(upper, _LEAST)
        return Curves(
            "steps of gradient descent (band: bounds)",
            "loss, relative to the start",
            [Line(label, steps, forecast, band=band, style=style or {})],
            scales=("log", "log"),
            ylim=(_SHOWN, 1.5),
        )

    def plot(self, ax: Axes | None = None, *, label: str = "forecast", **style: Any) -> Axes:
        """Draw the forecast of the loss with its bounds as a band; return the axes.

        Several costs go on the same axes, each with a label and keywords of matplotlib's ``plot``.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``experiments`` holds.
        """
        return draw(self._curves(label, style), ax)

    @cached_property
    def _krylov(self) -> FloatArray:
        return np.asarray(np.sum(self.measure.least_residuals() ** 2, axis=0) * self._unit)

    @property
    def _unit(self) -> float:
        return self.start / float(np.sum(self.measure.norms**2))

    @cached_property
    def _rules(self) -> dict[int, tuple[FloatArray, FloatArray]]:
        """Nodes and weights of the lower (-1) and of the upper bound (1)."""
        upper = self.measure.gauss_radau()
        return {-1: upper if self.closed else self.measure.gauss(), 1: upper}

    @cached_property
    def _milestones(self) -> tuple[FloatArray, FloatArray]:
        """Powers of two, and the least of the upper bounds up to each."""
        powers: FloatArray = np.exp2(np.arange(64.0))
        return powers, np.minimum.accumulate(self._at(powers, 1))

    def _at(self, t: FloatArray, side: int) -> FloatArray:
        """Lower (-1) or upper (1) bounds on the loss at the steps t, (T,)."""
        nodes, weights = self._rules[1]
        exact = decay(self.rate * nodes, t) * weights
        left, over = exact.sum(axis=-1), max(0.0, self.rate - 1.0)
        later = t > self.products
        if side < 0 and not self.closed:
            nodes, weights = self._rules[-1]
            gauss = (decay(self.rate * nodes, t) * weights).sum(axis=-1)
            left = np.where(later[:, None], gauss, left)
        elif side > 0 and over > 0.0:
            # Gauss-Radau bounds what falls: where eta lambda is above 1, the most it comes to.
            falling = (exact * (self.rate * nodes < 1.0)).sum(axis=-1)
            left = np.where(later[:, None], falling + over ** (2.0 * t)[:, None], left)
        root = np.maximum(0.0, np.sqrt(left) + side * self._rounding(t)[:, None])
        return np.asarray((root**2 @ self.measure.norms**2) * self._unit * (1.0 + side * _RELATIVE))

    def _rounding(self, t: FloatArray) -> FloatArray:
        r"""Bound what :attr:`backward_error` can change in ``||r_t|| / ||r_0||``.

        With ``M = I - eta Z Z^T`` and Z' = Z + E, ``M'^t - M^t`` is the sum over s < t of
        ``eta M^s Z E^T M'^(t-1-s)`` and ``eta M^s E Z'^T M'^(t-1-s)``. The norm of ``M^s Z`` is at
        most ``(eta (2 s + 1))^(-1/2)`` where eta is at most 1 / lambda_1, and beyond that
        ``||Z|| (eta lambda_1 - 1)^s`` more.
        """
        rate = self.rate * (1.0 + self.backward_error) ** 2  # of the larger of Z and Z'
        change = np.sqrt(2.0 * rate * t)
        if rate > 1.0:
            change = change + rate * np.minimum(t, 1.0 / (2.0 - rate) if rate < 2.0 else math.inf)
        weights = gamma(64 * (self.products + 1))
        return np.asarray(2.0 * self.backward_error * change + weights)


def _first_step(loss: Callable[[float], float], target: float) -> float:
    """Return the first step at which a loss that does not rise is down to the target."""
    if loss(0.0) <= target:
        return 0.0
    high = 1
    while loss(float(high)) > target:
        high *= 2
        if high > _MOST:
            return math.inf
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(float(middle)) <= target else (middle, high)
    return float(high)


@underflow_is_zero
def attack_cost(
    Z: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    products: SupportsIndex = 40,
    step: float | None = None,
    rank: int | None = None,
    computed_in: Any = None,
) -> AttackCost:
    r"""Bound what gradient descent, and any Krylov method, pays to probe features.

    With the spectral measure :math:`\mu` of y in the eigenbasis of :math:`Z Z^T`,

    .. math:: L_t = \int (1 - \eta \lambda)^{2 t} \, d\mu(\lambda).

    k products with Z and its transpose give rules of k nodes for it. As the integrand is completely
    monotone, the Gauss rule lies below it and Gauss-Radau above. One product is the bound by label
    alignment (:func:`immucond.linear.alignment`); each further one tells more.

    Parameters
    ----------
    Z : (N, m) array_like
        Features, one row a sample; centred where the probe has an intercept.
    y : (N,) or (N, c) array_like
        Targets, a column a head.
    products : int, default: 40
        Number k of products with Z and with its transpose; no more than its rank are needed.
    step : float, optional
        Step length eta, below ``2 / lambda_max``; by default ``1 / lambda_max``.
    rank : int, optional
        Rank of Z, where it is known; what Z has beyond it is part of :attr:`backward_error`.
    computed_in : dtype_like, optional
        Precision in which the features were computed: the bounds then hold for all features within
        its rounding of Z. By default they are those of Z as it is.

    Returns
    -------
    AttackCost
        With ``loss(t)``, ``steps(eps)``, ``krylov_loss(t)`` and ``krylov(eps)``.

    Raises
    ------
    ValueError
        For NaN, mismatched rows, Z or y zero, a rank that Z has not, or a step that diverges.

    Notes
    -----
    Ours, of Golub & Meurant, Matrices, Moments and Quadrature (2010), chapters 6 and 7, and full
    reorthogonalization. The largest eigenvalue is bounded by :func:`immucond.psd_extreme_pairs` of
    the smaller Gram matrix, so the cost is that of one Gram matrix, its largest eigenvalue and 2 k
    products. Bounds hold for gradient descent in exact arithmetic; sums of many heads add up.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((300, 200)) * np.logspace(0, -3, 200)
    >>> y = Z @ rng.standard_normal(200)
    >>> cost = ic.probing.attack_cost(Z, y, products=20)
    >>> lower, forecast, upper = cost.loss(10_000)
    >>> bool(lower <= ic.probing.loss_curve(Z, y, [10_000])[0] <= upper)
    True
    >>> cost.steps(1e-3).lower > 100 > cost.krylov(1e-3)
    True
    """
    features = as_matrix(Z, "Z")
    rank_rule(features.shape, features.dtype, rank=rank, rtol=None, computed_in=computed_in)
    A = as_float64(features, "Z")
    b = as_targets(y, A.shape[0], "y", "Z")
    for name, x in (("Z", A), ("y", b)):
        if not x.any():
            raise ValueError(f"{name} is zero: there is nothing to learn")
    Z_scale, y_scale = (float(np.max(np.abs(x))) for x in (A, b))
    A, b = A / Z_scale, b.T / y_scale
    b = b[b.any(axis=1)]  # heads without labels stay where they are

    top, residual = _largest(A)
    lambda_max = _representable(top, Z_scale, "Z")
    rate = rate_of(step, lambda_max)
    A /= math.sqrt(top)
    most = min(A.shape) if rank is None else int(rank)
    k = min(as_count(products, "products", least=1), most)
    over = k == most < min(A.shape)  # one more product tells what the rank leaves out
    measure = bidiagonalize(lambda v: v @ A.T, lambda u: u @ A, b, k + over)
    measure, left_out = measure.ended() if over else (measure, 0.0)
    error = left_out + measure.backward_error(sum(A.shape), float(np.linalg.norm(A)))
    given = 0.0 if computed_in is None else default_rtol(A.shape, computed_in, "features")
    error += given

    start = _representable(float(np.sum(b**2)), y_scale, "y")
    known, heads = int(rank or 0) if k == most else None, measure.least_squares_head()
    below, above = _irreducible(A, b, heads, given, error, known)
    irreducible = (below * start, min(1.0, above) * start)
    return AttackCost(
        start, lambda_max, residual * Z_scale**2, rate, irreducible, certified=True,
        backward_error=error, measure=measure, closed=k == most,
    )  # fmt: skip


def _largest(A: FloatArray) -> tuple[float, float]:
    """Upper bound on the largest eigenvalue of ``A^T A``, and how far that may be above it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neither the smallest eigenvalue nor ties matter
        pairs = psd_extreme_pairs(gram(A if A.shape[0] >= A.shape[1] else A.T))
    off = pairs.bound_max + gamma(max(A.shape)) * float(np.sum(A**2))
    return pairs.sigma_max + off, 2.0 * off


def _irreducible(
    A: FloatArray, b: FloatArray, heads: FloatArray, given: float, error: float, rank: int | None
) -> tuple[float, float]:
    r"""Bound the least ``||A w - b||^2`` relative to ``||b||^2``, for all A within what is given.

    Of the residual r of any head, no more than ``||A^T r|| / sigma`` lies in the range of A, with
    its smallest singular value. Without a rank (None) the lower bound is 0, and where it is 0 A is
    of full rank, zero columns apart. `error` bounds rounding of products too.
    """
    rest = b - heads @ A.T
    norms = np.linalg.norm(rest, axis=1)
    sums = np.abs(b) + np.abs(heads) @ np.abs(A).T
    rounding = gamma(A.shape[1] + 2) * np.linalg.norm(sums, axis=1)
    rounding += given * np.linalg.norm(heads, axis=1)
    above = np.sum((norms + rounding) ** 2)
    below = np.zeros(1)
    if rank is not None:
        sigma = np.linalg.svd(A[:, A.any(axis=0)], compute_uv=False)
        refuse_more(rank, sigma, "Z")
        least = sigma[rank - 1]
        if least > error:
            within = (np.linalg.norm(rest @ A, axis=1) + error * norms) / (least - error)
            outside = np.sqrt(np.maximum(norms**2 - within**2, 0.0))
            below = np.maximum(outside - rounding, 0.0) ** 2
    shares = np.array([np.sum(below), above]) / np.sum(b**2)
    return float(shares[0]) * (1.0 - _RELATIVE), float(shares[1]) * (1.0 + _RELATIVE)


def _representable(value: float, scale: float, name: str) -> float:
    """Return a value times the square of a scale."""
    with np.errstate(over="ignore", under="ignore"):
        found = float(np.float64(value) * scale * scale)
    if not 0.0 < found < math.inf:
        raise OverflowError(
            f"the square of {name}, whose largest entry is {scale:.3g}, is beyond the float range: "
            f"scale {name}"
        )
    return found
