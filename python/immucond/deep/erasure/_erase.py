"""Erasure over a whole network: what the primary task does not use is taken out of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsIndex

from torch import Tensor, nn

from ..._errors import ToleranceError
from ..._validate import as_count, check_choice, check_real
from .._batches import Callback, refuse_rows
from .._checkpoint import NetworkCheckpoint, identity
from .._network import whatever_modes
from .._record import unwrapped
from ._path import NetworkPath, chosen, settings_of
from ._prepared import prepared
from ._result import EraseResult
from ._run import RATES, Recovery, Run, Tasks
from ._worth import METRICS, Metric


@whatever_modes()
def erase(
    model: nn.Module,
    primary: Any,
    *,
    held_out: Any,
    tol: float = 0.003,
    metric: Metric = "fisher",
    harmful: Any = None,
    harmful_held_out: Any = None,
    split: str | None = None,
    modules: str | Sequence[str] = "auto",
    rounds: SupportsIndex = 1,
    recover: SupportsIndex = 0,
    lr: float | None = None,
    mask: str | Callable[[Any], Tensor] | None = "attention_mask",
    seed: SupportsIndex = 0,
    start: EraseResult | None = None,
    path: NetworkPath | None = None,
    checkpoint: str | Path | None = None,
    callback: Callback | None = None,
) -> EraseResult:
    r"""Take out of a network, for good, what its primary task does not use.

    The output of every layer is kept to few directions by `immucond.linear.erasure`: those that
    the logits of the primary task need, at one price for all layers, the largest at which no more
    than `tol` is lost. The projectors go into the layers' own weights, so nothing is inserted, and
    they have no inverse: no optimizer, gauge or whitening brings back what is gone. An attacker has
    to learn it anew.

    Parameters
    ----------
    model : nn.Module
        Runs in evaluation mode, and is left as it was.
    primary : DataLoader or iterable of batches
        The task to keep. Labels are needed of tokens alone, where -100 says which do not count.
    held_out : DataLoader or iterable of batches
        Other rows of it, on which the loss is measured: of accuracy, where labels are classes, of
        which -100 is none, else of the logits (`EraseResult.measure`).
    tol : float, default: 0.003
        The most that may be lost there: 0.003 are 3 rows of 1000.
    metric : {"fisher", "gram", "variance"}
        What a change of the logits counts: by Fisher's information of the classes that they tell;
        by its square; or, without any gradient, the share of each layer's variance, which is
        principal components and a baseline.
    harmful, harmful_held_out : DataLoader or iterable of batches, optional
        A task with a class a sample. Directions then go first in which its rows vary most beside
        the primary ones, what the means of its classes vary by ten times on top; and the leak
        profile is measured, on the held-out rows where they are given, after each round. Without
        these it may have other labels, or none: only how its rows vary counts then.
    split : str, optional
        Name of the head; by default the last linear layer that makes the logits. It is kept.
    modules : "auto", or str or sequence of str
        Layers, by names or patterns as in `record`; by default all that a map can be folded into.
    rounds : int, default: 1
        How often everything is measured anew. Each round may lose another share of `tol`; more of
        them make a longer curve, and rarely a better one.
    recover : int, default: 0
        Steps of distillation on the primary task after each round, within the directions that are
        left, with the network that was given as teacher. A round may then lose three times as much
        at first.
    lr : float, optional
        Of these steps, by Adam; by default the first of 1e-3, 1e-4 and 1e-5 that gains.
    mask
        As in `record`.
    seed : int
        Of what is drawn.
    start : EraseResult, optional
        What another call made of the same network: erasure goes on from there, and `tol` and what
        is told count from the network that was given. Harmful labels may go first that way, by
        ``unlearn(method="leace")`` within half of `tol`.
    path : NetworkPath, optional
        What `erasure_path` measured of the same network, or of that of `start`, with the same tasks
        and settings, in place of measuring it for the first round: for several tolerances, or
        held-out rows.
    checkpoint : path-like, optional
        A file that keeps the network after each round; the same call goes on from it.
    callback : callable, optional
        Called as ``callback(trial, record)`` whenever the primary task was measured, with
        ``"round"``, ``"rounds"``, ``"price"``, ``"kept"``, ``"lost"``, ``"allowed"``, and in
        ``"trials"`` how often that may be, where nothing has to recover twice.

    Returns
    -------
    EraseResult

    Raises
    ------
    ToleranceError
        Where no direction can go within `tol`, and where rounding to the network's dtype loses
        more; a ValueError.
    ValueError
        Where the network tells no classes apart, or none right, puts out NaN, does not run on the
        batches, or runs without gradients; for
        labels that are numbers with ``"fisher"``, the metric of classes; for layers that are named
        and cannot be folded into, with the reason; for data that are the same where they must not
        be; for held-out harmful rows without others; for a path of another network, task or
        setting; for a start that is of another network, or has lost more than `tol`; and as in
        `record` and `leak_profile`.
    TypeError
        For what is no loader, what is no path, and a start that no call returned.

    Notes
    -----
    Ours; see `immucond.linear.erasure`. What a layer's places or tokens change is summed as if they
    were independent, so `EraseResult.bound` is exact to first order for layers with one row a
    sample. Other benign tasks lose what the primary one does not use, too.

    What is stored has these ranks exactly: weights are rounded to products of whole numbers, about
    2^-10 of their size, since the rounding of a product tells of all that was erased to whoever
    reads the network in higher precision. Not so embeddings, of which each row tells of its word
    alone, as the word does. Half precision is computed in float32 and rounded, which is not exact:
    the leak is that of the rounded network, the ranks are those before; convert such a network to
    float32 first. Layers whose weight is tied, such as an embedding that is the head too, or whose
    output no change of the weight maps, which is tried on a batch, are left alone:
    `EraseResult.skipped`.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     _ = net[2].weight.mul_(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    >>> X = torch.randn(400, 6)
    >>> batches = list(zip(X.split(100), net(X).argmax(1).split(100)))
    >>> done = icd.erase(net, batches[:2], held_out=batches[2:])
    >>> done.ranks["0"][0] < 6, done.lost <= 0.003
    (True, True)
    """
    allowed = check_real(tol, "tol", low=0.0)
    check_choice(metric, "metric", METRICS)
    count = as_count(rounds, "rounds", least=1)
    steps = as_count(recover, "recover", least=0)
    drawn = as_count(seed, "seed", least=0)
    rates = RATES if lr is None else (check_real(lr, "lr", low=0.0),)
    model = unwrapped(model)
    refuse_rows(held_out, "held_out")
    given = _tasks(primary, held_out, harmful, harmful_held_out)
    begun = _begun(model, start)
    ready = prepared(model, given, split, drawn, begun)
    work, tasks, found = ready.work, ready.tasks, ready.found
    layers, utility = chosen(work, found, modules), ready.utility
    run = Run(work, layers, found.head, tasks, utility, allowed, metric, mask, drawn, callback)
    measured = settings_of(begun or model, ready, layers, metric, mask, drawn)
    if path is not None:
        if not isinstance(path, NetworkPath):
            raise TypeError(
                f"path must be what erasure_path returned, and is a {type(path).__name__}"
            )
        path.refuse_other(measured)
    kept = None
    if checkpoint is not None:
        kept = NetworkCheckpoint(checkpoint, 1, measured | {
            "tol": allowed, "rounds": count, "recover": steps, "lr": list(rates),
            "data": {name: of.fingerprint() for name, of in ready.given.items()},
        } | ({} if begun is None else {"given": identity(model)}))  # fmt: skip
    state = None if kept is None else kept.load()
    before = leak = run.begin(start)
    done = len(run.stages)
    if start is not None and (lost := utility.lost_at(run.stages[-1].primary)) > allowed:
        raise ToleranceError(
            f"start has lost {lost:.3g} of the primary {utility.measure} already, more than "
            f"tol={allowed:g}"
        )
    if state is not None:
        run.restore(state)
        leak = run.leak()
    recovery = None
    if steps:
        recovery = Recovery(ready.teacher(), ready.data["primary"], steps, rates, drawn)
    for turn in range(len(run.stages) - done + 1, count + 1):
        worth = path.worth if path is not None and turn == 1 else None
        leak = run.round(turn, count, recovery, worth)
        if kept is not None:
            kept.save(run.state())
    _refuse_idle(run)
    work, after, error, utility = ready.finished(run.stages[-1].primary, allowed)
    if ready.half:  # rounding tells what the maps left out
        leak = ready.leak(work, mask, drawn)
        ceiling, where = (None, None) if leak is None else (leak.ceiling, leak.where)
        run.stages[-1] = replace(run.stages[-1], primary=after, ceiling=ceiling, where=where)
    return EraseResult(
        model=work, method="erase" if metric != "variance" else "pca", ranks=run.ranks,
        bound=run.bound, measure=utility.measure, primary_before=utility.before,
        primary=after, lost_error=error, rows=utility.rows, leak_before=before,
        leak=leak,
        curve=tuple(run.stages), skipped=found.skipped,
    )  # fmt: skip


# ---- arguments ----


def _tasks(primary: Any, held_out: Any, harmful: Any, harmful_held_out: Any) -> Tasks:
    if harmful is None and harmful_held_out is not None:
        raise ValueError("harmful_held_out is given without harmful: the leak needs both")
    return Tasks(primary, held_out, harmful, harmful_held_out)


def _begun(model: nn.Module, start: EraseResult | None) -> nn.Module | None:
    """Return the network to go on from, which must be like the one that was given."""
    if start is None:
        return None
    if not isinstance(start, EraseResult):
        raise TypeError(f"start must be an EraseResult or None, and is {type(start).__name__}")
    own, theirs = (
        {name: getattr(x, "shape", None) for name, x in of.state_dict().items()}
        for of in (model, start.model)
    )
    if own != theirs:
        raise ValueError("start must be what was made of model, and its weights have other shapes")
    return start.model


def _refuse_idle(run: Run) -> None:
    """Refuse a network of which nothing could go."""
    if not any(stage.price for stage in run.stages) or run.kept == sum(run.widths().values()):
        raise ToleranceError(
            f"tol={run.tol:g} leaves every direction: to erase those that cost the outputs least "
            f"loses more of the primary {run.utility.measure}. Give a larger tol, or more held-out "
            "rows"
        )
