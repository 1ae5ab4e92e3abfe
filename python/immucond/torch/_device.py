"""Tensors on any device, by PyTorch's own decompositions in float64: where no kernel of ours runs.

Right rather than quick: a full singular value decomposition, of features through their QR factor,
so that nothing is squared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._core import Spectrum, reduction_noise
from .._pairs import Value
from .._rank import Rule, numerical_rank
from .._regularizers import SpectralRegularizer


def times_power(X: Tensor, exponent: int) -> Tensor:
    """Return ``2^exponent X``; in two factors, since one alone may leave the range of float64."""
    half = exponent // 2
    return X * 2.0**half * 2.0 ** (exponent - half)


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


@dataclass
class Ends:
    """The ends of a spectrum in units of ``2^exponent``, as the regularizers see it."""

    p: int
    rank: int
    sigma_max: float
    sigma_min: float
    below_max: float
    above_min: float
    tied_max: int
    tied_min: int
    determined_min: bool
    exponent: int

    @property
    def all_tied(self) -> bool:
        """Whether all nonzero singular values agree."""
        return self.tied_max >= self.rank


class _Decomposition:
    """``X = 2^e U diag(s) V^T`` with s descending, and the ends of its spectrum."""

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
        self.unit = times_power(X, -exponent)
        self.features = features
        rows, columns = X.shape
        if features:
            R = torch.linalg.qr(self.unit, mode="r").R if rows > columns else self.unit
            _, s, self.vh = torch.linalg.svd(R, full_matrices=False)
            self.u = self.vh.mT
        else:
            self.u, s, self.vh = torch.linalg.svd(self.unit, full_matrices=False)
        p = columns if features else len(s)
        self.ends = _ends(
            s.cpu().numpy(), p, 2 * exponent if features else exponent, rule, features
        )

    def mean(self, first: int, count: int) -> Tensor:
        """Return the mean of ``u_i v_i^T`` over singular values of the tied group at `first`."""
        group = slice(first, first + count)
        mean: Tensor = self.u[:, group] @ self.vh[group] / count
        return mean


def _ends(s: np.ndarray, p: int, exponent: int, rule: Rule, features: bool) -> Ends:
    k = numerical_rank(s, rule)
    method = reduction_noise(len(s))
    width = (4.0 * rule.precision + method) * s[0]
    tied_max = min(k, int(np.count_nonzero(s >= s[0] - width)))
    tied_min = min(k, int(np.count_nonzero(s[:k] <= s[k - 1] + width)))
    sigma = s**2 if features else s
    first, last = float(sigma[0]), float(sigma[k - 1])
    if last == 0.0:
        raise ValueError(f"rank = {k} was given, and that many singular values are not nonzero")
    below = float(np.sum((first - sigma) * (first + sigma))) + (p - len(s)) * first**2
    above = float(np.sum((sigma[:k] - last) * (sigma[:k] + last)))
    ends = Ends(
        p=p,
        rank=k,
        sigma_max=first,
        sigma_min=last,
        below_max=below,
        above_min=above,
        tied_max=tied_max,
        tied_min=tied_min,
        determined_min=bool(method * s[0] < s[k - 1] / 2),
        exponent=exponent,
    )
    if ends.all_tied:
        ends.sigma_min, ends.tied_min = first, k  # what differs is rounding
    return ends


def evaluate(
    regularizer: SpectralRegularizer,
    X: Tensor,
    *,
    features: bool,
    rule: Rule,
    p_is_rank: bool,
    gradient: bool,
) -> tuple[Value, Tensor | None, bool, bool, int]:
    """As the function of this name for CPU tensors."""
    if X.ndim == 3:
        options: dict[str, Any] = {"features": features, "rule": rule, "p_is_rank": p_is_rank}
        one_by_one = (evaluate(regularizer, x, gradient=gradient, **options) for x in X)
        values, gradients, ties, determinations, ranks = zip(*one_by_one, strict=True)
        stacked = torch.stack(gradients) if gradient else None
        return np.array(values), stacked, any(ties), all(determinations), min(ranks)
    found = _Decomposition(X, features=features, rule=rule)
    ends, degree = found.ends, regularizer.degree
    if p_is_rank:
        ends.below_max -= (ends.p - ends.rank) * ends.sigma_max**2
        ends.p = ends.rank
    spectrum = Spectrum(
        p=ends.p,
        rank=ends.rank,
        sigma_max=ends.sigma_max,
        sigma_min=ends.sigma_min,
        below_max=ends.below_max,
        above_min=ends.above_min,
        all_tied=ends.all_tied,
    )
    value, alpha, beta, gamma = regularizer.coefficients(spectrum)
    if not math.isfinite(value):
        raise OverflowError("the value is not representable in float64")
    tied = (alpha != 0.0 and ends.tied_max > 1) or (beta != 0.0 and ends.tied_min > 1)
    determined = beta == 0.0 or ends.determined_min
    tied = tied and not ends.all_tied
    scaled = _ldexp(value, degree * ends.exponent, "the value")
    if not gradient:
        return scaled, None, tied, determined, ends.rank
    S = found.unit.mT @ found.unit if features else found.unit
    if ends.all_tied:
        grad = (gamma + (alpha + beta) / ends.sigma_max / ends.rank) * S
    else:
        grad = gamma * S
        if alpha != 0.0:
            grad = grad + alpha * found.mean(0, ends.tied_max)
        if beta != 0.0:
            grad = grad + beta * found.mean(ends.rank - ends.tied_min, ends.tied_min)
    power = ends.exponent * (degree - 1)
    if features:
        grad, power = 2.0 * found.unit @ grad, power + ends.exponent // 2
    grad = times_power(grad, power)
    if not grad.isfinite().all():
        raise OverflowError("the gradient is not representable in float64")
    return scaled, grad, tied, determined, ends.rank


def _ldexp(value: float, exponent: int, what: str) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        raise OverflowError(
            f"{what} is not representable in float64: it is {value:g} * 2^{exponent}"
        ) from None


def pairs(X: Tensor, *, features: bool, rule: Rule) -> Pairs:
    """As the function of this name for CPU tensors."""
    if X.ndim == 3:
        one_by_one = [pairs(x, features=features, rule=rule) for x in X]
        return Pairs(*(torch.stack(field) for field in zip(*one_by_one, strict=True)))
    found = _Decomposition(X, features=features, rule=rule)
    ends = found.ends

    def tensor(value: float | bool) -> Tensor:
        return torch.tensor(value, device=X.device)

    def end(sigma: float, at: int) -> tuple[Tensor, Tensor, Tensor]:
        u, v = found.u[:, at], found.vh[at]
        sign = torch.where(v[v.abs().argmax()] < 0, -1.0, 1.0)
        scaled = _ldexp(sigma, ends.exponent, "a singular value")
        return torch.tensor(scaled, dtype=torch.float64, device=X.device), sign * u, sign * v

    return Pairs(
        *end(ends.sigma_max, 0),
        *end(ends.sigma_min, ends.rank - 1),
        tensor(ends.rank),
        tensor(ends.tied_max == 1),
        tensor(ends.tied_min == 1),
        tensor(ends.determined_min),
    )


def gram(X: Tensor) -> Tensor:
    """As the function of this name for CPU tensors."""
    precise = X.detach().double()
    return precise.mT @ precise
