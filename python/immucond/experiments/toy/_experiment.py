"""Every release of the toy under every attacker: ``immucond toy``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..._errors import extra
from .._experiment import run_plan
from .._units import Progress, Unit, Values, silent

ATTACKERS = (
    "gd", "adam", "muon", "lbfgs", "kfac", "lora-4", "probe-gd", "probe-adam", "lstsq", "whitening",
)  # fmt: skip
TRAINED = {  # or erased: what has no inverse
    "erased": "erasure",
    "tar": "TAR-like, first order",
    "collapse": "harmful features collapsed",
    "graddiff": "gradient ascent, retained",
    "npo": "negative preference",
    "cir": "CIR-like",
    "repselect": "RepSelect-like",
    "leace": "LEACE at every cut, at any cost",
    "retrained": "trained without the harmful features",
}
RELEASES = {
    "unprotected": "unprotected",
    "specdef": "SpecDef, alpha 1e3, k 2",
    "gauges": "random gauges, kappa 1e3",
    "closed-form": "condition number, closed form",
    "fade": "fade, tau 1e4",
    "times-900": "features x 900",
    "over-1000": "features / 1000",
    "compressed-0.05": "PCA at every cut, 5 % of the power lost",
    "compressed-0.1": "PCA, 10 % lost",
    **TRAINED,
}
_HELD_OUT, _FRESH = 2000, 4  # rows, and their part of what a seed draws


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond toy``.

    Attributes
    ----------
    releases : tuple of str
        Names in `RELEASES`.
    rows : int
        Harmful ones of the attacker.
    target : float
        Held-out cross-entropy, in nats.
    steps, trials : int
        Of a trial, and of an attacker at a start.
    seeds : int
    """

    releases: tuple[str, ...] = tuple(RELEASES)
    rows: int = 300
    target: float = 0.4
    steps: int = 300
    trials: int = 8
    seeds: int = 3


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes
    ----------
    settings : Settings
    units : dict of str to list of dict
        By release, one a seed: "primary" (accuracy), "ceiling" and "where" of the leak profile,
        and "attack", an `AttackReport` as plain values.
    """

    settings: Settings
    units: dict[str, list[Values]]


def run(settings: Settings, folder: Path, *, jobs: int = 1, progress: Progress = silent) -> Result:
    """Run what the folder does not hold yet.

    The parameters are those of the other experiments.
    """
    with extra("lora"):
        import peft  # noqa: F401  (missing, it is to be told now)
    common = {"experiment": "toy", "attackers": ATTACKERS, **asdict(settings)}
    for name in ("releases", "seeds"):
        del common[name]
    plan = {
        name: [
            Unit(f"toy-{name}-{seed}", {**common, "release": name, "seed": seed})
            for seed in range(settings.seeds)
        ]
        for name in settings.releases
    }
    return Result(settings, run_plan(plan, measure, folder, jobs=jobs, progress=progress))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch's layers on one thread: at these sizes a second waits, and on a busy core long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def measure(unit: Mapping[str, Any]) -> Values:
    """Make a release, and attack it."""
    from ... import deep
    from . import _network

    toy = _trained(unit["seed"], unit["rows"])
    net = _network.MAKE[unit["release"]](toy)
    head, held_out = _network.head_of(net), toy.harmful(_HELD_OUT, _FRESH)
    leak = deep.leak_profile(
        net, toy.harmful(), primary=toy.primary(), held_out=held_out, split=head, untrained=False
    )
    found = deep.attack(
        net, toy.harmful(), held_out=held_out, split=head, attackers=unit["attackers"],
        target=unit["target"], steps=unit["steps"], trials=unit["trials"], seed=unit["seed"],
        scratch=unit["release"] == "unprotected",
    )  # fmt: skip
    return {
        "primary": _network.accuracy(net, toy.primary(part=5)),
        "ceiling": leak.ceiling,
        "where": leak.where,
        "attack": found.as_dict(),
    }


@lru_cache(maxsize=4)
def _trained(seed: int, rows: int) -> Any:
    from . import _network

    return _network.Toy(seed, rows)
