"""Fade: the least change of the primary features that makes the harmful labels slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import AccuracyWarning, ImmunityWarning, underflow_is_zero, warn
from .._rank import default_rtol
from .._svd import svd
from .._task import Root, root_of, warn_if_lost
from .._two_tasks import Ranks, known_ranks
from .._validate import FloatArray, check_choice, check_real
from ._alignment_limit import (
    PrimaryHead,
    given_tasks,
    orthonormal,
    primary_head,
    slow_extractor,
    slow_share,
)
from ._factored import Factored, factored
from ._fade_map import FadeMap, Form
from ._labelled import LabelledTask

# A share of the labels whose staying is worth a warning.
_MATTERS = 1e-3


@underflow_is_zero
def fade(
    X_P: npt.ArrayLike | None = None, X_H: Any = None, Y_H: Any = None, *, tau: float = 1e4,
    form: Form = "near", Y_P: npt.ArrayLike | None = None, protect: bool = False,
    delta: float = 0.0, center: bool = True, K_P: npt.ArrayLike | None = None,
    b_P: npt.ArrayLike | None = None, K_H: Any = None, b_H: Any = None, energy_H: Any = None,
    ranks: Ranks | None = None, computed_in: Any = None,
) -> FadeMap:  # fmt: skip
    r"""Fade the harmful labels out of the features, at the least change of the primary ones.

    Among all A with :math:`A^T Z_H^T Y_H = Z_H^T Y_H / \sqrt\tau`,

    .. math::

        A = I - (1 - 1/\sqrt\tau)\, \Pi, \qquad
        \Pi = K_P^{-1} b_0 (b_0^T K_P^{-1} b_0)^+ b_0^T, \qquad b_0 = Z_H^T Y_H

    changes the primary features least in :math:`\|Z_P (A - I)\|_F`. The rank of :math:`\Pi` is at
    most c - 1 for c (centred) classes, the inverse of A :math:`I + (\sqrt\tau - 1) \Pi`, and with
    the head :math:`A^{-1} \omega` every primary prediction stays. An infinite tau erases: no affine
    probe with a convex loss then does better than a constant on rows of this cross-covariance.

    It is invertible for every finite tau, so it is a lock: an attacker who whitens the features,
    or solves for the least squares, is not slowed at all.

    Parameters
    ----------
    X_P : (N_P, d) array_like
        Primary inputs.
    X_H, Y_H : (N_H, d) array_like, (N_H,) or (N_H, c) array_like
        Harmful inputs and targets or labels, as in :func:`alignment`; lists for several tasks.
    tau : float, default: 1e4
        At least 1. The label's part in the features shrinks by its square root; ``inf`` erases.
    form : {"near", "whitened"}, default: "near"
        ``"whitened"``: ``K_P^-1/2 (sqrt(tau) P' + P_b)``, whose alignment is within a known factor
        of :func:`alignment_limit`, and which changes the primary features altogether; for harmful
        labels within range(K_P).
    Y_P : array_like, optional
        Primary targets or labels, for `protect` and to tell how much of the primary head fades.
    protect : bool, default: False
        Whether directions of the primary head are left out of what fades: what both tasks' labels
        share stays fast.
    delta : float, default: 0
        Added to the diagonal of K_P, in its units. Without it, directions that no primary row uses
        are free: harmful labels fade there first, at no cost to the primary features, by a map that
        is ill-conditioned (:attr:`FadeMap.kappa`) where harmful rows hardly use them either.
    center, K_P, b_P, K_H, b_H, energy_H, ranks, computed_in
        As in :func:`alignment_limit`.

    Returns
    -------
    FadeMap

    Raises
    ------
    ValueError
        For a tau below 1, NaN, mismatched sizes, constant labels, a protection that leaves
        nothing to fade, or the whitened form where labels lie in null(K_P).

    Warns
    -----
    ImmunityWarning
        Where the features do not see the harmful labels: nothing fades. Where all features fade
        alike, as their labels span them: nothing is slower for it.
    AccuracyWarning
        Where rounding in K_P is as large as half its smallest eigenvalue; where labels beside
        range(K_P) cannot be told from its rounding, and stay.

    Notes
    -----
    Ours; at an infinite tau it is LEACE (Belrose et al., 2023) in the metric of the primary task.

    From Gram matrices it costs a Cholesky factorization of K_P and solves with the labels; for
    a singular K_P a pivoted one and its QR, a third of an eigendecomposition. Where the factor does
    not settle the rank (but for a chance of 1e-10), eigenvectors do. K_H has no part in the map: it
    is looked at, and examined in full when an alignment is first asked for.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> faded = ic.linear.fade(K_P=np.eye(2), K_H=np.diag([4.0, 1.0]), b_H=[2.0, 0.0], tau=100.0)
    >>> faded.theta.round(12)
    array([[0.1, 0. ],
           [0. , 1. ]])
    >>> round(faded.rho_before, 12), round(faded.rho, 12)
    (1.0, 0.04)
    """
    added = check_real(delta, "delta", low=0.0)
    rank_P, _ = known_ranks(ranks)
    keywords: dict[str, Any] = {"rank": rank_P, "computed_in": computed_in}
    P: Root | Factored | None = None
    if K_P is not None and X_P is None and form == "near" and added == 0.0:
        P = factored(K_P, "K_P", **keywords)
    if P is None:
        P = root_of(X_P, K_P, "X_P", "K_P", **keywords).plus(added)
        warn_if_lost(P)
    tasks = given_tasks(
        X_H, Y_H, K_H, b_H, energy_H, center=center, ranks=ranks, computed_in=computed_in, beside=P
    )
    head = primary_head(P, X_P, Y_P, b_P, center=center)
    if protect and head is None:
        raise TypeError("protect=True needs the primary labels: give Y_P, or b_P beside K_P")
    faded = fade_of(P, tasks, head, tau=tau, form=form, protect=protect, delta=added)
    if not faded.left.shape[1]:
        left = "the identity" if form == "near" else "that which whitens K_P"
        warn(
            f"the harmful features do not see their labels, Z_H^T Y_H is 0: the map is {left}",
            ImmunityWarning,
        )
    elif faded.left.shape[1] == P.dim and faded.tau > 1.0:
        what = "are erased: nothing of the primary task is left"
        if math.isfinite(faded.tau):
            what = "fade alike: that slows nothing"
        warn(f"the harmful labels span all {P.dim} features, which {what}", ImmunityWarning)
    return faded


def fade_of(
    P: Root | Factored, tasks: Sequence[LabelledTask], head: PrimaryHead | None = None, *,
    tau: float = 1e4, form: Form = "near", protect: bool = False, delta: float = 0.0,
) -> FadeMap:  # fmt: skip
    """Map from the root of the primary task (to which delta has been added) and labelled tasks."""
    strength = check_real(tau, "tau", low=1.0, closed=True)
    check_choice(form, "form", ("near", "whitened"))
    if form == "whitened" and strength == math.inf:
        raise ValueError('tau must be finite for form="whitened"; form="near" erases')
    # Each task counts alike, whatever the units of its rows.
    columns = [task.basis_of_cross() for task in tasks]
    sizes = [float(np.linalg.norm(part)) or 1.0 for part in columns]
    b = np.hstack([part / size for part, size in zip(columns, sizes, strict=True)])
    rounding = max(task.rounding / size for task, size in zip(tasks, sizes, strict=True))
    free = P.to_null(b)
    whole = P.whitened(b.T).T
    within, least = whole, 0.0
    if protect and head is not None:
        within, least = _outside(P, head, whole, rounding)
    u, s, vt, q = _beside(P, b, within, free, rounding)
    if q and form == "whitened":
        raise ValueError(
            f'form="whitened" needs harmful labels within the range of K_P, of rank {P.rank} of '
            f'{P.dim}, and {q} directions of them lie beside it: take form="near", or delta > 0'
        )
    stays = float(np.linalg.norm(s[q:])) / (float(np.linalg.norm(b)) or 1.0)
    if stays > max(strength**-0.5, _MATTERS):
        warn(
            f"a share of {stays:.2g} of the harmful labels lies beside "
            f"range(K_P), of rank {P.rank} of {P.dim}, cannot be told from its rounding, and does "
            "not fade: give inputs in place of Gram matrices, or delta > 0",
            AccuracyWarning,
        )
    kernel = within @ vt[q:].T if q else within
    Q = orthonormal(kernel, within.shape, least)
    if protect and b.shape[1] and not q + Q.shape[1]:
        outside = float(np.linalg.norm(within) / np.linalg.norm(whole))
        raise ValueError(
            "protect=True leaves nothing to fade: the harmful labels lie in the directions "
            f"of the primary head, but for a share of {outside:.2g}, which is rounding"
        )
    left = P.unwhitened(Q)
    right = P.transposed(Q)
    if q:
        # b = R^T within + N free, all of it.
        given = P.matrix.T @ within + P.from_null(free)
        rest = (given - right @ (Q.T @ within)) @ (vt[:q].T / s[:q])
        left = np.hstack([left, P.from_null(u[:, :q])])
        right = np.hstack([right, rest])
    whitening = None
    if form == "whitened":
        whitening = slow_extractor(P.root, Q, strength)
    return FadeMap(
        left=left, right=right, tau=strength, form=form, protected=1.0 - slow_share(head, Q),
        delta=delta, whitening=whitening, _given=P, _tasks=tuple(tasks),
    )  # fmt: skip


def _beside(
    P: Root | Factored, b: FloatArray, within: FloatArray, free: FloatArray, rounding: float
) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    """SVD of ``N^T b``, the labels beside range(K_P), and how many values are no rounding.

    Labels with a part there fade there, where no primary row is; what has none fades within.
    """
    if not len(free):
        return free, np.empty(0), np.eye(b.shape[1]), 0
    u, s, vt = svd(free, full_matrices=free.shape[0] < free.shape[1])
    # By as much as rounding of K_P, or of its inputs, may have turned its null space.
    turned = P.rtol * P.frobenius
    if P.rounding > 0.0:  # of a Gram matrix, whose rounding acts on the squares
        turned *= turned * float(np.linalg.norm(P.unwhitened(within)))
    else:
        turned *= float(np.linalg.norm(within))
    own = default_rtol(b.shape, np.float64) * float(np.linalg.norm(b))
    return u, s, vt, int(np.count_nonzero(s > max(turned, own, rounding)))


def _outside(
    P: Root | Factored, head: PrimaryHead, within: FloatArray, rounding: float
) -> tuple[FloatArray, float]:
    """Labels outside the primary head's directions, and what rounding makes of labels inside."""
    lead = orthonormal(head.whitened, head.whitened.shape)
    share = head.rounding / float(np.linalg.norm(head.whitened))
    inverse = math.sqrt(P.kappa * P.rank) / P.frobenius  # ||R^+|| at most
    least = inverse * (rounding + share * float(np.linalg.norm(within)))
    return np.asarray(within - lead @ (lead.T @ within)), least
