"""Linear maps before the head, made without training: the closed form's, and that of fade.

Fade folds its map into the linear layer whose output the head takes in, where that serves for
nothing else; any other map is a layer of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._display import Columns, Record
from .._validate import FloatArray, check_real
from ..linear import FadeMap, fade, optimal_extractor
from ._batches import Batches, all_features, everything
from ._head import SplitModel
from ._memory import storage
from ._network import FoldedHead, array, refuse_saving, replace_module
from ._outcome import Outcome
from ._sharded import edit_weight

TOLERANCE = 1e-2
"""By how much of the largest primary logit another one may change."""


def closed_form(
    model: SplitModel,
    tasks: Mapping[str, Batches],
    kappa_P: float | None,
    delta: float | tuple[float, float],
    computed_in: Any,
) -> str:
    """Put the map and the folded head in the place of the head; return the last layer's name."""
    Z_P, Z_H = (all_features(model, task, name) for name, task in tasks.items())
    A = optimal_extractor(
        X_P=array(Z_P),
        X_H=array(Z_H),
        kappa_P=kappa_P,
        delta=delta,
        computed_in=Z_P.dtype if computed_in is None else computed_in,
    )
    return put_before_head(model, A, tasks["primary"], "the closed form")


def put_before_head(
    model: SplitModel, A: FloatArray, primary: Batches, method: str, omega: FloatArray | None = None
) -> str:
    """Put a map and a folded head in the place of the head; return the last layer's name.

    `omega` is what the folded head multiplies by, ``A^-1`` times the head, where it is known.
    """
    replace_module(model.model, model.split, FoldedHead(model.head, A, omega))
    done = f"{model.split}.1"
    try:
        with torch.no_grad():
            primary.run(SplitModel(model.model, done), next(iter(primary.in_order())))
    except Exception as error:
        raise ValueError(
            f"{method} puts two layers in the place of {model.split!r}, and the model does "
            f"not run with them: it reads the head elsewhere too ({error})"
        ) from error
    refuse_saving(model.model)
    return done


@dataclass(frozen=True, repr=False)
class NetworkFade(Record):
    """Where the map of `immucond.linear.fade` stands in a network, and what became of its logits.

    Attributes
    ----------
    place : str
        The names of what holds the map A: the linear layer before the head, whose weight and bias
        are multiplied by it; a layer that was put between the two; or the blocks that were trained
        to serve ``Z A``.
    form : {"folded", "inserted", "distilled"}
        Which of these. A folded or distilled one loads with the network's own code; an inserted
        one can be taken out by whoever reads the network, and is for study.
    logits_changed : float
        The largest change of a primary logit, relative to the largest primary logit.
    map : FadeMap
        A, with the label alignment before and after on the rows that it was made from.
    exact_rho : float or None
        Of a distilled one: the alignment that A itself would leave, on the rows of the report,
        whose ``rho`` is what the blocks reached.
    """

    place: str
    form: Literal["folded", "inserted", "distilled"]
    logits_changed: float
    map: FadeMap = field(repr=False)
    exact_rho: float | None = None

    @property
    def inserted(self) -> bool:
        """Whether a layer was put before the head."""
        return self.form == "inserted"

    def _columns(self) -> Columns:
        return {name: [value] for name, value in self.figures().items()}

    def figures(self) -> dict[str, Any]:
        """Return all but the map, for a report on disk."""
        of_map = {name: getattr(self.map, name) for name in ("tau", "delta", "kappa", "moved")}
        own = {name: getattr(self, name) for name in ("place", "form", "logits_changed")}
        rho = {"rho_before": self.map.rho_before, "rho": self.map.rho, "exact_rho": self.exact_rho}
        return {**own, **of_map, **rho}

    def __repr__(self) -> str:
        A = self.map
        reached = f" (exact map {self.exact_rho:.3g})" if self.exact_rho is not None else ""
        return (
            f"NetworkFade(A in {self.place!r}{'' if self.form == 'folded' else ', ' + self.form}, "
            f"tau={A.tau:g}, rho {A.rho_before:.3g} -> {A.rho:.3g}{reached}, kappa(A) "
            f"{A.kappa:.3g}, primary logits changed by {self.logits_changed:.1e})"
        )


