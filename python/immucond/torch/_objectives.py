"""What each method of deep immunization descends on: its terms, by the features of a batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import frexp
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .._errors import ImmucondError
from .._validate import check_choice, check_real
from ._activations import Outcome
from ._spectral import condition_number, r_ill, r_well

Loss = Callable[[Tensor, Tensor], Tensor]

_TRIALS = 16


class Objective(ABC):
    """Terms by the features of the primary and of the harmful batch.

    The extractor descends on the primary loss (where `uses_loss`) plus the weighted terms; the head
    on the primary loss always.
    """

    uses_loss: ClassVar[bool] = True
    needs_harmful_labels: ClassVar[bool] = False

    @abstractmethod
    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """Return the unweighted terms of the primary and of the harmful features."""

    state: Any = None  # what a checkpoint keeps of it


class Algorithm1(Objective):
    """R_well of the primary, R_ill of the harmful features: Zheng et al. (2025), Algorithm 1."""

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """R_well and R_ill; with fewer samples than features the zeros do not count."""
        few = primary.features.shape[0] < primary.features.shape[1]
        well = r_well(features=primary.features, p="rank" if few else None)
        return well, r_ill(features=harmful.features)


class RIllOnly(Objective):
    """R_ill of the harmful features, and nothing for the primary task: a baseline of the paper."""

    uses_loss: ClassVar[bool] = False

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:  # noqa: ARG002
        """Nothing, and R_ill."""
        return None, r_ill(features=harmful.features)


class OptKappa(Objective):
    """kappa(H_P) - kappa(H_H), each by gradient descent as it stands: a baseline of the paper."""

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """Condition numbers of the primary features, and minus that of the harmful ones."""
        return (
            condition_number(features=primary.features),
            -condition_number(features=harmful.features),
        )


class IMMA(Objective):
    """The harmful loss of a head that has adapted to it, raised: Zheng and Yeh (2024).

    Bi-level: a harmful head takes a gradient step on each harmful batch, and the extractor ascends
    on the loss that it then has.
    """

    needs_harmful_labels: ClassVar[bool] = True

    def __init__(self, *, inner_lr: float = 0.1) -> None:
        self._lr = inner_lr

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:  # noqa: ARG002
        """Nothing, and minus the adapted harmful loss."""
        Z, labels = harmful.features.float(), harmful.labels
        classes = int(labels.max()) + 1
        head = Z.new_zeros(Z.shape[1], 0) if self.state is None else self.state
        more = Z.new_zeros(Z.shape[1], max(0, classes - head.shape[1]))
        w = torch.cat([head, more], dim=1).requires_grad_()
        loss = torch.nn.functional.cross_entropy(Z @ w, labels)
        (by_w,) = torch.autograd.grad(loss, w, create_graph=True)
        adapted = w - self._lr * by_w
        self.state = adapted.detach()
        return None, -torch.nn.functional.cross_entropy(Z @ adapted, labels)


OBJECTIVES: dict[str, type[Objective]] = {
    "algorithm1": Algorithm1,
    "r_ill": RIllOnly,
    "opt_kappa": OptKappa,
    "imma": IMMA,
}

Method = Literal["algorithm1", "r_ill", "opt_kappa", "imma", "closed_form"]


def objective_of(method: Method | Objective) -> Objective | None:
    """Return a method's objective; None for the closed form, which has none."""
    if isinstance(method, Objective):
        return method
    check_choice(method, "method", (*OBJECTIVES, "closed_form"))
    return None if method == "closed_form" else OBJECTIVES[method]()


def lambdas_of(lambdas: tuple[float, float] | str) -> tuple[float, float] | None:
    """Return fixed weights, or None for balanced ones."""
    if isinstance(lambdas, str):
        check_choice(lambdas, "lambdas", ("balance",))
        return None
    if not isinstance(lambdas, (tuple, list)) or len(lambdas) != 2:
        raise ValueError(f"lambdas must be (lambda_P, lambda_H) or 'balance', and is {lambdas!r}")
    return (
        check_real(lambdas[0], "lambda_P", low=0.0),
        check_real(lambdas[1], "lambda_H", low=0.0),
    )


def weights(
    lambdas: tuple[float, float] | None, of_loss: float, of_terms: Sequence[float | None]
) -> tuple[float, float]:
    """Return the weights of the two terms; 0 for one that the objective does not have.

    Balanced ones make the terms' gradients by the features as large as that of the loss, from the
    norms of these.

    Raises
    ------
    ImmucondError
        Where a balanced weight would be zero, which is no immunization, or not finite.
    """
    if lambdas is not None:
        return lambdas
    found = []
    for norm, name in zip(of_terms, ("lambda_P", "lambda_H"), strict=True):
        weight = 0.0 if norm is None else of_loss / norm if norm > 0.0 else math.inf
        if norm is not None and not 0.0 < weight < math.inf:
            raise ImmucondError(
                f"lambdas='balance' gives no {name}: the gradient of the primary loss by the "
                f"features has norm {of_loss:g}, and that of the term has {norm:g}. Give lambdas "
                "as two numbers, or scale the features"
            )
        found.append(weight)
    return found[0], found[1]


def refuse_frozen(Z: Tensor) -> None:
    """Refuse features of an extractor that cannot move."""
    if not Z.requires_grad:
        raise ValueError(
            "the features must require a gradient, and nothing before the head does: the extractor "
            "is frozen (requires_grad=False), or runs under torch.no_grad()"
        )


def norm_of(gradient: Tensor) -> float:
    """Return the Frobenius norm, in float64 and by the largest entry."""
    size = float(gradient.abs().max())
    if not 0.0 < size < math.inf:
        return size
    return size * float(torch.linalg.vector_norm(gradient.double() / size))


def gradient_by(term: Tensor, Z: Tensor) -> Tensor:
    """Return the gradient of a term by the features Z in float64.

    Where the entries leave the range of the features' dtype, or its normal numbers, the term is
    scaled by a power of two meanwhile.
    """
    refuse_frozen(Z)
    range_of_Z, limit = torch.finfo(Z.dtype), _binary_range(term.dtype)
    exponent, largest = 0, range_of_Z.max / 2.0
    for _ in range(_TRIALS):
        seed = torch.full_like(term, 2.0**exponent)
        (scaled,) = torch.autograd.grad(term, Z, seed, retain_graph=True)
        size = float(scaled.abs().max())
        if range_of_Z.tiny / range_of_Z.eps <= size <= largest:
            break
        # No step is as long as the range of float16.
        step = (
            -limit // 4 if not size <= largest else limit // 4 if size == 0.0 else -frexp(size)[1]
        )
        if exponent == (exponent := max(-limit, min(limit, exponent + step))):
            break
    return scaled.double() * 2.0**-exponent


def _binary_range(dtype: torch.dtype) -> int:
    return frexp(torch.finfo(dtype).max)[1] - 2
