"""One extractor for several primary tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special

from .._condition import condition_number
from .._display import Columns, Tabular
from .._errors import underflow_is_zero
from .._svd import svd
from .._task import Root, root_of, warn_if_lost
from .._two_tasks import by_inputs
from .._validate import FloatArray, as_array, as_count, as_delta, as_float64
from ._extractor import extractor_of
from ._limit import kappa_of_pencil

# Smoothed extremes, ever sharper; each stage starts where the last one ended.
_SHARPNESS = (4.0, 32.0, 256.0)
# Along the frontier kappa_H and kappa_P grow alike: a weight above 1 drives back within the caps.
_PENALTY = 2.0
_HALVINGS = 50
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class JointImmunity(Tabular):
    """An extractor for several primary tasks, and how far from the best it can be.

    Attributes
    ----------
    theta : (d, d) array
        The best extractor found, invertible.
    kappa_P : tuple of float
        Condition numbers of the primary tasks under theta.
    kappa_H : float
        Condition number of the harmful task under theta.
    i : float
        (i), of the harmful task.
    ii : tuple of float
        (ii), of each primary task.
    caps : tuple of float
        The most that each of `kappa_P` was allowed.
    bound : float
        ``min_i kappa(M_i) caps[i]``: no theta within the caps has a larger kappa_H.
    """

    theta: FloatArray
    kappa_P: tuple[float, ...]
    kappa_H: float
    i: float
    ii: tuple[float, ...]
    caps: tuple[float, ...]
    bound: float

    @property
    def rir(self) -> float:
        """``i / max(ii)``: the RIR beside the primary task that fares worst."""
        return self.i / max(self.ii)

    @property
    def gap(self) -> float:
        """``bound / kappa_H``: by how much the best theta may be better; 1 where none is."""
        return max(1.0, self.bound / self.kappa_H)  # less is rounding

    def __repr__(self) -> str:
        return (
            f"JointImmunity(i={self.i:.4g}, rir={self.rir:.4g}, gap={self.gap:.3g}, "
            f"kappa_H={self.kappa_H:.4g}, {len(self.ii)} primary tasks, theta {self.theta.shape})"
        )

    def _columns(self) -> Columns:
        return {
            "primary task": list(range(len(self.ii))),
            "kappa_P": self.kappa_P,
            "ii": self.ii,
            "cap": self.caps,
        }


@underflow_is_zero
def joint_extractor(
    K_P: Sequence[npt.ArrayLike] | None = None, K_H: npt.ArrayLike | None = None, *,
    X_P: Sequence[npt.ArrayLike] | None = None, X_H: npt.ArrayLike | None = None,
    kappa_P: float | Sequence[float] | None = None, delta: float | tuple[float, float] = 0.0,
    iterations: SupportsIndex = 200, computed_in: Any = None,
) -> JointImmunity:  # fmt: skip
    r"""Immunize against one harmful task while keeping several primary tasks easy.

    Every theta obeys :math:`\kappa(H_H) \le \min_i \kappa(M_i)\, \kappa(H_{P,i})`. With one task
    that is attained; with several it need not be, so a solver looks for a theta of large
    :math:`\kappa(H_H)` with :math:`\kappa(H_{P,i}) \le \tau_i`: L-BFGS on smoothed logarithms, from
    each task's own optimum, drawn within the caps. That set is convex in theta theta^T, kappa(H_H)
    is not concave on it: what is found is a local maximum, and `gap` says how much can be left.

    Parameters
    ----------
    K_P : sequence of (d, d) array_like
        Gram matrices of the primary tasks, each positive definite.
    K_H : (d, d) array_like
        Gram matrix of the harmful task, positive definite.
    X_P, X_H : sequence of (N_i, d) array_like, and (N_H, d) array_like
        The inputs instead: keeps twice the digits.
    kappa_P : float or sequence of float, optional
        The most that the condition number of each primary task may become, tau_i. By default what
        it is under the identity: condition (b) for every task.
    delta : float or (float, float), default 0
        Added to the diagonals of (every K_P, K_H).
    iterations : int, default 200
        Most iterations of L-BFGS from each start at each of three sharpnesses. One costs a singular
        value decomposition a task.
    computed_in : dtype, optional
        Precision in which the inputs were computed.

    Returns
    -------
    JointImmunity

    Raises
    ------
    ValueError
        For NaN, mismatched sizes, no primary task, a Gram matrix that is singular, or caps that no
        extractor was found to keep.
    TypeError
        Unless both inputs or both Gram matrices are given.

    Warns
    -----
    AccuracyWarning
        Where rounding in a Gram matrix is as large as half its smallest eigenvalue.

    Notes
    -----
    Ours; the bound is that of :func:`immunity_limit`, taken over the primary tasks.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> tasks = np.diag([100.0, 10.0, 1.0]), np.diag([50.0, 1.0, 1.0])
    >>> found = ic.linear.joint_extractor(tasks, np.diag([3.0, 2.0, 1.0]))
    >>> round(max(found.ii), 6), round(found.i), round(found.gap, 2)
    (1.0, 278, 2.0)
    """
    delta_P, delta_H = as_delta(delta)
    inputs = by_inputs((X_P, X_H, K_P, K_H))
    primary = X_P if inputs else K_P
    assert primary is not None
    if not isinstance(primary, Iterable):
        name = "X_P" if inputs else "K_P"
        raise TypeError(f"{name} must be a sequence of matrices, one a task, and is {primary!r}")
    given = list(primary)
    if not given:
        raise ValueError(f"{'X_P' if inputs else 'K_P'} must hold at least one primary task")
    P = [
        root_of(
            task if inputs else None, None if inputs else task, f"X_P[{i}]", f"K_P[{i}]",
            computed_in=computed_in,
        ).plus(delta_P)
        for i, task in enumerate(given)
    ]  # fmt: skip
    H = root_of(X_H, K_H, "X_H", "K_H", computed_in=computed_in).plus(delta_H)
    for root in (*P, H):
        if root.dim != H.dim:
            raise ValueError(f"{root.name} must have {H.dim} columns, as {H.name}, got {root.dim}")
        if root.rank < root.dim:
            raise ValueError(
                f"{root.name} has rank {root.rank} of {root.dim}, and every task must be definite: "
                f"give delta > 0"
            )
    warn_if_lost(*P, H)
    caps = _caps(kappa_P, P)
    most = as_count(iterations, "iterations", least=1)

    # The mean of the primary tasks is whitened, for the solver to see well-scaled variables.
    matrices = [task.matrix for task in P]
    mean = root_of(np.vstack(matrices), None, "X_P", "K_P", rank=H.dim)
    whiten = mean.vectors / mean.sigma
    search = _Search([R @ whiten for R in matrices], H.matrix @ whiten, np.log(caps))
    starts: list[FloatArray] = [
        np.linalg.solve(  # type: ignore[misc]
            whiten, extractor_of(task, H, kappa_P=cap, rotate=False)
        )
        for task, cap in zip(P, caps, strict=True)
    ]
    identity = mean.sigma[:, None] * mean.vectors.T  # whiten times it is the identity
    inside = search.inside([identity, *starts], most)
    candidates = [inside]
    for start in starts:
        begin = search.drawn_within(start, inside)
        candidates += [begin, *search.descend(begin, most, 1.0)]  # near the caps or within
    B = max((search.drawn_within(B, inside) for B in candidates), key=search.harmful)
    theta = whiten @ B
    theta /= np.linalg.norm(theta)
    kappas = [condition_number(features=A @ theta, rank=H.dim) for A in (H.matrix, *matrices)]
    return JointImmunity(
        theta=theta, kappa_P=tuple(kappas[1:]), kappa_H=kappas[0], i=kappas[0] / H.kappa,
        ii=tuple(kappa / task.kappa for kappa, task in zip(kappas[1:], P, strict=True)), caps=caps,
        bound=min(kappa_of_pencil(task, H) * cap for task, cap in zip(P, caps, strict=True)),
    )  # fmt: skip


def _caps(kappa_P: float | Sequence[float] | None, P: list[Root]) -> tuple[float, ...]:
    if kappa_P is None:
        return tuple(task.kappa for task in P)
    caps = as_float64(np.atleast_1d(as_array(kappa_P, "kappa_P", ndim=None)), "kappa_P", ndim=1)
    if caps.size not in (1, len(P)) or np.any(caps < 1.0):
        raise ValueError(
            f"kappa_P must be a number of at least 1, or {len(P)} of them, one a primary task, "
            f"got {kappa_P!r}"
        )
    if P[0].dim == 1:
        caps = np.ones(1)  # one direction has no other condition number
    return tuple(np.broadcast_to(caps, len(P)).tolist())


class _Search:
    """Climbs in kappa_H within the caps, over B with theta = whiten B."""

    def __init__(self, P: list[FloatArray], H: FloatArray, log_caps: FloatArray) -> None:
        self._P, self._H, self._log_caps = P, H, log_caps

    def harmful(self, B: FloatArray) -> float:
        """``log kappa_H``."""
        return _log_kappa(self._H @ B)

    def excess(self, B: FloatArray) -> float:
        """By how much the worst of ``log kappa_P`` passes its cap."""
        return float(np.max(np.array([_log_kappa(A @ B) for A in self._P]) - self._log_caps))

    def inside(self, known: list[FloatArray], most: int) -> FloatArray:
        """Find a point within the caps: the one farthest inside, up to smoothing."""
        points = self.descend(np.eye(self._H.shape[1]), most, 0.0)
        best = min([*points, *known], key=self.excess)
        if (excess := self.excess(best)) > _ROUNDING:
            raise ValueError(
                f"kappa_P is out of reach: the best extractor found exceeds its caps by a factor "
                f"{np.exp(excess):.4g}"
            )
        return best

    def drawn_within(self, B: FloatArray, inside: FloatArray) -> FloatArray:
        """Last point within the caps on the way from `inside` to B.

        The way is straight in ``B B^T``, in which the set within the caps is convex.
        """
        B, inside = B / np.linalg.norm(B), inside / np.linalg.norm(inside)
        if self.excess(B) <= _ROUNDING:
            return B
        low, high, best = 0.0, 1.0, inside
        for _ in range(_HALVINGS):
            t = (low + high) / 2
            stacked = np.hstack([np.sqrt(t) * B, np.sqrt(1.0 - t) * inside])
            R: FloatArray = np.linalg.qr(stacked.T, mode="r")  # type: ignore[assignment]
            between = R.T
            if self.excess(between) <= _ROUNDING:
                low, best = t, between
            else:
                high = t
        return best

    def descend(self, B: FloatArray, most: int, harmful: float) -> list[FloatArray]:
        """Minimize what is above the caps, less `harmful` times ``log kappa_H``."""
        points = []
        for sharpness in _SHARPNESS:
            found = scipy.optimize.minimize(
                self._smoothed(sharpness, B.shape, harmful), B.ravel(), jac=True,
                method="L-BFGS-B", options={"maxiter": most},
            )  # fmt: skip
            B = found.x.reshape(B.shape) / np.linalg.norm(found.x)
            points.append(B)
        return points

    def _smoothed(
        self, sharpness: float, shape: tuple[int, ...], harmful: float
    ) -> Callable[[FloatArray], tuple[float, FloatArray]]:
        def objective(x: FloatArray) -> tuple[float, FloatArray]:
            B = x.reshape(shape)
            primary = [_smooth_log_kappa(A, B, sharpness) for A in self._P]
            excess = np.array([value for value, _ in primary]) - self._log_caps
            if harmful:  # no reward for staying below the caps
                excess = np.append(excess, 0.0)
            top = float(scipy.special.logsumexp(sharpness * excess)) / sharpness
            weights = scipy.special.softmax(sharpness * excess)
            value, grad = _PENALTY * top, np.zeros(shape)
            for weight, (_, by_B) in zip(weights, primary, strict=False):
                grad += _PENALTY * weight * by_B
            if harmful:
                kappa, by_B = _smooth_log_kappa(self._H, B, sharpness)
                value, grad = value - harmful * kappa, grad - harmful * by_B
            return value, grad.ravel()

        return objective


def _log_kappa(Z: FloatArray) -> float:
    s = np.linalg.svd(Z, compute_uv=False)
    return 2.0 * float(np.log(s[0]) - np.log(s[-1])) if s[-1] > 0.0 else math.inf


def _smooth_log_kappa(A: FloatArray, B: FloatArray, sharpness: float) -> tuple[float, FloatArray]:
    """``log kappa((A B)^T A B)`` with log-sum-exp for both ends, and its gradient by B."""
    u, s, vt = svd(A @ B, full_matrices=False)
    s = np.maximum(s, np.finfo(np.float64).tiny)
    logs = 2.0 * np.log(s)
    value = sum(float(scipy.special.logsumexp(sign * sharpness * logs)) for sign in (1.0, -1.0))
    ends = scipy.special.softmax(sharpness * logs) - scipy.special.softmax(-sharpness * logs)
    return value / sharpness, A.T @ ((u * (2.0 * ends / s)) @ vt)
