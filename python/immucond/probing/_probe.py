"""What the attackers do to frozen features, step by step, and before and after immunization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._validate import FloatArray, as_count, as_float64, as_targets, check_choice, check_real
from ._attackers import METHODS, STEP_LENGTHS, Method, drive
from ._curve import first_within, predicted
from ._problem import Problem


@dataclass(frozen=True)
class ProbeTrace:
    """Loss and distance to the minimizer of a linear probe, step by step.

    Attributes
    ----------
    method : str
        The attacker.
    loss : (T + 1,) array
        ``||Z w_t - y||^2 + weight_decay ||w_t||^2``, summed over samples and heads; t = 0 is
        w = 0.
    norm_ratio : (T + 1,) array
        ``||w_t - w*||^2 / ||w_0 - w*||^2`` with w* the minimizer nearest to w_0.
    best_loss : float
        The smallest loss there is.
    above : (T + 1,) array
        How far `loss` is above the best, relative to it: with digits that the difference of the two
        would lose, and at any scale of y. Where the features fit y exactly, so that the best is 0
        (to rounding), it is relative to the loss at w = 0.
    kappa : float
        Condition number of the Hessian (with weight decay) over the directions that features use.
    rank : int
        Number of those directions.
    slow_share : float
        Share of the reducible loss that lies along eigenvalues below a hundredth of the largest.
        Where it is small, the loss falls fast whatever kappa is.
    curvature : (k,) array
        Eigenvalues of the Hessian relative to the largest, descending.
    energy : (k,) array
        Share of the reducible loss along each: the label energy.
    predicted_loss : (T + 1,) array or None
        What theory says of `loss`. For ``"gd-constant"`` it is exact; for ``"gd"``, ``"nesterov"``
        and ``"cg"`` an upper bound; nothing is known for the others.
    predicted_norm_ratio : (T + 1,) array or None
        The same of `norm_ratio`: an upper bound for these four (for ``"gd"`` the paper's Eq. 2);
        for the solvers an order of magnitude, from the digits that kappa costs.
    """

    method: str
    loss: FloatArray
    norm_ratio: FloatArray
    best_loss: float
    above: FloatArray
    kappa: float
    rank: int
    slow_share: float
    curvature: FloatArray
    energy: FloatArray
    predicted_loss: FloatArray | None
    predicted_norm_ratio: FloatArray | None

    def slow_energy(self, below: float = 0.01) -> float:
        """Share of the reducible loss along eigenvalues below this share of the largest.

        Examples
        --------
        >>> import numpy as np, immucond as ic
        >>> trace = ic.probing.probe(np.diag([1.0, 0.5, 0.1]), np.array([1.0, 1.0, 1.0]))
        >>> round(trace.slow_energy(0.3), 3), round(trace.slow_energy(0.02), 3)
        (0.667, 0.333)
        """
        limit = check_real(below, "below", low=0.0)
        return float(self.energy[self.curvature < limit].sum())

    def steps_to(self, tolerance: float) -> int | None:
        """First step that is `above` the best loss by at most the tolerance, or None.

        Examples
        --------
        >>> import immucond as ic
        >>> ic.probing.probe([[1, 0], [0, 1], [1, 1]], [1, 0, 2], method="cg").steps_to(0.01)
        2
        """
        hits = np.flatnonzero(self.above <= check_real(tolerance, "tolerance", low=0.0))
        return int(hits[0]) if hits.size else None


@underflow_is_zero
def probe(
    Z: npt.ArrayLike, y: npt.ArrayLike, *, method: Method = "gd", steps: int = 1000,
    weight_decay: float = 0.0, tolerance: float | None = None, lr: float | None = None,
    rank: int | None = None, computed_in: Any = None,
) -> ProbeTrace:  # fmt: skip
    """Fit linear heads to frozen features from w = 0, under the squared loss.

    Parameters
    ----------
    Z : (N, m) array_like
        Features, one row a sample.
    y : (N,) or (N, c) array_like
        Targets of one head, or of c heads.
    method : str
        ``"gd"``: gradient descent with exact line search, one step length for all heads, the
        attacker of the paper: ``norm_ratio[t] <= (1 - 1/kappa)^t``. ``"gd-constant"``: with a
        constant step. ``"nesterov"``: accelerated, told kappa. ``"cg"``: conjugate gradients, about
        ``sqrt(kappa)/2 ln(2/eps)`` steps. ``"lbfgs"``: with exact line search and ten pairs.
        ``"adam"``: full batch, constant step. ``"whitening"``: gradient descent on whitened
        features. ``"lstsq"``, ``"lstsq-float32"``: one least-squares solve, which kappa does not
        slow and only robs of digits.
    steps : int, default 1000
        Most steps taken.
    weight_decay : float, default 0
        mu in ``||Z w - y||^2 + mu ||w||^2``; caps kappa at ``(sigma_1 + mu) / mu``.
    tolerance : float, optional
        Stop as soon as the loss is within this factor of the best: ``(1 + tolerance)`` times; see
        `ProbeTrace.above`.
    lr : float, optional
        Step length of ``"gd-constant"`` in units of 1 / sigma_max, below 2 (default 1), or of
        ``"adam"`` in units of the root mean square entry of a head that fits y along the top
        eigenvector (default 0.01). It is for these two alone.
    rank : int, optional
        Known rank of Z.
    computed_in : dtype, optional
        Precision in which Z was computed; sets the tolerance that decides the rank.

    Returns
    -------
    ProbeTrace

    Raises
    ------
    ValueError
        For an unknown method, NaN, mismatched sizes, a negative weight decay, an lr out of range,
        or rank 0.
    TypeError
        For an lr that the method has no use for.
    OverflowError
        Where a loss, the condition number or the best head is not representable, or the weight
        decay is not beside the scale of Z.

    Notes
    -----
    Source: arXiv 2505.23760, Eq. 2 (the bound on the norm ratio). With feature rank below m the
    norm ratio is taken to the minimizer nearest to the start; it would stop falling otherwise. Adam
    leaves the range of ``Z^T`` and goes to another minimizer there. PyTorch's ``weight_decay=wd``
    is mu = wd / 2 for a summed loss, N wd / 2 for a mean one.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> Z, y = np.diag([1.0, 0.1]), np.array([1.0, 0.1])
    >>> trace = ic.probing.probe(Z, y, method="gd", steps=100)
    >>> bool(np.all(trace.norm_ratio <= (1 - 1 / trace.kappa) ** np.arange(101)))
    True
    """
    check_choice(method, "method", tuple(METHODS))
    most = as_count(steps, "steps", least=1)
    if tolerance is not None:
        check_real(tolerance, "tolerance", low=0.0)
    length = _step_length(method, lr)
    return _traced(
        Problem.of(Z, y, weight_decay, rank, computed_in), method, length, most, tolerance
    )


def _traced(
    problem: Problem, method: str, length: float, most: int, tolerance: float | None
) -> ProbeTrace:
    unit = problem.curvature_unit
    stop = 0.0 if tolerance is None else tolerance * problem.measure_of_loss * unit
    excess, distance = drive(METHODS[method](problem, length), most, stop)
    above = excess / unit / (problem.measure_of_loss or 1.0)
    h, start = problem.curvature, problem.excess
    energy = h * problem.error**2 / (start or 1.0)
    of_loss, of_norm = predicted(problem, method, length, np.arange(excess.size, dtype=np.float64))
    return ProbeTrace(
        method=method, loss=problem.loss_of(excess), norm_ratio=distance / (distance[0] or 1.0),
        best_loss=problem.best_loss * problem.loss_unit, above=above,
        kappa=float(h[0] / h[-1]), rank=h.size, slow_share=float(energy[h < 0.01 * h[0]].sum()),
        curvature=h, energy=energy,
        predicted_loss=None if of_loss is None else problem.loss_of(of_loss * start),
        predicted_norm_ratio=of_norm,
    )  # fmt: skip


def _step_length(method: str, lr: float | None) -> float:
    if method not in STEP_LENGTHS:
        if lr is not None:
            raise TypeError(f"lr is for {' and '.join(STEP_LENGTHS)}, {method} has no use for it")
        return 1.0
    length = check_real(STEP_LENGTHS[method] if lr is None else lr, "lr", low=0.0)
    if length == 0.0 or (method == "gd-constant" and length >= 2.0):
        above = " and below 2, where it diverges" if method == "gd-constant" else ""
        raise ValueError(f"lr must be above 0{above}, and is {length:g}")
    return length


# ---- before and after ----

# What tables call the attackers.
LABELS = {
    "gd": "gradient descent, line search", "gd-constant": "gradient descent, constant step",
    "nesterov": "Nesterov, kappa known", "cg": "conjugate gradients", "lbfgs": "L-BFGS",
    "adam": "Adam, step tuned", "whitening": "whitening, then descent", "lstsq": "least squares",
    "lstsq-float32": "least squares in float32",
}  # fmt: skip
_TUNED = (1e-3, 1e-2, 1e-1, 1.0)  # step lengths among which Adam's is chosen by hindsight


@dataclass(frozen=True)
class Effort:
    """What one attacker needs on one set of features.

    Attributes
    ----------
    steps : int or None
        First step within the tolerance; None where the run ended above it.
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
            return f"{self.steps:,}"
        more = f", {self.predicted:.2g} needed" if self.predicted else ""
        return f"> {self.taken:,} ({self.above:.2g} above{more})"


@dataclass(frozen=True)
class Comparison:
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
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}"
            for name, before, after in rows
        ]
        return "\n".join(lines)

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
    names: tuple[Any, ...] = tuple(METHODS if methods is None else methods)
    for name in names:
        check_choice(name, "methods", tuple(METHODS))
    if not names:
        raise ValueError(f"methods must name at least one of {', '.join(METHODS)}")
    goal = check_real(tolerance, "tolerance", low=0.0)
    for Z, given in ((before, "before"), (after, "after")):
        as_targets(y, as_float64(Z, given).shape[0], "y", given)
    most = as_count(steps, "steps", least=1)
    traces: list[dict[str, ProbeTrace]] = []
    efforts: list[dict[str, Effort]] = []
    for Z in (before, after):
        problem = Problem.of(Z, y, weight_decay, None, computed_in)
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
    lengths = _TUNED if name == "adam" else (_step_length(name, None),)
    runs = [_traced(problem, name, length, most, goal) for length in lengths]
    return min(runs, key=lambda run: (run.steps_to(goal) is None, run.loss.size, run.loss[-1]))
