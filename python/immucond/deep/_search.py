"""Which settings a trial takes: decades of the rate first, then halving around the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Settings = dict[str, Any]

_FINEST = 0.05  # decades


def propose(
    rates: Sequence[int],
    also: Mapping[str, Sequence[Any]],
    done: Sequence[tuple[Settings, Any]],
    seed: int,
    *,
    lower: bool = False,
) -> Settings:
    """Return the settings of the next trial, which follow from those before it and the seed.

    The rates' decades from the middle outwards; then, in turns, one of the best trial's further
    settings, `also`, is another one, and the wider of the two gaps in rate beside it is halved.
    `done` are settings with their scores, of which the least is best. With `lower` all of them were
    too much: the decade below all rates is next.
    """
    number = len(done)
    settings: Settings = {name: values[0] for name, values in also.items()}
    decades = _outwards(rates)
    if number < len(decades):
        return {"rate": 10.0 ** decades[number], **settings}
    best = min(done, key=lambda trial: trial[1])[0]
    if lower:
        return {**best, "rate": min(of["rate"] for of, _ in done) / 10.0}
    rest = {name: value for name, value in best.items() if name != "rate"}
    others = [
        (name, value) for name, values in also.items() for value in values if value != rest[name]
    ]
    half, odd = divmod(number - len(decades), 2)
    if others and not odd:
        name, value = others[half % len(others)]
        return {"rate": best["rate"], **rest, name: value}
    rng = np.random.default_rng([seed, number])
    return {"rate": _between(best["rate"], [of["rate"] for of, _ in done], rng), **rest}


def _outwards(rates: Sequence[int]) -> list[int]:
    middle = rates[len(rates) // 2]
    return sorted(rates, key=lambda rate: (abs(rate - middle), -rate))


def _between(best: float, rates: Sequence[float], rng: Any) -> float:
    """Return a rate in the middle of the wider gap beside the best, or near it once both are small.

    Beyond the outermost rate the next one is a decade away.
    """
    at, logs = math.log10(best), [math.log10(rate) for rate in rates]
    below = max((x for x in logs if x < at - 1e-9), default=at - 2.0)
    above = min((x for x in logs if x > at + 1e-9), default=at + 2.0)
    wider = below if at - below > above - at else above
    if abs(wider - at) > 2 * _FINEST:
        return float(10.0 ** ((at + wider) / 2))
    return float(10.0 ** (at + rng.uniform(-0.25, 0.25)))
