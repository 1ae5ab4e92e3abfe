"""The loop that all iterative methods share."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from .._errors import DivergenceError, ImmucondError
from .._harmful import warn_if_easier
from .._task import warn_if_lost
from .._validate import as_count, check_choice, plain
from .._warn import warn
from ._checkpoint import Checkpoint, Records
from ._movers import Mover, State
from ._objective import BeyondRangeError, Evaluation, Objective
from ._problem import Problem, described
from ._result import ImmunizationResult
from ._terms import Conditioning, Term

Callback = Callable[[int, Mapping[str, float]], object]
Balance = Literal["gradient-norm"]
Path = str | os.PathLike[str]

# The default of every method.
CHECKPOINT_EVERY = 100


def run(
    method: str,
    parameters: dict[str, Any],
    problem: Problem,
    terms: Sequence[Term],
    mover: Mover,
    *,
    steps: int,
    callback: Callback | None,
    checkpoint: Path | None,
    checkpoint_every: int,
    knobs: Sequence[str],
) -> ImmunizationResult:
    """Iterate and wrap up; called by the public functions themselves, whose callers are warned.

    Parameters
    ----------
    method : str
        Name of the public function.
    parameters : dict
        Its keywords, which with the data decide the run.
    problem, terms, mover
        What is iterated, and how.
    steps, callback, checkpoint, checkpoint_every
        The user's.
    knobs : sequence of str
        Parameters to lower where the iteration diverges.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")
    last = as_count(steps, "steps", least=0)
    every = as_count(checkpoint_every, "checkpoint_every", least=1)
    told = {name: described(value) for name, value in parameters.items()} | {"seed": problem.seed}
    kept = None
    if checkpoint is not None:
        decided = {name: value for name, value in told.items() if name not in ("steps", "epochs")}
        data = {name: described(array) for name, array in problem.given.items()}
        kept = Checkpoint(checkpoint, every, {"method": method} | decided | data)

    objective = Objective(problem, terms)

    def evaluate(state: State) -> Evaluation:
        try:
            return objective(state.step, state.theta, state.omega, state.starts)
        except BeyondRangeError as error:
            message = _diverged(method, state.step, error.loss, parameters, knobs)
            raise DivergenceError(message) from error

    def result(state: State) -> ImmunizationResult:
        theta, bias = problem.given_theta(state.theta)
        return ImmunizationResult(
            theta=theta,
            omega=problem.given_omega(state.omega),
            history={name: np.array([record[name] for record in records]) for name in records[0]},
            report=problem.report(state.theta),
            method=method,
            parameters=plain(told),
            bias=bias,
            classes=problem.loss.classes,
        )

    state = State(
        0, problem.theta, problem.omega, moments=mover.moments(problem.theta, problem.omega)
    )
    records: Records = []
    warned: dict[type[Warning], str] = {}
    found: Evaluation | None = None
    resumed = None if kept is None else kept.load()
    if resumed is not None:
        state, records = resumed
        if state.step > last:
            raise ValueError(
                f"steps must be at least {state.step}, as many as checkpoint {checkpoint} has "
                f"taken, and is {last}"
            )
    good = state
    try:
        while True:
            found = evaluate(state) if found is None else found
            records.append(found.record)
            good = state
            warned = found.warned | warned  # the first of each category stays
            stop = callback is not None and callback(state.step, found.record)
            if stop or state.step == last:
                break
            state, found = mover(state, found, evaluate)
            if kept is not None and state.step % every == 0:
                kept.save(state, records)
    except KeyboardInterrupt:
        if kept is not None:
            kept.save(state, records)
        raise
    except DivergenceError as error:
        if records:
            with suppress(ArithmeticError, ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theta may be close to the edge
                error.result = result(good)
        raise
    if kept is not None:
        kept.save(state, records)
    for category, message in warned.items():
        warn(message, category)
    warn_if_lost(problem.P, problem.H)
    done = result(state)
    warn_if_easier(done.report, "A larger lambda_H makes it harder")
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
        found = Objective(problem, terms)(0, problem.theta, problem.omega, (None, None))
    except BeyondRangeError as error:
        raise ImmucondError(_cannot_start("balance", error.loss)) from error
    loss = found.record["grad_loss"]
    weighted = []
    for term in terms:
        size = found.record[f"grad_{term.name}"]
        if size == 0.0:
            raise ValueError(
                f"balance must be None here: the step of {term.name} vanishes at the start"
            )
        even = loss / size if isinstance(term, Conditioning) else 1.0
        if not 0.0 < even < math.inf:
            raise ValueError(
                f"balance must be None here: the primary gradient has norm {loss:g} at the start, "
                f"and the step of {term.name} has {size:g}, so that its weight would be {even:g}"
            )
        weighted.append(replace(term, weight=term.weight * even))
    return weighted


def _diverged(
    method: str, step: int, loss: float, parameters: Mapping[str, Any], knobs: Sequence[str]
) -> str:
    if step == 0:
        return _cannot_start(method, loss)
    given = [f"{name} (given {parameters[name]:g})" for name in knobs]
    listed = given[0] if len(given) == 1 else f"{', '.join(given[:-1])} or {given[-1]}"
    return f"{method} diverged at step {step} (primary loss {loss:g}): lower {listed}"


def _cannot_start(name: str, loss: float) -> str:
    return (
        f"{name} cannot start: the primary loss ({loss:g}) or a regularizer is beyond the float "
        "range; scale X_P, y_P or X_H"
    )
