"""Second derivatives of the spectral regularizers, as products with a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from ._family import FAMILY, Change, Member, Spectrum
from ._pairs import End, ExtremePairs, FeatureEnd, MatrixEnd, Moved, outer, pairs_operator

Options = tuple[bool, int | None, float | None, str | None]


def hessian_product(X: Tensor, W: Tensor, name: str, options: Options, p_is_rank: bool) -> Tensor:
    """Return the derivative of the gradient at `X` along `W`, in float64.

    ``grad r = alpha u_1 v_1^T + beta u_k v_k^T + gamma S`` is differentiated term by term; the
    pairs move by their bordered resolvents. Written in differentiable operations, so that
    derivatives of any order follow.
    """
    member, features = FAMILY[name], options[0]
    # Rounded pairs would not be null vectors; the precision still decides the rank.
    precision = options[3] or str(X.dtype).removeprefix("torch.")
    X, W = X.double(), W.double()
    pairs = ExtremePairs(*pairs_operator(X, *options[:3], precision, False))
    # In units of a power of two, so that no square leaves the range.
    sigma = pairs.sigma_max.detach()
    unit = torch.exp2(torch.floor(torch.log2(sigma.sqrt() if features else sigma)))
    X, W = X / unit[..., None, None], W / unit[..., None, None]
    of_sigma = unit**2 if features else unit
    top = End(pairs.sigma_max / of_sigma, pairs.u_max, pairs.v_max, pairs.simple_max)
    low = End(pairs.sigma_min / of_sigma, pairs.u_min, pairs.v_min, pairs.simple_min)
    smaller = X.shape[-1] if features else min(X.shape[-2:])
    spectrum = Spectrum(
        top.sigma, low.sigma, _dot(X, X), pairs.rank if p_is_rank else smaller, pairs.rank
    )
    product = (_by_features if features else _by_matrix)(member, spectrum, X, W, (top, low))
    degree = member.regularizer._degree * (2 if features else 1)
    return product * unit[..., None, None] ** (degree - 1)


def _by_matrix(
    member: Member, spectrum: Spectrum, S: Tensor, W: Tensor, ends: tuple[End, End]
) -> Tensor:
    moved = [
        MatrixEnd(S, end).moved(W) if used else None
        for end, used in zip(ends, (member.uses_max, member.uses_min), strict=True)
    ]
    return _gradient(member, spectrum, S, W, ends, moved)[1]


def _by_features(
    member: Member, spectrum: Spectrum, Z: Tensor, W: Tensor, ends: tuple[End, End]
) -> Tensor:
    # 2 Z G, or 2 G Z with the dual Gram matrix, by T = Z or Z^T: 2 T G either way.
    sides = [FeatureEnd(Z, end) for end in ends]
    T, V = sides[0].T, W.mT if sides[0].dual else W
    H = T.mT @ T
    dH = T.mT @ V
    dH = dH + dH.mT
    small = tuple(End(e.sigma, s.x, s.x, e.simple) for e, s in zip(ends, sides, strict=True))
    moved = [
        side.moved_small(dH) if used else None
        for side, used in zip(sides, (member.uses_max, member.uses_min), strict=True)
    ]
    spectrum = spectrum._replace(squares=_dot(H, H))
    G, dG = _gradient(member, spectrum, H, dH, (small[0], small[1]), moved)
    product = 2.0 * (V @ G + T @ dG)
    return product.mT if sides[0].dual else product


def _gradient(
    member: Member,
    spectrum: Spectrum,
    S: Tensor,
    W: Tensor,
    ends: tuple[End, End],
    moved: list[Moved | None],
) -> tuple[Tensor, Tensor]:
    """Return grad r at S, and its derivative along W, from what that does to the ends."""
    squares = 2.0 * _dot(S, W)
    still = torch.zeros_like(squares)
    by_max, by_min = (still if m is None else m.sigma for m in moved)
    change = Change(by_max, by_min, squares)
    now, by = member.coefficients(spectrum, change)
    gradient = _times(now.gamma, S)
    derivative = _times(by.gamma, S) + _times(now.gamma, W)
    for end, m, c, dc in zip(ends, moved, now[:2], by[:2], strict=True):
        if m is None:
            continue
        gradient = gradient + _times(c, outer(end.u, end.v))
        turned = outer(m.u, end.v) + outer(end.u, m.v)
        derivative = derivative + _times(dc, outer(end.u, end.v)) + _times(c, turned)
    return gradient, derivative


def _dot(A: Tensor, B: Tensor) -> Tensor:
    return (A * B).sum((-2, -1))


def _times(c: Tensor, A: Tensor) -> Tensor:
    return c[..., None, None] * A
