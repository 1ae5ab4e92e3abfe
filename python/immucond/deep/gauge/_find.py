"""Groups are guessed from names and from the tensors between modules, then checked on a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..._validate import as_count, check_real
from .._memory import in_dtype
from .._network import copied, device_of, repeated, tied, whatever_modes
from ._attention import attentions, gated, group_of
from ._batch import batch_for
from ._group import KINDS, GaugeGroup, Kind, Side, state_of
from ._layers import affine, is_batch_norm, linear, owners, places, spread
from ._tape import (
    Call,
    Tape,
    blank,
    captured,
    change,
    doubled,
    leaf,
    replayed,
    run,
    taped,
    tensors,
)

_log = logging.getLogger("immucond")

_FAR = 2.0**20  # by which elements are multiplied: a power of 2, without rounding
TOLERANCE = 1e-6  # some normalizations compute in float32, whatever the network's dtype
# By the channel, and linear: what mixes units may pass them. Others may pass positive scales.
_TRANSPARENT = (
    nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)  # fmt: skip


@whatever_modes()
def groups(
    model: nn.Module,
    batch: Any = None,
    *,
    kinds: Kind | Sequence[Kind] | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> list[GaugeGroup]:
    """Find reparameterizations that keep the function of a network, and check each on a batch.

    They are guessed: attention and gated layers by the names of their modules, the others from
    which module takes in what another puts out. A guess counts only where random elements of the
    group, a million times as large and as small too, applied to a float64 copy, keep what the
    layers put out that read it and the module around them, and the outputs of the whole network
    together with all others. What fails is dropped; the logger ``immucond`` says so.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    batch : optional
        Inputs of the network: a tensor, several, or a mapping of keywords; labels are not needed.
        By default drawn at random, where the network's configuration or first layer says of which
        shape. It must reach what matters: sequences of several tokens, for rotary embeddings.
    kinds : str or sequence of str, optional
        Look for these only, and raise where one of them is not there.
    tolerance : float
        Largest relative change of a row of the outputs.
    seed : int
        Of the elements, and of inputs that are drawn.

    Returns
    -------
    list of GaugeGroup
        In the order in which the network runs.

    Raises
    ------
    ValueError
        For an unknown kind; for a kind that was asked for and is not there, with what the guesses
        for it changed; where no batch is given and none can be drawn; for weights that are not
        finite, a batch with NaN or without rows, and outputs that are NaN in every row.
    TypeError
        For a compiled network, one that does not run in float64, and what is no number or kind.

    Notes
    -----
    Not searched: orthogonal maps of the residual stream, which change no spectrum and lock nothing,
    the positive scales of a stream between ReLUs, and shifts of biases. A parameter that is used at
    several places (tied, or of a module that stands at several) is in no group.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> pair = torch.nn.Linear(6, 5), torch.nn.Linear(5, 4), torch.nn.GELU(), torch.nn.Linear(4, 2)
    >>> [(g.kind, g.modules, g.dimension) for g in icd.gauge.groups(torch.nn.Sequential(*pair))]
    [('linear', ('0', '1'), 25)]
    """
    wanted, allowed = _kinds(kinds), check_real(tolerance, "tolerance", low=0.0)
    drawn = as_count(seed, "seed", least=0)
    refuse_compiled(model)
    given = batch_for(model, drawn) if batch is None else batch
    work, inputs = in_float64(model, given)
    found, failed = verified(work, inputs, wanted, allowed, drawn)
    missing = [kind for kind in wanted if kind not in {g.kind for g in found}]
    if kinds is not None and missing:
        raise ValueError(_missing(missing[0], failed, allowed))
    return found


def _kinds(kinds: Kind | Sequence[Kind] | None) -> tuple[Kind, ...]:
    if not (kinds is None or isinstance(kinds, (str, Sequence))):
        raise TypeError(f"kinds must be names of kinds, and is {kinds!r}")
    wanted = KINDS if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise ValueError(f"kinds must be of {', '.join(map(repr, KINDS))}, and has {kind!r}")
    return wanted


def _missing(kind: str, failed: Sequence[GaugeGroup], tolerance: float) -> str:
    tried = [g for g in failed if g.kind == kind]
    text = f"no group of kind {kind!r} was found"
    if not tried:
        return f"{text}: no modules of the network look like it, or they share parameters"
    least = min(tried, key=lambda g: g.error)
    return (
        f"{text}: an element on {', '.join(map(repr, least.modules))} changed the outputs by "
        f"{least.error:.1e}, more than {tolerance:g}"
    )


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a network whose modules are hidden in a graph."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, and is a {type(model).__name__}")
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise TypeError("the model is compiled (torch.compile): give the module that was compiled")


def refuse_not_finite(model: nn.Module) -> None:
    """Refuse weights that are no numbers."""
    for name, p in model.named_parameters():
        if p.is_floating_point() and not bool(p.isfinite().all()):
            raise ValueError(
                f"the model's weights must be finite, and {name!r} has NaN or infinity"
            )


def in_float64(model: nn.Module, batch: Any) -> tuple[nn.Module, Any]:
    """Return a float64 copy in evaluation mode, and the batch for it."""
    refuse_not_finite(model)
    for x in tree_leaves(batch):
        if isinstance(x, Tensor) and (x.numel() == 0 or bool(x.isnan().any())):
            what = "NaN" if x.numel() else f"a tensor of shape {tuple(x.shape)}"
            raise ValueError(f"the batch of inputs must have rows of numbers, and has {what}")
    device = device_of(model)
    work = in_dtype(copied(model, device), torch.float64).eval()
    for parameter in work.parameters():
        parameter.requires_grad_(False)
    return work, doubled(batch, device)


def verified(
    work: nn.Module, inputs: Any, kinds: Sequence[str], tolerance: float, seed: int
) -> tuple[list[GaugeGroup], list[GaugeGroup]]:
    """Return the groups that pass, and the guesses that failed, of a float64 copy."""
    try:
        tape, outputs = taped(work, inputs), list(tensors(run(work, inputs)))
    except RuntimeError as error:
        raise TypeError(
            f"the model must run on the batch in float64, and did not: {error}"
        ) from error
    if blank(outputs):
        raise ValueError(
            "the model's outputs on the batch must be numbers, by which groups are checked, and "
            "are NaN in every row: give inputs on which they are numbers"
        )
    check = _Check(work, inputs, tape, seed)
    shared, twice = tied(work), repeated(work)
    claimed: set[tuple[str, int]] = set()
    found: list[GaugeGroup] = []
    failed: list[GaugeGroup] = []
    guesses = list(_candidates(work, tape))
    check.prepare([group for alternatives in guesses for group in alternatives])
    for alternatives in guesses:
        for guess in alternatives:
            axes = _axes(guess)
            if axes & claimed:
                continue
            if shared & set(guess.parameters) or twice & set(guess.modules):
                _log.info("gauge: %s of %s left alone: shared", guess.kind, guess.modules)
                continue
            group = replace(guess, error=check.local(guess))
            if group.error <= tolerance:
                found.append(group)
                claimed |= axes
                break
            failed.append(group)
            _log.info("gauge: %s of %s changes %.1e", group.kind, group.modules, group.error)
    found, more = _together(check, found, tolerance)
    order = {c.name: i for i, c in reversed(list(enumerate(tape.leaves)))}
    found.sort(key=lambda g: order.get(g.modules[0], len(order)))
    return [g for g in found if g.kind in kinds], failed + more


def _axes(group: GaugeGroup) -> set[tuple[str, int]]:
    """Return what a group takes for itself: parameters by axis and first place, for fused ones."""
    return {
        (side.parameter, side.axis, int(side.index.min()))  # type: ignore[misc]
        for side in (*group._writers, *group._readers)
    }


def _together(
    check: _Check, found: list[GaugeGroup], tolerance: float
) -> tuple[list[GaugeGroup], list[GaugeGroup]]:
    """Apply all groups at once to the whole network; each alone where that fails."""
    if not found or check.whole(found) <= tolerance:
        return found, []
    alone = [replace(g, error=max(g.error, check.whole([g]))) for g in found]
    kept = [g for g in alone if g.error <= tolerance]
    if kept and check.whole(kept) > tolerance * len(kept):
        raise RuntimeError("groups keep the outputs one by one, but not together")
    return kept, [g for g in alone if g.error > tolerance]


class _Check:
    """Random elements applied to a copy, with what the module around them puts out."""

    def __init__(self, work: nn.Module, inputs: Any, tape: Tape, seed: int) -> None:
        self.work, self.inputs, self.tape, self.seed = work, inputs, tape, seed
        self.state = state_of(work)
        self.arguments: dict[str, Any] = {}

    def prepare(self, guesses: Sequence[GaugeGroup]) -> None:
        """Keep what enters the modules around these groups."""
        self.arguments = captured(self.work, self.inputs, {self.around(g) for g in guesses})

    def around(self, group: GaugeGroup) -> str:
        """Return the smallest module that runs and holds all that a group changes."""
        parts = [name.split(".") for name in group.modules]
        common = [
            each[0] for each in takewhile(lambda x: len(set(x)) == 1, zip(*parts, strict=False))
        ]
        while common and (
            ".".join(common) not in self.tape.called
            or leaf(self.work.get_submodule(".".join(common)))
        ):
            common = common[:-1]
        return ".".join(common)

    def local(self, group: GaugeGroup) -> float:
        """Return what an element changes in the outputs of the module around the group.

        And of those that read what it writes, lest a residual branch that is next to nothing hide
        what it does. Large and small multiples, lest what lies between be linear on this batch
        alone: a tanh of small numbers, a ReLU6 of none above 6.
        """
        name = self.around(group)
        if name not in self.arguments:
            return float("inf")
        module, entered = self.work.get_submodule(name), self.arguments[name]
        keyed = group.kind.startswith("query-key")  # whose readers are queries, that change
        ends = [] if keyed else owners([side.parameter for side in group._readers])
        reading = [self.work.get_submodule(end) for end in ends]
        before, worst = replayed(module, entered, reading), 0.0
        for times in (_FAR, 1.0 / _FAR) if group._readers else (_FAR,):
            with _Acted([group], self.state, self.seed, times):
                worst = max(worst, change(before, replayed(module, entered, reading)))
        return worst

    def whole(self, found: Sequence[GaugeGroup]) -> float:
        """Return what elements of several groups change in the outputs of the network."""
        before = list(tensors(run(self.work, self.inputs)))
        with _Acted(found, self.state, self.seed):
            return change(before, list(tensors(run(self.work, self.inputs))))


class _Acted:
    """Elements of groups, applied meanwhile."""

    def __init__(
        self, found: Sequence[GaugeGroup], state: dict[str, Tensor], seed: int, times: float = 1.0
    ) -> None:
        self.found, self.state, self.seed, self.times = found, state, seed, times
        names = {name for group in found for name in group.parameters}
        self.kept = {name: state[name].detach().clone() for name in names}

    def __enter__(self) -> None:
        for number, group in enumerate(self.found):
            group._act(self.state, self.times * group.element(seed=self.seed + number))

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for name, value in self.kept.items():
                self.state[name].copy_(value)


# ---- guesses ----


def _candidates(model: nn.Module, tape: Tape) -> Iterator[list[GaugeGroup]]:
    """Give guesses, the largest groups first: lists of alternatives."""
    yield from attentions(model, tape)
    yield from gated(model)
    for call in tape.leaves:
        layer, norm = linear(call.name, call.module), affine(call.name, call.module)
        if layer is not None:
            read, linearly = _followed(tape, call)
            if len(read) == 1 and is_batch_norm(read[0].module):
                yield [_before_batch_norm(layer.writer(places(layer.outputs)), read[0])]
                continue
            if not read:
                read, linearly = _next(tape, call, layer.outputs), False
            every = places(1, layer.outputs)
            if linearly:
                yield from _bonds("linear", layer.writer(every), layer.outputs, read, whole=True)
            writers = layer.writer(places(layer.outputs))
            yield from _bonds("relu", writers, layer.outputs, read, channels=layer.channels)
        elif norm is not None:
            width, writers = norm
            read, linearly = _followed(tape, call)
            read = read or _next(tape, call, width)
            kinds: tuple[Kind, ...] = ("norm", "relu") if linearly else ("relu",)
            for kind in kinds:
                yield from _bonds(kind, writers, width, read, channels=is_batch_norm(call.module))


def _followed(tape: Tape, call: Call) -> tuple[list[Call], bool]:
    """Return the layers that read what a call put out, and whether only linear ones lie between."""
    found, linearly, waiting, seen = [], True, [call], set()
    while waiting:
        for reader in tape.readers(waiting.pop()):
            if reader.left == reader.entered or id(reader) in seen:  # such as dropout
                continue
            seen.add(id(reader))
            if next(reader.module.parameters(), None) is not None:
                found.append(reader)
            else:
                linearly &= isinstance(reader.module, _TRANSPARENT)
                waiting.append(reader)
    return found, linearly


def _next(tape: Tape, call: Call, width: int) -> list[Call]:
    """Return the layer that runs next, where only functions may lie between."""
    for later in tape.leaves[tape.leaves.index(call) + 1 :]:
        layer = linear(later.name, later.module)
        if layer is not None:
            fits = layer.reads and layer.inputs % width == 0 and not tape.produced(later)
            return [later] if fits else []
    return []


def _bonds(
    kind: Kind, writers: tuple[Side, ...], width: int, read: Sequence[Call], *,
    whole: bool = False, channels: bool = False,
) -> Iterator[list[GaugeGroup]]:  # fmt: skip
    """Give the group of one layer's units and all that reads them, where all is linear."""
    readers = []
    for call in {c.name: c for c in read}.values():
        layer = linear(call.name, call.module)
        if layer is None or not layer.reads or layer.inputs % width:
            return
        index = spread(width, layer.inputs, channels=channels)
        readers.append(layer.reader(index.transpose(0, 1) if whole else index))
    if readers and len({side.parameter for side in (*writers, *readers)}) == len(
        (*writers, *readers)
    ):
        yield [group_of(kind, writers, tuple(readers))]


def _before_batch_norm(writers: tuple[Side, ...], call: Call) -> GaugeGroup:
    norm = call.module
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert isinstance(norm.running_var, Tensor)
    index = places(len(norm.running_var))[..., None]
    mean = Side(f"{call.name}.running_mean", 0, index)
    variance = Side(f"{call.name}.running_var", 0, index)
    return group_of("batchnorm", (*writers, mean), (), _variances=((variance, norm.eps),))
