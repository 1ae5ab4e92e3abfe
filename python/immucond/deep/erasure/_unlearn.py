"""Unlearning as others do it, with their settings searched within a tolerance: baselines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, SupportsIndex, get_args

import torch
from torch import Tensor, nn

from ..._errors import ToleranceError
from ..._validate import as_count, check_choice, check_real
from .._batches import Callback, refuse_rows
from .._leak import LeakProfile
from .._network import whatever_modes
from .._record import unwrapped
from .._search import Settings, propose
from ._bench import Bench, apart
from ._leace import leace
from ._objectives import collapse, graddiff, npo, tar
from ._prepared import Prepared, prepared
from ._result import EraseResult, Stage
from ._run import Tasks
from ._selective import cir, repselect

Unlearning = Literal["graddiff", "npo", "cir", "repselect", "collapse", "tar", "leace"]

_RANKS = (8, 2, 4, 16, 32)


@dataclass(frozen=True)
class Method:
    """How a trial changes the network, and what is searched: decades of the rate, and the rest."""

    run: Callable[[Bench, Settings], None]
    rates: tuple[int, ...]
    also: Mapping[str, tuple[Any, ...]]


METHODS: dict[str, Method] = {
    "graddiff": Method(graddiff, (-4, -3, -2), {"weight": (0.1, 1.0, 0.01)}),
    "npo": Method(npo, (-4, -3, -2), {"weight": (1.0, 0.1, 10.0), "beta": (0.1, 1.0)}),
    "collapse": Method(
        collapse, (-4, -3, -2), {"weight": (1.0, 0.1, 10.0), "part": ("between", "all")}
    ),
    "tar": Method(tar, (-4, -3, -2), {"weight": (1.0, 0.1, 10.0), "inner": (1e-2, 1e-3)}),
    "cir": Method(cir, (-2, -1, 0), {"rank": _RANKS}),
    "repselect": Method(repselect, (-2, -1, 0), {"rank": _RANKS}),
}


@whatever_modes()
def unlearn(
    model: nn.Module,
    primary: Any,
    harmful: Any,
    *,
    held_out: Any,
    harmful_held_out: Any,
    tol: float = 0.003,
    method: Unlearning = "graddiff",
    split: str | None = None,
    steps: SupportsIndex = 200,
    lr: float | None = None,
    trials: SupportsIndex = 8,
    seed: SupportsIndex = 0,
    mask: str | Callable[[Any], Tensor] | None = "attention_mask",
    callback: Callback | None = None,
) -> EraseResult:
    r"""Unlearn a harmful task by a method of the literature, to compare `erase` with.

    A trial is one setting: a learning rate, by decades, further down while all lose too much, then
    by halves around the best, and what else the method has to set. Of all that lose no more than
    `tol` of the primary task, the one with the lowest ceiling of the leak profile counts.

    Parameters
    ----------
    model : nn.Module
        Runs in evaluation mode, and is left as it was.
    primary : DataLoader or iterable of batches
        The task to keep; its labels are not needed.
    harmful : DataLoader or iterable of batches
        The task to unlearn, with a class a sample. Held in memory: every fourth row of each class
        trains nothing, and chooses between the trials.
    held_out, harmful_held_out : DataLoader or iterable of batches
        Other rows of both, on which the loss (`EraseResult.measure`) and the leak are measured. No
        setting is chosen by the harmful ones.
    tol : float, default: 0.003
        The most that may be lost of the primary task on `held_out`.
    method : str, default: "graddiff"
        See the notes.
    split : str, optional
        Name of the head; by default the last linear layer that makes the logits. It is not trained.
    steps : int, default: 200
        Of the descent of a trial; of "repselect" those of its adversary.
    lr : float, optional
        The one rate, where it is not to be searched. Of Adam; for "cir" and "repselect" the length
        of all steps together relative to the norm of the weights.
    trials : int, default: 8
        Settings that are tried.
    seed : int
        Of what is drawn.
    mask
        As in `record`.
    callback : callable, optional
        Called as ``callback(trial, record)`` after each trial, with ``"settings"``, ``"lost"``,
        ``"allowed"`` and ``"ceiling"`` (None where it was not measured).

    Returns
    -------
    EraseResult
        Its `curve` has a `Stage` for each trial, with the ceilings on the rows that choose.

    Raises
    ------
    ToleranceError
        Where no trial is within `tol`, with the one that loses least; a ValueError.
    ValueError
        For harmful rows without labels, or fewer than four of a class; for data that are the same
        where they must not be; and as in `erase` and `leak_profile`.
    TypeError
        For what is no loader.
    ImportError
        For "repselect" without PEFT: the extra ``lora``.

    Notes
    -----
    The network's head is the primary task's, so "graddiff", "npo", "tar" and "cir" have a harmful
    head beside it, on the same features. It is fitted to the network that was given, and descends
    on its own loss jointly with every step. What is retained is the network's own output on the
    primary rows (distillation), except where said.

    - "graddiff": ascent on the harmful cross-entropy (Maini et al., "TOFU", 2024).
    - "npo": ``2 / beta E log(1 + (p / p_0)^beta)`` of the harmful classes' probabilities, p_0 those
      at the start (Zhang et al., "Negative preference optimization", 2024).
    - "tar": four steps of Adam of an attacker, then the entropy of what he says is raised, first
      order; like TAR (Tamirisa et al., arXiv 2408.00761).
    - "collapse": the harmful rows' variance at each layer, that of the class means or all of it, is
      driven to nothing beside the primary rows' (ours).
    - "cir": ascent without retaining, each layer's weight gradient projected off the top components
      of the primary rows' inputs and output gradients, whose number is searched; like CIR (Sondej
      and Yang, arXiv 2509.11816).
    - "repselect": one step along the harmful weight gradient under an adversary's LoRA, its top
      components evened on both sides, their number searched; like RepSelect (Sondej et al., arXiv
      2606.17168).
    - "leace": harmful labels erased in closed form (`immucond.linear.fade` with an infinite tau) at
      layers that `erase` knows, each behind the ones before it, by all harmful rows, what is chance
      in their labels included: at as many of the last layers as doubling and then halving finds
      within `tol`; no other setting is tried.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> X = torch.randn(800, 6)
    >>> P = list(zip(X.split(200), net(X).argmax(1).split(200)))
    >>> H = list(zip(X.split(200), (X[:, 0] > 0).long().split(200)))
    >>> done = icd.unlearn(net, P[:1], H[1:2], held_out=P[2:], harmful_held_out=H[3:],
    ...                    tol=0.05, steps=20, trials=3)
    >>> done.method, len(done.curve), done.lost <= 0.05
    ('graddiff', 4, True)
    """
    check_choice(method, "method", get_args(Unlearning))
    allowed = check_real(tol, "tol", low=0.0)
    count, drawn = as_count(trials, "trials", least=1), as_count(seed, "seed", least=0)
    length = as_count(steps, "steps", least=1)
    rate = None if lr is None else check_real(lr, "lr", low=math.ulp(0.0))
    model = unwrapped(model)
    for name, rows in (
        ("held_out", held_out), ("harmful", harmful), ("harmful_held_out", harmful_held_out)
    ):  # fmt: skip
        refuse_rows(rows, name)
    given = Tasks(primary, held_out, harmful, harmful_held_out)
    ready = prepared(model, given, split, drawn)
    if not ready.found.layers:
        raise ValueError("no layer before the head has weights that can be changed")
    train, check = apart(ready.data["harmful"])
    found, utility = ready.found, ready.utility  # before anything is changed
    before = ready.tasks.leak(ready.work, found.head, mask, drawn)
    used = {"primary": ready.tasks.primary, "harmful": train}
    if method == "leace":
        used["harmful"] = ready.tasks.harmful
    classes = 1 + max(int(y.max()) for _, y in train)
    bench = Bench(
        ready.work, ready.teacher(), found.head, found.layers, used, classes, length, mask, drawn
    )
    choosing = replace(ready.tasks, harmful=train, harmful_held_out=check)
    search = _Search(ready, bench, choosing, method, allowed, callback)
    with _trainable(bench):
        if method == "leace":
            search.over_cuts()
        else:
            search.over_settings(METHODS[method], count, rate)
    best = search.taken()
    work, worth, error, utility = ready.finished(best.stage.primary, allowed)
    return EraseResult(
        model=work, method=method, ranks=best.ranks, bound=0.0, measure=utility.measure,
        primary_before=utility.before, primary=worth, lost_error=error, rows=utility.rows,
        leak_before=before, leak=ready.leak(work, mask, drawn),
        curve=(_given(ready, before), *search.stages), skipped=found.skipped,
    )  # fmt: skip


def _given(ready: Prepared, leak: LeakProfile | None) -> Stage:
    """Return the network that was given as a point of the curve."""
    assert leak is not None
    kept = sum(layer.width for layer in ready.found.layers.values())
    return Stage(0.0, kept, 0.0, ready.utility.before, leak.ceiling, leak.where)


@contextmanager
def _trainable(bench: Bench) -> Iterator[None]:
    """Let all but the head have gradients."""
    flags = [p.requires_grad for p in bench.work.parameters()]
    bench.work.requires_grad_(False)
    for p in bench.trained:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p, flag in zip(bench.work.parameters(), flags, strict=True):
            p.grad = None
            p.requires_grad_(flag)


@dataclass(frozen=True)
class _Trial:
    """What a setting came to: its score, of which the least is best, and the network's state."""

    stage: Stage
    score: tuple[bool, float]
    state: dict[str, Any] | None
    ranks: dict[str, tuple[int, int]]


