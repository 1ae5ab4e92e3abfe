"""The demo's experiment: two digits, the methods with their hyper-parameters, what it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ... import linear, probing
from ..._errors import extra
from ..._gram import gram
from ..._regularizers import r_ill, r_well
from ..._show import thin
from ..._task import root_of_inputs
from ..._validate import FloatArray
from .._experiment import Experiment, Result, method_units
from .._methods import (
    Method,
    Parameters,
    Tasks,
    alignments,
    conventions,
    fit,
    limits,
    losses,
    middle_of_frontier,
    report_as_dict,
)
from .._units import Progress, Unit, Values, silent

GREY_LEVELS = 16
# A pixel is a grey level rounded to a whole number, so it is known up to this variance.
ROUNDING_VARIANCE = 1.0 / (12.0 * GREY_LEVELS**2)
TOLERANCE = 0.01
# Chosen on training rows. At the identity, a step of R_well goes this share of its sharp interval,
# and one of R_ill stretches the harmful task's top singular vector by this share.
WELL_SHARE = 0.3
ILL_SHARE = 0.5
ROWS = ("training", "held_out")
ATTACKERS = ("gd", "cg", "whitening", "lstsq")
TAU = 1e4  # of fade


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond demo``."""

    primary: int = 0
    harmful: int = 5
    seed: int = 0
    steps: int = 1000
    lr: float = 0.005
    delta: float | None = None
    kappa_primary: float | None = None
    probe_steps: int = 200_000


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

    def rows(self, which: str) -> tuple[FloatArray, FloatArray]:
        """Rows of both tasks, "training" or "held_out"."""
        if which == "training":
            return self.X_P, self.X_H
        return self.X_P_held_out, self.X_H_held_out


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


class DigitsExperiment(Experiment[Settings, Digits, Result]):
    """One pair of digits, kept nowhere: a unit is a method."""

    def load(self) -> Digits:
        """Load the data."""
        return load(self.settings.primary, self.settings.harmful, self.settings.seed)

    def methods(self) -> dict[str, Method]:
        """Methods, with weights and a delta that follow from the training rows."""
        settings, data = self.settings, self.load()
        delta = _delta(settings, data)
        lambda_P, lambda_H = _weights(data, settings.lr)
        trained = {"lambda_P": lambda_P, "lambda_H": lambda_H, "lr": settings.lr,
                   "steps": settings.steps}  # fmt: skip
        kappa_P = settings.kappa_primary
        if kappa_P is None:
            kappa_P = middle_of_frontier(_tasks(data), delta)
        closed = {"kappa_P": kappa_P, "delta": delta, "norm": None}
        methods = (
            Method("identity", "identity", {}, "none", seeded=False),
            Method("Algorithm 1", "algorithm1", trained, "by hand"),
            Method("closed form", "closed_form", closed, "closed form", seeded=False),
            Method("fade", "fade", {"tau": TAU, "delta": delta[0]}, "closed form", seeded=False),
        )
        return {method.label: method for method in methods}

    def plan(self, _: Digits, methods: Mapping[str, Method]) -> dict[str, list[Unit]]:
        """Units by method."""
        return method_units(methods, 1, {}, lambda *_: {"seed": self.settings.seed})

    def work(self, _: Path, progress: Progress | None) -> Callable[[Parameters], Values]:
        """Return what measures a unit."""
        return partial(_measured, self.settings, self.load(), progress or silent)

    def result(
        self, data: Digits, methods: dict[str, Method], units: dict[Any, list[Values]]
    ) -> Result:
        """Put a run's results together."""
        counts = {name: len(rows) for name, rows in vars(data).items()}
        delta = _delta(self.settings, data)
        told = {rows: limits(*data.rows(rows), delta) for rows in ROWS}
        return Result(self.settings, "scikit-learn", "", counts, methods, units, told)


