"""The spectral regularizers, and how their coefficients move with the spectrum."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .._regularizers import SpectralRegularizer, kappa, log_kappa, r_ill, r_well


class Spectrum(NamedTuple):
    """What a regularizer is a function of: sigma_1, sigma_k, F = ||S||_F^2, and the counts."""

    sigma_max: Tensor
    sigma_min: Tensor
    squares: Tensor
    p: Tensor | int
    rank: Tensor


class Change(NamedTuple):
    """First-order changes of sigma_1, sigma_k and F."""

    sigma_max: Tensor
    sigma_min: Tensor
    squares: Tensor


class Coefficients(NamedTuple):
    """alpha, beta, gamma of ``grad r = alpha u_1 v_1^T + beta u_k v_k^T + gamma S``."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor


class Member(NamedTuple):
    """A regularizer, the ends that it uses, and its coefficients with their differential."""

    regularizer: SpectralRegularizer
    uses_max: bool
    uses_min: bool
    coefficients: Callable[[Spectrum, Change], tuple[Coefficients, Coefficients]]


def _r_well(s: Spectrum, d: Change) -> tuple[Coefficients, Coefficients]:
    zero = s.sigma_max * 0.0
    return (
        Coefficients(s.sigma_max, zero, zero - 1.0 / s.p),
        Coefficients(d.sigma_max, zero, zero),
    )


def _r_ill(s: Spectrum, d: Change) -> tuple[Coefficients, Coefficients]:
    zero, k = s.sigma_max * 0.0, s.rank
    D = s.squares / (2 * k) - s.sigma_min**2 / 2
    dD = d.squares / (2 * k) - s.sigma_min * d.sigma_min
    return (
        Coefficients(zero, s.sigma_min / D**2, -1.0 / (k * D**2)),
        Coefficients(zero, d.sigma_min / D**2 - 2 * s.sigma_min * dD / D**3, 2 * dD / (k * D**3)),
    )


def _kappa(s: Spectrum, d: Change) -> tuple[Coefficients, Coefficients]:
    zero, square = s.sigma_max * 0.0, s.sigma_min**2
    return (
        Coefficients(1.0 / s.sigma_min, -s.sigma_max / square, zero),
        Coefficients(
            -d.sigma_min / square,
            -d.sigma_max / square + 2 * s.sigma_max * d.sigma_min / (square * s.sigma_min),
            zero,
        ),
    )


def _log_kappa(s: Spectrum, d: Change) -> tuple[Coefficients, Coefficients]:
    zero = s.sigma_max * 0.0
    return (
        Coefficients(1.0 / s.sigma_max, -1.0 / s.sigma_min, zero),
        Coefficients(-d.sigma_max / s.sigma_max**2, d.sigma_min / s.sigma_min**2, zero),
    )


FAMILY = {
    member.regularizer.name: member
    for member in (
        Member(r_well, True, False, _r_well),
        Member(r_ill, False, True, _r_ill),
        Member(kappa, True, True, _kappa),
        Member(log_kappa, True, True, _log_kappa),
    )
}
