"""Second derivatives of the spectral regularizers, as products with a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from ._family import FAMILY, Change, Spectrum
from ._pairs import End, ExtremePairs, end_of, pairs_operator
from ._resolvent import outer
from ._scale import exponent_of, shifted, times_power

Options = tuple[bool, int | None, float | None, str | None]


def hessian_product(X: Tensor, W: Tensor, name: str, options: Options, p_is_rank: bool) -> Tensor:
    """Return the derivative of the gradient at `X` along `W`, in float64 or float32, as `W`.

    The gradient by a matrix S is ``alpha u_1 v_1^T + beta u_k v_k^T + gamma S``. That by features Z
    has the same form in the triplets of Z itself, so that nothing needs to be squared: the
    coefficients are those at ``Z^T Z`` times 2 s_1, 2 s_k, and 2 with ``Z Z^T Z`` for S. It is
    differentiated term by term; the triplets move by their bordered resolvents. Written in
    differentiable operations, so that derivatives of any order follow.
    """
    member, features, single = FAMILY[name], options[0], W.dtype == torch.float32
    # Rounded pairs would not be null vectors; the precision still decides the rank.
    precision = options[3] or str(X.dtype).removeprefix("torch.")
    of_X, of_W = exponent_of(X.double()), exponent_of(W.double())
    X, W = shifted(X.double(), -of_X), shifted(W.double(), -of_W)
    pairs = ExtremePairs(*pairs_operator(X, *options[:3], precision, False))
    ends = (
        End(pairs.sigma_max, pairs.u_max, pairs.v_max, pairs.simple_max),
        End(pairs.sigma_min, pairs.u_min, pairs.v_min, pairs.simple_min),
    )
    triplets = [
        end_of(X, features, end).triplet if used else None
        for end, used in zip(ends, (member.uses_max, member.uses_min), strict=True)
    ]
    moved = [None if triplet is None else triplet.moved(W) for triplet in triplets]

    if features:
        third, by_third = _cubic(X, W)
        squares, by_squares = _dot(X, third), 4.0 * _dot(third, W)
        third, by_third = 2.0 * third, 2.0 * by_third
    else:
        third, by_third = X, W
        squares, by_squares = _dot(X, X), 2.0 * _dot(X, W)
    smaller = X.shape[-1] if features else min(X.shape[-2:])
    p = pairs.rank if p_is_rank else smaller
    by_max, by_min = (
        torch.zeros_like(squares)
        if triplet is None or m is None
        else m.sigma * (2.0 * triplet.end.sigma if features else 1.0)
        for triplet, m in zip(triplets, moved, strict=True)
    )
    now, by = member.coefficients(
        Spectrum(ends[0].sigma, ends[1].sigma, squares, p, pairs.rank),
        Change(by_max, by_min, by_squares),
    )
    product = _times(by.gamma, third) + _times(now.gamma, by_third)
    for triplet, m, c, dc in zip(triplets, moved, now[:2], by[:2], strict=True):
        if triplet is None or m is None:
            continue
        s, u, v, _ = triplet.end
        if features:
            c, dc = 2.0 * s * c, 2.0 * (s * dc + m.sigma * c)
        product = product + _times(dc, outer(u, v)) + _times(c, outer(m.u, v) + outer(u, m.v))
    degree = member.regularizer.degree * (2 if features else 1)
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


def _times(c: Tensor, A: Tensor) -> Tensor:
    return c[..., None, None] * A