def checked_tau(tau: Any) -> float:
    """Return tau, finite and at least 1."""
    if isinstance(tau, (int, float, np.number)) and tau == math.inf:
        raise ValueError(
            "tau must be finite: what is erased has no inverse for the head, so that primary "
            "logits would change. immucond.linear.fade(..., tau=np.inf) gives the map that erases"
        )
    return check_real(tau, "tau", low=1.0)


def map_of(
    model: SplitModel, tasks: Mapping[str, Batches], tau: float, delta: Any, computed_in: Any
) -> tuple[FadeMap, Tensor]:
    """Return the map for a network's features, with primary logits."""
    of_P, of_H = (everything(model, task, name) for name, task in tasks.items())
    try:
        A = fade(
            array(of_P.features),
            array(of_H.features),
            targets(of_H),
            tau=tau,
            delta=delta,
            computed_in=of_P.features.dtype if computed_in is None else computed_in,
        )
    except ValueError as error:
        raise ValueError(
            "fade cannot be made from the primary features X_P, the harmful ones X_H and their "
            f"labels Y_H: {error}"
        ) from error
    return A, of_P.logits


def fade_network(
    model: SplitModel,
    tasks: Mapping[str, Batches],
    tau: float,
    delta: Any,
    computed_in: Any,
) -> tuple[str, NetworkFade]:
    """Put the map and the head that undoes it into the model; return the head's name."""
    A, before = map_of(model, tasks, tau, delta, computed_in)
    primary, head = tasks["primary"], model.head
    omega = A.solve(array(head.weight).T)
    remedy = (
        f"its map has condition number {A.kappa:.3g}. Give a smaller tau (it is {A.tau:g}), a "
        f"larger delta (it is {A.delta:g}), or the network in float64, model.double()"
    )
    name = feeder(model, tasks.values())
    split = model.split
    if name is None:
        split = put_before_head(model, A.theta, primary, "fade", omega)
        name = f"{model.split}.0"
    else:
        try:
            _fold(model.model.get_submodule(name), head, A, omega)
        except ValueError as error:
            raise ValueError(
                f"fade would take weights of {name!r} or of the head beyond the range of "
                f"{head.weight.dtype}: {remedy}"
            ) from error
    after = everything(SplitModel(model.model, split), primary, "primary").logits
    changed = change(before, after)
    if not changed <= TOLERANCE:
        raise ValueError(
            f"fade would change primary logits by {changed:.3g} of the largest one, and "
            f"{TOLERANCE:g} is tolerated, computed in {head.weight.dtype}: {remedy}"
        )
    return split, NetworkFade(name, "folded" if split == model.split else "inserted", changed, A)


def targets(found: Outcome) -> FloatArray:
    """Return harmful labels for `fade`: names of classes as they are, targets in float64."""
    labels = found.labels
    if labels is None or labels.ndim == 0 or len(labels) != len(found.features):
        raise ValueError("harmful must have labels for fade, a tensor with one a sample")
    if labels.ndim == 1 and not labels.is_floating_point() and int(labels.min()) < 0:
        raise ValueError(
            f"harmful must count classes from 0, and holds {int(labels.min())}: leave out samples "
            "that do not count, which -100 says to cross-entropy"
        )
    values: FloatArray = (labels.double() if labels.is_floating_point() else labels).numpy()
    return values


def _fold(layer: nn.Module, head: nn.Linear, A: FadeMap, omega: FloatArray) -> None:
    """Multiply the layer's weight and bias by A, and the head's weight by its inverse."""
    assert isinstance(layer, nn.Linear)

    def through(x: Tensor) -> Tensor:
        return torch.from_numpy((np.atleast_2d(array(x).T) @ A).T.copy()).reshape(x.shape)

    edit_weight(layer.weight, through)
    if layer.bias is not None:
        edit_weight(layer.bias, through)
    edit_weight(head.weight, lambda _: torch.from_numpy(omega.T.copy()))


