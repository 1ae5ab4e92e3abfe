"""The regularizer that keeps a task's labels out of the directions where descent is fast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ._errors import underflow_is_zero
from ._gram import gram
from ._labels import labels_of
from ._validate import FloatArray, as_float64

# What centring leaves of numbers of about 1 that are all the same.
_ROUNDING = 4.0 * float(np.finfo(np.float64).eps)


class AlignmentRegularizer:
    r"""``r_align = ||Z^T Y||_F^2 / (sigma_1 ||Y||_F^2)``, with sigma_1 the top of ``Z^T Z``.

    The label alignment of :func:`immucond.linear.alignment` times the share of the labels that the
    features explain; descending on it (on its logarithm, to be free of scale) makes plain gradient
    descent slow on these labels. It needs the top singular pair alone, so that features in single
    precision lose nothing. Features and targets are centred, as a probe with an intercept sees
    them; on uncentred features the regularizer could be cheated by a large mean.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> Z = np.vstack([np.diag([2.0, 1.0]), -np.diag([2.0, 1.0])])
    >>> y = np.array([0.0, 1.0, 0.0, -1.0])  # all of it in the slow direction
    >>> round(ic.r_align(Z, y), 12)
    0.25
    """

    name = "r_align"

    def __call__(self, Z: npt.ArrayLike, Y: npt.ArrayLike, *, center: bool = True) -> float:
        """Value at features Z (N x m) and targets Y (N,) or (N x c), or labels (N,)."""
        return self._parts(Z, Y, center)[0]

    def value_and_grad_features(
        self, Z: npt.ArrayLike, Y: npt.ArrayLike, *, center: bool = True
    ) -> tuple[float, FloatArray]:
        r"""Value and its gradient by the features.

        .. math::

            \frac{2 Y Y^T Z / \sigma_1 - 2 (\|Z^T Y\|_F^2 / \sigma_1^2) Z v_1 v_1^T}{\|Y\|_F^2},

        of centred Z and Y; where sigma_1 is not simple, a subgradient.

        Parameters
        ----------
        Z : (N, m) array_like
            Features, one row a sample.
        Y : (N,) or (N, c) array_like
            Targets, or one label a row: integers, bools and strings name classes.
        center : bool, default: True
            Whether both are centred first.

        Returns
        -------
        float, (N, m) array

        Raises
        ------
        ValueError
            For NaN, mismatched rows, and features or targets that are zero (constant, if centred).
        OverflowError
            Where the gradient is beyond the float range.

        Notes
        -----
        Ours.
        """
        value, A, y, scale, v, top = self._parts(Z, Y, center)
        b = A.T @ y
        direction = np.outer(A @ v, v)
        by_features: FloatArray = (2.0 / top) * (y @ b.T) - (2.0 * value / top) * direction
        with np.errstate(over="ignore", under="ignore"):
            grad = by_features / scale
        if not np.isfinite(grad).all():
            raise OverflowError(
                "the gradient passes 1.8e308: the largest entry of Z, centred, is "
                f"{scale:.3g}; scale Z up"
            )
        return value, grad

    @underflow_is_zero
    def _parts(
        self, Z: npt.ArrayLike, Y: npt.ArrayLike, center: bool
    ) -> tuple[float, FloatArray, FloatArray, float, FloatArray, float]:
        """Value, Z and Y at unit scale, the scale of Z, the top singular vector and sigma_1."""
        A = as_float64(Z, "Z")
        y = labels_of(Y, A.shape[0], "Y", "Z", batch=True)
        A, scale = _at_unit(A, center, "Z is {}: the features see no labels")
        y, _ = _at_unit(y, center, "Y is {}: there are no labels to align with")
        y /= np.linalg.norm(y)
        top, v = _top(A)
        return float(np.sum((A.T @ y) ** 2)) / top, A, y, scale, v, top

    def __repr__(self) -> str:
        return "r_align"


def _at_unit(x: FloatArray, center: bool, otherwise: str) -> tuple[FloatArray, float]:
    """Return it, centred if asked, with entries up to 1, and the unit; refuse what is nothing."""
    largest = float(np.max(np.abs(x))) or 1.0
    x = x / largest
    x = x - x.mean(axis=0) if center else x
    size = float(np.max(np.abs(x)))
    if size <= _ROUNDING:
        raise ValueError(otherwise.format("constant" if center else "zero"))
    return x / size, size * largest


def _top(A: FloatArray) -> tuple[float, FloatArray]:
    """Largest eigenvalue of ``A^T A`` and its unit vector, by the smaller Gram matrix."""
    tall = A.shape[0] >= A.shape[1]
    H = gram(A if tall else A.T)
    last = H.shape[0] - 1
    values, vectors = scipy.linalg.eigh(H, subset_by_index=[last, last])
    v: FloatArray = vectors[:, 0] if tall else A.T @ vectors[:, 0]
    return float(values[0]), v / np.linalg.norm(v)


r_align = AlignmentRegularizer()
