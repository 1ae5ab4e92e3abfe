"""Descent on pairs of batches: the steps, and runs of them that a checkpoint can take up."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .._errors import DivergenceError, ImmucondError
from .._validate import check_real
from ._activations import task_of
from ._batches import Batches, endless, first_of, refuse_few, running_on
from ._checkpoint import NetworkCheckpoint, settings_of
from ._head import SplitModel
from ._objectives import (
    START_BATCHES,
    Loss,
    Objective,
    Terms,
    balanced,
    first_weights,
    gradient_by,
    norm_of,
    weights,
)
from ._outcome import Outcome

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

LR, MOMENTUM = 3e-3, 0.9  # of the published results
RECORD = ("loss", "well", "ill", "lambda_P", "lambda_H", "grad_loss", "grad_well", "grad_ill")


def finite(loss: Tensor) -> Tensor:
    """Return the primary loss, or refuse one that is not finite."""
    if not math.isfinite(float(loss.detach())):
        raise ImmucondError(
            f"the primary loss is {float(loss.detach())}: lower lr or the lambdas, or look at the "
            "primary data"
        )
    return loss


def outcomes(model: SplitModel, P: Batches, H: Batches) -> list[tuple[Outcome, Outcome]]:
    """Return what the model makes of the first pairs of batches, as training draws them."""
    with torch.no_grad(), closing(P.drawn()) as of_P, closing(H.drawn()) as of_H:
        pairs = islice(zip(of_P, of_H, strict=False), START_BATCHES)
        found = [(P.run(model, p), H.run(model, h)) for p, h in pairs]
    for pair in found:
        for task, name in zip(pair, ("primary", "harmful"), strict=True):
            refuse_few(len(task.features), name)
    return found


def first_terms(
    model: SplitModel,
    primary: Any,
    harmful: Any,
    device: torch.device,
    objective: Objective | None,
    loss: Loss,
    labelled: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Refuse, before any training, what would fail in the midst of it; return first terms.

    `labelled` tells whether harmful labels are needed without an objective that needs them.
    """
    seen = []
    for loader, name in ((primary, "primary"), (harmful, "harmful")):
        task = task_of(loader, device, name)
        batch = first_of(task, name)
        with running_on(name), torch.no_grad():
            found = task.run(model, batch)
        features = found.features
        by_sample = None if found.by_token else task.least
        refuse_few(len(features) if by_sample is None else min(len(features), by_sample), name)
        if not bool(features.isfinite().all()):
            raise ValueError(f"the features of {name} must be finite, and are not")
        if bool((features == features[0]).all()):
            raise ValueError(f"the features of {name} are the same for all samples: of rank 1 or 0")
        if objective is None:
            needs = labelled and name == "harmful"
        else:
            needs = name == "primary" or objective.needs_harmful_labels
        if needs and found.labels is None:
            raise ValueError(f"{name} must have labels: batches (inputs, labels)")
        seen.append(found)
    if objective is None:
        return None, None
    try:
        finite(loss(seen[0].logits, seen[0].labels))
        return copy.copy(objective).terms(*seen)  # the state of the run's own is left as it is
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"loss and terms cannot be computed on a first batch of each task: {error}"
        ) from error


def optimizer_of(
    make: MakeOptimizer | None,
    parameters: list[nn.Parameter],
    lr: float | None,
    momentum: float | None,
) -> tuple[torch.optim.Optimizer, list[Any]]:
    """Return the optimizer, and the settings by which another run has the same."""
    rate = check_real(LR if lr is None else lr, "lr", low=0.0)
    inertia = check_real(MOMENTUM if momentum is None else momentum, "momentum", low=0.0, high=1.0)
    if make is None:
        return torch.optim.SGD(parameters, lr=rate, momentum=inertia), [rate, inertia]
    wanted = (
        "optimizer must make one of a list of parameters, such as "
        "lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
    )
    if not callable(make):
        raise TypeError(f"{wanted}, and is a {type(make).__name__}")
    made = make(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"{wanted}, and makes a {type(made).__name__}")
    return made, settings_of(made)


