"""(i), (ii) and the RIR of a network against the one that it was made from."""

from __future__ import annotations

from typing import Generic, TypeVar

from .._validate import FloatArray

Kappa = TypeVar("Kappa", float, FloatArray)


class Ratios(Generic[Kappa]):
    """What four condition numbers say of immunity: Zheng et al. (2025), Definition 3.1."""

    kappa_P: Kappa
    kappa_H: Kappa
    reference_kappa_P: Kappa
    reference_kappa_H: Kappa

    @property
    def i(self) -> Kappa:
        """``kappa_H`` over that of the reference: immunity wants it large."""
        return self.kappa_H / self.reference_kappa_H

    @property
    def ii(self) -> Kappa:
        """``kappa_P`` over that of the reference: at most 1 is wanted."""
        return self.kappa_P / self.reference_kappa_P

    @property
    def rir(self) -> Kappa:
        """The ratio (i) / (ii)."""
        return self.i / self.ii
