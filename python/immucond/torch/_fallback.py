"""Tensors on any device, by PyTorch's own decompositions in float64: where no kernel of ours runs.

Right rather than quick: a full singular value decomposition, of features through their QR factor,
so that nothing is squared.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._pairs import Value
from .._rank import Rule, numerical_rank
from .._regularizers import SpectralRegularizer
from .._validate import FloatArray
from ._scale import shifted


class Evaluated(NamedTuple):
    """A regularizer at a matrix, or at each of a stack.

    Whether an end that it uses is tied, whether all of those are determined, and the rank, of a
    stack the smallest.
    """

    value: Value | Tensor
    gradient: Tensor | None
    tied: bool
    determined: bool
    rank: int


class Pairs(NamedTuple):
    """Extreme pairs as tensors of the stack's shape, and what `ExtremePairs` tells of them."""

    sigma_max: Tensor
    u_max: Tensor
    v_max: Tensor
    sigma_min: Tensor
    u_min: Tensor
    v_min: Tensor
    rank: Tensor
    simple_max: Tensor
    simple_min: Tensor
    determined_min: Tensor


class _Decomposition:
    """``X = 2^e U diag(s) V^T`` with s descending, and the ends of its spectrum by the rules.

    The spectrum is that of S, or of ``Z^T Z`` with the squares of s, in units of ``2^exponent``.
    """

    def __init__(self, X: Tensor, *, features: bool, rule: Rule) -> None:
        name = "Z" if features else "S"
        X = X.detach().double()
        largest = float(X.abs().amax())  # NaN wins
        if not math.isfinite(largest):
            raise ValueError(f"{name} must be finite, and holds NaN or infinity")
        if largest == 0.0:
            raise ValueError(
                f"{name} has rank 0 (every singular value is zero): it has no condition number "
                "and no extreme pairs"
            )
        exponent = math.frexp(largest)[1]
        self.unit = shifted(X, -exponent)
        self.exponent = 2 * exponent if features else exponent
        rows, columns = X.shape
        if features:
            R = torch.linalg.qr(self.unit, mode="r").R if rows > columns else self.unit
            _, s, self.vh = torch.linalg.svd(R, full_matrices=False)
            self.u = self.vh.mT
        else:
            self.u, s, self.vh = torch.linalg.svd(self.unit, full_matrices=False)
        self.size = columns if features else len(s)
        self._count(s.cpu().numpy(), features, rule)

    def _count(self, s: FloatArray, features: bool, rule: Rule) -> None:
        """Find the rank, and what is tied to either end."""
        first, noise = float(s[0]), _core.reduction_noise(len(s)) * float(s[0])
        self.rank = k = numerical_rank(s, rule)
        width = _core.tie_width(
            sigma=first, sigma_max=first, noise=noise, precision=rule.precision, features=False
        )
        self.tied_max = min(k, int(np.count_nonzero(s >= first - width)))
        self.tied_min = min(k, int(np.count_nonzero(s[:k] <= s[k - 1] + width)))
        self.determined_min = bool(noise < s[k - 1] / 2)
        self.sigma = s**2 if features else s
        self.sigma_max, self.sigma_min = float(self.sigma[0]), float(self.sigma[k - 1])
        if self.sigma_min == 0.0:
            raise ValueError(f"rank = {k} was given, and that many singular values are not nonzero")
        self.all_tied = self.tied_max >= k
        if self.all_tied:  # what differs is rounding
            self.sigma_min, self.tied_min = self.sigma_max, k

    def spectrum(self, p: int) -> _core.Spectrum:
        """Return it as the regularizers see it; `p` counts as in the core."""
        sigma, k, first, last = self.sigma, self.rank, self.sigma_max, self.sigma_min
        p = {_core.ALL_VALUES: self.size, _core.NONZERO_VALUES: k}.get(p, p)
        if p < k:
            raise ValueError(f"p must be at least the rank, {k}, and is {p}")
        below = float(np.sum((first - sigma) * (first + sigma))) + (p - len(sigma)) * first**2
        above = float(np.sum((sigma[:k] - last) * (sigma[:k] + last)))
        return _core.Spectrum(
            p=p,
            rank=k,
            sigma_max=first,
            sigma_min=last,
            below_max=max(0.0, below),
            above_min=max(0.0, above),
            all_tied=self.all_tied,
        )

    def mean(self, first: int, count: int) -> Tensor:
        """Return the mean of ``u_i v_i^T`` over singular values of the tied group at `first`."""
        group = slice(first, first + count)
        mean: Tensor = self.u[:, group] @ self.vh[group] / count
        return mean


