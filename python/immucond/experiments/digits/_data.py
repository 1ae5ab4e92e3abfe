"""The tasks: images of one digit each, halved into training and held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..._extras import extra

FloatArray = npt.NDArray[np.float64]

GREY_LEVELS = 16
# A pixel is a grey level rounded to a whole number, so it is known up to this variance.
ROUNDING_VARIANCE = 1.0 / (12.0 * GREY_LEVELS**2)


@dataclass(frozen=True)
class Digits:
    """Rows of both tasks, pixels in [0, 1]; the target of every row is 1, as in the paper.

    Attributes
    ----------
    X_P, X_H : (N, 64) arrays
        Training rows of the primary and the harmful digit.
    X_P_held_out, X_H_held_out : (N', 64) arrays
        Rows that no method sees.
    """

    X_P: FloatArray
    X_H: FloatArray
    X_P_held_out: FloatArray
    X_H_held_out: FloatArray


def load(primary: int, harmful: int, seed: int = 0) -> Digits:
    """Load scikit-learn's bundled digits (8 x 8 pixels, 16 grey levels; no download).

    Parameters
    ----------
    primary, harmful : int
        Two different digits, 0 to 9.
    seed : int, default 0
        Decides which half of each digit's images is held out.

    Raises
    ------
    ValueError
        If the digits are equal or out of range.
    """
    for name, digit in (("primary", primary), ("harmful", harmful)):
        if digit not in range(10):
            raise ValueError(f"{name} must be a digit from 0 to 9, got {digit}")
    if primary == harmful:
        raise ValueError(f"primary and harmful must be different digits, got {primary} twice")
    with extra("experiments"):
        from sklearn.datasets import load_digits
    images, labels = load_digits(return_X_y=True)
    halves = []
    for digit in (primary, harmful):
        rows = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(labels == digit))
        halves.append(np.array_split(images[rows] / GREY_LEVELS, 2))
    (P, P_held_out), (H, H_held_out) = halves
    return Digits(X_P=P, X_H=H, X_P_held_out=P_held_out, X_H_held_out=H_held_out)