class Steps:
    """One descent step on a pair of batches."""

    def __init__(
        self,
        model: SplitModel,
        objective: Objective,
        rule: tuple[float, float] | Terms | None,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self._rule, self._loss = rule, loss
        self.terms = rule if isinstance(rule, Terms) else None
        self.first: tuple[float, float] | None = None  # the weights of the first step
        self._good: list[Tensor] = []

    def weigh(self, found: Iterable[tuple[Outcome, Outcome]]) -> None:
        """Set the weights by the terms of some pairs of batches, where they are to be so set."""
        if isinstance(self._rule, Terms):
            objective = copy.copy(self.objective)  # the state of the run's own is left as it is
            wanted = self._rule
            self._rule = balanced(wanted, (objective.terms(*pair) for pair in found))
            if objective.intermittent and wanted.harmful > 0.0 and self._rule[1] == 0.0:
                raise ImmucondError(
                    f"terms sets no weight of the harmful term: the first {START_BATCHES} harmful "
                    "batches have labels of one class each. Shuffle them, or give lambdas as two "
                    "numbers"
                )

    def __call__(self, P: Outcome, H: Outcome) -> dict[str, float]:
        """Take it; every term is differentiated by the features, and those once by the network."""
        for task, name in ((P, "primary"), (H, "harmful")):
            refuse_few(len(task.features), name)
            if not bool(task.features.isfinite().all()):
                raise ImmucondError(f"the features of {name} are not finite any more")
        loss = finite(self._loss(P.logits, P.labels))
        well, ill = self.objective.terms(P, H)
        by_loss = gradient_by(loss, P.root)
        by_well, by_ill = (
            torch.zeros_like(Z) if term is None else gradient_by(term, Z)
            for term, Z in ((well, P.root), (ill, H.root))
        )
        norms = [norm_of(gradient) for gradient in (by_loss, by_well, by_ill)]
        values = [0.0 if t is None else float(t.detach()) for t in (loss, well, ill)]
        names = ("loss", "primary term", "harmful term")
        for norm, value, name in zip(norms, values, names, strict=True):
            if not math.isfinite(norm):
                raise ImmucondError(f"the gradient of the {name} by the features is not finite")
            if not math.isfinite(value):
                raise ImmucondError(f"the {name} is not finite")
        of_terms = [None if t is None else n for t, n in zip((well, ill), norms[1:], strict=True)]
        assert not isinstance(self._rule, Terms)
        lambda_P, lambda_H = weights(self._rule, norms[0], of_terms, self.first)
        self.first = first_weights(self.first, (lambda_P, lambda_H))
        by_P = lambda_P * by_well
        if not self.objective.uses_loss:
            by_P = by_P - by_loss  # its gradient ends at the features, once through the head
        self.optimizer.zero_grad()
        roots = {
            root: gradient.to(root.dtype)
            for root, gradient in (
                (loss, torch.ones_like(loss)),
                (P.root, by_P),
                (H.root, lambda_H * by_ill),
            )
            if root.requires_grad
        }
        # In one pass, so that a weight of the head that stands elsewhere too gets both its parts.
        torch.autograd.backward(list(roots), list(roots.values()))
        self._keep()
        self.optimizer.step()
        return dict(zip(RECORD, (*values, lambda_P, lambda_H, *norms), strict=True))

    @property
    def _trained(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def _keep(self) -> None:
        """Keep the weights at which the loss and all gradients were finite."""
        if not self._good:
            self._good = [torch.empty_like(p) for p in self._trained]
        for kept, p in zip(self._good, self._trained, strict=True):
            kept.copy_(p)

    @torch.no_grad()
    def back(self) -> None:
        """Take the last step back."""
        for kept, p in zip(self._good, self._trained, strict=bool(self._good)):
            p.copy_(kept)

    def check(self) -> None:
        """Refuse weights that are not finite."""
        if not all(bool(p.isfinite().all()) for p in self._trained):
            raise ImmucondError("a weight is not finite after the last step")


class Run:
    """Steps on pairs of batches, epoch after epoch, with checkpoints between them."""

    def __init__(
        self,
        steps: Steps,
        P: Batches,
        H: Batches,
        generator: torch.Generator,
        checkpoint: NetworkCheckpoint | None,
    ) -> None:
        self._steps, self._P, self._H = steps, P, H
        self._generator, self._checkpoint = generator, checkpoint
        # When the epoch began, and of PyTorch's own generator, which loaders draw from, now.
        self._start, self._random = generator.get_state(), torch.get_rng_state()
        self._epoch = self._batch = 0
        self.records: list[dict[str, float]] = []

    def to(
        self, epochs: int, callback: Callable[[int, Mapping[str, float]], object] | None
    ) -> None:
        """Run until so many epochs are done, or the callback stops it."""
        self._resume()
        if self._checkpoint is not None and (self._epoch, self._batch) > (epochs, 0):
            raise ValueError(
                f"epochs must be at least {self._epoch + (self._batch > 0)}, as many as checkpoint "
                f"{self._checkpoint.path} has begun, and is {epochs}"
            )
        stopped = False
        while self._epoch < epochs and not stopped:
            harmful = endless(lambda: self._H.epoch(self._generator), "harmful")
            pairs = zip(self._P.epoch(self._generator), harmful, strict=False)
            for number, batches in enumerate(pairs, 1):
                if number <= self._batch:  # taken before the interruption
                    if number == self._batch:
                        torch.set_rng_state(self._random)
                    continue
                stopped = self._step(*batches, callback)
                self._batch = number
                if stopped:
                    break
                if self._checkpoint is not None and len(self.records) % self._checkpoint.every == 0:
                    self._save()
            else:
                self._epoch, self._batch = self._epoch + 1, 0
                self._start = self._generator.get_state()
        self._save()

    def _diverged(self, error: Exception) -> None:
        """Go back to the network that the last record was measured at."""
        self._steps.back()
        raise DivergenceError(
            f"training diverged in step {len(self.records) + 1}: {error}. The network before the "
            f"last step, and the history of all {len(self.records)}, are in this error's result"
        ) from error

    def _step(
        self, p: Any, h: Any, callback: Callable[[int, Mapping[str, float]], object] | None
    ) -> bool:
        model = self._steps.model
        try:
            record = self._steps(self._P.run(model, p), self._H.run(model, h))
        except (ImmucondError, OverflowError) as error:
            if self.records:
                self._diverged(error)
            raise
        self.records.append(record)
        return callback is not None and bool(callback(len(self.records), record))

    def _resume(self) -> None:
        """Take up the checkpoint's state, if there is one."""
        if self._checkpoint is None:
            return
        model = self._steps.model.model
        state = self._checkpoint.load()
        if state is None:
            return
        if not (self._P.alike and self._H.alike):
            for _ in range(state["epoch"]):  # they may count
                harmful = endless(lambda: self._H.epoch(self._generator), "harmful")
                deque(zip(self._P.epoch(self._generator), harmful, strict=False), maxlen=0)
        model.load_state_dict(state["model"])
        self._steps.optimizer.load_state_dict(state["optimizer"])
        self._steps.objective.state = tree_map_only(
            Tensor, lambda x: x.to(next(model.parameters()).device), state["objective"]
        )
        self._start, self._random = state["start"], state["random"]
        self._generator.set_state(self._start)
        torch.set_rng_state(self._random)
        self._epoch, self._batch, self.records = state["epoch"], state["batch"], state["records"]
        for record in self.records:
            now = record["lambda_P"], record["lambda_H"]
            self._steps.first = first_weights(self._steps.first, now)

    def _save(self) -> None:
        if self.records:
            try:
                self._steps.check()
            except ImmucondError as error:
                self._diverged(error)
        if self._checkpoint is not None:
            self._checkpoint.save(
                {
                    "model": self._steps.model.model.state_dict(),
                    "optimizer": self._steps.optimizer.state_dict(),
                    "objective": self._steps.objective.state,
                    "start": self._start,
                    "random": torch.get_rng_state(),
                    "epoch": self._epoch,
                    "batch": self._batch,
                    "records": self.records,
                }
            )
