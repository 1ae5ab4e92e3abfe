"""Locks of others, as baselines: SpecDef, and random gauges. Each is undone by `equalize`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, SupportsIndex, cast

import torch
from torch import Tensor, nn

from ..._errors import AccuracyWarning, warn
from ..._validate import as_count, check_real
from .._network import (
    Inserted,
    copied,
    device_of,
    modules_matching,
    refuse_saving,
    repeated,
    replace_module,
    tied,
    whatever_modes,
)
from ._batch import batch_for
from ._equalize import first_batch, store
from ._find import TOLERANCE, in_float64, refuse_compiled, refuse_not_finite
from ._find import groups as find
from ._group import KINDS, Kind, state_of
from ._layers import Linear, linear, plain


@whatever_modes()
def lock(
    model: nn.Module,
    *,
    strength: float,
    top: SupportsIndex = 2,
    groups: Literal["specdef", "all"] | Kind | Sequence[Kind] = "specdef",
    modules: str | Sequence[str] | None = None,
    data: Any = None,
    delta: float = 0.01,
    seed: SupportsIndex = 0,
) -> nn.Module:
    r"""Make a copy of a network slow to train, with the same outputs: a baseline, not a defence.

    :func:`equalize` removes what this does without knowing it; so do merging or freezing what is
    inserted, K-FAC, and adapters beside it. It is here to be measured against.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    strength : float
        SpecDef's alpha, or the condition number of the random gauges; at least 1.
    top : int
        SpecDef: how many singular values are multiplied, of each layer.
    groups : str or sequence of str
        ``"specdef"``: each linear layer :math:`W = U \Sigma V^T` becomes
        :math:`U T \Sigma V^T` with T = diag(alpha, ..., alpha, 1, ..., 1), and a linear layer
        :math:`C = U \Sigma (T \Sigma)^{-1} U^T` is inserted after it. ``"all"``, or kinds of
        :class:`GaugeGroup`: a random element of each of these groups.
    modules : str or sequence of str, optional
        SpecDef: names or patterns of the linear layers; by default all that are not tied, and do
        no more than their class does: without hooks, or a forward of their own.
    data : optional
        Random gauges: inputs as of :func:`equalize`.
    delta : float
        Relative error of the outputs that may come of rounding.
    seed : int
        Of the random elements.

    Returns
    -------
    nn.Module
        With SpecDef, linear layers are sequences of two, which ``from_pretrained`` does not know.

    Raises
    ------
    ValueError
        For a strength below 1 or not finite, a `top` below 1, unknown groups, patterns that match
        no linear layer, tied and hooked layers that are named, and overflow of the dtype; as
        :func:`groups` for weights that are not finite and a batch that tells nothing.
    TypeError
        For a compiled network, and a strength or delta that is no number.

    Warns
    -----
    AccuracyWarning
        Where `strength` is above 5 delta/u with u the unit roundoff of the stored weights: the
        outputs are then wrong by more than about `delta`.

    Notes
    -----
    Source: "Limits of Convergence-Rate Control for Open-Weight Safety", arXiv 2602.18868.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> locked = icd.gauge.lock(net, strength=1e3, top=1, seed=0)
    >>> x = torch.randn(4, 6)
    >>> bool(torch.allclose(locked(x), net(x), atol=1e-3)), len(locked[0])
    (True, 2)
    >>> bool(torch.linalg.cond(locked[0][0].weight) > 1e3)
    True
    >>> type(icd.gauge.equalize(locked, merge=True).model[0]).__name__
    'Linear'
    """
    strength = check_real(strength, "strength", low=1.0)
    delta = check_real(delta, "delta", low=math.ulp(0.0))
    count, drawn = as_count(top, "top", least=1), as_count(seed, "seed", least=0)
    refuse_compiled(model)
    refuse_not_finite(model)
    _budget(model, strength, delta)
    device = device_of(model)
    if isinstance(groups, str) and groups == "specdef":
        result = copied(model, device)
        for name, layer in _layers(result, modules).items():
            replace_module(
                result, name, _specdef(result.get_submodule(name), layer, strength, count)
            )
        refuse_saving(result)
        return result
    if modules is not None:
        raise ValueError("modules is for groups='specdef'; random gauges act on whole groups")
    if isinstance(groups, str) and groups != "all" and groups not in KINDS:
        known = ", ".join(map(repr, ("specdef", "all", *KINDS)))
        raise ValueError(f"groups must be of {known}, and is {groups!r}")
    kinds: Any = None if groups == "all" else groups
    batch = batch_for(model, drawn) if data is None else first_batch(data)
    found = find(model, batch, kinds=kinds, tolerance=TOLERANCE, seed=drawn)
    result = copied(model, device)
    work, _ = in_float64(result, batch)
    state = state_of(work)
    for number, group in enumerate(found):
        group._act(state, group.element(condition=strength, seed=drawn + number))
    store(work, result, found)
    return result


def _budget(model: nn.Module, strength: float, delta: float) -> None:
    """Warn where rounding of the stored weights costs more than delta."""
    coarsest = max(
        (torch.finfo(p.dtype).eps / 2 for p in model.parameters() if p.is_floating_point()),
        default=0.0,
    )
    if coarsest and strength > 5 * delta / coarsest:
        warn(
            f"strength {strength:g} is more than 5 delta/u = {5 * delta / coarsest:.3g}, with unit "
            f"roundoff u = {coarsest:.1e} of the stored weights: the outputs are wrong by about "
            f"{0.2 * coarsest * strength:.1g}, relative; delta is {delta:g}",
            AccuracyWarning,
        )


def _layers(model: nn.Module, modules: str | Sequence[str] | None) -> dict[str, Linear]:
    """Return the linear layers to lock by name; those that are tied only where not named."""
    matched = (
        dict(model.named_modules()) if modules is None else modules_matching(model, modules)[0]
    )
    shared, twice = tied(model), repeated(model)
    within = {
        f"{name}.{child}".lstrip(".")
        for name, m in model.named_modules()
        if isinstance(m, nn.MultiheadAttention)
        for child in ("out_proj",)
    }
    found = {}
    for name, module in matched.items():
        layer = linear(name, module)
        if layer is None or not layer.reads or not name:
            continue
        if f"{name}.weight" in shared or name in twice or name in within or not plain(module):
            if modules is None:
                continue
            raise ValueError(
                f"{name!r} shares its weight, runs within nn.MultiheadAttention, or has a forward "
                "of its own or a hook: nothing can be inserted after it alone"
            )
        found[name] = layer
    if not found:
        what = "the model has" if modules is None else f"modules {modules!r} name"
        raise ValueError(f"{what} no linear layer to insert another after")
    return found


def _specdef(module: nn.Module, layer: Linear, strength: float, top: int) -> Inserted:
    """Return W~ and C, computed in float64."""
    stored = module.weight
    assert isinstance(stored, Tensor)
    W = stored.detach().double().movedim(layer.out, 0)
    U, s, Vh = torch.linalg.svd(W.flatten(1), full_matrices=False)
    t = torch.ones_like(s)
    t[:top] = strength
    locked = ((U * (t * s)) @ Vh).reshape(W.shape).movedim(0, layer.out)
    inverse = (U / t) @ U.T  # U Sigma (T Sigma)^-1 U^T, where singular values may be 0 too
    if not locked.to(stored.dtype).isfinite().all():
        raise ValueError(f"strength {strength:g} overflows {stored.dtype} in {layer.name!r}")
    return _in_two(module, layer, locked, inverse)


def _in_two(module: nn.Module, layer: Linear, weight: Tensor, after: Tensor) -> Inserted:
    """Return a layer with this weight, and a square one after it, which has the bias."""
    stored = module.weight
    assert isinstance(stored, Tensor)
    first = copy.deepcopy(module)
    first.weight = nn.Parameter(weight.contiguous().to(stored.dtype), stored.requires_grad)
    bias = module._parameters.get("bias")
    if bias is not None:  # GPT-2's Conv1D cannot run without one
        zero = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
        first._parameters["bias"] = zero if layer.out == 1 else None
    n, convolutions = layer.outputs, {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    kind: Any = partial(convolutions[stored.ndim], kernel_size=1) if layer.channels else nn.Linear
    second = kind(n, n, device="meta")  # no random numbers are drawn for what is replaced
    square = after.reshape(second.weight.shape).to(stored.dtype)
    second.weight = nn.Parameter(square, stored.requires_grad)
    second.bias = None if bias is None else copy.deepcopy(bias)
    second.train(module.training)
    return Inserted(first, second)


def insert_again(model: nn.Module, names: Iterable[str]) -> None:
    """Insert identities where a lock of this architecture had its layers, in place.

    Their weights are to be read from its state.

    Raises
    ------
    ValueError
        For names of what is no linear layer.
    """
    outer_first = sorted(names, key=lambda name: name.count("."))  # a lock's own may be locked too
    for name in outer_first:
        module = dict(model.named_modules()).get(name)
        layer = None if module is None else linear(name, module)
        if module is None or layer is None:
            raise ValueError(f"the network has no linear layer {name!r} to insert another after")
        weight = cast(Tensor, module.weight).detach()
        replace_module(model, name, _in_two(module, layer, weight, torch.eye(layer.outputs)))
    refuse_saving(model)