@dataclass
class _Search:
    """Trials, of which the best state is kept.

    Ceilings within `noise`, two standard errors of one, are alike to the search: the larger rate
    goes on. The lowest is taken all the same.
    """

    ready: Prepared
    bench: Bench
    choosing: Tasks
    method: str
    tol: float
    callback: Callback | None
    stages: list[Stage] = field(default_factory=list)
    best: _Trial | None = None

    def __post_init__(self) -> None:
        self._start = self.bench.state()
        rows = sum(len(y) for _, y in self.choosing.harmful_held_out)
        self.noise = 2.0 * 0.5 / math.sqrt(rows)

    def over_settings(self, method: Method, trials: int, rate: float | None) -> None:
        """Try so many settings, or all there are."""
        done: list[tuple[Settings, tuple[bool, float, float]]] = []
        grid = [
            dict(zip(method.also, values, strict=True))
            for values in itertools.product(*method.also.values())
        ]
        for number in range(trials if rate is None else min(trials, len(grid))):
            if rate is None:
                lower = all(lost for _, (lost, *_) in done)
                settings = propose(method.rates, method.also, done, self.bench.seed, lower=lower)
            else:
                settings = {"rate": rate, **grid[number]}
            trial = self._tried(settings, partial(method.run, self.bench, settings), True)
            lost, ceiling = trial.score
            told = ceiling if lost else math.floor(ceiling / self.noise)
            done.append((settings, (lost, told, -settings["rate"])))
            self._keep(trial)

    def over_cuts(self) -> None:
        """Erase from the last layer, twice as many each time, then halve between few and too many.

        From below, as a trial takes as long as it erases from layers, and few are borne.
        """
        every = len(self.bench.layers)
        low, high, cuts = 0, every + 1, 1
        while high - low > 1:
            trial = self._tried({"cuts": cuts}, partial(leace, self.bench, cuts), False)
            if trial.score[0]:
                high = cuts
            else:
                low = cuts
            self._keep(replace(trial, score=(False, float(-cuts))) if low == cuts else trial)
            cuts = min(2 * low, every) if high > every else (low + high) // 2

    def _tried(self, settings: Settings, change: Callable[[], Any], measured: bool) -> _Trial:
        work, utility = self.bench.work, self.ready.utility
        work.load_state_dict(self._start)
        torch.manual_seed(self.bench.seed)
        erased = change() or {}
        ranks = {name: (of.width, of.width) for name, of in self.bench.layers.items()} | erased
        primary = utility.of(work)
        lost = utility.lost_at(primary)
        leak = None
        if measured and lost <= self.tol:
            leak = self.choosing.leak(work, self.bench.head, self.bench.mask, self.bench.seed)
        kept = sum(left for left, _ in ranks.values())
        stage = Stage(0.0, kept, 0.0, primary, settings=dict(settings))
        if leak is not None:
            stage = replace(stage, ceiling=leak.ceiling, where=leak.where)
        self.stages.append(stage)
        if self.callback is not None:
            self.callback(len(self.stages), {
                "settings": dict(settings), "lost": lost, "allowed": self.tol,
                "ceiling": stage.ceiling,
            })  # fmt: skip
        score = (lost > self.tol, lost if leak is None else leak.ceiling)
        return _Trial(stage, score, None, ranks if erased else {})

    def _keep(self, trial: _Trial) -> None:
        """Keep the network's state, where it is the best so far."""
        if self.best is None or trial.score < self.best.score:
            self.best = replace(trial, state=self.bench.state())

    def taken(self) -> _Trial:
        """Put the best state into the network; refuse one that loses too much."""
        best = self.best
        assert best is not None
        assert best.state is not None
        if best.score[0]:
            settings = ", ".join(f"{k}={v}" for k, v in (best.stage.settings or {}).items())
            raise ToleranceError(
                f"of {len(self.stages)} trials of {self.method!r} none keeps the primary "
                f"{self.ready.utility.measure} within tol={self.tol:g}: the best loses "
                f"{self.ready.utility.lost_at(best.stage.primary):.3g} ({settings}). Give a larger "
                "tol, more trials, or more held-out rows"
            )
        self.bench.work.load_state_dict(best.state)
        return best
