"""The strongest attacker: all of them, from every start, each at the best of his settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import torch
from torch import nn

from ..._validate import as_count, check_choice, check_real
from .._attacked import layer_by_layer
from .._batches import Callback, Loaded
from .._checkpoint import fingerprint, unsaved
from .._cuts import INPUT, cuts_of
from .._head import SplitModel
from .._network import device_of, heads_named, prepared, refuse_compiled, whatever_modes
from .._reading import Reading, summed
from .._search import propose
from .._untrained import untrained_like
from ._attackers import SOLVERS, Attacker, Rule, parse_attackers
from ._report import REFERENCE, RELEASE, SCRATCH, Attack, AttackReport
from ._rows import Task, task_of
from ._solvers import solve
from ._starts import EQUALIZED, FROZEN, PLAIN, RIDGES, Start, at_cuts, starts_of
from ._store import Store, opened
from ._trial import Budget, Trial, descend
from ._victims import Features, Head, features_of, utility_of, victim_of

_ROUNDING = 1e-9  # of a difference of shares of rows


@whatever_modes()
@layer_by_layer()
def attack(
    model: nn.Module,
    harmful: Any,
    *,
    split: str | tuple[str, str],
    held_out: Any,
    attackers: str | Sequence[str] = "standard",
    target: float | None = None,
    steps: SupportsIndex = 600,
    trials: SupportsIndex = 50,
    rows: SupportsIndex | None = None,
    equalize: bool | Literal["both"] = "both",
    freeze: Literal["inserted"] | None = "inserted",
    cuts: str | Sequence[str] = "auto",
    utility: Any = None,
    max_utility_drop: float = 0.1,
    reference: nn.Module | None = None,
    scratch: bool | nn.Module = True,
    prune: bool = True,
    seed: SupportsIndex = 0,
    device: Any = None,
    checkpoint: str | Path | None = None,
    callback: Callback | None = None,
) -> AttackReport:
    """Measure what a harmful task costs whoever is best at learning it with a released network.

    Parameters
    ----------
    model : nn.Module
        The release; it stays as it is, and is attacked in float32 or better.
    harmful, held_out : DataLoader or iterable of batches
        With classes as labels, of samples or tokens: what attackers train on, and what measures
        them; those of -100 do not count. All of it is held in memory; a step takes a batch, or all
        of them where an attacker wants all rows.
    split : str or (str, str)
        Name of the head, a linear layer, in whose place each attacker puts his own, which starts
        at zero; of the release and of the reference where they differ.
    attackers : str or sequence of str
        Names of descents (gd, momentum, adam, adamw, muon, lbfgs, kfac: the whole network; with
        "probe-" before it the head alone), of adapters with their rank (lora-8, dora-8, loha-8,
        lokr-8: PEFT, by Adam, beside all linear layers and convolutions that it can; it has no lora
        in groups that do not divide the rank), and of what solves for the head: lstsq, logistic
        (scikit-learn), whitening (gd on whitened features). "standard" is one of each.
    target : float, optional
        Held-out cross-entropy in nats at which an attacker is there; by default half of the
        entropy of the held-out classes.
    steps : int, default: 600
        Of a trial, at most.
    trials : int, default: 50
        Of an attacker at a start: first all decades of his rate, then halves around the best.
    rows : int, optional
        How many rows of harmful he has; by default all.
    equalize : "both" or bool
        Whether attackers start from the network as it is, from its canonical form
        (`immucond.deep.gauge.equalize`, with what was inserted merged) with whitened features
        before the head, or from both.
    freeze : "inserted" or None
        Whether they also start with layers frozen that add nothing to the network.
    cuts : "auto" or sequence of str
        Where heads may stand besides at `split`: modules whose output's mean over tokens or places
        is read. By default probes try all blocks, as in `leak_profile`; where modules are named,
        all attackers try them, and train what comes before.
    utility : iterable of batches, optional
        The primary task with its labels, classes of the network's own head: trials after which
        that has lost more than `max_utility_drop` of its accuracy do not count.
    max_utility_drop : float, default: 0.1
        At most 1, where everything counts.
    reference : nn.Module, optional
        The unprotected network, attacked in the same way.
    scratch : bool or nn.Module, default: True
        Whether all weights drawn anew are attacked too, by those who train the whole network; or
        such a network.
    prune : bool, default: True
        Whether trials end, after 64, 128, ... steps, whose training loss gained less than a
        thousandth in the second half, or whose held-out loss gained less than half of what the best
        trial before had gained there.
    seed : int
        Of orders, draws and adapters.
    device : optional
        Where to compute; by default where the model is.
    checkpoint : path-like, optional
        A folder in which each trial is kept as soon as it is done: the same call goes on from
        there, to the same numbers, and one with more trials or other attackers does too.
    callback : callable, optional
        Called as ``callback(step, record)`` whenever a trial is measured, with ``"network"``,
        ``"attacker"``, ``"start"``, ``"trial"``, ``"trials"``, ``"attack"`` and ``"attacks"``.

    Returns
    -------
    AttackReport

    Raises
    ------
    ValueError, TypeError
        For what is no network, labels that are missing, not a class a row, or no classes (of
        utility: that the head has not), features and logits of utility that are not finite, fewer
        rows than classes, classes that training or held-out rows lack, heads that are none, unknown
        attackers, networks that cannot be copied or equalized, and a checkpoint of another run.
    BlockingIOError
        Where another run writes to the checkpoint.
    ImportError
        Where an attacker needs an extra that is missing.

    Notes
    -----
    Ours; that whoever adapts to a defence has to measure it follows arXiv 2605.14605. Nothing here
    is a bound: an attacker who is not in the list, or has other data, may need less. Rates are
    chosen by the held-out rows, which favours attackers. A diverged trial is counted, and a target
    that is never reached is infinitely many steps. K-FAC and L-BFGS take all rows a step, others a
    batch: passes and seconds stand beside the steps.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> X = torch.randn(400, 6)
    >>> batches = [(x, (x[:, 0] > 0).long()) for x in X.split(200)]
    >>> found = icd.attack(net, batches[:1], held_out=batches[1:], split="2", trials=4, steps=50,
    ...                    attackers=["adam", "lstsq"])
    >>> found.strongest.steps <= 5, found.scratch_share <= 1
    (True, True)
    """
    chosen = parse_attackers(attackers)
    budget = as_count(steps, "steps", least=1)
    count, drawn = as_count(trials, "trials", least=1), as_count(seed, "seed", least=0)
    drop = check_real(max_utility_drop, "max_utility_drop", low=0.0, high=1.0, closed=True)
    if equalize not in (True, False, "both"):
        raise ValueError(f"equalize must be True, False or 'both', and is {equalize!r}")
    if not isinstance(scratch, (bool, nn.Module)):
        raise TypeError(f"scratch must be True, False or a network, and is {scratch!r}")
    if freeze is not None:
        check_choice(freeze, "freeze", ("inserted",))
    if not (isinstance(cuts, str) or hasattr(cuts, "__iter__")):
        raise TypeError(f"cuts must be 'auto' or names of modules, and is {cuts!r}")
    cuts = cuts if isinstance(cuts, str) else list(cuts)
    where = device_of(model, device)
    of_release, of_reference = heads_named(split)
    given = None if rows is None else as_count(rows, "rows", least=2)
    task = task_of(harmful, held_out, utility, given, where, drawn)
    goal = 0.5 * task.entropy if target is None else check_real(target, "target", low=0.0)
    if goal >= math.log(task.classes):
        raise ValueError(
            f"target must be below log({task.classes}) = {math.log(task.classes):.4g}, which a "
            f"head of zeros has, and is {goal:g}"
        )
    networks = {RELEASE: (model, of_release)}
    if reference is not None:
        device_of(reference)  # refuses what is no network
        networks[REFERENCE] = (reference, of_reference)
    if scratch is not False:
        like, name = networks.get(REFERENCE, networks[RELEASE])
        new = scratch if isinstance(scratch, nn.Module) else None
        new = untrained_like(like, where, drawn, argument="scratch") if new is None else new
        networks[SCRATCH] = (new, name)
    for network, name in networks.values():
        refuse_compiled(network)
        SplitModel(network, name)  # refuses what is no head
    torch.manual_seed(drawn)  # of networks that draw numbers themselves
    before = {
        name: utility_of(prepared(network, where), head, task, attacked=False)
        for name, (network, head) in networks.items()
        if task.utility and name != SCRATCH
    }
    told = {  # but neither who attacks nor how often: more of both go on from there
        "networks": {n: [fingerprint(m, unsaved(m)), at] for n, (m, at) in networks.items()},
        "task": task.fingerprint(), "target": goal, "steps": budget, "equalize": equalize,
        "freeze": freeze, "cuts": cuts, "prune": prune,
        "max_utility_drop": drop, "seed": drawn,
    }  # fmt: skip
    forms = _forms(equalize, freeze)
    with opened(checkpoint, told) as store:
        attacks = {}
        for name, (network, head) in networks.items():
            plan = _planned(name, network, head, task, chosen, forms, cuts, where, drawn)
            floor = before.get(name, -math.inf) - drop - _ROUNDING
            limits = Budget(goal, budget, floor=floor, prune=prune)
            run = _Run(name, task, store, limits, count, drawn, callback)
            attacks[name] = run.all_of(plan)
    return AttackReport(
        attacks=attacks, target=goal, steps=budget, trials=count, rows=task.rows,
        classes=task.classes, majority=float(task.shares.max()), utility=before.get(RELEASE),
        max_utility_drop=drop if before else None, seed=drawn,
    )  # fmt: skip


def _forms(equalize: bool | str, freeze: str | None) -> list[str]:
    plain = [] if equalize is True else [PLAIN]
    frozen = [FROZEN] if plain and freeze else []
    return [*plain, *frozen, *([] if equalize is False else [EQUALIZED])]


def _planned(
    name: str, network: nn.Module, split: str, task: Task, attackers: Sequence[Attacker],
    forms: Sequence[str], cuts: str | Sequence[str], where: torch.device, seed: int,
) -> list[tuple[list[Start], list[Attacker]]]:  # fmt: skip
    """Return starts, those together that one pass shows, with those who attack from them."""
    batch = task.train[0]
    whole = [a for a in attackers if a.trains == "full"]
    if name == SCRATCH:
        starts = starts_of(network, split, where, batch, forms=[PLAIN], training=True)
        return [(starts, whole)]
    probes = [a for a in attackers if a.probes]
    trained = [a for a in attackers if not a.probes]
    starts = starts_of(network, split, where, batch, forms=forms)
    plan = [([start], trained if start.frozen else list(attackers)) for start in starts]
    if cuts != "auto":
        named = [cuts] if isinstance(cuts, str) else list(cuts)
        return plan + [(at_cuts(start, named, batch), of) for (start,), of in plan if named]
    if probes and task.by_sample:
        reading = Reading(starts[0].model, Loaded(task.train, where), None, None, summed, seed)
        blocks = [
            c
            for c in cuts_of(starts[0].model, cuts, reading, batch, split)
            if not c.endswith(INPUT)
        ]
        if blocks:
            plan.append((at_cuts(starts[0], blocks, batch), probes))
    return plan


class _Run:
    """Trials of all attacks on one network."""

    def __init__(
        self, network: str, task: Task, store: Store, budget: Budget, trials: int, seed: int,
        callback: Callback | None,
    ) -> None:  # fmt: skip
        self._network, self._task, self._store, self._budget = network, task, store, budget
        self._trials, self._seed, self._callback = trials, seed, callback

    def all_of(
        self, plan: Sequence[tuple[Sequence[Start], Sequence[Attacker]]]
    ) -> tuple[Attack, ...]:
        """Return all attacks."""
        total = sum(len(starts) * len(attackers) for starts, attackers in plan)
        found = list[Attack]()
        for starts, attackers in plan:
            torch.manual_seed(self._seed)  # whatever was drawn, or kept, before
            for features in features_of(starts, self._task):
                for attacker in attackers:
                    about = {
                        "network": self._network, "attacker": attacker.name,
                        "start": features.start.name, "attack": len(found), "attacks": total,
                        "trials": self._trials,
                    }  # fmt: skip
                    trials = self._all_trials(features, attacker, about)
                    found.append(Attack(attacker.name, features.start.name, tuple(trials)))
        return tuple(found)

    def _all_trials(
        self, features: Features, attacker: Attacker, about: Mapping[str, Any]
    ) -> list[Trial]:
        start = features.start
        also = dict(start.also)
        if attacker.probes:
            also.pop("training", None)
        if attacker.whitened or (start.whitened and attacker.rule not in SOLVERS):
            also["ridge"] = RIDGES
        elif attacker.rule in SOLVERS:
            also.pop("ridge", None)
        space, done = attacker.space(also), list[Trial]()
        while len(done) < self._trials and (not done or min(t.steps for t in done) > 1):
            key = (self._network, start.name, attacker.name, len(done))
            trial = self._store.get(*key)
            if trial is None:
                tell = partial(self._told, {**about, "trial": len(done)})
                trial = self._store.put(self._tried(features, attacker, space, done, tell), *key)
            done.append(trial)
        return done

    def _tried(
        self, features: Features, attacker: Attacker, space: Rule, done: Sequence[Trial],
        tell: Callable[[int], object],
    ) -> Trial:  # fmt: skip
        tried = [(trial.settings, trial.score()) for trial in done]
        settings = propose(space.rates, space.also, tried, self._seed)
        budget = replace(self._budget, rival=min(done, key=Trial.score, default=None))
        torch.manual_seed(self._seed)
        victim = victim_of(features, attacker, settings, self._seed)
        if isinstance(victim, Head) and attacker.rule in SOLVERS:
            tell(0)
            return solve(victim, attacker.rule, settings, budget)
        return descend(victim, attacker.rule, settings, budget, self._seed, tell)

    def _told(self, about: Mapping[str, Any], step: int) -> None:
        if self._callback is not None:
            with torch.random.fork_rng(devices=[]):  # which the trial draws from
                self._callback(step, about)
