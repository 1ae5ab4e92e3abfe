"""Least-squares concept erasure at the cuts of a network, in closed form."""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy.linalg import orth

from ..._errors import AccuracyWarning
from ..._rank import epsilon
from ..._svd import svd
from ..._validate import FloatArray
from ...linear import fade
from ._bench import Bench
from ._replay import Replay

_SPANNED = 1e-10  # of the largest singular value: what is computed in float64 of float32 weights


def leace(bench: Bench, cuts: int) -> dict[str, tuple[int, int]]:
    """Erase the harmful labels from what the last layers put out, so many of them, in order.

    Each is measured behind those before it, so that at the end no cut has any of them. Return the
    directions that are left of each layer, and its features.
    """
    names = list(bench.layers)[len(bench.layers) - cuts :]
    start, replay = bench.state(), Replay(bench, names)
    left = _erased(bench, replay)
    if replay.holds():
        return left
    bench.work.load_state_dict(start)
    return _erased(bench, Replay(bench, names, follows=False))


def _erased(bench: Bench, replay: Replay) -> dict[str, tuple[int, int]]:
    left: dict[str, tuple[int, int]] = {}
    for name, runs in replay:
        layer = bench.layers[name]
        P = runs["primary"].record(name)
        H = runs["harmful"].record(name, rows="mean", cross="labels")
        width, count = layer.width, H.count(name)
        left[name] = (width, width)
        K_H, energy = H.gram(name, center=True) / count, H.energy(name) / count
        # Features are rounded relative to what they are, not to what they vary by.
        size = float(np.trace(H.gram(name))) / count
        least = epsilon(P.computed_in(name)) * math.sqrt(size * energy)
        b_H = _above(H.cross(name, center=True) / count, least)
        if not b_H.any():
            continue
        K_P = P.gram(name, center=layer.shifts) / P.count(name)
        if not K_P.any():  # any map leaves what is constant as it is
            K_P = np.eye(width)
        with warnings.catch_warnings():
            # Directions that no primary row uses are no trouble here: they go first.
            warnings.simplefilter("ignore", AccuracyWarning)
            found = fade(
                K_P=K_P, K_H=K_H, b_H=b_H, tau=np.inf, computed_in=P.computed_in(name)
            )  # fmt: skip
        mean = P.mean(name) if layer.shifts else np.zeros(width)
        # A^T W = B (A B)^T W for a basis B of what it spans, so that its rank is kept exactly.
        B = orth(found.theta.T @ layer.matrix, rcond=_SPANNED)
        layer.fold(found @ B, B, mean)
        left[name] = (width - found.left.shape[1], width)
    return left


def _above(b: FloatArray, least: float) -> FloatArray:
    """Return the parts of a cross-covariance that are no rounding of the features."""
    U, s, _ = svd(b, full_matrices=False)
    return np.asarray((U * s)[:, s > least])
