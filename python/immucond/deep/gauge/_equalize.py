"""The canonical form of a network under its gauge groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsIndex

from torch import Tensor, nn

from ..._display import Columns, Tabular
from ..._errors import AccuracyWarning, warn
from ..._validate import as_count, check_real
from .._loaders import parse_batch
from .._network import copied, device_of, whatever_modes
from .._sharded import edit_weight
from ._balance import SWEEPS, Balancing
from ._batch import batch_for
from ._find import TOLERANCE, in_float64, refuse_compiled, verified
from ._group import KINDS, GaugeGroup, state_of
from ._kernel import to_kernel
from ._merge import merge as merged
from ._tape import change, run, tensors


@dataclass(frozen=True)
class Equalized(Tabular):
    """A network in canonical form.

    Attributes
    ----------
    model : nn.Module
        The copy; frozen parameters are frozen still, dtypes as they were.
    condition_before, condition_after : float
        Largest condition number of a gauge between a network and its canonical form, over the
        groups: of the network that was given, and of the copy as it is stored.
    error : float
        Largest relative change of a row of the outputs, computed in float64 from weights as they
        are stored.
    groups : tuple of GaugeGroup
        What was balanced.
    conditions : dict
        `condition_before` of each group, by kind and modules.
    merged : tuple of str
        Names of the layers that took others in.
    sweeps : int
        How often groups took turns, at most.
    imbalance : float
        Where they stopped, ``||W W^T - V^T V||_F/||W W^T + V^T V||_F`` of the worst block.
    ranks : dict
        The groups that ``metric="kernel"`` balanced in that metric, by kind and modules, and how
        many directions, over their blocks, the batch uses; all others are balanced by parameters.
    """

    model: nn.Module = field(repr=False)
    condition_before: float
    condition_after: float
    error: float
    groups: tuple[GaugeGroup, ...] = field(repr=False)
    conditions: Mapping[tuple[str, tuple[str, ...]], float] = field(repr=False)
    merged: tuple[str, ...] = ()
    sweeps: int = 0
    imbalance: float = 0.0
    ranks: Mapping[tuple[str, tuple[str, ...]], int] = field(repr=False, default_factory=dict)

    def _columns(self) -> Columns:
        """Return the groups, each with the condition number that was taken out of it."""
        keys = [(group.kind, group.modules) for group in self.groups]
        return {
            "kind": [kind for kind, _ in keys],
            "modules": [modules for _, modules in keys],
            "dimension": [group.dimension for group in self.groups],
            "condition_before": [self.conditions.get(key, math.nan) for key in keys],
        }


@whatever_modes()
def equalize(
    model: nn.Module,
    *,
    data: Any = None,
    metric: Literal["parameters", "kernel"] = "parameters",
    merge: bool | Sequence[str] = False,
    sweeps: SupportsIndex = SWEEPS,
    tolerance: float = TOLERANCE,
    seed: SupportsIndex = 0,
) -> Equalized:
    r"""Bring a copy of a network to its canonical form, which any gauge of it has too.

    Whatever invertible reparameterization of the groups that :func:`groups` finds slows training
    down, this removes it without knowing it: of a pair with the product
    :math:`W_2 W_1 = U \Sigma V^T` it takes :math:`(U \Sigma^{1/2}, \Sigma^{1/2} V^T)`, where
    :math:`\operatorname{tr} S W_1 W_1^T + \operatorname{tr} S^{-1} W_2^T W_2` is least; of scales,
    those that make the norms of both sides equal; of what enters a batch norm, those that make
    its variance 1. Groups that share parameters take turns, to the least sum of squares.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    data : optional
        A batch of inputs, or an iterable such as a DataLoader, of which the first batch is taken:
        ``(inputs, labels)``, a mapping, or inputs alone; inputs are a tensor, several, or a mapping
        of keywords. By default as in :func:`groups`.
    metric : "parameters" or "kernel"
        ``"kernel"``: pairs of fully connected layers, of the kinds "linear" and "value-output",
        go on from there to the least trace of their training kernel on `data`, which is needed:
        :math:`K_S = X X^T \otimes W_2 S^{-1} W_2^T + H S H^T \otimes I`, where X are the rows that
        enter :math:`W_1` (all tokens, with a 1 where there is a bias), :math:`H = X W_1^T` and
        :math:`S = A^T A`. It is the kernel of the pair by itself, row by row, not that of the
        network: the Jacobian of what follows the pair is left out, and so are weights of attention
        between the two. Scales, "query-key", convolutions, ``nn.MultiheadAttention`` and pairs
        that share a layer with another pair stay as ``"parameters"`` has them;
        `Equalized.ranks` names the others.
    merge : bool or sequence of str
        Whether linear layers that follow one another in an ``nn.Sequential`` are multiplied, where
        that adds no rank: an inserted layer is gone, and modules have the names they had without.
        Or the names of layers, such as :func:`inserted` returns, that are multiplied with those
        beside them, and no others.
    sweeps : int
        How often groups take turns at most.
    tolerance : float
        Of the check of the groups.
    seed : int
        Of the check, and of inputs that are drawn.

    Returns
    -------
    Equalized

    Raises
    ------
    ValueError, TypeError
        As :func:`groups`; where what is balanced does not fit the parameters' dtype; for an unknown
        metric, and the kernel's without `data` or with data that are not finite.

    Warns
    -----
    AccuracyWarning
        Where the groups were not in balance after `sweeps` turns.

    Notes
    -----
    The form is unique up to signs and, where singular values of a pair are equal, rotations among
    them; signs and phases are chosen such that the largest entry of each written row is positive.
    Of a product without full rank the rows beyond its rank become 0, and train no more; a unit that
    writes or reads nothing keeps its scale. All is computed in float64 and rounded to each
    parameter's dtype. Batch norms keep the function in evaluation mode.

    In the kernel's metric the least trace is :math:`2 \operatorname{tr} (P^{1/2} Q P^{1/2})^{1/2}`
    with :math:`P = c H^T H`, c outputs, and :math:`Q = \|X\|_F^2 W_2^T W_2`. A direction that no
    row of the batch uses has no least point, and stays as ``"parameters"`` has it: the function is
    kept everywhere, not on the batch alone.

    Sources: Kempf and Ness (1979) for the least norm in an orbit; the minimum of one pair is the
    geometric mean of :math:`(W_1 W_1^T)^{-1}` and :math:`W_2^T W_2`.

    Examples
    --------
    A random gauge of condition number 1000, removed:

    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 7)).double()
    >>> locked = icd.gauge.lock(net, strength=1e3, groups="linear", seed=0)
    >>> found, plain = icd.gauge.equalize(locked), icd.gauge.equalize(net)
    >>> found.condition_before > 100, round(found.condition_after, 6), found.error < 1e-12
    (True, 1.0, True)
    >>> bool(torch.allclose(found.model[0].weight, plain.model[0].weight))
    True
    """
    turns, drawn = as_count(sweeps, "sweeps", least=1), as_count(seed, "seed", least=0)
    allowed = check_real(tolerance, "tolerance", low=0.0)
    if metric not in ("parameters", "kernel"):
        raise ValueError(f"metric must be 'parameters' or 'kernel', and is {metric!r}")
    if metric == "kernel" and data is None:
        raise ValueError(
            "metric='kernel' needs data: the batch of inputs on which the kernel is taken"
        )
    refuse_compiled(model)
    batch = batch_for(model, drawn) if data is None else first_batch(data)
    result = copied(model, device_of(model))
    joined = merged(result, None if merge is True else merge) if merge else []
    before = _outputs(model, batch)
    work, inputs = in_float64(result, batch)
    found, _ = verified(work, inputs, KINDS, allowed, drawn)
    balancing = Balancing(found, state_of(work), turns)
    if balancing.imbalance > 1e-8:
        warn(
            f"the groups are not in balance after {turns} turns, but for "
            f"{balancing.imbalance:.1e}: give more sweeps",
            AccuracyWarning,
        )
    ranks = to_kernel(balancing, work, inputs) if metric == "kernel" else {}
    store(work, result, found)
    del work
    again, _ = in_float64(result, batch)
    error = change(before, list(tensors(run(again, inputs))))
    settled = Balancing(found, state_of(again), turns if ranks else 1)
    if ranks:
        to_kernel(settled, again, inputs)
    keys = [(g.kind, g.modules) for g in found]
    return Equalized(
        model=result,
        condition_before=max(balancing.conditions, default=1.0),
        condition_after=max(settled.conditions, default=1.0),
        error=error,
        groups=tuple(found),
        conditions=dict(zip(keys, balancing.conditions, strict=True)),
        merged=tuple(joined),
        sweeps=balancing.sweeps,
        imbalance=balancing.imbalance,
        ranks={keys[place]: rank for place, rank in ranks.items()},
    )


def store(work: nn.Module, result: nn.Module, found: Sequence[GaugeGroup]) -> None:
    """Round what groups changed in a float64 copy to the parameters of another."""
    computed, stored = state_of(work), state_of(result)
    for name in dict.fromkeys(name for group in found for name in group.parameters):
        edit_weight(stored[name], lambda _, name=name: computed[name].detach().clone())  # type: ignore[misc]


def first_batch(data: Any) -> Any:
    """Return the inputs of a batch, or of the first of several."""
    batch, held = data, isinstance(data, (list, tuple))
    listed = held and all(isinstance(x, (list, tuple, Mapping)) for x in data)
    single = isinstance(data, (Tensor, Mapping)) or (held and bool(data) and not listed)
    if not single and isinstance(data, Iterable):
        batch = next(iter(data), None)
        if batch is None:
            raise ValueError("data has no batches")
    if isinstance(batch, (list, tuple)):
        inputs = batch[0] if batch else None
    else:
        inputs, _ = parse_batch(batch)
    several = isinstance(inputs, (list, tuple)) and any(isinstance(x, Tensor) for x in inputs)
    if not several and not isinstance(inputs, (Tensor, Mapping)):
        raise TypeError(
            "data must be a batch, which is inputs, (inputs, labels) or a mapping, or batches, and "
            f"is a {type(data).__name__}"
        )
    return inputs


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    work, inputs = in_float64(model, batch)
    try:
        return list(tensors(run(work, inputs)))
    except RuntimeError as error:
        raise TypeError(
            f"the model must run on the batch in float64, and did not: {error}"
        ) from error
