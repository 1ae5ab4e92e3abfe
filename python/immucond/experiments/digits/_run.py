"""The experiment: load two digits, immunize by both methods, measure both tasks, probe them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ... import immunize, linear, probing
from ..._errors import ImmunityWarning, extra
from ..._gram import gram
from ..._regularizers import r_ill, r_well
from ..._task import root_of_inputs
from ..._validate import FloatArray
from .._methods import RIDGE, Tasks, mean_squared_error, middle_of_frontier
from .._units import Progress, silent

GREY_LEVELS = 16
# A pixel is a grey level rounded to a whole number, so it is known up to this variance.
ROUNDING_VARIANCE = 1.0 / (12.0 * GREY_LEVELS**2)
TOLERANCE = 0.01
# Chosen on training rows. At the identity, a step of R_well goes this share of its sharp interval,
# and one of R_ill stretches the harmful task's top singular vector by this share.
WELL_SHARE = 0.3
ILL_SHARE = 0.5


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


@dataclass(frozen=True)
class Measured:
    """One extractor on one set of rows, in three conventions."""

    exact: linear.ImmunityReport
    ridge: linear.ImmunityReport
    noisy: linear.ImmunityReport


@dataclass(frozen=True)
class Loss:
    """Mean squared primary loss: with the method's own head, and with a least-squares head."""

    own: float
    best: float


@dataclass(frozen=True)
class Method:
    """One extractor with everything measured of it.

    Attributes
    ----------
    theta, omega : arrays
        Extractor and primary head.
    training, held_out : Measured
        Condition numbers on the rows it was made from, and on rows it never saw.
    loss, loss_held_out : Loss
        Primary loss on either.
    probes : dict
        :class:`~immucond.probing.ProbeTrace` by (task, attacker), on the training rows.
    history : dict of str to array
        Of Algorithm 1; else empty.
    """

    theta: FloatArray
    omega: FloatArray
    training: Measured
    held_out: Measured
    loss: Loss
    loss_held_out: Loss
    probes: dict[tuple[str, str], probing.ProbeTrace]
    history: dict[str, FloatArray]


@dataclass(frozen=True)
class Result:
    """Outcome of a run: settings in full, and the methods by name, the identity first."""

    settings: Settings
    data: Digits
    delta: tuple[float, float]
    kappa_primary: float
    lambda_P: float
    lambda_H: float
    methods: dict[str, Method]


def run(settings: Settings, progress: Progress = silent) -> Result:
    """Immunize, measure and probe.

    Parameters
    ----------
    settings : Settings
        Digits, seed and hyper-parameters.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    """
    data = load(settings.primary, settings.harmful, settings.seed)
    rows_P, rows_H = data.X_P.shape[0], data.X_H.shape[0]
    if settings.delta is None:
        delta = (rows_P * ROUNDING_VARIANCE, rows_H * ROUNDING_VARIANCE)
    else:
        delta = (settings.delta, settings.delta)
    y = np.ones(rows_P)

    lambda_P, lambda_H = _weights(data, settings.lr)
    trained = immunize.algorithm1(
        data.X_P,
        y,
        data.X_H,
        lambda_P=lambda_P,
        lambda_H=lambda_H,
        lr=settings.lr,
        steps=settings.steps,
        seed=settings.seed,
        callback=lambda step, _: progress("Algorithm 1", step, settings.steps),
    )
    kappa_primary = settings.kappa_primary
    if kappa_primary is None:
        tasks = Tasks(data.X_P, y, data.X_H, np.ones(rows_H))
        kappa_primary = middle_of_frontier(tasks, delta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImmunityWarning)  # the tables mark an eased task
        closed = immunize.closed_form(data.X_P, y, data.X_H, kappa_P=kappa_primary, delta=delta)

    identity = np.eye(data.X_P.shape[1])
    extractors = {
        "identity": (identity, _least_squares(data.X_P), {}),
        "Algorithm 1": (trained.theta, trained.omega, trained.history),
        "closed form": (closed.theta, closed.omega, closed.history),
    }
    methods = {}
    for number, (name, (theta, omega, history)) in enumerate(extractors.items()):
        progress("linear probes", number, len(extractors))
        methods[name] = _measure(data, delta, theta, omega, history, settings.probe_steps)
    progress("linear probes", len(extractors), len(extractors))
    return Result(settings, data, delta, kappa_primary, lambda_P, lambda_H, methods)


def _weights(data: Digits, lr: float) -> tuple[float, float]:
    """lambda_P and lambda_H from the sizes of both regularizers' steps at the identity."""
    K_P, K_H = gram(data.X_P), gram(data.X_H)
    well = linear.step_interval(r_well, theta=np.eye(K_P.shape[0]), gram=K_P)
    value, _, pairs = r_ill.value_and_grad(K_H, return_pairs=True)
    # theta <- (I - 2 eta G) theta: along the top, -G = sigma_1 / (k D^2) with D = 1 / value.
    ill = pairs.rank / (2.0 * pairs.sigma_max * value**2)
    return WELL_SHARE * well / lr, ILL_SHARE * ill / lr


def _measure(
    data: Digits,
    delta: tuple[float, float],
    theta: FloatArray,
    omega: FloatArray,
    history: dict[str, FloatArray],
    probe_steps: int,
) -> Method:
    training = _conventions(theta, data.X_P, data.X_H, delta)
    head = _least_squares(data.X_P @ theta, training.exact.rank_P)
    probes = {}
    for task, X in (("primary", data.X_P), ("harmful", data.X_H)):
        Z, y = X @ theta, np.ones(X.shape[0])
        probes[task, "gd"] = probing.probe(Z, y, method="gd", steps=probe_steps)
        for attacker in ("cg", "lstsq"):
            probes[task, attacker] = probing.probe(
                Z, y, method=attacker, steps=probe_steps, tolerance=TOLERANCE
            )
    return Method(
        theta=theta,
        omega=omega,
        training=training,
        held_out=_conventions(theta, data.X_P_held_out, data.X_H_held_out, delta),
        loss=_loss(data.X_P @ theta, omega, head),
        loss_held_out=_loss(data.X_P_held_out @ theta, omega, head),
        probes=probes,
        history=history,
    )


def _conventions(
    theta: FloatArray, X_P: FloatArray, X_H: FloatArray, delta: tuple[float, float]
) -> Measured:
    # K + delta I is the Gram matrix of the rows with sqrt(delta) I below them.
    noisy = [
        np.vstack([X, np.sqrt(d) * np.eye(X.shape[1])])
        for X, d in zip((X_P, X_H), delta, strict=True)
    ]
    return Measured(
        exact=linear.immunity(theta, X_P, X_H),
        ridge=linear.immunity(theta, X_P, X_H, ridge=RIDGE),
        noisy=linear.immunity(theta, *noisy),
    )


def _least_squares(Z: FloatArray, rank: int | None = None) -> FloatArray:
    return root_of_inputs(Z, "Z", rank=rank).least_squares(Z, np.ones(Z.shape[0]))


def _loss(Z: FloatArray, own: FloatArray, best: FloatArray) -> Loss:
    return Loss(own=mean_squared_error(Z @ own, 1.0), best=mean_squared_error(Z @ best, 1.0))