def run(settings: Settings, progress: Progress = silent) -> Result:
    """Immunize, measure and probe.

    Parameters
    ----------
    settings : Settings
        Digits, seed and hyper-parameters.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    """
    with TemporaryDirectory() as folder:
        return DigitsExperiment.run(settings, Path(folder), progress=progress)


def _tasks(data: Digits) -> Tasks:
    return Tasks(data.X_P, np.ones(len(data.X_P)), data.X_H, np.ones(len(data.X_H)))


def _delta(settings: Settings, data: Digits) -> tuple[float, float]:
    """Return what is added to the diagonals of K_P and K_H: that of rounding by default."""
    if settings.delta is not None:
        return settings.delta, settings.delta
    return len(data.X_P) * ROUNDING_VARIANCE, len(data.X_H) * ROUNDING_VARIANCE


def _weights(data: Digits, lr: float) -> tuple[float, float]:
    """lambda_P and lambda_H from the sizes of both regularizers' steps at the identity."""
    K_P, K_H = gram(data.X_P), gram(data.X_H)
    well = linear.step_interval(r_well, theta=np.eye(K_P.shape[0]), gram=K_P)
    value, _, pairs = r_ill.value_and_grad(K_H, return_pairs=True)
    # theta <- (I - 2 eta G) theta: along the top, -G = sigma_1 / (k D^2) with D = 1 / value.
    ill = pairs.rank / (2.0 * pairs.sigma_max * value**2)
    return WELL_SHARE * well / lr, ILL_SHARE * ill / lr


def _measured(settings: Settings, data: Digits, progress: Progress, unit: Parameters) -> Values:
    """Immunize by one method; measure both tasks, probe them."""
    tasks, delta, parameters = _tasks(data), _delta(settings, data), dict(unit["parameters"])
    if unit["method"] == "algorithm1":
        parameters["callback"] = lambda step, _: progress("Algorithm 1", step, settings.steps)
    found = fit(unit["method"], tasks, parameters, unit["seed"])
    values: Values = {}
    for rows in ROWS:
        X_P, X_H = data.rows(rows)
        # K + delta I is the Gram matrix of the rows with sqrt(delta) I below them.
        noisy = [
            np.vstack([X, np.sqrt(d) * np.eye(X.shape[1])])
            for X, d in zip((X_P, X_H), delta, strict=True)
        ]
        values[rows] = {
            **conventions(found, X_P, X_H),
            "noisy": report_as_dict(linear.immunity(found.theta, *noisy)),
        }
    targeted = {rows: [(X, np.ones(len(X))) for X in data.rows(rows)] for rows in ROWS}
    values["alignment"] = alignments(found, targeted, values)
    exact = values["training"]["exact"]
    Z_P = found.features(data.X_P)
    head = root_of_inputs(Z_P, "Z", rank=exact["rank_P"]).least_squares(Z_P, tasks.y_P)
    values["primary_loss"] = losses(found, head, {rows: of[0] for rows, of in targeted.items()})
    values["probes"] = {
        task: {
            attacker: _probe(found.features(X), y, attacker, settings.probe_steps)
            for attacker in ATTACKERS
        }
        for task, X, y in (("primary", data.X_P, tasks.y_P), ("harmful", data.X_H, tasks.y_H))
    }
    return {**values, "history": found.history}


def _probe(Z: FloatArray, y: FloatArray, attacker: Any, steps: int) -> Values:
    """Tell what a probe did, thinned for plotting; descent goes on within the tolerance."""
    tolerance = None if attacker == "gd" else TOLERANCE
    trace = probing.probe(Z, y, method=attacker, steps=steps, tolerance=tolerance)
    t, loss = thin(trace.loss)
    return {
        "steps_to_tolerance": trace.steps_to(TOLERANCE),
        "steps_taken": trace.loss.size - 1,
        "kappa": trace.kappa,
        "rank": trace.rank,
        "slow_share": trace.slow_share,
        "best_loss": trace.best_loss,
        "step": t,
        "loss": loss,
        "start_loss": trace.loss[0],
        "above": trace.above[t],
        "norm_ratio": trace.norm_ratio[t],
    }
