"""The loop that all iterative methods share, and its checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import DivergenceError, ImmucondError, warn
from .._extreme import ExtremePairs
from .._files import Checkpoint
from .._format import warn_if_easier
from .._task import warn_if_lost
from .._validate import check_choice
from ._movers import Mover, State, mover_of
from ._objective import BeyondRangeError, Evaluation, PrimaryLoss, Term, evaluated
from ._problem import Balance, Problem, Setup, described, recorded
from ._result import HISTORY, ImmunizationResult, read_archive, reading, under, write_archive

Records = list[dict[str, float]]


def run(
    method: Callable[..., ImmunizationResult], setup: Setup, problem: Problem,
    terms: Sequence[Term], *, lower: Sequence[str], mover: Mover | None = None,
    own: Mapping[str, Any] | None = None, by_kappa: bool = True,
) -> ImmunizationResult:  # fmt: skip
    """Iterate, keep checkpoints, warn, and wrap up.

    Parameters
    ----------
    method : callable
        The public function, whose keywords and data decide the run.
    setup, own
        Those keywords: shared with others, and its own.
    problem, terms
        What is iterated; the terms are balanced here.
    lower : sequence of str
        Keywords to lower where the iteration diverges.
    mover : Mover, optional
        How; by default the optimizer that was asked for.
    by_kappa : bool
        Whether the method is to raise kappa(H_H), and the user is warned where it fell.
    """
    name, last = method.__name__, setup.steps
    terms = balanced(problem, terms, setup.balance)
    mover = mover_of(setup.optimizer, setup.lr) if mover is None else mover
    told = recorded(method, setup, own or {}, problem.seed)
    kept = None
    if setup.checkpoint is not None:
        decided = {key: value for key, value in told.items() if key not in ("steps", "epochs")}
        data = {key: described(array) for key, array in problem.given.items()}
        run_of = {"method": name} | decided | data
        kept = RunCheckpoint(setup.checkpoint, setup.checkpoint_every, run_of)
    records: Records = []

    def evaluate(state: State) -> Evaluation:
        try:
            return evaluated(problem, terms, state.step, state.theta, state.omega, state.starts)
        except BeyondRangeError as error:
            if state.step == 0:
                raise DivergenceError(_cannot_start(name, error.loss)) from error
            message = _diverged(name, state.step, error.loss, {key: told[key] for key in lower})
            raise DivergenceError(message) from error

    def result(state: State) -> ImmunizationResult:
        theta, bias = problem.given_theta(state.theta)
        return ImmunizationResult(
            theta=theta, omega=problem.given_omega(state.omega),
            history={key: np.array([record[key] for record in records]) for key in records[0]},
            report=problem.report(state.theta), method=name, parameters=told, bias=bias,
            classes=problem.loss.classes,
        )  # fmt: skip

    moments = mover.moments(problem.theta, problem.omega)
    state = State(0, problem.theta, problem.omega, moments=moments)
    resumed = None if kept is None else kept.load()
    if resumed is not None:
        state, records = resumed
        if state.step > last:
            raise ValueError(
                f"steps must be at least {state.step}, as many as checkpoint {setup.checkpoint} "
                f"has taken, and is {last}"
            )
    warned: dict[type[Warning], str] = {}
    found: Evaluation | None = None
    good = state
    try:
        while True:
            found = evaluate(state) if found is None else found
            records.append(found.record)
            good = state
            warned = found.warned | warned  # the first of each category stays
            stop = setup.callback is not None and setup.callback(state.step, dict(found.record))
            if stop or state.step == last:
                break
            with np.errstate(over="ignore", invalid="ignore"):  # it is told as a divergence
                state, found = mover(state, found, evaluate)
            if kept is not None and state.step % kept.every == 0:
                kept.save((state, records))
    except KeyboardInterrupt:
        if kept is not None:
            kept.save((state, records))
        raise
    except DivergenceError as error:
        if records:
            with suppress(ArithmeticError, ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theta may be close to the edge
                error.result = result(good)
        raise
    if kept is not None:
        kept.save((state, records))
    for category, message in warned.items():
        warn(message, category)
    warn_if_lost(problem.P, problem.H)
    done = result(state)
    if by_kappa:
        warn_if_easier(done.report.i, done.report.rir, "A larger lambda_H makes it harder")
    return done


def balanced(problem: Problem, terms: Sequence[Term], by: Balance | None) -> list[Term]:
    """Weights times ``||grad loss|| / ||step||`` at the start, so that 1 and 1 are even parts.

    None leaves them as they are.

    Raises
    ------
    ValueError
        For an unknown balance, or where a step vanishes at the start.
    """
    if by is None:
        return list(terms)
    check_choice(by, "balance", ("gradient-norm",))
    try:
        found = evaluated(problem, terms, 0, problem.theta, problem.omega, (None, None))
    except BeyondRangeError as error:
        raise ImmucondError(_cannot_start("balance", error.loss)) from error
    loss = found.record["grad_loss"]
    weighted = []
    for term in terms:
        size = found.record.get(f"grad_{term.name}")
        if size is None:  # only watches
            weighted.append(term)
            continue
        if size == 0.0:
            raise ValueError(
                f"balance must be None here: the step of {term.name} vanishes at the start"
            )
        even = 1.0 if isinstance(term, PrimaryLoss) else loss / size
        if not 0.0 < even < math.inf:
            raise ValueError(
                f"balance must be None here: the primary gradient has norm {loss:g} at the start, "
                f"and the step of {term.name} has {size:g}, so that its weight would be {even:g}"
            )
        weighted.append(replace(term, weight=term.weight * even))
    return weighted


def _diverged(name: str, step: int, loss: float, lower: Mapping[str, float]) -> str:
    given = [f"{key} (given {value:g})" for key, value in lower.items()]
    listed = given[0] if len(given) == 1 else f"{', '.join(given[:-1])} or {given[-1]}"
    return f"{name} diverged at step {step} (primary loss {loss:g}): lower {listed}"


def _cannot_start(name: str, loss: float) -> str:
    return (
        f"{name} cannot start: the primary loss ({loss:g}) or a regularizer is beyond the float "
        "range; scale X_P, y_P or X_H"
    )


class RunCheckpoint(Checkpoint[tuple[State, Records]]):
    """An .npz file with the state before a step, and the records of all steps before it."""

    def save(self, state: tuple[State, Records]) -> None:
        """Write the state with the settings, whole or not at all."""
        before, records = state
        arrays: dict[str, npt.NDArray[Any]] = {"theta": before.theta, "omega": before.omega}
        for number, pairs in enumerate(before.starts):
            if pairs is not None:
                arrays |= {
                    f"start{number}/{part.name}": np.asarray(getattr(pairs, part.name))
                    for part in fields(pairs)
                }
        arrays |= {f"moment{number}": moment for number, moment in enumerate(before.moments)}
        done = records[: before.step]
        if done:
            arrays |= {
                HISTORY + name: np.array([record[name] for record in done]) for name in done[0]
            }
        write_archive(self.path, "checkpoint", {"run": self.settings, "step": before.step}, arrays)

    def read(self) -> tuple[dict[str, Any], tuple[State, Records]]:
        """Return settings and state."""
        description, arrays = read_archive(self.path, "checkpoint")
        with reading(self.path, "checkpoint"):
            step = int(description["step"])
            history = under(HISTORY, arrays)
            records = [
                {name: float(values[number]) for name, values in history.items()}
                for number in range(step)
            ]
            starts = [_pairs(arrays, f"start{number}/") for number in range(2)]
            moments = under("moment", arrays)
            state = State(
                step, arrays["theta"], arrays["omega"], (starts[0], starts[1]),
                tuple(moments[str(number)] for number in range(len(moments))),
            )  # fmt: skip
            return description["run"], (state, records)


def _pairs(arrays: dict[str, npt.NDArray[Any]], prefix: str) -> ExtremePairs | None:
    found: dict[str, Any] = {
        name: values.item() if values.ndim == 0 else values
        for name, values in under(prefix, arrays).items()
    }
    return ExtremePairs(**found) if found else None