def change(before: Tensor, after: Tensor) -> float:
    """Return the largest change of a logit relative to the largest logit."""
    size = float(before.double().abs().max())
    change = float((after.double() - before.double()).abs().max())
    return change / size if size else math.inf if change else 0.0


# ---- the layer to fold a map into ----


def feeder(model: SplitModel, tasks: Iterable[Batches]) -> str | None:
    """Return the name of the linear layer before the head, where a map can be folded into it.

    The head must take in its very output, and no other operation of a forward pass may read that
    output or a weight of the two. Where the model does not run under such a watch there is none.
    """
    firsts = [(task, next(iter(task.in_order()))) for task in tasks]
    names = {_before_head(model, *first) for first in firsts}
    if len(names) != 1 or (name := names.pop()) is None:
        return None
    layer = model.model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    if not (_plain(layer) and _plain(model.head) and _alone(model.model, layer, model.head)):
        return None
    return name if all(_read_by_head_alone(model, layer, *first) for first in firsts) else None


def _before_head(model: SplitModel, task: Batches, batch: Any) -> str | None:
    """Return the linear layer that ran once, and whose output is the input of the head."""
    outputs: dict[str, list[Tensor]] = {}
    entered: list[Tensor] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs.setdefault(name, []).append(output)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.model.named_modules():
            fits = type(module) is nn.Linear and module.out_features == model.head.in_features
            if fits and module is not model.head:
                stack.callback(module.register_forward_hook(keep(name)).remove)
        handle = model.head.register_forward_pre_hook(
            lambda _, args, keywords: entered.append(args[0] if args else keywords["input"]),
            with_kwargs=True,
        )
        stack.callback(handle.remove)
        task.run(model, batch)
    found = [name for name, seen in outputs.items() if len(seen) == 1 and seen[0] is entered[0]]
    return found[0] if len(found) == 1 else None


def _plain(layer: nn.Linear) -> bool:
    """Whether a layer is no more than its own weight and bias."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    named = set(layer._parameters) == {"weight", "bias"} and layer._parameters["weight"] is not None
    return type(layer) is nn.Linear and named and not any(hooks) and "forward" not in vars(layer)


def _alone(model: nn.Module, *layers: nn.Linear) -> bool:
    """Whether nothing else in the model has memory of these layers' weights."""
    mine = [p for layer in layers for p in layer.parameters()]
    ids, places = {id(p) for p in mine}, [storage(p) for p in mine]
    owners = {id(layer) for layer in layers}
    elsewhere = (
        tensor
        for module in model.modules()
        if id(module) not in owners
        for tensor in chain(module._parameters.values(), module._buffers.values())
        if tensor is not None
    )
    own = len(set(places)) == len(places)
    return own and not any(id(x) in ids or storage(x) in places for x in elsewhere)


class _Watch(TorchDispatchMode):
    """Notes whether an operation outside the two layers reads what they alone may read."""

    def __init__(self, storages: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.storages, self.inside, self.read = storages, False, False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = tree_leaves((args, kwargs or {}))
        if not self.inside:
            read = any(storage(x) in self.storages for x in given if isinstance(x, Tensor))
            self.read = self.read or read
        return function(*args, **(kwargs or {}))


def _read_by_head_alone(model: SplitModel, layer: nn.Linear, task: Batches, batch: Any) -> bool:
    watched = {storage(p) for module in (layer, model.head) for p in module.parameters()}
    watch = _Watch(watched)
    held: list[Tensor] = []  # so that its memory is nobody else's

    def enter(*_: Any) -> None:
        watch.inside = True

    def leave(module: nn.Module, _: Any, output: Tensor) -> None:
        watch.inside = False
        if module is layer:
            held.append(output)
            watch.storages.add(storage(output))

    with ExitStack() as stack, torch.no_grad():
        for module in (layer, model.head):
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        try:
            with watch:
                task.run(model, batch)
        except Exception:  # such as of compiled code, which knows no watch
            return False
    return not watch.read
