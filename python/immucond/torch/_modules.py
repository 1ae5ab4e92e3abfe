"""The regularizers as modules, for training loops."""

from __future__ import annotations

from typing import Any, Literal, SupportsIndex

from torch import Tensor, nn

from .._regularizers import Counted
from .._validate import check_choice, check_real
from ._regularizers import r_ill, r_well

Input = Literal["features", "matrix"]


class _Regularizer(nn.Module):
    """One regularizer with its options."""

    def __init__(self, input: Input, **options: Any) -> None:  # noqa: A002
        super().__init__()
        self.input = check_choice(input, "input", ("features", "matrix"))
        self.options = options

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        given = {"input": self.input} | self.options
        defaults = {"input": "features"}
        return ", ".join(
            f"{name}={value!r}" for name, value in given.items() if value != defaults.get(name)
        )

    def _arguments(self, x: Tensor, mask: Tensor | None) -> dict[str, Any]:
        return {"features" if self.input == "features" else "S": x, "mask": mask, **self.options}


class RWell(_Regularizer):
    """`r_well` of the features that pass through, whose descent lowers kappa.

    Parameters
    ----------
    input : {"features", "matrix"}
        Whether calls get features Z (..., N, m) or a matrix S.
    rank, rtol, computed_in, p, group
        As in `immucond.torch.r_well`.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> ict.RWell()(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor(3.7500)
    """

    def __init__(
        self,
        *,
        input: Input = "features",  # noqa: A002
        rank: SupportsIndex | None = None,
        rtol: float | None = None,
        computed_in: Any = None,
        p: Counted = None,
        group: Any = None,
    ) -> None:
        super().__init__(input, rank=rank, rtol=rtol, computed_in=computed_in, p=p, group=group)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the value at features, of (B, T, m) those that a mask keeps, or at a matrix."""
        return r_well(**self._arguments(x, mask))


class RIll(_Regularizer):
    """`r_ill` of the features that pass through, whose descent raises kappa.

    Parameters
    ----------
    input, rank, rtol, computed_in, group
        As in `RWell`.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> ict.RIll(input="matrix")(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor(1.3333)
    """

    def __init__(
        self,
        *,
        input: Input = "features",  # noqa: A002
        rank: SupportsIndex | None = None,
        rtol: float | None = None,
        computed_in: Any = None,
        group: Any = None,
    ) -> None:
        super().__init__(input, rank=rank, rtol=rtol, computed_in=computed_in, group=group)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the value at features, of (B, T, m) those that a mask keeps, or at a matrix."""
        return r_ill(**self._arguments(x, mask))


class ImmunizationLoss(nn.Module):
    """``lambda_P R_well(primary) + lambda_H R_ill(harmful)``, as in Zheng et al. (2025), Sec. 4.

    To be added to the loss of the primary task.

    Parameters
    ----------
    lambda_P, lambda_H : float
        The weights. They carry units: R_well is of the order of ``sigma_1^2``, R_ill of its
        inverse, with sigma_1 the largest eigenvalue of ``Z^T Z``.
    input : {"features", "matrix"}
        Whether calls get features (the default) or matrices.
    p : None, "rank" or int
        Of R_well: "rank" for mini-batches with fewer samples than features.
    rtol, computed_in, group
        As in `immucond.torch.r_well`.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> loss = ict.ImmunizationLoss(lambda_P=2.0, lambda_H=3.0)
    >>> Z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> torch.isclose(loss(Z, Z), 2 * ict.r_well(features=Z) + 3 * ict.r_ill(features=Z))
    tensor(True)
    """

    def __init__(
        self,
        lambda_P: float,
        lambda_H: float,
        *,
        input: Input = "features",  # noqa: A002
        p: Counted = None,
        rtol: float | None = None,
        computed_in: Any = None,
        group: Any = None,
    ) -> None:
        super().__init__()
        self.lambda_P = check_real(lambda_P, "lambda_P", low=0.0)
        self.lambda_H = check_real(lambda_H, "lambda_H", low=0.0)
        common = {"input": input, "rtol": rtol, "computed_in": computed_in, "group": group}
        self.r_well = RWell(p=p, **common)
        self.r_ill = RIll(**common)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        return f"lambda_P={self.lambda_P:g}, lambda_H={self.lambda_H:g}"

    def forward(
        self,
        primary: Tensor,
        harmful: Tensor,
        *,
        mask_P: Tensor | None = None,
        mask_H: Tensor | None = None,
    ) -> Tensor:
        """Return the value at the features of the primary and of the harmful task.

        Of features (B, T, m) at the tokens that their masks (B, T) keep.
        """
        well, ill = self.r_well(primary, mask=mask_P), self.r_ill(harmful, mask=mask_H)
        result: Tensor = self.lambda_P * well + self.lambda_H * ill
        return result
