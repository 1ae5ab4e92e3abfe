"""Second derivatives of the spectral regularizers, as products with a direction."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from .. import _core
from .._regularizers import SpectralRegularizer
from ._operator import Options, exponent_of, shifted, times_power
from ._pairs import End, ExtremePairs, end_of, pairs_operator
from ._resolvent import outer


class Dual(NDArrayOperatorsMixin):
    """A number and its first-order change, each a tensor of the stack's shape.

    Coefficients that are written as arithmetic and NumPy functions take it for a float. What is
    done to both parts is plain tensor arithmetic, so that derivatives of any order and kind follow;
    `torch.func.jvp` cannot run below a dual level of `torch.autograd.forward_ad`.
    """

    def __init__(self, value: Any, change: Any = 0.0) -> None:
        self.value, self.change = value, change

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        rule = _RULES.get(ufunc)
        if rule is None or method != "__call__" or options:
            raise TypeError(f"there is no derivative of numpy.{ufunc.__name__} here")
        return rule(*(x if isinstance(x, Dual) else Dual(x) for x in inputs))

    def __float__(self) -> float:
        raise TypeError(
            "a float would lose the derivative: use arithmetic and NumPy's functions (numpy.log in "
            "place of math.log)"
        )


def _power(x: Dual, n: Dual) -> Dual:
    value = x.value**n.value
    change = n.value * x.value ** (n.value - 1) * x.change
    if torch.is_tensor(n.change):
        change = (
            change + torch.log(torch.as_tensor(x.value, dtype=torch.float64)) * value * n.change
        )
    return Dual(value, change)


def _sqrt(x: Dual) -> Dual:
    root = torch.sqrt(x.value)
    return Dual(root, x.change / (2 * root))


def _exp(x: Dual) -> Dual:
    power = torch.exp(x.value)
    return Dual(power, power * x.change)


def _compared(compare: Callable[[Any, Any], Any]) -> Callable[[Dual, Dual], Any]:
    return lambda x, y: compare(x.value, y.value)


_RULES: dict[np.ufunc, Callable[..., Any]] = {
    np.add: lambda x, y: Dual(x.value + y.value, x.change + y.change),
    np.subtract: lambda x, y: Dual(x.value - y.value, x.change - y.change),
    np.multiply: lambda x, y: Dual(x.value * y.value, x.change * y.value + x.value * y.change),
    np.divide: lambda x, y: Dual(
        x.value / y.value, (x.change - x.value / y.value * y.change) / y.value
    ),
    np.power: _power,
    np.negative: lambda x: Dual(-x.value, -x.change),
    np.positive: lambda x: x,
    np.absolute: lambda x: Dual(abs(x.value), torch.sign(x.value) * x.change),
    np.square: lambda x: Dual(x.value**2, 2 * x.value * x.change),
    np.reciprocal: lambda x: Dual(1 / x.value, -x.change / x.value**2),
    np.sqrt: _sqrt,
    np.exp: _exp,
    np.log: lambda x: Dual(torch.log(x.value), x.change / x.value),
    np.log1p: lambda x: Dual(torch.log1p(x.value), x.change / (1 + x.value)),
    np.less: _compared(operator.lt),
    np.less_equal: _compared(operator.le),
    np.greater: _compared(operator.gt),
    np.greater_equal: _compared(operator.ge),
    np.equal: _compared(operator.eq),
    np.not_equal: _compared(operator.ne),
}


@dataclass
class Spectrum:
    """What a regularizer is a function of, with ``squares`` = F; as `immucond.Spectrum`."""

    sigma_max: Dual
    sigma_min: Dual
    squares: Dual
    p: Dual
    rank: Dual

    all_tied = False  # the vectors would have no derivatives

    @property
    def below_max(self) -> Any:
        """``p sigma_1^2 - F``."""
        return self.p * self.sigma_max**2 - self.squares

    @property
    def above_min(self) -> Any:
        """``F - k sigma_k^2``."""
        return self.squares - self.rank * self.sigma_min**2

    def each(self) -> list[Spectrum]:
        """Return those of the matrices of a stack."""

        def part(x: Any, i: int) -> Any:
            return x.expand(self.sigma_max.value.shape).flatten()[i] if torch.is_tensor(x) else x

        duals = [getattr(self, field.name) for field in fields(self)]
        return [
            Spectrum(*(Dual(part(x.value, i), part(x.change, i)) for x in duals))
            for i in range(self.sigma_max.value.numel())
        ]


def _r_ill(s: Spectrum) -> tuple[Any, Any, Any]:
    D = s.above_min / (2 * s.rank)
    return 0.0, s.sigma_min / D**2, -1 / (s.rank * D**2)


# alpha, beta and gamma of ``grad r = alpha u_1 v_1^T + beta u_k v_k^T + gamma S``, differentiable.
_BUILT_IN: dict[str, Callable[[Spectrum], tuple[Any, Any, Any]]] = {
    "r_well": lambda s: (s.sigma_max, 0.0, -1 / s.p),
    "r_ill": _r_ill,
    "kappa": lambda s: (1 / s.sigma_min, -s.sigma_max / s.sigma_min**2, 0.0),
    "log_kappa": lambda s: (1 / s.sigma_max, -1 / s.sigma_min, 0.0),
}


def _coefficients(regularizer: SpectralRegularizer, spectrum: Spectrum) -> list[Any]:
    """Return alpha, beta and gamma; the number 0 for one that is zero for every spectrum."""
    if isinstance(regularizer.coefficients, _core.BuiltIn):
        return list(_BUILT_IN[regularizer.coefficients.name](spectrum))
    shape = spectrum.sigma_max.value.shape
    try:
        each: list[Any] = spectrum.each()  # one by one: coefficients may branch
        found = [regularizer.coefficients(one)[1:] for one in each]
    except TypeError as error:
        raise TypeError(
            f"the coefficients of {regularizer.name} cannot be differentiated: {error}"
        ) from error
    like = spectrum.sigma_max.value.new_zeros(())

    def stacked(column: tuple[Any, ...]) -> Any:
        if not any(isinstance(x, Dual) or x != 0.0 for x in column):
            return 0.0
        duals = [x if isinstance(x, Dual) else Dual(x) for x in column]
        parts = ([getattr(x, part) + like for x in duals] for part in ("value", "change"))
        return Dual(*(torch.stack(part).reshape(shape) for part in parts))

    return [stacked(column) for column in zip(*found, strict=True)]


def hessian_product(
    X: Tensor, W: Tensor, regularizer: SpectralRegularizer, options: Options, p: int
) -> Tensor:
    """Return the derivative of the gradient at `X` along `W`, in float64 or float32, as `W`.

    The gradient by a matrix S is ``alpha u_1 v_1^T + beta u_k v_k^T + gamma S``. That by features Z
    has the same form in the triplets of Z itself, so that nothing needs to be squared: the
    coefficients are those at ``Z^T Z`` times 2 s_1, 2 s_k, and 2 with ``Z Z^T Z`` for S. It is
    differentiated term by term; the triplets move by their bordered resolvents. Written in
    differentiable operations, so that derivatives of any order follow.
    """
    features, single = options[0], W.dtype == torch.float32
    # Rounded pairs would not be null vectors; the precision still decides the rank.
    precision = options[3] or str(X.dtype).removeprefix("torch.")
    of_X, of_W = exponent_of(X.double()), exponent_of(W.double())
    X, W = shifted(X.double(), -of_X), shifted(W.double(), -of_W)
    pairs = ExtremePairs(*pairs_operator(X, *options[:3], precision, False))
    if features:
        third, by_third = _cubic(X, W)
        squares = Dual(_dot(X, third), 4.0 * _dot(third, W))
        third, by_third = 2.0 * third, 2.0 * by_third
    else:
        third, by_third = X, W
        squares = Dual(_dot(X, X), 2.0 * _dot(X, W))
    rank = pairs.rank.double()
    if p == _core.ALL_VALUES:
        p = X.shape[-1] if features else min(X.shape[-2:])
    counted = rank if p == _core.NONZERO_VALUES else X.new_tensor(p)
    spectrum = Spectrum(
        Dual(pairs.sigma_max), Dual(pairs.sigma_min), squares, Dual(counted), Dual(rank)
    )
    ends = (
        End(pairs.sigma_max, pairs.u_max, pairs.v_max, pairs.simple_max),
        End(pairs.sigma_min, pairs.u_min, pairs.v_min, pairs.simple_min),
    )
    used = [isinstance(c, Dual) for c in _coefficients(regularizer, spectrum)[:2]]
    triplets = [
        end_of(X, features, end).triplet if use else None
        for end, use in zip(ends, used, strict=True)
    ]
    moved = [None if triplet is None else triplet.moved(W) for triplet in triplets]
    for sigma, triplet, m in zip(
        (spectrum.sigma_max, spectrum.sigma_min), triplets, moved, strict=True
    ):
        if triplet is not None and m is not None:
            sigma.change = m.sigma * (2.0 * triplet.end.sigma if features else 1.0)
    *of_ends, gamma = _coefficients(regularizer, spectrum)
    product = torch.zeros_like(third)
    if isinstance(gamma, Dual):
        product = _times(gamma.change, third) + _times(gamma.value, by_third)
    for triplet, m, coefficient in zip(triplets, moved, of_ends, strict=True):
        if triplet is None or m is None:
            continue
        (s, u, v, _), c, dc = triplet.end, coefficient.value, coefficient.change
        if features:
            c, dc = 2.0 * s * c, 2.0 * (s * dc + m.sigma * c)
        product = product + _times(dc, outer(u, v)) + _times(c, outer(m.u, v) + outer(u, m.v))
    degree = regularizer.degree * (2 if features else 1)
    result: Tensor = times_power(product, (degree - 2) * of_X + of_W, single)
    return result


def _cubic(Z: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``Z Z^T Z`` and its derivative along W, by the smaller Gram matrix."""
    if Z.shape[-2] < Z.shape[-1]:
        third, by_third = _cubic(Z.mT, W.mT)
        return third.mT, by_third.mT
    H, dH = Z.mT @ Z, Z.mT @ W
    return Z @ H, W @ H + Z @ (dH + dH.mT)


def _dot(A: Tensor, B: Tensor) -> Tensor:
    return (A * B).sum((-2, -1))


def _times(c: Any, A: Tensor) -> Tensor:
    return c[..., None, None] * A if torch.is_tensor(c) else c * A
