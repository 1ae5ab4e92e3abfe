"""The raw runs of a card: which is which, and whether they are of one release."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._format import number, plain
from ._reading import Value, opened

NETWORKS = ("release", "reference", "scratch")
# What tells a raw run of each kind: a key of a command's file, and one of the report within.
_TOLD = {
    "leak": ("profile", "cuts"),
    "cost": ("costs", "lambda_max"),
    "attack": ("runs", "attacks"),
}
_PAID = ("steps", "passes", "seconds")
_SHARED = ("target", "steps", "trials", "max_utility_drop", "classes")


@dataclass(frozen=True)
class Attempt:
    """One attacker against one network, at its best."""

    attacker: str
    start: str
    steps: float
    passes: float
    seconds: float

    @property
    def name(self) -> str:
        """With the start, where it is not the network as it stands."""
        return self.attacker if self.start == "plain" else f"{self.attacker}, {self.start}"


@dataclass(frozen=True)
class Attack(Attempt):
    """The same with all that its trials gave."""

    loss: float
    accuracy: float
    trials: int
    diverged: int
    best_so_far: tuple[float, ...]
    settings: dict[str, Any]
    rfd: float | None
    rfd_signed: float | None


@dataclass(frozen=True)
class AttackRun:
    """All attacks of one seed, by network."""

    file: str
    seed: int
    target: float
    steps: int
    trials: int
    max_utility_drop: float | None
    classes: int
    majority: float
    rows: dict[str, int]
    strongest: dict[str, Attempt | None]
    attacks: dict[str, tuple[Attack, ...]]


@dataclass(frozen=True)
class Runs:
    """Raw runs that are of one release.

    Attributes
    ----------
    leak : Value or None
        The profile.
    costs : dict of (str, str) to Value
        Forecasts by network and by what is trained.
    attacks : tuple of AttackRun
        By seed.
    fingerprints : dict of str to str
    unnamed : tuple of str
        Kinds of runs that do not tell the fingerprints of the release and the harmful data.
    settings, versions : dict of str to list
        By kind.
    names : dict of str to str
        Of networks and data.
    """

    leak: Value | None
    costs: dict[tuple[str, str], Value]
    attacks: tuple[AttackRun, ...]
    fingerprints: dict[str, str]
    unnamed: tuple[str, ...]
    settings: dict[str, list[Any]] = field(default_factory=dict)
    versions: dict[str, list[Any]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def runs_of(given: Sequence[Any]) -> Runs:
    """Read raw runs, and refuse those that contradict one another."""
    found: dict[str, list[Value]] = {kind: [] for kind in _TOLD}
    for place, one in enumerate(given, 1):
        for value in _values(one, place):
            kind, run = _recognized(value)
            found[kind].append(run)
    if not any(found.values()):
        raise ValueError("a card needs at least one raw run, of immucond leak, cost or attack")
    everything = [run for runs in found.values() for run in runs]
    if len(found["leak"]) > 1:
        one, other = found["leak"][:2]
        raise ValueError(f"{one.file} and {other.file} are two leak profiles: a card has one")
    return Runs(
        leak=found["leak"][0]["profile"] if found["leak"] else None,
        costs=_costs(found["cost"]),
        attacks=_attacks(found["attack"]),
        fingerprints=_fingerprints(everything),
        unnamed=tuple(kind for kind, runs in found.items() if not all(map(_named, runs))),
        settings={kind: _distinct(runs, "settings") for kind, runs in found.items() if runs},
        versions={kind: _distinct(runs, "versions") for kind, runs in found.items() if runs},
        names=_names(everything),
    )


def _values(one: Any, place: int) -> list[Value]:
    """Values of a path, of a dictionary, or of what makes one of itself."""
    if isinstance(one, str | os.PathLike):
        return opened(Path(one))
    name = f"run {place} ({type(one).__name__})"
    if not isinstance(one, Mapping):
        if not hasattr(one, "as_dict"):
            raise TypeError(
                f"run {place} must be a path, a dictionary or a report with as_dict, and is of "
                f"type {type(one).__name__}"
            )
        one = one.as_dict()
    return [Value(plain(one), name)]


def _recognized(value: Value) -> tuple[str, Value]:
    """Return the kind of a run, and the run as a command would have written it."""
    keys = value.items()
    for kind, (of_file, of_report) in _TOLD.items():
        if of_file in keys:
            return kind, value
        if of_report in keys:
            bare = {"release": {value["params"].text(): value.raw}} if kind == "cost" else value.raw
            return kind, Value({of_file: [bare] if kind == "attack" else bare}, value.file)
    has = ", ".join(sorted(keys)[:8]) or "nothing"
    raise ValueError(
        f"{value.file} is no raw run of immucond leak, cost or attack: it needs one of "
        f"{', '.join(key for key, _ in _TOLD.values())}, and has {has}"
    )


def _costs(runs: Iterable[Value]) -> dict[tuple[str, str], Value]:
    found: dict[tuple[str, str], Value] = {}
    for run in runs:
        for network, forecasts in run["costs"].items().items():
            if network not in NETWORKS:
                raise ValueError(
                    f"{run.file}: costs has {network!r}, and a network is one of "
                    f"{', '.join(NETWORKS)}"
                )
            for params, cost in forecasts.items().items():
                other = found.setdefault((network, params), cost)
                if other is not cost:
                    raise ValueError(
                        f"{other.file} and {cost.file} both forecast the cost of {params} on the "
                        f"{network}: a card has one"
                    )
    return dict(sorted(found.items(), key=lambda item: (NETWORKS.index(item[0][0]), item[0][1])))


def _attacks(runs: Iterable[Value]) -> tuple[AttackRun, ...]:
    found: dict[int, AttackRun] = {}
    for value in (one for run in runs for one in run["runs"].list(1)):
        run = _attack_run(value)
        other = found.setdefault(run.seed, run)
        if other is not run:
            raise ValueError(
                f"{other.file} and {run.file} both have the attacks of seed {run.seed}: a card "
                "has one run a seed"
            )
    ordered = tuple(found[seed] for seed in sorted(found))
    for run in ordered[1:]:
        for name in _SHARED:
            here, there = getattr(run, name), getattr(ordered[0], name)
            if here != there:
                raise ValueError(
                    f"the attacks of seed {ordered[0].seed} ({ordered[0].file}) and of seed "
                    f"{run.seed} ({run.file}) do not compare: {name} is {there} there and {here} "
                    "here"
                )
    return ordered


def _attack_run(value: Value) -> AttackRun:
    attacks = value["attacks"].items()
    drop, steps = value.get("max_utility_drop"), value["steps"].count(1)
    found = {
        network: tuple(_attack(one, steps) for one in attacks[network].list())
        for network in NETWORKS
        if network in attacks and value["attacks"].get(network) is not None
    }
    value["attacks"]["release"].list(1)
    return AttackRun(
        file=value.file,
        seed=value["seed"].count(),
        target=value["target"].finite(),
        steps=steps,
        trials=value["trials"].count(1),
        max_utility_drop=None if drop is None else drop.finite(),
        classes=value["classes"].count(2),
        majority=value["majority"].share(),
        rows={name: count.count() for name, count in value["rows"].items().items()},
        strongest={
            network: _strongest(value, network, found.get(network, ())) for network in NETWORKS
        },
        attacks=found,
    )


def _strongest(run: Value, network: str, attacks: Sequence[Attack]) -> Attempt | None:
    """Return the strongest attack on a network, which is one of those that ran."""
    by_name: dict[str, Attack] = {}
    for attack in attacks:
        if by_name.setdefault(attack.name, attack) is not attack:
            raise ValueError(f"{run.file}: attacks.{network} has {attack.name!r} twice")
    value = run["strongest"].get(network)
    if value is None:
        return min(attacks, key=lambda attack: (attack.steps, attack.passes), default=None)
    found = Attempt(**_attempt(value))
    named = by_name.get(found.name)
    told = f"{run.file}: strongest.{network} is {found.name!r} with {number(found.steps)} steps"
    if named is None or any(getattr(named, x) != getattr(found, x) for x in _PAID):
        raise ValueError(f"{told}, and attacks.{network} has none like it")
    fewest = min(attacks, key=lambda attack: attack.steps)
    if fewest.steps < found.steps:
        raise ValueError(f"{told}, and {fewest.name!r} took {number(fewest.steps)}")
    return found


def _attempt(value: Value) -> dict[str, Any]:
    return {
        **{name: value[name].text() for name in ("attacker", "start")},
        **{name: value[name].number() for name in _PAID},
    }


def _attack(value: Value, budget: int) -> Attack:
    steps = value["steps"].number()
    if budget < steps < math.inf:
        raise ValueError(
            f"{value.file}: {value['attacker'].text()!r} took {number(steps)} steps, more than the "
            f"{budget} that attackers had"
        )
    rfd, signed = (value.get(name) for name in ("rfd", "rfd_signed"))
    return Attack(
        **_attempt(value),
        loss=value["loss"].number(),
        accuracy=value["accuracy"].share(),
        trials=value["trials"].count(1),
        diverged=value["diverged"].count(),
        best_so_far=tuple(one.number() for one in value["best_so_far"].list()),
        settings=value["settings"].table(),
        rfd=None if rfd is None else rfd.number(float("-inf")),
        rfd_signed=None if signed is None else signed.number(float("-inf")),
    )


def _named(run: Value) -> bool:
    prints = run.get("fingerprints")
    return prints is not None and all(map(prints.get, ("release", "harmful")))


def _fingerprints(runs: Sequence[Value]) -> dict[str, str]:
    found: dict[str, Value] = {}
    for run in runs:
        prints = run.get("fingerprints")
        for name, value in {} if prints is None else prints.items().items():
            if value.raw is None:
                continue
            other = found.setdefault(name, value)
            if other.text() != value.text():
                raise ValueError(
                    f"{other.file} and {value.file} contradict one another: the fingerprint of "
                    f"{name} is {other.text()} there and {value.text()} here"
                )
    return {name: found[name].text() for name in sorted(found)}


def _names(runs: Sequence[Value]) -> dict[str, str]:
    """Names of networks and data: of several for one thing the first by the alphabet."""
    keys = {"release": "backbone", "reference": "reference", "harmful": "harmful",
            "primary": "primary"}  # fmt: skip
    found: dict[str, set[str]] = {name: set() for name in keys}
    for run in runs:
        settings = run.get("settings")
        for name, key in keys.items():
            value = None if settings is None else settings.get(key)
            if value is not None:
                found[name].add(str(value.public()))
    return {name: min(names) for name, names in found.items() if names}


def _distinct(runs: Sequence[Value], key: str) -> list[Any]:
    """Return what runs of a kind say, each thing once, in an order of its own."""
    said = [value.table() for run in runs if (value := run.get(key)) is not None]
    return list({json.dumps(one, sort_keys=True): one for one in sorted(said, key=repr)}.values())
