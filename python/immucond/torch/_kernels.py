"""What computes the operators, for tensors on each device; nothing here is differentiated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._pairs import Search, Value, pairs_from
from .._rank import Rule, numerical_rank
from .._regularizers import SpectralRegularizer
from .._validate import Array, FloatArray
from ..cuda import available
from ..cuda.stacks import Stack, built_in, gram_of, torch_library, where_on_device
from ._operator import shifted

_SEARCH = Search()


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


class Kernels(Protocol):
    """What a device does, for a matrix or for a stack (b, rows, columns).

    The rule decides the rank; features Z stand for ``Z^T Z``.
    """

    def evaluate(
        self, r: SpectralRegularizer, X: Tensor, features: bool, rule: Rule, p: int, gradient: bool
    ) -> Evaluated:
        """Return a regularizer's value, its gradient if that is asked for, and what to warn of.

        `p` is how many singular values count: all (0), the nonzero ones (-1), or so many.
        """

    def pairs(self, X: Tensor, *, features: bool, rule: Rule) -> Pairs:
        """Return the extreme pairs of each matrix."""

    def gram(self, X: Tensor) -> Tensor:
        """Return ``X^T X`` of one matrix in float64."""


class _CPU(Kernels):
    """CPU tensors: the C++ core, on the tensor's own memory."""

    def evaluate(
        self, r: SpectralRegularizer, X: Tensor, features: bool, rule: Rule, p: int, gradient: bool
    ) -> Evaluated:
        kernel = _core.evaluate_features if features else _core.evaluate
        with _torch_threads():
            value, grad, _, tied, determined, rank = kernel(
                _array(X),
                coefficients=r.coefficients,
                degree=r.degree,
                rule=rule,
                search=_SEARCH,
                p=p,
                gradient=gradient,
                pairs=False,
            )
        if X.ndim > 2:
            tied, determined, rank = tied.any(), determined.all(), rank.min()
        by_X = None if grad is None else torch.from_numpy(grad)
        return Evaluated(value, by_X, bool(tied), bool(determined), int(rank))

    def pairs(self, X: Tensor, *, features: bool, rule: Rule) -> Pairs:
        kernel = _core.feature_extreme_pairs if features else _core.extreme_pairs
        with _torch_threads():
            found = kernel(_array(X), rule=rule, search=_SEARCH)
        determined = found["determined"]  # whatever float64 makes of the value
        told = pairs_from(found, "Z^T Z" if features else "S")
        fields = [np.asarray(getattr(told, name)) for name in Pairs._fields[:-1]]
        return Pairs._make(map(torch.from_numpy, [*fields, np.asarray(determined)]))

    def gram(self, X: Tensor) -> Tensor:
        with _torch_threads():
            return torch.from_numpy(_core.gram(_array(X)))


@contextmanager
def _torch_threads() -> Iterator[None]:
    """Hold SciPy's BLAS to ``torch.get_num_threads()`` threads, where it would take more."""
    before, allowed = _core.blas_threads(), torch.get_num_threads()
    if before <= allowed:
        yield
        return
    _core.set_blas_threads(allowed)
    try:
        yield
    finally:
        _core.set_blas_threads(before)


def _array(X: Tensor) -> Array:
    # NumPy has no bfloat16, whose numbers float32 holds exactly, and no views that are negated.
    X = X.detach().resolve_neg()
    array: Array = (X.float() if X.dtype == torch.bfloat16 else X).numpy()
    return array


class _CUDA(Kernels):
    """CUDA tensors: the kernels of `immucond.cuda`, on the tensor's own memory and stream."""

    def evaluate(
        self, r: SpectralRegularizer, X: Tensor, features: bool, rule: Rule, p: int, gradient: bool
    ) -> Evaluated:
        if built_in(r) is None:
            return FALLBACK.evaluate(r, X, features=features, rule=rule, p=p, gradient=gradient)
        found = _stack(X, features, rule).evaluate(r, p=p, gradient=gradient)
        value, by_X = found.value, found.gradient
        if X.ndim == 2:
            value, by_X = value[0], by_X[0] if gradient else None
        return Evaluated(value, by_X, found.tied, found.determined, found.rank)

    def pairs(self, X: Tensor, *, features: bool, rule: Rule) -> Pairs:
        rows, columns = X.shape[-2:]
        if not features and rows != columns:
            return FALLBACK.pairs(X, features=features, rule=rule)
        found = _stack(X, features, rule).pairs()
        fields = Pairs(
            *(found.sigma_max, found.v_max.clone(), found.v_max),
            *(found.sigma_min, found.v_min.clone(), found.v_min),
            found.rank,
            *torch.ones(3, len(found.v_max), dtype=torch.bool),
        )
        for i, one in found.left.items():
            fields.u_max[i], fields.u_min[i] = map(torch.from_numpy, (one.u_max, one.u_min))
            flags = one.simple_max, one.simple_min, one.determined_min
            for field, flag in zip(fields[7:], flags, strict=True):
                field[i] = flag
        return Pairs(*(field[0] for field in fields)) if X.ndim == 2 else fields

    def gram(self, X: Tensor) -> Tensor:
        X = torch_library().adopt(X)
        result: Tensor = gram_of(where_on_device(X), torch_library())
        return result


def _stack(X: Tensor, features: bool, rule: Rule) -> Stack:
    X = torch_library().adopt(X)
    stacked = X if X.ndim == 3 else X[None]
    where = where_on_device(stacked)
    return Stack(stacked, where, torch_library(), features=features, rule=rule)


class _Fallback(Kernels):
    """Where no kernel of ours runs: tensors on any device, by PyTorch's own decompositions.

    Right rather than quick: a full singular value decomposition in float64, of features through
    their QR factor, so that nothing is squared.
    """

    def evaluate(
        self, r: SpectralRegularizer, X: Tensor, features: bool, rule: Rule, p: int, gradient: bool
    ) -> Evaluated:
        if X.ndim == 3:
            options: dict[str, Any] = {"features": features, "rule": rule, "p": p}
            one_by_one = (self.evaluate(r, x, gradient=gradient, **options) for x in X)
            values, gradients, ties, determinations, ranks = zip(*one_by_one, strict=True)
            stacked = torch.stack(gradients) if gradient else None
            return Evaluated(np.array(values), stacked, any(ties), all(determinations), min(ranks))
        found = _Decomposition(X, features=features, rule=rule)
        spectrum, degree = found.spectrum(p), r.degree
        value, alpha, beta, gamma = r.coefficients(spectrum)
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

    def pairs(self, X: Tensor, *, features: bool, rule: Rule) -> Pairs:
        if X.ndim == 3:
            one_by_one = [self.pairs(x, features=features, rule=rule) for x in X]
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

    def gram(self, X: Tensor) -> Tensor:
        precise = X.detach().double()
        return precise.mT @ precise


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


def _ldexp(value: float, exponent: int, what: str) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        raise OverflowError(
            f"{what} is not representable in float64: it is {value:g} * 2^{exponent}"
        ) from None


CPU, CUDA, FALLBACK = _CPU(), _CUDA(), _Fallback()


def kernels_for(X: Tensor) -> Kernels:
    """Return the kernels for tensors where `X` is."""
    if X.device.type == "cpu":
        return CPU
    return CUDA if X.device.type == "cuda" and available(X.device.index) else FALLBACK
