"""What an attack on a network costs: a forecast, by the products with its Jacobian."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import one_hot

from .._display import Columns, Curves, Line
from .._format import plain
from .._show import BLUE
from .._validate import FloatArray, as_count, check_choice
from ..probing import AttackCost
from ..probing.quadrature import rate_of, tridiagonalize
from ..torch.parts import IGNORED
from ._attacked import PARAMS, as_rank, layer_by_layer, with_new_head
from ._batches import Callback, held
from ._head import SplitModel
from ._network import array, device_of, prepared, refuse_compiled, whatever_modes
from ._outcome import Outcome, outcome_of

_LAZY = 0.25  # relative error of the forecast


@dataclass(frozen=True, eq=False, repr=False)
class NetworkCost(AttackCost):
    """Forecast of an attack on a network: as if its outputs were linear in its parameters.

    The loss is ``||f - y||^2`` over the attacker's rows, y their classes one-hot, and the steps are
    of gradient descent on half of it, over all rows at once.

    Attributes
    ----------
    params : str
        What the attacker trains.
    measured : (T + 1,) array
        Loss of a real run of T steps, from step 0 on.
    """

    params: str
    measured: FloatArray = field(repr=False)

    @property
    def error(self) -> float:
        """Largest relative error of the forecast over the real run; inf where that diverged."""
        if not np.isfinite(self.measured).all():
            return math.inf
        forecast = np.asarray(self.loss(np.arange(len(self.measured))).forecast)
        return float(np.max(np.abs(forecast - self.measured) / self.measured))

    @property
    def lazy(self) -> bool:
        """Whether the forecast was within a quarter of the real run."""
        return self.error <= _LAZY

    def as_dict(self, shares: Sequence[float] = (0.5, 0.1)) -> dict[str, Any]:
        """Every number as plain Python values, steps and products to these shares of the loss.

        Examples
        --------
        >>> import torch, immucond.deep as icd
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> cost = icd.attack_cost(net, [(torch.randn(9, 4), torch.arange(9) % 3)], split="2")
        >>> sorted(cost.as_dict()["steps"])
        ['0.1', '0.5']
        """
        grid = np.concatenate([[0.0], np.unique(np.geomspace(1, 1e9, 91).round())])
        told: dict[str, Any] = plain({
            "params": self.params,
            "start": self.start,
            "step": self.step,
            "lambda_max": self.lambda_max,
            "steps": {f"{share:g}": self.steps(share)._asdict() for share in shares},
            "krylov": {f"{share:g}": self.krylov(share) for share in shares},
            "loss": {"step": grid, **self.loss(grid)._asdict()},
            "measured": self.measured,
            "error": self.error,
            "lazy": self.lazy,
            "certified": self.certified,
        })  # fmt: skip
        return told

    def _columns(self) -> Columns:
        """Return the real run, step by step, beside the bounds; then the bounds alone."""
        taken = len(self.measured)
        later = self._steps()
        steps = np.concatenate([np.arange(taken), later[later >= taken]])
        real = np.append(self.measured, np.full(steps.size - taken, math.nan))
        return {"step": steps.astype(int), **self.loss(steps)._asdict(), "measured": real}

    def _curves(self, label: str = "forecast", style: Mapping[str, Any] | None = None) -> Curves:
        given = dict(style or {})
        marker = given.pop("marker", "o")  # of the points alone
        drawn = super()._curves(label, given)
        points = {"color": BLUE, **given, "marker": marker, "linestyle": "none",
                  "markerfacecolor": "none", "markersize": 4}  # fmt: skip
        real = np.asarray(self.measured) / self.start
        run = Line("_", np.arange(1, len(real)), real[1:], style=points)
        where = "steps of gradient descent (band: bounds; points: the real run)"
        return replace(drawn, x=where, lines=[*drawn.lines, run])

    def __repr__(self) -> str:
        half = self.steps(0.5)
        said = "" if self.lazy else ": not lazy, the forecast says little"
        return (
            f"NetworkCost({self.params}, {self.products} products, half of the loss after "
            f"{half.lower:.0f} to {half.upper:.0f} steps; off by {self.error:.1%} at most within "
            f"{len(self.measured) - 1} real steps{said})"
        )


@whatever_modes()
@layer_by_layer()
def attack_cost(
    model: nn.Module,
    harmful: Any,
    *,
    split: str,
    params: str = "full",
    rank: SupportsIndex = 8,
    products: SupportsIndex = 40,
    step: float | None = None,
    steps: SupportsIndex = 20,
    seed: SupportsIndex = 0,
    device: Any = None,
    callback: Callback | None = None,
) -> NetworkCost:
    r"""Forecast what fine-tuning a network on a task costs, without fine-tuning it.

    Around its start the network is linear in its parameters, with the Jacobian J of the outputs,
    and the loss of gradient descent is that of a probe with J in place of the features
    (:func:`immucond.probing.attack_cost`). Products with J and its transpose, by forward and by
    backward differentiation, tell it. A real run of a few steps tells how far that can be trusted.

    Parameters
    ----------
    model : nn.Module
        The network; it stays as it is, and runs in evaluation mode and in float32 or better.
    harmful : iterable of batches
        As for :func:`immucond.deep.immunize`, with classes as labels, of which those of -100 do not
        count, or targets (N, c). All of it is held in memory.
    split : str
        Name of the head, a linear layer, in whose place a new one is put.
    params : {"full", "lora", "head"}
        What is trained beside the new head: all, adapters beside each linear and convolutional
        layer (PEFT), or nothing.
    rank : int, default: 8
        Of the adapters.
    products : int, default: 40
        Number of products with J and with its transpose; two passes over the rows each.
    step : float, optional
        Step length; by default one over the largest eigenvalue of ``J J^T`` that was seen.
    steps : int, default: 20
        Of the real run.
    seed : int
        Of the new head and the adapters.
    device : optional
        Where to compute; by default where the model is.
    callback : callable, optional
        Called as ``callback(batch, record)`` after each batch of each product and of each step of
        the real run, with ``"batches"``, how many these are in all. Where the head alone is trained
        its inputs are computed once, and a product takes next to nothing.

    Returns
    -------
    NetworkCost

    Raises
    ------
    ValueError, TypeError
        For labels that are neither classes nor targets, or not one a row; outputs that are not
        finite; a rank beyond 65536; a head that is no linear layer; networks that are compiled,
        cannot be copied, or have no forward derivative; or a step at which descent diverges.

    Notes
    -----
    Ours. The head is drawn, and not zero: at zero the gradients of all that comes before it vanish,
    and the linearization would be that of the head alone. The bounds are those of the linear
    network, and `certified` is False.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
    >>> x = torch.randn(40, 8)
    >>> cost = icd.attack_cost(net, [(x, (x[:, 0] > 0).long())], split="2", products=10)
    >>> cost.lazy, cost.steps(0.9).lower >= 1
    (True, True)
    """
    check_choice(params, "params", PARAMS)
    where = device_of(model, device)
    refuse_compiled(model)
    SplitModel(model, split)  # refuses what is no head
    batches = held(harmful, "harmful", where, targets=True)
    width, drawn = as_rank(rank, "rank"), as_count(seed, "seed", least=0)
    taken = as_count(steps, "steps", least=1)
    attacked = _Attacked(model, split, batches, params, width, drawn, where)
    start = array(attacked.residual).ravel()
    k = min(as_count(products, "products", least=1), start.size)
    attacked.tell(callback, (2 * k + taken + 1) * len(batches))
    with sdpa_kernel(SDPBackend.MATH):  # the others have no forward differentiation
        found = tridiagonalize(attacked.kernel, start[None], k)
    ritz, residual = found.largest_ritz()
    lambda_max = ritz + residual
    rate = rate_of(step, lambda_max)
    unit = math.sqrt(lambda_max)
    measure = replace(found, alpha=found.alpha / unit, beta=found.beta / unit)
    return NetworkCost(
        float(start @ start), lambda_max, residual, rate,
        (0.0, float(measure.least_residuals()[0, -1]) ** 2), certified=False,
        backward_error=float(torch.finfo(attacked.dtype).eps), measure=measure,
        closed=k == start.size, params=params, measured=attacked.run(rate / lambda_max, taken),
    )  # fmt: skip


class _Attacked(nn.Module):
    """A copy with a head of the attacker's, and the products with the Jacobian of its outputs."""

    def __init__(
        self, model: nn.Module, split: str, batches: list[tuple[Any, Any]], params: str, rank: int,
        seed: int, where: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        classes, width = _targets([labels for _, labels in batches])
        self.model = prepared(model, where)
        self.head = with_new_head(self.model, split, width, params=params, seed=seed, rank=rank)
        self._network, self._batches = SplitModel(self.model, split), batches
        self._kept = False
        self._callback: Callback | None = None
        self._passed, self._in_all = 0, 0
        self.trained: dict[str, Tensor] = {
            name: p for name, p in self.named_parameters() if p.requires_grad
        }
        self.dtype = next(iter(self.trained.values())).dtype
        with torch.no_grad():
            done = [self._outcome(*batch) for batch in batches]
        self._y = [
            _rows_of(one_hot(found.labels.long(), width) if classes else found.labels,
                     found.logits, number).to(self.dtype)
            for number, found in enumerate(done, 1)
        ]  # fmt: skip
        self.residual = torch.cat([x.logits - y for x, y in zip(done, self._y, strict=True)])
        if not bool(self.residual.isfinite().all()):
            raise ValueError("the network's outputs on harmful, or its targets, are not finite")
        if params == "head" and all(self._served(found) for found in done):
            # Nothing that is trained comes before the features: the network need not run again.
            self._batches = [(found.features.detach(), None) for found in done]
            self._kept = True

    def forward(self, inputs: Any, labels: Any) -> Tensor:
        """Return the outputs of a batch, one row a sample or a token that counts."""
        if self._kept:
            return torch.as_tensor(self.head(inputs))
        return self._outcome(inputs, labels).logits

    def _served(self, found: Outcome) -> bool:
        """Whether logits are what the head makes of the features, and nothing follows."""
        return torch.allclose(self.head(found.features), found.logits, rtol=1e-6, atol=1e-7)

    def _outcome(self, inputs: Any, labels: Any) -> Outcome:
        return outcome_of(self._network, self._network(inputs), labels)

    def kernel(self, u: FloatArray) -> FloatArray:
        """Multiply ``J J^T`` with (1, N c)."""
        flat = torch.from_numpy(u[0]).to(self.residual).view_as(self.residual)
        slope, _ = self._pulled(self.trained, flat.split([len(y) for y in self._y]))
        try:
            rows = [
                jvp(partial(self._outputs, batch), (self.trained,), (slope,))[1]
                for _, batch in self._told()
            ]
        except NotImplementedError as error:
            raise TypeError(
                "the forecast needs the forward derivative of the network, an operation of which "
                f"has none (of weight_norm: remove_weight_norm keeps the function): {error}"
            ) from error
        return array(torch.cat(rows)).reshape(1, -1)

    def run(self, step: float, steps: int) -> FloatArray:
        """Return the losses of gradient descent on half the loss, (steps + 1,)."""
        trained, losses = self.trained, []
        for _ in range(steps + 1):
            trained = {name: p.detach().requires_grad_() for name, p in trained.items()}
            slope, loss = self._pulled(trained)
            losses.append(loss)
            trained = {name: p - step * slope[name] for name, p in trained.items()}
        return np.array(losses)

    def tell(self, callback: Callback | None, batches: int) -> None:
        """Tell of each batch from now on, of so many in all."""
        self._callback, self._in_all = callback, batches

    def _told(self) -> Iterator[tuple[int, Any]]:
        """Each batch and its place, told of once it is done."""
        for at, batch in enumerate(self._batches):
            yield at, batch
            self._passed += 1
            if self._callback is not None:
                self._callback(self._passed, {"batches": self._in_all})

    def _outputs(self, batch: Any, trained: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(self, trained, batch)
        return found

    def _pulled(
        self, trained: dict[str, Tensor], parts: Sequence[Tensor] | None = None
    ) -> tuple[dict[str, Tensor], float]:
        """Return J^T times the parts, or times the residual, and the square of what it was."""
        slope = {name: torch.zeros_like(p) for name, p in trained.items()}
        square = 0.0
        for at, batch in self._told():
            outputs = self._outputs(batch, trained)
            given = outputs.detach() - self._y[at] if parts is None else parts[at]
            square += float(given.double().square().sum())
            found = torch.autograd.grad(outputs, [*trained.values()], given, allow_unused=True)
            for total, x in zip(slope.values(), found, strict=True):
                if x is not None:
                    total += x
        return slope, square


def _targets(labels: Sequence[Tensor]) -> tuple[bool, int]:
    """Return whether labels are classes, and their number or the width of the targets."""
    numbers = {y.is_floating_point() for y in labels}
    if len(numbers) > 1:
        raise TypeError("the labels of harmful must be classes or targets, and are both")
    if numbers == {True}:
        return False, 1 if labels[0].ndim == 1 else int(labels[0].shape[-1])
    known = torch.cat([y.reshape(-1).long() for y in labels])
    known = known[known != IGNORED]
    if known.min() < 0:
        raise ValueError("the labels of harmful must count classes from 0")
    if known.max() < 1:
        raise ValueError("the labels of harmful must name at least two classes, counted from 0")
    return True, 1 + int(known.max())


def _rows_of(y: Tensor, logits: Tensor, number: int) -> Tensor:
    """Return the targets of a batch, one row for each of the logits'."""
    if y.shape[:1] != logits.shape[:1] or y.numel() != logits.numel():
        raise ValueError(
            f"the labels of batch {number} of harmful must make targets of the shape of the "
            f"outputs, {tuple(logits.shape)}, and make some of shape {tuple(y.shape)}"
        )
    return y.reshape(logits.shape)
