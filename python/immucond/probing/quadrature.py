"""Spectral measures from a few products: bidiagonalization, and the Gauss rules that it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .._svd import svd
from .._validate import FloatArray, check_real

Product = Callable[[FloatArray], FloatArray]

_UNIT = math.ldexp(1.0, -53)  # unit roundoff of float64


@dataclass(frozen=True)
class Bidiagonal:
    r"""``Z V = U B`` and ``Z^T U_k = V B_k^T`` after k products with Z and with its transpose.

    Head by head, started at ``U e_1 = y / ||y||``: B ((k + 1) x k) is lower bidiagonal, B_k its
    first k rows. ``B_k B_k^T`` is the Jacobi matrix of the measure that y has in the eigenbasis of
    ``Z Z^T``, and ``B B^T`` the same with a node at zero added.

    Attributes
    ----------
    alpha, beta : (c, k) array
        Diagonal of B, and what stands below it.
    norms : (c,) array
        Norm of each head's y.
    basis : (c, k, m) array
        Rows of V^T.
    neglected : float
        A bound on ``||E||_2`` for some E with which, in place of Z, ``Z + E`` fulfils both
        equations with orthonormal U and V: what reorthogonalization took away, how far the bases
        are from orthonormal, both as measured; rounding excepted, see :meth:`backward_error`.
    defect : float
        ``||U^T U - I||`` and ``||V^T V - I||``, their sum, the largest of a head.
    """

    alpha: FloatArray
    beta: FloatArray
    norms: FloatArray
    basis: FloatArray
    neglected: float
    defect: float

    @property
    def products(self) -> int:
        """Number of products, k."""
        return int(self.alpha.shape[1])

    def backward_error(self, size: int, frobenius: float) -> float:
        """Bound on ``||E||_2`` where all is exact for Z + E, rounding included.

        For Z of spectral norm 1 at most, with so many rows and columns in all and this Frobenius
        norm, whose products may sum in any order; that of the rules' decompositions is included.
        """
        k = self.products
        rounding = 2.0 * math.sqrt(k) * gamma(size + 4 * k + 10) * frobenius + gamma(64 * (k + 1))
        return self.neglected + 4.0 * self.defect + rounding

    def ended(self) -> tuple[Bidiagonal, float]:
        """Return all products but the last, and a bound on ``||E||_2`` for which no more tell more.

        Without its smallest alpha a head has no part in what comes after: once for E, and once for
        what these products still have of it.
        """
        left = float(self.alpha[:, 1:].min(axis=1).max())
        kept = replace(
            self, alpha=self.alpha[:, :-1], beta=self.beta[:, :-1], basis=self.basis[:, :-1]
        )
        return kept, 2.0 * left

    def least_residuals(self) -> FloatArray:
        """``min ||p(Z Z^T) y||`` over the polynomials of degree t with p(0) = 1: (c, k + 1).

        What LSQR, and so conjugate gradients, leave after t = 0, ..., k products; Paige & Saunders
        (ACM TOMS 1982), section 4.
        """
        left = self.norms[:, None] * np.ones(1 + self.products)
        diagonal = self.alpha[:, 0]
        for t in range(self.products):
            rho = np.hypot(diagonal, self.beta[:, t])
            sine = np.divide(self.beta[:, t], rho, out=np.ones_like(rho), where=rho > 0.0)
            left[:, t + 1] = left[:, t] * sine
            if t + 1 < self.products:
                cosine = np.divide(diagonal, rho, out=np.zeros_like(rho), where=rho > 0.0)
                diagonal = cosine * self.alpha[:, t + 1]
        return left

    def least_squares_head(self) -> FloatArray:
        """Return the (c, m) heads at which the last of :meth:`least_residuals` is reached."""
        first = np.zeros((len(self.norms), self.products + 1, 1))
        first[:, 0, 0] = self.norms
        heads = np.linalg.pinv(self._matrix()) @ first
        return np.asarray(np.einsum("ckm,ckl->cm", self.basis, heads))

    def largest_ritz(self) -> tuple[float, float]:
        """Largest node of the Gauss rule of any head, and the norm of its vector's residual."""
        u, s, _ = svd(self._matrix()[:, :-1])
        head = int(np.argmax(s[:, 0]))
        residual = self.alpha[head, -1] * self.beta[head, -1] * abs(u[head, -1, 0])
        return float(s[head, 0]) ** 2, float(residual)

    def gauss(self) -> tuple[FloatArray, FloatArray]:
        """Nodes (c, k) and weights, which sum to 1: exact for polynomials of degree 2 k - 1."""
        u, s, _ = svd(self._matrix()[:, :-1])
        return s**2, u[:, 0, :] ** 2

    def gauss_radau(self) -> tuple[FloatArray, FloatArray]:
        """Nodes (c, k + 1), the last one at zero, and weights: exact for degree 2 k."""
        u, s, _ = svd(self._matrix())
        return np.pad(s**2, ((0, 0), (0, 1))), u[:, 0, :] ** 2

    def _matrix(self) -> FloatArray:
        c, k = self.alpha.shape
        B = np.zeros((c, k + 1, k))
        at = np.arange(k)
        B[:, at, at], B[:, at + 1, at] = self.alpha, self.beta
        return B


