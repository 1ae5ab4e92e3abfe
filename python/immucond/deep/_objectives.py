"""What each method of deep immunization descends on: its terms, by the features of a batch.

With the weights of these terms, and their gradients by the features in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import frexp
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._errors import ImmucondError
from .._rank import epsilon
from .._validate import check_choice, check_real
from ..torch import condition_number, r_align, r_ill, r_well
from ..torch.parts import IGNORED
from ._outcome import Outcome

Loss = Callable[[Tensor, Tensor], Tensor]
Pair = Sequence[float] | np.ndarray[Any, Any] | Tensor

START_BATCHES = 8
"""Batches of each task whose mean term `balanced` goes by."""

_TRIALS = 16
_GROWTH = 10.0


class Objective(ABC):
    """Terms by the features of the primary and of the harmful batch.

    The extractor descends on the primary loss (where `uses_loss`) plus the weighted terms; the head
    on the primary loss always.
    """

    uses_loss: ClassVar[bool] = True
    needs_harmful_labels: ClassVar[bool] = False
    sizes: ClassVar[tuple[float, float]] = (1.0, 10.0)
    """How large the weighted terms are at the start, where nothing else is asked for."""
    intermittent: ClassVar[bool] = False
    """Whether some harmful batches have no term, None, though the method has one."""

    @abstractmethod
    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """Return the unweighted terms of the primary and of the harmful features."""

    state: Any = None  # what a checkpoint keeps of it
    options: Mapping[str, Any] = MappingProxyType({})
    """What the library's own give the regularizers beside the features: computed_in, group."""

    @property
    def of_all_ranks(self) -> bool:
        """Whether the terms are of the rows of all processes of a group."""
        return "group" in self.options


class Algorithm1(Objective):
    """R_well of the primary, R_ill of the harmful features: Zheng et al. (2025), Algorithm 1."""

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """R_well and R_ill; with fewer samples than features the zeros do not count."""
        few = primary.features.shape[0] < primary.features.shape[1]
        well = r_well(features=primary.features, p="rank" if few else None, **self.options)
        return well, r_ill(features=harmful.features, **self.options)


class RIllOnly(Objective):
    """R_ill of the harmful features, and nothing for the primary task: a baseline of the paper."""

    uses_loss: ClassVar[bool] = False
    sizes: ClassVar[tuple[float, float]] = (0.0, 3.0)

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:  # noqa: ARG002
        """Nothing, and R_ill."""
        return None, r_ill(features=harmful.features, **self.options)


class OptKappa(Objective):
    """kappa(H_P) - kappa(H_H), each by gradient descent as it stands: a baseline of the paper."""

    sizes: ClassVar[tuple[float, float]] = (1.0, 0.03)

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """Condition numbers of the primary features, and minus that of the harmful ones."""
        return (
            condition_number(features=primary.features, **self.options),
            -condition_number(features=harmful.features, **self.options),
        )


class IMMA(Objective):
    """The harmful loss of a head that has adapted to it, raised: Zheng and Yeh (2024).

    Bi-level: a harmful head takes a gradient step on each harmful batch, and the extractor ascends
    on the loss that it then has.
    """

    needs_harmful_labels: ClassVar[bool] = True
    sizes: ClassVar[tuple[float, float]] = (0.0, 3.0)

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


class Alignment(Objective):
    """Logarithm of the harmful labels' alignment: gradient descent on their loss gets slow."""

    needs_harmful_labels: ClassVar[bool] = True
    sizes: ClassVar[tuple[float, float]] = (0.0, 0.3)
    intermittent: ClassVar[bool] = True

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:  # noqa: ARG002
        """Nothing, and log rho; nothing at all where a batch has one class."""
        Z, labels = harmful.features, harmful.labels
        if labels.ndim == 1 and not labels.is_floating_point():
            counts = labels.long() != IGNORED
            if not bool(counts.all()):  # as losses do
                Z, labels = Z[counts], labels[counts]
        if labels.is_floating_point():
            Y = labels[:, None] if labels.ndim == 1 else labels
        else:
            # Numbers of their own: labels are names, and the largest may be any.
            Y = torch.unique(labels, dim=0, return_inverse=True)[1]
        if bool((Y[1:] == Y[:1]).all()):
            return None, None
        if bool((Z[1:] == Z[:1]).all()):
            raise ImmucondError("the harmful features of a batch are the same for all its samples")
        rho = r_align(Z, Y)
        return None, rho.log() if float(rho.detach()) > 0.0 else None


OBJECTIVES: dict[str, type[Objective]] = {
    "algorithm1": Algorithm1,
    "r_ill": RIllOnly,
    "opt_kappa": OptKappa,
    "imma": IMMA,
    "alignment": Alignment,
}

WITHOUT_TRAINING = ("closed_form", "fade")

Method = Literal["algorithm1", "r_ill", "opt_kappa", "imma", "alignment", "closed_form", "fade"]


def objective_of(
    method: Method | Objective, computed_in: Any = None, group: Any = None
) -> Objective | None:
    """Return a method's objective; None for the closed form and fade, which have none."""
    without_rank = ("imma", "alignment")
    if computed_in is not None:
        epsilon(computed_in)  # refuses what is no dtype
        if isinstance(method, Objective) or method in without_rank:
            raise ValueError(
                "computed_in is for methods of the library that decide a rank: IMMA and alignment "
                "have none, and an Objective of one's own gives it to the regularizers itself"
            )
    if isinstance(method, Objective):
        return method
    check_choice(method, "method", (*OBJECTIVES, *WITHOUT_TRAINING))
    if method in WITHOUT_TRAINING:
        return None
    objective = OBJECTIVES[method]()
    if method not in without_rank:
        options = {"computed_in": computed_in, "group": group}
        objective.options = {name: value for name, value in options.items() if value is not None}
    return objective


