"""What an extractor did to both tasks: Definition 3.1 and the RIR of the paper, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._condition import condition_number
from .._display import Columns, Tabular
from .._errors import underflow_is_zero
from .._format import SLACK, not_harder
from .._task import RankFrom, Root, span_of, warn_if_lost
from .._two_tasks import Ranks, roots
from .._validate import FloatArray, as_theta, check_real
from ._limit import ImmunityLimit, limit_of

Convention = Literal["exact", "ridge"]


@dataclass(frozen=True)
class ImmunityReport(Tabular):
    """Condition numbers of both tasks under theta, relative to a reference extractor.

    Attributes
    ----------
    kappa_P, kappa_H : float
        Condition numbers of H_P(theta) and H_H(theta).
    kappa_P_reference, kappa_H_reference : float
        The same under the reference extractor (the identity, unless one was given).
    rank_P, rank_H : int
        Ranks of H_P(theta) and H_H(theta).
    rank_from : {"X", "K", "given"}
        What decided the ranks: the inputs, their Gram matrices, or (either of them) the caller.
    limit : ImmunityLimit
        The most any invertible extractor can reach relative to the reference, in the exact
        convention.
    convention : {"exact", "ridge"}
        ``"exact"``: over the nonzero eigenvalues; ``"ridge"``: of ``H + ridge I``, which depends
        on the scale of theta and is not bounded by the limit.
    ridge : float
        What was added to the diagonals; 0 in the exact convention.
    """

    kappa_P: float
    kappa_H: float
    kappa_P_reference: float
    kappa_H_reference: float
    rank_P: int
    rank_H: int
    rank_from: RankFrom
    limit: ImmunityLimit
    convention: Convention
    ridge: float

    @property
    def i(self) -> float:
        """(i): how many times worse the harmful task is conditioned."""
        return self.kappa_H / self.kappa_H_reference

    @property
    def condition_a(self) -> bool:
        """Definition 3.1 (a): the harmful task became worse conditioned (by how much: ``i``)."""
        return self.i > 1.0 + SLACK

    @property
    def ii(self) -> float:
        """(ii): how many times worse (better, below 1) the primary task is conditioned."""
        return self.kappa_P / self.kappa_P_reference

    @property
    def condition_b(self) -> bool:
        """Definition 3.1 (b): the primary task did not become worse conditioned."""
        return self.ii <= 1.0 + SLACK

    @property
    def rir(self) -> float:
        """Relative immunization ratio, (i) / (ii)."""
        return self.i / self.ii

    @property
    def lost_rank(self) -> int:
        """Dimensions of the primary features that theta loses; 0 keeps every prediction open."""
        return self.limit.rank_P - self.rank_P

    @property
    def condition_c(self) -> bool:
        """Definition 3.1 (c): the best primary loss is kept, as the features keep their range."""
        return self.lost_rank == 0

    def __repr__(self) -> str:
        told = not_harder(self.i, self.rir)
        lost = f", lost_rank={self.lost_rank}" if self.lost_rank else ""
        ridge = f", ridge={self.ridge:g}" if self.ridge else ""
        return (
            f"ImmunityReport(i={self.i:.4g}, ii={self.ii:.4g}, rir={self.rir:.4g}"
            f"{f' ({told})' if told else ''}, "
            f"kappa_H={self.kappa_H_reference:.4g} -> {self.kappa_H:.4g}, "
            f"kappa_P={self.kappa_P_reference:.4g} -> {self.kappa_P:.4g}, "
            f"ranks=({self.rank_P}, {self.rank_H}){lost}, limit={self.limit.rir:.4g}, "
            f"convention={self.convention!r}{ridge})"
        )

    def _columns(self) -> Columns:
        return {
            "task": ["primary", "harmful"],
            "kappa_reference": [self.kappa_P_reference, self.kappa_H_reference],
            "kappa": [self.kappa_P, self.kappa_H],
            "times": [self.ii, self.i],
            "rank": [self.rank_P, self.rank_H],
        }


@underflow_is_zero
def immunity(
    theta: npt.ArrayLike, X_P: npt.ArrayLike | None = None, X_H: npt.ArrayLike | None = None, *,
    K_P: npt.ArrayLike | None = None, K_H: npt.ArrayLike | None = None, ridge: float = 0.0,
    reference: npt.ArrayLike | None = None, ranks: Ranks | None = None, computed_in: Any = None,
) -> ImmunityReport:  # fmt: skip
    """Measure how far theta immunizes: kappas, (i), (ii), RIR, and the limit beside them.

    Parameters
    ----------
    theta : (d, m) array_like
        Linear extractor.
    X_P, X_H, K_P, K_H, computed_in
        As in :func:`immunity_limit`.
    ridge : float, default 0
        With a positive ridge, condition numbers are those of ``H + ridge I``, the convention of
        the published code (1e-6 there). Not scale-invariant, and not bounded by the limit.
    reference : (d, m0) array_like, optional
        Extractor to compare with; the identity by default, the pre-trained one for RIR_theta0.
    ranks : (int or None, int or None), optional
        Known ranks of (K_P, K_H). An invertible theta keeps them, so they are never re-decided.

    Returns
    -------
    ImmunityReport

    Raises
    ------
    ValueError
        For NaN, mismatched sizes, a negative ridge, or a theta under which a task has rank 0.
    OverflowError
        Where a condition number passes 1.8e308, or with a ridge the features do.
    TypeError
        Unless both inputs or both Gram matrices are given.

    Warns
    -----
    AccuracyWarning
        Where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    Notes
    -----
    Source: arXiv 2505.23760, Definition 3.1 and its relative immunization ratio.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> report = ic.linear.immunity(np.diag([0.1, 1]), K_P=np.diag([100, 1]), K_H=np.diag([2, 1]))
    >>> report.condition_a, report.condition_b, report.condition_c
    (True, True, True)
    >>> round(report.i), round(1 / report.ii), round(report.rir)
    (25, 100, 2500)
    """
    ridge = check_real(ridge, "ridge", low=0.0)
    P, H = roots(X_P, X_H, K_P, K_H, ranks=ranks, computed_in=computed_in)
    warn_if_lost(P, H)
    compared = None if reference is None else as_theta(reference, P.dim, "reference")
    return report_of(P, H, as_theta(theta, P.dim), compared, ridge)


def report_of(
    P: Root, H: Root, theta: FloatArray, reference: FloatArray | None = None, ridge: float = 0.0
) -> ImmunityReport:
    """Report from the roots."""
    (kappa_P, rank_P), (kappa_H, rank_H) = _measure(P, H, theta, ridge, "theta")
    before = _measure(P, H, reference, ridge, "reference")
    (kappa_P_reference, _), (kappa_H_reference, _) = before
    limit = limit_of(P, H)
    if reference is not None:  # kappa_H <= kappa_M kappa_P is as it was, the RIR relative to it
        exact = _measure(P, H, reference, 0.0, "reference") if ridge else before
        limit = replace(limit, rir=limit.kappa_M * (exact[0][0] / exact[1][0]))
    return ImmunityReport(
        kappa_P=kappa_P, kappa_H=kappa_H, kappa_P_reference=kappa_P_reference,
        kappa_H_reference=kappa_H_reference, rank_P=rank_P, rank_H=rank_H,
        rank_from="given" if "given" in (P.rank_from, H.rank_from) else P.rank_from,
        limit=limit, convention="ridge" if ridge else "exact", ridge=ridge,
    )  # fmt: skip


def _measure(
    P: Root, H: Root, theta: FloatArray | None, ridge: float, name: str
) -> list[tuple[float, int]]:
    """(kappa, rank) of H_P and H_H, by the features ``R theta`` whose Gram matrices they are.

    None stands for the identity.
    """
    span = None if theta is None else span_of(theta)
    measured = []
    for root, task in ((P, "primary"), (H, "harmful")):
        rank = root.rank_within(span)
        if rank == 0:
            raise ValueError(f"{name} maps the {task} inputs to 0: H has rank 0 and no kappa")
        if ridge:
            with np.errstate(over="ignore", invalid="ignore"):
                features = root.matrix if theta is None else root.matrix @ theta
                features = root.scale * features
            if not np.isfinite(features).all():
                raise OverflowError(
                    f"{root.name} under {name} passes 1.8e308, beside which a ridge of {ridge:g} "
                    f"is nothing: scale {root.name} down"
                )
            kappa = condition_number(features=features, ridge=ridge)
        else:
            features = root.matrix if theta is None else root.matrix @ (theta / np.max(abs(theta)))
            kappa = condition_number(features=features, rank=rank)
        measured.append((kappa, rank))
    return measured
