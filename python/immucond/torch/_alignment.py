"""Label alignment as an operator: what it lacks, a top eigenvalue, the extreme pairs have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._validate import as_count
from ._operator import (
    Constant,
    Function,
    Operator,
    at_hand,
    check_dense,
    check_device,
    check_tensor,
    exponent_of,
    nestable,
    times_power,
    wide,
    widened,
)
from ._pairs import pairs_operator
from ._tokens import Tokens, check_tokens, less

# What centring leaves of numbers of about 1 that are all the same.
_ROUNDING = 4.0 * torch.finfo(torch.float64).eps


class _Energy(Function):
    """``||Y||_F^2`` of each matrix of a stack, of entries up to about 1.

    NaN, and nothing to align with, are refused.
    """

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (Y,) = ctx.saved_tensors
        return 2.0 * upstream[..., None, None] * Y

    @staticmethod
    @nestable
    def jvp(saved: Any, _: Any, tangent: Tensor) -> Any:
        return 2.0 * (saved[0] * tangent).sum((-2, -1))


def _kernel(Y: Tensor) -> Tensor:
    energy = Y.square().sum((-2, -1))
    if not bool(energy.isfinite().all()):
        raise ValueError("Y must be finite, and holds NaN or infinity")
    if not bool((energy > _ROUNDING**2 * Y.shape[-2] * Y.shape[-1]).all()):
        raise ValueError("Y is constant (zero, where it is not centred): nothing to align with")
    return energy


_energy = Operator(
    _Energy,
    "label_energy(Tensor Y) -> Tensor",
    fake=lambda Y: Y.new_empty(Y.shape[:-2]),
    kernel=_kernel,
)


def _numbered(labels: Tensor) -> tuple[Tensor, int]:
    """Return labels that number the classes there are, whose columns alone count, and how many."""
    try:
        names, codes = labels.unique(return_inverse=True)
        least, most = int(names[0]), int(names[-1])
    except RuntimeError as error:
        if at_hand(labels):
            raise
        raise ValueError(
            "classes must be given where the numbers of Y are not at hand, as below vmap"
        ) from error
    if least < 0:
        raise ValueError(f"Y must name classes from 0 to {max(1, most)}, and holds {least}")
    return codes, max(2, len(names))


def _columns(labels: Tensor, classes: int) -> Tensor:
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.numel():
        raise ValueError(
            f"Y must name classes from 0 to {classes - 1}, and holds {int(outside.flatten()[0])}"
        )
    return nn.functional.one_hot(labels, classes).double()


class _OneHot(Constant):
    """Classes as one-hot columns, of so many classes."""


_one_hot = Operator(
    _OneHot,
    "one_hot(Tensor labels, int classes) -> Tensor",
    fake=lambda labels, classes: labels.new_empty((*labels.shape, classes), dtype=torch.float64),
    kernel=_columns,
)


def r_align(
    Z: Tensor,
    Y: Tensor,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    classes: int | None = None,
) -> Tensor:
    """Return the label alignment of features, ``||Z^T Y||^2 / (sigma_1 ||Y||^2)``.

    See `immucond.r_align`. Descent on its logarithm makes plain gradient descent slow on these
    labels; it does not bind an attacker who whitens the features.

    Parameters
    ----------
    Z : Tensor, shape (..., N, m)
        Features, one row a sample, or a stack of them.
    Y : Tensor, shape (..., N, c), or integers of shape (..., N)
        Targets, or one class a row. With a mask one a token, (B, T, c) or integers (B, T), of
        which tokens of class -100 do not count; or one a sample, (B, c) or integers (B,), for all
        of its tokens.
    mask : Tensor, shape (B, T), optional
        Of Z (B, T, m): as in `immucond.torch.r_well`; the rows that count are centred.
    center : bool, default True
        Whether features and targets are centred first, as a probe with an intercept sees them.
    classes : int, optional
        How many classes integers name, where the batch may lack some (`torch.compile`, and `vmap`
        over Y, need it).

    Returns
    -------
    Tensor, shape (...)
        Of the dtype of Z, at least float32. Differentiable by Z and by targets, twice.

    Raises
    ------
    ValueError
        For NaN, shapes and devices that do not fit, features or targets that are zero (constant,
        if centred), and classes that are to be found where numbers are not at hand.
    TypeError
        For other dtypes, sparse tensors, and what is no tensor.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> Z = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [0.0, -1.0]])
    >>> ict.r_align(Z, torch.tensor([[0.0], [1.0], [0.0], [-1.0]]))
    tensor(0.2500)
    """
    check_tensor(Z, "Z")
    check_dense(Y, "Y")
    check_device(Y, "Y", Z, "Z")
    tokens = None
    if mask is not None:
        Y = _by_token(Z, Y)
        tokens = Tokens(mask, Z, "Z", labels=None if _are_numbers(Y) else Y)
        Z, Y = tokens.rows(Z), tokens.rows(Y)
    y = _targets(Z, Y, classes)
    A = _to_unit(Z)
    if tokens is not None:
        A, y = (tokens.centred(x) if center else tokens.only(x) for x in (A, y))
    elif center:
        A, y = (less(x, x.mean(-2, keepdim=True)) for x in (A, y))
    A = torch.where(A.abs().amax((-2, -1), keepdim=True) <= _ROUNDING, 0.0, A)  # NaN stays
    b = A.mT @ y
    top = pairs_operator(A, True, None, None, None, False)[0]
    value: Tensor = b.square().sum((-2, -1)) / (top * _energy(y))
    return value.to(wide(Z.dtype))


def _to_unit(X: Tensor) -> Tensor:
    """Return it in float64 and in a unit of about its largest entry, a power of 2."""
    X = widened(X)
    unit: Tensor = times_power(X, -exponent_of(X), False)
    return unit


def _are_numbers(Y: Tensor) -> bool:
    """Whether they are no classes."""
    return Y.is_floating_point() or Y.is_complex()


def _by_token(Z: Tensor, Y: Tensor) -> Tensor:
    """Return targets (B, T, c) or classes (B, T): those of a sample for each of its tokens."""
    check_tokens(Z, "Z")
    columns = ("c",) if _are_numbers(Y) else ()
    spread = Y if columns else Y.long()  # what takes rows does not know every dtype of integers
    if Y.ndim == 1 + len(columns):
        spread = spread.unsqueeze(1).expand(-1, *Z.shape[1:2], *Y.shape[1:])
    if spread.ndim != 2 + len(columns) or spread.shape[:2] != Z.shape[:2]:
        raise ValueError(
            f"Y must have one row a token, shape {(*Z.shape[:2], *columns)}, or one a sample, "
            f"{(*Z.shape[:1], *columns)}, for Z of shape {tuple(Z.shape)} with a mask, and has "
            f"shape {tuple(Y.shape)}"
        )
    return spread


def _targets(Z: Tensor, Y: Tensor, classes: int | None) -> Tensor:
    """Return targets in float64 and of unit size, classes as one-hot columns."""
    if not _are_numbers(Y):
        if Y.shape != Z.shape[:-1]:
            raise ValueError(
                f"Y must name one class a row, of shape {tuple(Z.shape[:-1])} for Z of shape "
                f"{tuple(Z.shape)}, and has shape {tuple(Y.shape)}"
            )
        labels = Y.long()  # not every dtype of integers is sorted
        if classes is None:
            labels, classes = _numbered(labels)
        columns: Tensor = _one_hot(labels, as_count(classes, "classes", least=2))
        return columns
    check_tensor(Y, "Y")
    if Y.shape[:-1] != Z.shape[:-1]:
        raise ValueError(
            f"Y must have one row a sample, shape {(*Z.shape[:-1], 'c')} for Z of shape "
            f"{tuple(Z.shape)}, and has shape {tuple(Y.shape)}"
        )
    return _to_unit(Y)


class RAlign(nn.Module):
    """`r_align` of the features that pass through, or its logarithm.

    Parameters
    ----------
    center, classes
        As in `immucond.torch.r_align`.
    log : bool, default True
        Return the logarithm, whose gradient does not vanish where labels are slow already; of the
        least normal number and no gradient where rho is 0, and nothing is left to slow.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> ict.RAlign()(torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([[1.0], [-1.0], [0.0]]))
    tensor(0.)
    """

    def __init__(
        self, *, center: bool = True, classes: int | None = None, log: bool = True
    ) -> None:
        super().__init__()
        self.center, self.log = bool(center), bool(log)
        self.classes = None if classes is None else as_count(classes, "classes", least=2)

    def forward(self, Z: Tensor, Y: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the value at features and their labels, of (B, T, m) those that a mask keeps."""
        value = r_align(Z, Y, mask=mask, center=self.center, classes=self.classes)
        return torch.log(value.clamp_min(torch.finfo(value.dtype).tiny)) if self.log else value

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        return f"center={self.center}, classes={self.classes}, log={self.log}"