def bidiagonalize(product: Product, adjoint: Product, y: FloatArray, products: int) -> Bidiagonal:
    """Golub-Kahan bidiagonalization with full reorthogonalization, started at each head's y.

    Parameters
    ----------
    product, adjoint : callable
        ``(c, m) -> (c, N)``, Z times each head, and ``(c, N) -> (c, m)``.
    y : (c, N) array
        Where each head starts; not zero.
    products : int
        Number k of products with each.

    Notes
    -----
    Golub & Kahan (SIAM J. Numer. Anal. 1965). A vector that lies within the span of those before
    it, to rounding, is zero from there on: that head's measure is known whole.
    """
    norms, U = _started(y, products)
    alpha, beta = np.zeros((2, len(y), products))
    V = np.zeros((len(y), products, 0))
    squares = np.zeros((2, len(y)))  # of what is neglected, of Z V and of Z^T U
    for t in range(products):
        v = adjoint(U[:, t])
        if t == 0:
            V = np.zeros((*V.shape[:2], v.shape[1]))
        expected = np.zeros((len(y), t))
        expected[:, t - 1 :] = beta[:, t - 1 : t] if t else 0.0
        V[:, t], alpha[:, t], lost = _next(v, V[:, :t], expected)
        squares[1] += lost
        expected = np.zeros((len(y), t + 1))
        expected[:, t] = alpha[:, t]
        U[:, t + 1], beta[:, t], lost = _next(product(V[:, t]), U[:, : t + 1], expected)
        squares[0] += lost
    neglected = float(np.sqrt(squares).sum(axis=0).max())
    return Bidiagonal(alpha, beta, norms, V, neglected, _defect(U) + _defect(V))


def tridiagonalize(kernel: Product, y: FloatArray, products: int) -> Bidiagonal:
    """Lanczos with full reorthogonalization, of ``Z Z^T`` where Z itself is too wide to be kept.

    The factor B of the tridiagonal matrix: what is small beside the largest eigenvalue keeps half
    the digits that :func:`bidiagonalize` keeps, and there is no `basis`.

    Parameters
    ----------
    kernel : callable
        ``(c, N) -> (c, N)``, ``Z Z^T`` times each head.
    y, products
        As for :func:`bidiagonalize`.
    """
    norms, U = _started(y, products)
    alpha, beta, below = np.zeros((3, len(y), products))
    squares = np.zeros(len(y))
    for t in range(products):
        x = kernel(U[:, t])
        own = np.sum(x * U[:, t], axis=1)
        expected = np.zeros((len(y), t + 1))
        expected[:, t] = own
        if t:
            expected[:, t - 1] = below[:, t - 1]
            own = own - beta[:, t - 1] ** 2
        U[:, t + 1], below[:, t], lost = _next(x, U[:, : t + 1], expected)
        squares += lost
        alpha[:, t] = np.sqrt(np.maximum(own, 0.0))
        np.divide(below[:, t], alpha[:, t], out=beta[:, t], where=alpha[:, t] > 0.0)
    none = np.zeros((len(y), products, 0))
    return Bidiagonal(alpha, beta, norms, none, float(np.sqrt(squares.max())), _defect(U))


def _started(y: FloatArray, products: int) -> tuple[FloatArray, FloatArray]:
    """Return each head's norm, and a basis whose first vector is the head, normalized."""
    largest = np.max(np.abs(y), axis=1)  # beside another head's its square may be 0
    U = np.zeros((len(y), products + 1, y.shape[1]))
    U[:, 0] = y / largest[:, None]
    norms = np.linalg.norm(U[:, 0], axis=1)
    U[:, 0] /= norms[:, None]
    return largest * norms, U


def _next(
    x: FloatArray, basis: FloatArray, expected: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return x less its part along the basis, normalized; the norm; and the square of what is lost.

    `expected`: the coefficients that the recurrence knows; what differs from them is lost.
    """
    found = np.zeros_like(expected)
    for _ in range(2):  # twice is enough, unless nothing is left
        before = np.linalg.norm(x, axis=1)
        along = (basis @ x[:, :, None])[:, :, 0]
        x = x - (along[:, None, :] @ basis)[:, 0]
        found += along
    norm = np.linalg.norm(x, axis=1)
    kept = norm > 0.5 * before
    lost = np.sum((found - expected) ** 2, axis=1) + np.where(kept, 0.0, norm) ** 2
    norm = np.where(kept, norm, 0.0)
    return np.divide(x, norm[:, None], out=np.zeros_like(x), where=kept[:, None]), norm, lost


def _defect(basis: FloatArray) -> float:
    """Bound on how far the rows (c, k, n) are from orthonormal, zero rows apart: largest head."""
    c, k, n = basis.shape
    products = np.zeros((c, k, k))
    block = 1 + math.isqrt(n)  # what rounding can do to the sums is least so
    for at in range(0, n, block):
        part = basis[:, :, at : at + block]
        products += part @ part.transpose(0, 2, 1)
    rounding: float = gamma(2 * block) * k
    diagonal = np.arange(k)
    products[:, diagonal, diagonal] -= np.any(basis != 0.0, axis=2)
    return float(np.linalg.norm(products, axis=(1, 2)).max()) + rounding


def rate_of(step: float | None, lambda_max: float) -> float:
    """Return ``step lambda_max``, which must be below 2; 1 without a step."""
    if step is None:
        return 1.0
    length = check_real(step, "step", low=math.ulp(0.0))
    rate = length * lambda_max
    if rate >= 2.0:
        raise ValueError(
            f"step must be below 2 / lambda_max = {2.0 / lambda_max:.6g}, where descent ceases to "
            f"converge, and is {length:.6g}"
        )
    return rate


def gamma(count: int) -> float:
    """Relative error bound of a sum of so many products, in any order (Higham, section 3.1)."""
    return count * _UNIT / (1.0 - count * _UNIT)
