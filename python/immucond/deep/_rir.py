"""The relative immunity ratio of a deep net, against the net that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import nn

from .._condition import condition_number
from .._display import Columns, Tabular
from .._format import OF_NETWORKS, not_harder
from .._validate import FloatArray, as_count, check_real
from ._activations import task_of
from ._batches import all_features
from ._head import SplitModel
from ._network import array, heads_named, served

Kappa = TypeVar("Kappa", float, FloatArray)


class Ratios(Generic[Kappa]):
    """What four condition numbers say of immunity: Zheng et al. (2025), Definition 3.1."""

    kappa_P: Kappa
    kappa_H: Kappa
    reference_kappa_P: Kappa
    reference_kappa_H: Kappa

    @property
    def i(self) -> Kappa:
        """How many times worse the harmful task is conditioned than by the reference.

        ``kappa_H / reference_kappa_H``: immunity wants it large.
        """
        return self.kappa_H / self.reference_kappa_H

    @property
    def ii(self) -> Kappa:
        """``kappa_P / reference_kappa_P``: immunity wants it at most 1."""
        return self.kappa_P / self.reference_kappa_P

    @property
    def rir(self) -> Kappa:
        """The relative immunity ratio, (i) / (ii)."""
        return self.i / self.ii


@dataclass(frozen=True, eq=False, repr=False)
class DeepImmunity(Ratios[FloatArray], Tabular):
    """What an immunized network did to the condition numbers, group by group of samples.

    Attributes
    ----------
    kappa_P, kappa_H : (groups,) array
        Condition numbers of the primary and of the harmful Hessian of the immunized network.
    reference_kappa_P, reference_kappa_H : (groups,) array
        Those of the network that it was made from.
    convention : str
        "exact", over the nonzero eigenvalues, or with which ridge.
    """

    kappa_P: FloatArray = field(repr=False)
    kappa_H: FloatArray = field(repr=False)
    reference_kappa_P: FloatArray = field(repr=False)
    reference_kappa_H: FloatArray = field(repr=False)
    convention: str

    @property
    def mean(self) -> float:
        """Mean of the RIR over the groups."""
        return float(self.rir.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the RIR over the groups."""
        return float(self.rir.std(ddof=1)) if self.rir.size > 1 else 0.0

    def __str__(self) -> str:
        i, ii, rir = (f"{x.mean():.4g} ± {x.std():.2g}" for x in (self.i, self.ii, self.rir))
        eased = not_harder(float(self.i.mean()), self.mean, OF_NETWORKS)
        told = f" ({eased})" if eased else ""
        return f"(i) {i}, (ii) {ii}, RIR_theta0 {rir}{told} ({self.convention})"

    def __repr__(self) -> str:
        return f"DeepImmunity({self})"

    def _columns(self) -> Columns:
        names = ("reference_kappa_P", "kappa_P", "reference_kappa_H", "kappa_H", "i", "ii", "rir")
        return {"group": range(self.rir.size), **{name: getattr(self, name) for name in names}}


@torch.random.fork_rng(devices=[])
def rir(
    model: nn.Module,
    reference: nn.Module,
    primary: Any,
    harmful: Any,
    *,
    split: str | tuple[str, str],
    groups: int = 20,
    size: int = 100,
    seed: int = 0,
    device: Any = None,
    ridge: float = 0.0,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> DeepImmunity:
    r"""Return RIR_theta0, the relative immunity ratio of a network against another.

    .. math::
        \frac{\kappa(H_H(\theta)) / \kappa(H_H(\theta_0))}
             {\kappa(H_P(\theta)) / \kappa(H_P(\theta_0))},

    over groups of samples drawn at random, the same ones for both networks: Zheng et al. (2025),
    Sec. 5.3.

    Parameters
    ----------
    model, reference : nn.Module
        The immunized network, and the one that it was made from (theta_0).
    primary, harmful : DataLoader, or iterable of batches
        As in `immunize`; all samples (of heads that run on tokens: those) are read once, in the
        order of the loader, which must be the same each time (no shuffling).
    split : str or (str, str)
        The name of the head of both, or of each: `DeepImmunization.split` and the original's.
    groups, size : int
        The paper's 20 groups of 100 samples.
    seed : int
        Of the draw.
    device : torch.device, optional
        By default that of each model.
    ridge : float
        0 for the exact condition number; 1e-6 is the convention of the published tables.
    rank : int, optional
        The rank of the features, where it is known.
    computed_in : dtype_like, optional
        The precision in which they were computed, as in `immunize`.

    Returns
    -------
    DeepImmunity

    Raises
    ------
    ValueError
        Where a task has fewer samples than a group, cannot be read twice, or the networks do not
        run on it.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> primary, harmful = [torch.randn(200, 6)], [torch.randn(200, 6) * torch.arange(1.0, 7.0)]
    >>> done = icd.immunize(net, split="2", primary=primary, harmful=harmful, method="closed_form")
    >>> found = icd.rir(done.model, net, primary, harmful, split=(done.split, "2"))
    >>> found.mean > 2
    True
    """
    names = heads_named(split)
    P, H = (
        tuple(
            _features(network, head, loader, name, device)
            for network, head in zip((model, reference), names, strict=True)
        )
        for loader, name in ((primary, "primary"), (harmful, "harmful"))
    )
    options: dict[str, Any] = {"ridge": ridge, "rank": rank, "computed_in": computed_in}
    return immunity_of(P, H, groups=groups, size=size, seed=seed, **options)


def immunity_of(
    primary: Sequence[torch.Tensor],
    harmful: Sequence[torch.Tensor],
    *,
    groups: int = 20,
    size: int = 100,
    seed: int = 0,
    ridge: float = 0.0,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> DeepImmunity:
    """Return the same from features: for each task those of the network and of the reference."""
    count, rows = as_count(groups, "groups", least=1), as_count(size, "size", least=2)
    shift = check_real(ridge, "ridge", low=0.0)
    rng = np.random.default_rng(as_count(seed, "seed", least=0))
    options: dict[str, Any] = {"ridge": shift, "rank": rank}
    kappas = []
    for (Z, reference), name in ((primary, "primary"), (harmful, "harmful")):
        total = len(Z)
        if total < rows:
            raise ValueError(f"{name} must have at least {rows} samples, and has {total}")
        if len(reference) != total:
            raise ValueError(
                f"{name} must give the same samples each time, and gave {total}, then "
                f"{len(reference)}"
            )
        chosen = [rng.choice(total, rows, replace=False) for _ in range(count)]
        for features in (Z, reference):
            X, precision = array(features), features.dtype if computed_in is None else computed_in
            found = [
                condition_number(features=X[group], computed_in=precision, **options)
                for group in chosen
            ]
            kappas.append(np.array(found))
    of_P, reference_of_P, of_H, reference_of_H = kappas
    convention = "exact, over the nonzero eigenvalues" if shift == 0.0 else f"ridge {shift:g}"
    return DeepImmunity(of_P, of_H, reference_of_P, reference_of_H, convention)


def _features(network: nn.Module, head: str, loader: Any, name: str, device: Any) -> torch.Tensor:
    with served(network, device) as (model, where):
        return all_features(SplitModel(model, head), task_of(loader, where, name), name)
