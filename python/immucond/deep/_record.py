"""One pass of a network over data, in which the second moments of its modules are recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from .._ranks import Ranks
from .._validate import as_count, check_choice
from ._activations import Kept, task_of
from ._batches import Loaded
from ._checkpoint import NetworkCheckpoint, identity, name_of
from ._moments import MOMENTS, Factor
from ._network import device_of, modules_matching
from ._objectives import Loss
from ._reading import Reading, summed
from ._recording import Recording, refuse_unlike
from ._rows import (
    Channels,
    Layout,
    Of,
    Rows,
    dimensions_of,
    refuse_patches,
)
from ._watch import Watch

_log = logging.getLogger("immucond")

Repeated = Literal["refuse", "sum"]


@torch.inference_mode(False)  # in which there are no gradients to record
@torch.random.fork_rng(devices=[])
def record(
    model: nn.Module,
    loader: Any,
    modules: str | Sequence[str],
    *,
    of: Of = "input",
    factor: Factor = "gram",
    rows: Rows = "token",
    mask: str | Callable[[Any], Tensor] | None = "attention_mask",
    cross: Literal["labels"] | Callable[[Any], Any] | None = None,
    patches: bool = False,
    channels: Channels | None = None,
    repeated: Repeated = "refuse",
    loss: Loss | None = None,
    max_bytes: SupportsIndex | None = None,
    seed: SupportsIndex = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: SupportsIndex = 100,
    callback: Callable[[int, Mapping[str, int]], object] | None = None,
    group: Any = None,
) -> Recording:
    r"""Record the second moments of a network's activations, or of its gradients.

    For every named module, :math:`X^T X` of the rows X (n, m) that enter it, that it puts out, or
    that are the gradient of the loss by what it puts out; summed in float64, or by QR as a
    triangle R with :math:`R^T R = X^T X`, which keeps twice the digits. Any damping is left to
    whoever uses them: the rank is certified without.

    Parameters
    ----------
    model : nn.Module
        Runs in evaluation mode, and is left as it was. One that is compiled (``torch.compile``)
        runs without its compiled code.
    loader : DataLoader or iterable of batches
        Batches as in `immunize`: ``(inputs, labels)``, mappings with or without ``"labels"``, or
        inputs alone.
    modules : str or sequence of str
        Names of modules, or patterns as of a shell: ``"encoder.layer.*.output.dense"``.
    of : {"input", "output", "gradient"}
        The first tensor among a module's arguments; its output, of several the first; or the
        gradient of the loss by that output.
    factor : {"gram", "r"}
        A Gram matrix for each module, or a triangle, at about three times the cost.
    rows : {"token", "sample", "mean"}
        What is one row: each token, or place of an image; all of a sample, flattened; or the mean
        of a sample over its tokens or places.
    mask : str, callable, or None
        Which tokens are no padding, as (B, T) of 0 and 1: the name in a batch that is a mapping,
        where it has it; a function of the batch; or None, for all of them. Padding is in no row:
        where a module runs with a mask of padding that the batch has not by name, it is refused,
        and so are an encoder's mask and a decoder's module that runs on as many tokens.
    cross : "labels" or callable, optional
        Targets Y of which ``X^T Y`` is kept: the batch's labels, one-hot where they are one whole
        number a sample, or a function from the batch to (B, c) numbers, one row a sample.
    patches : bool
        Of inputs of convolutions: whether rows are the patches that the kernel is multiplied with,
        in the order of ``weight.flatten(1)``, in place of one row a place. A convolution in groups
        multiplies each group's columns by themselves.
    channels : {"first", "last"}, optional
        Where the features stand in what has places between: told by the types of PyTorch's own
        layers, but not by blocks and activations in networks with convolutions.
    repeated : {"refuse", "sum"}
        Whether rows of a module that runs several times in one forward pass are added up.
    loss : callable, optional
        For gradients, from logits and labels; by default the cross-entropy, summed over the
        samples: rows are then of each sample's own loss. A mean over a batch of B, such as most
        losses return, divides them by B.
    max_bytes : int, optional
        Memory for the moments that one pass sums; those that are finished stay beside them, at
        ``m^2`` numbers or ``2 m^2`` a module. Where all need more, which the first batch
        tells, the modules are recorded by groups, in several passes over the data: to the same
        bits. `Recording.passes` and the logger ``immucond`` say which.
    seed : int
        Of what the loader and the network draw; each pass draws alike.
    checkpoint : path, optional
        A file that keeps the state. Where it is there already, of the same network, data and
        settings, the recording goes on from it, to the same bits; batches that were recorded are
        read, and not run. Data are told apart by their length and first batch.
    checkpoint_every : int
        Batches from one writing of it to the next; it is written after each pass too.
    callback : callable, optional
        Called as ``callback(batch, record)`` after each batch, counted from 1 over all passes;
        ``record`` has ``"pass"`` and ``"passes"``, the ``"batch"`` within the pass, ``"batches"``
        (0 where the loader has no length) and ``"rows"``, of all modules of the pass.
    group : torch.distributed.ProcessGroup or DeviceMesh, optional
        The processes over which the data are spread: each records what its own loader gives, which
        may be nothing, and all return the recording of all data (`Recording.all_reduce`). All of
        its ranks must call; each has a `checkpoint` of its own.

    Returns
    -------
    Recording

    Raises
    ------
    ValueError
        For patterns that match nothing (near names are listed); for modules that never ran, ran
        twice in one forward pass, or whose tensor is refused: NaN or infinity (with the batch), no
        tensor, integers, another width than before; for masks and targets that do not fit; for a
        module beyond `max_bytes` by itself; for a checkpoint of something else.
        With `group` also, on every rank, where ranks differ in network, settings or dtypes.
    TypeError
        For what is no loader.
    OverflowError
        Where a sum of squares passes 1.8e308.
    RuntimeError
        Where another rank of `group` failed, with what it said, once this one has read its data; or
        does not answer within the group's time-out.

    Notes
    -----
    Rows count as computed in the dtype that they came in, bfloat16 and float16 too, although these
    are added as float32, which holds them. Rows are added by blocks of one size, so the bits do not
    depend on how the data are batched (gradients of a loss of one's own aside); sums with targets,
    which are by batches, may by their last.

    Parameters have no gradients meanwhile, and none after: of gradients, one backward pass a batch
    by the activations alone. Blocks that are checkpointed (`torch.utils.checkpoint`) and run again
    there are counted once.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> X, y = torch.randn(64, 6), torch.arange(64) % 3
    >>> found = icd.record(net, [(X[:32], y[:32]), (X[32:], y[32:])], "*", of="output", factor="r")
    >>> found.names, found.R("2").shape, found.rank("2")
    (('0', '1', '2'), (3, 3), 3)
    """
    check_choice(of, "of", ("input", "output", "gradient"))
    check_choice(factor, "factor", tuple(MOMENTS))
    check_choice(rows, "rows", ("token", "sample", "mean"))
    check_choice(repeated, "repeated", ("refuse", "sum"))
    if channels is not None:
        check_choice(channels, "channels", ("first", "last"))
    if isinstance(cross, str) and cross != "labels":
        raise ValueError(f"cross must be 'labels' or a function of a batch, and is {cross!r}")
    if loss is not None and of != "gradient":
        raise ValueError(f"only of='gradient' has a loss, and of is {of!r}")
    budget = None if max_bytes is None else as_count(max_bytes, "max_bytes", least=1)
    drawn = as_count(seed, "seed", least=0)
    model = unwrapped(model)
    where = device_of(model)
    ranks = None if group is None else Ranks(group)
    found, aliases = modules_matching(model, modules)
    if patches:
        refuse_patches(found, of)
    if isinstance(loader, Kept):
        raise TypeError("loader must give whole batches, and is what keep_activations returned")
    data = task_of(loader, where, "loader", seed=drawn)
    assert isinstance(data, Loaded)
    settings = {
        "model": identity(model), "of": of, "factor": factor, "rows": rows,
        "mask": name_of(mask) if callable(mask) else mask,
        "cross": name_of(cross) if callable(cross) else cross,
        "patches": bool(patches), "channels": channels, "repeated": repeated,
        "loss": name_of(loss) if loss is not None else None,
    }  # fmt: skip
    if ranks is not None:
        refuse_unlike(ranks, {**settings, "modules": list(found)})
    kept = None
    if checkpoint is not None:
        every = as_count(checkpoint_every, "checkpoint_every", least=1)
        run = {
            "loader": data.fingerprint(),
            "modules": list(found),
            "seed": drawn,
            "max_bytes": budget,
            "rank": None if ranks is None else [ranks.rank, ranks.size],
        }
        kept = NetworkCheckpoint(checkpoint, every, {**settings, **run})
    watch = Watch(
        found, of, factor, Layout(rows, bool(patches), channels, dimensions_of(model)),
        repeated == "sum", budget,
    )  # fmt: skip
    reading = Reading(model, data, mask, cross, loss or summed, drawn)
    recorded = partial(_run, watch, reading, kept, callback, empty=ranks is not None)
    passes = recorded() if ranks is None else _on_all(ranks, recorded, found, watch)
    _refuse_unseen(found, watch)
    recording = Recording({name: watch.moments[name] for name in found}, aliases, settings, passes)
    return recording if ranks is None else recording.all_reduce(group)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network within torch.compile and DistributedDataParallel."""
    inner = getattr(model, "_orig_mod", model)
    if isinstance(model, nn.parallel.DistributedDataParallel):  # would synchronize buffers
        inner = model.module
    return unwrapped(inner) if isinstance(inner, nn.Module) and inner is not model else model


def _refuse_unseen(modules: Mapping[str, nn.Module], watch: Watch) -> None:
    """Refuse modules of which nothing was recorded."""
    for told, names in (
        ("never ran", [name for name in modules if name not in watch.ran]),
        (
            "have no gradient" if watch.of == "gradient" else "had no rows",
            [name for name in modules if name in watch.ran and name not in watch.moments],
        ),
    ):
        if names:
            raise ValueError(f"modules that {told}: {', '.join(map(repr, names))}")


def _run(
    watch: Watch,
    reading: Reading,
    kept: NetworkCheckpoint | None,
    callback: Callable[[int, Mapping[str, int]], object] | None,
    *,
    empty: bool,
) -> tuple[tuple[str, ...], ...]:
    """Read the data as often as it takes; return what each pass recorded."""
    state = None if kept is None else kept.load()
    step = at = 0
    if state is not None:
        watch.restore(state["watch"])
        step, at = state["step"], state["batch"]
    told = len(watch.passes)

    def keep(at: int) -> None:
        if kept is not None:
            kept.save({"watch": watch.state(), "step": step, "batch": at})

    while not watch.done:
        with watch.hooked(reading.model), closing(reading.data.in_order()) as batches:
            number = 0
            for number, batch in enumerate(batches, 1):
                if number <= at:
                    continue
                reading.run(batch, number, watch)
                step += 1
                planned = watch.planned()
                if len(planned) > max(1, told):
                    told = len(planned)
                    _tell(planned)
                if callback is not None:
                    callback(
                        step,
                        {
                            "pass": len(watch.passes) + 1,
                            "passes": max(1, len(planned)),
                            "batch": number,
                            "batches": reading.data.count or 0,
                            "rows": watch.rows,
                        },
                    )
                if kept is not None and number % kept.every == 0:
                    keep(number)
            if number == 0 and not empty:
                raise ValueError("loader has no batches")
        watch.end_pass()
        at = 0
        keep(0)
    return tuple(watch.passes)


def _on_all(
    ranks: Ranks,
    run: Callable[[], tuple[tuple[str, ...], ...]],
    modules: Mapping[str, nn.Module],
    watch: Watch,
) -> tuple[tuple[str, ...], ...]:
    """Run on this rank; what fails on one fails on all, and a rank without rows learns widths."""
    passes: tuple[tuple[str, ...], ...] = ()
    error = None
    try:
        passes = run()
    except Exception as failure:
        error = failure
    ranks.agree(error)
    widths = [watch.moments[name].width if name in watch.moments else 0 for name in modules]
    mine = np.array([widths, [name in watch.ran for name in modules]], dtype=np.int64)
    for name, width, ran in zip(modules, *np.max(ranks.gathered(mine), axis=0), strict=True):
        if ran:
            watch.share(name, int(width))
    return passes


def _tell(planned: Sequence[tuple[str, ...]]) -> None:
    """Say beforehand that one pass is not enough."""
    groups = "; ".join(f"{len(group)} from {group[0]!r} on" for group in planned)
    _log.warning(
        "max_bytes needs %d passes over the data, of groups of modules: %s", len(planned), groups
    )