def evaluate(
    regularizer: SpectralRegularizer,
    X: Tensor,
    *,
    features: bool,
    rule: Rule,
    p: int,
    gradient: bool,
) -> Evaluated:
    """As `Kernels.evaluate`."""
    if X.ndim == 3:
        options: dict[str, Any] = {"features": features, "rule": rule, "p": p}
        one_by_one = (evaluate(regularizer, x, gradient=gradient, **options) for x in X)
        values, gradients, ties, determinations, ranks = zip(*one_by_one, strict=True)
        stacked = torch.stack(gradients) if gradient else None
        return Evaluated(np.array(values), stacked, any(ties), all(determinations), min(ranks))
    found = _Decomposition(X, features=features, rule=rule)
    spectrum, degree = found.spectrum(p), regularizer.degree
    value, alpha, beta, gamma = regularizer.coefficients(spectrum)
    if not math.isfinite(value):
        raise OverflowError("the value is not representable in float64")
    tied = (alpha != 0.0 and found.tied_max > 1) or (beta != 0.0 and found.tied_min > 1)
    tied, determined = tied and not found.all_tied, beta == 0.0 or found.determined_min
    scaled = _ldexp(value, degree * found.exponent, "the value")
    if not gradient:
        return Evaluated(scaled, None, tied, determined, found.rank)
    S = found.unit.mT @ found.unit if features else found.unit
    if found.all_tied:
        grad = (gamma + (alpha + beta) / found.sigma_max / found.rank) * S
    else:
        grad = gamma * S
        if alpha != 0.0:
            grad = grad + alpha * found.mean(0, found.tied_max)
        if beta != 0.0:
            grad = grad + beta * found.mean(found.rank - found.tied_min, found.tied_min)
    power = found.exponent * (degree - 1)
    if features:
        grad, power = 2.0 * found.unit @ grad, power + found.exponent // 2
    grad = shifted(grad, power)
    if not grad.isfinite().all():
        raise OverflowError("the gradient is not representable in float64")
    return Evaluated(scaled, grad, tied, determined, found.rank)


def _ldexp(value: float, exponent: int, what: str) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        raise OverflowError(
            f"{what} is not representable in float64: it is {value:g} * 2^{exponent}"
        ) from None


def pairs(X: Tensor, *, features: bool, rule: Rule) -> Pairs:
    """As `Kernels.pairs`."""
    if X.ndim == 3:
        one_by_one = [pairs(x, features=features, rule=rule) for x in X]
        return Pairs(*(torch.stack(field) for field in zip(*one_by_one, strict=True)))
    found = _Decomposition(X, features=features, rule=rule)

    def tensor(value: float | bool) -> Tensor:
        return torch.tensor(value, device=X.device)

    def end(sigma: float, at: int) -> tuple[Tensor, Tensor, Tensor]:
        u, v = found.u[:, at], found.vh[at]
        sign = torch.where(v[v.abs().argmax()] < 0, -1.0, 1.0)
        scaled = _ldexp(sigma, found.exponent, "a singular value")
        return torch.tensor(scaled, dtype=torch.float64, device=X.device), sign * u, sign * v

    return Pairs(
        *end(found.sigma_max, 0),
        *end(found.sigma_min, found.rank - 1),
        tensor(found.rank),
        tensor(found.tied_max == 1),
        tensor(found.tied_min == 1),
        tensor(found.determined_min),
    )


def gram(X: Tensor) -> Tensor:
    """As `Kernels.gram`."""
    precise = X.detach().double()
    return precise.mT @ precise