class Terms(NamedTuple):
    """How large the weighted terms of both tasks shall be at the start."""

    primary: float
    harmful: float


def weighting(
    lambdas: Pair | str | None, terms: Pair | None, objective: Objective
) -> tuple[float, float] | Terms | None:
    """Return fixed weights; or `Terms` that set them at the start; or None: anew in each step.

    By default they are set by the terms of the objective.
    """
    if lambdas is not None and terms is not None:
        raise ValueError(
            "give either lambdas, the weights, or terms, how large the weighted terms are at the "
            "start, and not both"
        )
    if isinstance(lambdas, str):
        check_choice(lambdas, "lambdas", ("balance",))
        return None
    if lambdas is not None:
        names = ("lambda_P", "lambda_H")
        return _pair(lambdas, "lambdas", names, "(lambda_P, lambda_H) or 'balance'")
    if terms is None:
        return Terms(*objective.sizes)
    return Terms(*_pair(terms, "terms", ("terms[0]", "terms[1]"), "(primary, harmful)"))


def refuse_idle(
    rule: tuple[float, float] | Terms | None,
    found: tuple[Tensor | None, Tensor | None],
    asked: str,
    intermittent: bool = False,
) -> None:
    """Refuse a weight of the user's for a term that the objective does not have.

    `asked` is the name of the argument, empty where nothing was given.
    """
    if rule is None or not asked:
        return
    for number, name, term in zip(rule, ("primary", "harmful"), found, strict=True):
        if term is None and number > 0.0 and not (intermittent and name == "harmful"):
            raise ValueError(
                f"{asked} must be 0 for a term that the method does not have, and is {number:g} "
                f"for the {name} one"
            )


def asked_by(lambdas: Pair | str | None, terms: Pair | None) -> str:
    """Return the name of the argument that weights the terms, empty for none."""
    return "terms" if terms is not None else "lambdas" if lambdas is not None else ""


def _pair(values: Any, name: str, each: tuple[str, str], wanted: str) -> tuple[float, float]:
    """Return two numbers from any sequence of them."""
    if isinstance(values, Tensor) and values.requires_grad:
        check_real(values, name, low=0.0)  # type: ignore[arg-type]  # says what is to be done
    listed = hasattr(values, "__len__") and getattr(values, "ndim", 1) != 0
    items: list[Any] = list(values) if listed else []
    if len(items) != 2:
        raise ValueError(f"{name} must be {wanted}, and is {values!r}")
    first, second = (check_real(x, of, low=0.0) for x, of in zip(items, each, strict=True))
    return first, second


def balanced(
    terms: tuple[float, float], found: Iterable[tuple[Tensor | None, Tensor | None]]
) -> tuple[float, float]:
    """Return weights under which the terms are as large as `terms` says, on the mean over batches.

    So the same `terms` serve networks whose features differ in scale; 0 leaves a term out. `found`
    is what `Objective.terms` gives for some pairs of batches.
    """
    sizes = [[None if term is None else abs(float(term.detach())) for term in pair]
             for pair in found]  # fmt: skip
    weights = []
    for wanted, name, column in zip(
        terms, ("primary", "harmful"), zip(*sizes, strict=True), strict=True
    ):
        values = [size for size in column if size is not None]
        mean = math.fsum(values) / len(values) if values else 0.0
        weight = wanted / mean if mean else math.inf
        if wanted == 0.0 or not values:
            weight = 0.0
        elif not 0.0 < weight < math.inf:
            raise ImmucondError(
                f"no weight makes the {name} term as large as terms says, {wanted:g}: it is "
                f"{mean:g} at the start. Give lambdas as two numbers, or scale the features"
            )
        weights.append(weight)
    return weights[0], weights[1]


def weights(
    lambdas: tuple[float, float] | None,
    of_loss: float,
    of_terms: Sequence[float | None],
    first: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Return the weights of the two terms; 0 for one that the objective does not have.

    Balanced ones make the terms' gradients by the features as large as that of the loss, from the
    norms of these, but never become more than ten times what they were in the `first` step: as a
    term falls, its gradient vanishes, and a weight that made up for that would end the training.
    """
    if lambdas is not None:
        return lambdas
    found = []
    for at, (norm, name) in enumerate(zip(of_terms, ("lambda_P", "lambda_H"), strict=True)):
        weight = 0.0 if norm is None else of_loss / norm if norm > 0.0 else math.inf
        if first is not None and first[at] > 0.0:
            weight = min(weight, _GROWTH * first[at])
        if norm is not None and not 0.0 < weight < math.inf:
            raise ImmucondError(
                f"lambdas='balance' gives no {name}: the gradient of the primary loss by the "
                f"features has norm {of_loss:g}, and that of the term has {norm:g}. Give lambdas "
                "as two numbers, or scale the features"
            )
        found.append(weight)
    return found[0], found[1]


def first_weights(
    first: tuple[float, float] | None, now: tuple[float, float]
) -> tuple[float, float]:
    """Return each term's first weight that is not zero; a batch may have had no such term."""
    return now if first is None else (first[0] or now[0], first[1] or now[1])


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
    exponent, largest, zero = 0, range_of_Z.max / 2.0, False
    for _ in range(_TRIALS):
        seed = torch.full_like(term, 2.0**exponent)
        (scaled,) = torch.autograd.grad(term, Z, seed, retain_graph=True)
        size = float(scaled.abs().max())
        if zero and not size < math.inf:  # 0 times what the scale itself overflowed to
            return torch.zeros_like(Z, dtype=torch.float64)
        zero = size == 0.0
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
