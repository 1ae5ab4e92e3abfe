"""What each method of deep immunization descends on: its terms, by the features of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .._validate import check_choice, check_real
from ._activations import Outcome
from ._spectral import condition_number, r_ill, r_well


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


def weights(lambdas: tuple[float, float] | None, norms: Sequence[float]) -> tuple[float, float]:
    """Return the weights of the two terms.

    Balanced ones make the terms' gradients by the features as large as that of the loss; `norms`
    are those of the loss and of the two terms.
    """
    if lambdas is not None:
        return lambdas
    of_loss, *of_terms = norms
    lambda_P, lambda_H = (of_loss / norm if norm > 0.0 else 0.0 for norm in of_terms)
    return lambda_P, lambda_H
