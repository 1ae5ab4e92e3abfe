"""What immunization is worth: the steps that each attacker needs before and after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt

from .._display import Columns, Tabular
from .._errors import underflow_is_zero
from .._show import aligned
from .._validate import as_count, as_float64, as_targets, check_choice, check_real
from ._attackers import LABELS, METHODS, Method
from ._curve import first_within
from ._probe import ProbeTrace, step_length, traced
from ._problem import Problem

_WHEN = ("before", "after")
_TUNED = (1e-3, 1e-2, 1e-1, 1.0)  # step lengths among which Adam's is chosen by hindsight


@dataclass(frozen=True)
class Effort:
    """What one attacker needs on one set of features.

    Attributes
    ----------
    steps : int or None
        First step within the tolerance, 0 where there is nothing more to learn; None where the run
        ended above it.
    taken : int
        Steps taken.
    above : float
        How far the last loss is above the best, see `ProbeTrace.above`.
    predicted : int or None
        What the closed form says the steps are, also beyond the run (constant step only).
    """

    steps: int | None
    taken: int
    above: float
    predicted: int | None = None

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.steps:,}" if self.steps else "nothing to learn"
        more = f", {self.predicted:.2g} needed" if self.predicted else ""
        return f"> {self.taken:,} ({self.above:.2g} above{more})"


@dataclass(frozen=True)
class Comparison(Tabular):
    """Attackers before and after immunization; ``print`` it for the table.

    Attributes
    ----------
    efforts : dict
        (before, after), each an :class:`Effort`, by method.
    tolerance : float
        Relative to the best loss, see `ProbeTrace.above`.
    kappa : (float, float)
        Condition number of the Hessian before and after.
    slow_share : (float, float)
        Share of the reducible loss along eigenvalues below a hundredth of the largest.
    """

    efforts: dict[str, tuple[Effort, Effort]]
    tolerance: float
    kappa: tuple[float, float]
    slow_share: tuple[float, float]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            (f"steps to within {self.tolerance:g} of the best loss", "before", "after")
        ]
        rows += [(LABELS[name], *map(str, pair)) for name, pair in self.efforts.items()]
        rows.append(("kappa", *(f"{value:.3g}" for value in self.kappa)))
        rows.append(("label energy in slow directions", *(f"{v:.2%}" for v in self.slow_share)))
        return "\n".join(aligned(rows))

    def _caption(self) -> str:
        return f"steps to within {self.tolerance:g} of the best loss"

    def _columns(self) -> Columns:
        pairs = self.efforts.values()
        return {
            "attacker": [*self.efforts],
            **{f"steps {when}": [p[k].steps for p in pairs] for k, when in enumerate(_WHEN)},
            **{f"taken {when}": [p[k].taken for p in pairs] for k, when in enumerate(_WHEN)},
            **{f"above {when}": [p[k].above for p in pairs] for k, when in enumerate(_WHEN)},
        }

    def as_dict(self) -> dict[str, Any]:
        """Every number as plain Python values.

        Examples
        --------
        >>> import numpy as np, immucond as ic
        >>> Z, y = np.array([[1, 0], [0, 1], [1, 1]]), [1, 0, 2]
        >>> compared = ic.probing.compare(Z, Z * [1, 9], y, methods=["cg"])
        >>> compared.as_dict()["attackers"]["cg"]["after"]["steps"]
        2
        """
        return {
            "tolerance": self.tolerance,
            "kappa": {"before": self.kappa[0], "after": self.kappa[1]},
            "slow_share": {"before": self.slow_share[0], "after": self.slow_share[1]},
            "attackers": {
                name: {"before": asdict(before), "after": asdict(after)}
                for name, (before, after) in self.efforts.items()
            },
        }


@underflow_is_zero
def compare(
    before: npt.ArrayLike, after: npt.ArrayLike, y: npt.ArrayLike, *,
    methods: Sequence[Method] | None = None, steps: int = 10_000, tolerance: float = 0.01,
    weight_decay: float = 0.0, computed_in: Any = None,
) -> Comparison:  # fmt: skip
    """Tell what an immunization is worth: the steps that each attacker needs before and after it.

    Parameters
    ----------
    before, after : (N, m) array_like
        Features of the harmful task without and with immunization, one row a sample.
    y : (N,) or (N, c) array_like
        Its targets.
    methods : sequence of str, optional
        Attackers, of those that :func:`probe` knows; all by default. Adam runs at four step
        lengths, 0.001 to 1, and the best counts.
    steps : int, default 10000
        Most steps that each may take.
    tolerance : float, default 0.01
        Done at a loss of ``(1 + tolerance)`` times the best, or where the features fit y exactly,
        of `tolerance` times that at w = 0.
    weight_decay, computed_in
        As in :func:`probe`.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError, TypeError, OverflowError
        As in :func:`probe`.

    Notes
    -----
    Ours. The last rows are the honest ones: kappa slows unpreconditioned first-order methods alone.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(2, 200, 4)) * [[[9, 3, 2, 1]], [[1, 1, 1, 1]]]
    >>> y = X_H @ [1, 2, 3, 4] + rng.normal(size=200)
    >>> theta = ic.linear.optimal_extractor(X_P=X_P, X_H=X_H)
    >>> print(ic.probing.compare(X_H, X_H @ theta, y, methods=["gd", "cg", "lstsq"]))
    steps to within 0.01 of the best loss  before  after
    gradient descent, line search               2     60
    conjugate gradients                         2      4
    least squares                               1      1
    kappa                                    1.34     70
    label energy in slow directions         0.00%  0.00%
    """
    if isinstance(methods, str) or not isinstance(methods, Iterable | None):
        raise TypeError(f"methods must be a sequence of names, and is {methods!r}")
    names: tuple[Any, ...] = tuple(METHODS if methods is None else methods)
    for name in names:
        check_choice(name, "methods", tuple(METHODS))
    if not names:
        raise ValueError(f"methods must name at least one of {', '.join(METHODS)}")
    goal = check_real(tolerance, "tolerance", low=0.0)
    for Z, given in zip((before, after), _WHEN, strict=True):
        as_targets(y, as_float64(Z, given).shape[0], "y", given)
    most = as_count(steps, "steps", least=1)
    traces: list[dict[str, ProbeTrace]] = []
    efforts: list[dict[str, Effort]] = []
    for Z, given in zip((before, after), _WHEN, strict=True):
        problem = Problem.of(Z, y, weight_decay, None, computed_in, given)
        runs = {name: _best(problem, name, most, goal) for name in names}
        traces.append(runs)
        efforts.append({
            name: Effort(
                steps=trace.steps_to(goal),
                taken=trace.loss.size - 1,
                above=float(trace.above[-1]),
                predicted=first_within(problem, goal) if name == "gd-constant" else None,
            )
            for name, trace in runs.items()
        })  # fmt: skip
    first = [runs[names[0]] for runs in traces]
    return Comparison(
        efforts={name: (efforts[0][name], efforts[1][name]) for name in names},
        tolerance=goal,
        kappa=(first[0].kappa, first[1].kappa),
        slow_share=(first[0].slow_share, first[1].slow_share),
    )


def _best(problem: Problem, name: str, most: int, goal: float) -> ProbeTrace:
    """Run, for Adam the one of all step lengths that is done first, or ends lowest."""
    lengths = _TUNED if name == "adam" else (step_length(name, None),)
    runs = [traced(problem, name, length, most, goal) for length in lengths]
    return min(runs, key=lambda run: (run.steps_to(goal) is None, run.loss.size, run.loss[-1]))
