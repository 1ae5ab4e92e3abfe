"""Least-squares concept erasure at the cuts of a network, in closed form."""

from __future__ import annotations

import warnings

import numpy as np

from ..._errors import AccuracyWarning, ImmunityWarning
from ...linear import fade
from .._record import record
from ._bench import Bench


def leace(bench: Bench, cuts: int) -> dict[str, tuple[int, int]]:
    """Erase the harmful labels from what the last layers put out, so many of them, in order.

    Each is measured behind those before it, so that at the end no cut has any of them. Return the
    directions that are left of each layer, and its features.
    """
    left: dict[str, tuple[int, int]] = {}
    keywords = {"mask": bench.mask, "seed": bench.seed}
    for name in list(bench.layers)[len(bench.layers) - cuts :]:
        layer = bench.layers[name]
        P = record(
            bench.work, bench.loaders["primary"], [name], of="output", repeated="sum", **keywords
        )
        H = record(
            bench.work, bench.loaders["harmful"], [name], of="output", rows="mean",
            cross="labels", repeated="sum", **keywords,
        )  # fmt: skip
        width = layer.width
        if H.energy(name) == 0.0 or not P.gram(name).any():
            left[name] = (width, width)
            continue
        with warnings.catch_warnings():
            # Nothing to erase, and directions that no primary row uses, are no trouble here.
            warnings.simplefilter("ignore", ImmunityWarning)
            warnings.simplefilter("ignore", AccuracyWarning)
            found = fade(
                K_P=P.gram(name, center=layer.shifts) / P.count(name),
                K_H=H.gram(name, center=True) / H.count(name),
                b_H=H.cross(name, center=True) / H.count(name),
                tau=np.inf, computed_in=P.computed_in(name),
            )  # fmt: skip
        mean = P.mean(name) if layer.shifts else np.zeros(width)
        layer.fold(found.theta, np.eye(width), mean, exact=False)
        left[name] = (width - found.left.shape[1], width)
    return left
