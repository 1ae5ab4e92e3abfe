"""Deep immunization: the last blocks of a pre-trained network, moved against a harmful task."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import ImmucondError
from .._validate import FloatArray, as_count, check_real
from ..linear import optimal_extractor
from ._activations import (
    Batches,
    Outcome,
    batches_of,
    endless,
    refuse_few,
    running_on,
    task_of,
)
from ._checkpoint import Checkpoint
from ._features import all_features, array
from ._fingerprint import fingerprint
from ._fold import FoldedHead, replace_module
from ._loaders import left_as_found
from ._objectives import (
    Method,
    Objective,
    gradient_by,
    lambdas_of,
    norm_of,
    objective_of,
    weights,
)
from ._reached import let_gradients_through
from ._split import SplitModel, blocks_named, names_of
from ._ties import copied
from ._wrapped import refuse_compiled

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DeepImmunization:
    """An immunized network, and how it came about.

    Attributes
    ----------
    model : nn.Module
        A copy of the model that was given, immunized, in evaluation mode.
    split : str
        The name of the linear layer whose input are its features; for the closed form the folded
        head's last layer.
    history : dict of str to (steps,) array
        Every term at every step: ``loss`` (of the primary task), ``well`` and ``ill`` (the terms of
        the primary and of the harmful features), their weights ``lambda_P`` and ``lambda_H``, and
        the Frobenius norms of their gradients by the features ``grad_loss``, ``grad_well``,
        ``grad_ill``. Empty for the closed form, which takes no steps.
    """

    model: nn.Module
    split: str
    history: dict[str, FloatArray]


@torch.random.fork_rng(devices=[])
def immunize(
    model: nn.Module,
    *,
    split: str,
    primary: Any,
    harmful: Any,
    method: Method | Objective = "algorithm1",
    lambdas: tuple[float, float] | Literal["balance"] = "balance",
    trainable: str | Sequence[str] | None = None,
    epochs: int = 1,
    lr: float = 1e-4,
    momentum: float = 0.9,
    loss: Loss | None = None,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    kappa_P: float = 1.0,
    delta: float | tuple[float, float] = 0.0,
    seed: int = 0,
    device: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    cache: str | Path | None = None,
    deterministic: bool = False,
    callback: Callable[[int, Mapping[str, float]], object] | None = None,
) -> DeepImmunization:
    r"""Immunize a network: harmful features badly conditioned, the primary task as good as before.

    The features Z are what enters the head. On each pair of batches the trainable blocks descend on

    .. math:: L(Z_P) + \lambda_P R_{well}(Z_P) + \lambda_H R_{ill}(Z_H),

    the head on the primary loss L. The model stays in evaluation mode, as it will be served. What
    lies before the trainable blocks runs once, and its output is kept, where that changes nothing.

    Parameters
    ----------
    model : nn.Module
        Pre-trained; it is copied, not changed.
    split : str
        The name of its head, a linear layer.
    primary, harmful : DataLoader, iterable of batches, or what `keep_activations` returned
        Batches ``(inputs, labels)``, mappings with ``"labels"``, or inputs alone where no labels
        are needed (harmful ones are for ``"imma"`` only). Inputs are one tensor, a tuple of
        positional or a mapping of keyword arguments. The harmful ones start anew as often as
        needed.
    method : str or Objective
        "algorithm1"; the baselines "r_ill", "opt_kappa" and "imma"; or "closed_form", which puts
        the optimal linear map after the features and its inverse into the head: no training, and
        the primary logits stay as they are.
    lambdas : (float, float) or "balance"
        The weights, fixed; or such that each term's gradient by the features is in every step as
        large as that of the primary loss.
    trainable : str or sequence of str, optional
        The names of the blocks to train, the last ones of the network; by default all of it. A
        layer whose weight is that of one of them, or of the head, moves with it.
    epochs : int
        Passes over the primary loader.
    lr, momentum : float
        Of stochastic gradient descent.
    loss : callable, optional
        From logits and labels; by default the cross-entropy.
    optimizer : callable, optional
        From a list of parameters to an optimizer, instead of `lr` and `momentum`.
    kappa_P, delta : float
        For the closed form, as in `immucond.linear.optimal_extractor`.
    seed : int
        Of the order of the samples, and of what the loaders and the network draw: generators of
        PyTorch, NumPy and Python, global ones and such as a loader holds, are seeded from it, and
        left as they were, as samplers are. A sampler's ``set_epoch`` is called with 0, 1, ...
    device : torch.device, optional
        By default that of the model.
    checkpoint : path, optional
        A file that keeps the run's state. Where it is there already, of the same network and
        settings (`epochs` may be more), the run goes on from it, to the same bits. Loaders whose
        order follows from more than a generator (samplers, iterables of one's own) are read again
        from the first epoch on.
    checkpoint_every : int, default 100
        Steps from one writing of it to the next; it is written at the end too.
    cache : path, optional
        A folder for kept activations beyond one GiB, which are mapped into memory from there; by
        default they stay in memory.
    deterministic : bool
        Whether both loaders give a sample alike each time it is asked for, which cannot be known of
        a data set or a ``collate_fn`` of one's own: only then are activations kept of them. It is
        known of tensors and numbers in memory (`TensorDataset`, lists, subsets of them) that are
        stacked by default.
    callback : callable, optional
        Called as ``callback(step, record)`` after each step with what `history` gets; a true return
        value stops.

    Returns
    -------
    DeepImmunization

    Raises
    ------
    ValueError, TypeError
        Before any training: for names that the model does not have (the message lists those that it
        has), a head that is not linear, batches with fewer than two samples, features that are
        constant, not finite, or of another width than the head's input, labels that the loss does
        not take, a model that is compiled (``torch.compile``).
    ImmucondError
        Where the loss or a gradient is not finite, or a balanced weight would be zero or not
        finite, at the start or later.

    Warns
    -----
    The logger ``immucond`` tells where activations are not kept, and why (samples that may be drawn
    at random, batches of different shapes, tied weights).

    Notes
    -----
    Source: arXiv 2505.23760, Sec. 5.3. The rank rule follows the dtype in which the features are
    computed, and a batch with fewer samples than features takes p = k in R_well.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> X, y = torch.randn(64, 6), torch.arange(64) % 3
    >>> primary, harmful = [(X[:32], y[:32]), (X[32:], y[32:])], [(X.flip(1), y)]
    >>> done = ict.immunize(net, split="2", primary=primary, harmful=harmful, epochs=3)
    >>> done.history["loss"].shape
    (6,)
    """
    where = torch.device(device) if device is not None else next(model.parameters()).device
    torch.manual_seed(as_count(seed, "seed", least=0))
    model = copied(model, where).eval()
    splitted = SplitModel(model, split)
    objective = objective_of(method)
    if objective is not None:
        refuse_compiled(model)
    blocks = None if trainable is None else blocks_named(model, trainable)
    loss = loss or nn.functional.cross_entropy
    _inspect(splitted, primary, harmful, where, objective, loss)
    folder = None if cache is None else Path(cache)
    if objective is None:
        tasks = {
            name: task_of(loader, where, name)
            for name, loader in (("primary", primary), ("harmful", harmful))
        }
        return _closed_form(splitted, tasks, kappa_P, delta)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    parameters = _parameters(splitted, blocks)
    generator = torch.Generator().manual_seed(seed)
    P, H = (
        batches_of(splitted, blocks, loader, where, folder, name, deterministic)
        for loader, name in ((primary, "primary"), (harmful, "harmful"))
    )
    first = next(iter(P.in_order()))
    let_gradients_through(splitted, parameters, lambda: P.run(splitted, first).features)
    steps = _Steps(
        splitted,
        objective,
        lambdas_of(lambdas),
        loss,
        optimizer(parameters)
        if optimizer is not None
        else torch.optim.SGD(
            parameters,
            lr=check_real(lr, "lr", low=0.0),
            momentum=check_real(momentum, "momentum", low=0.0, high=1.0),
        ),
    )
    kept = None
    if checkpoint is not None:
        settings = {
            "model": fingerprint(model),
            "split": split,
            "trainable": None if trainable is None else names_of(trainable),
            "method": method if isinstance(method, str) else type(method).__name__,
            "lambdas": list(lambdas) if not isinstance(lambdas, str) else lambdas,
            "optimizer": [lr, momentum] if optimizer is None else "given",
            "seed": seed,
        }
        every = as_count(checkpoint_every, "checkpoint_every", least=1)
        kept = Checkpoint(Path(checkpoint), every, settings)
    run = _Run(steps, P, H, generator, kept)
    with left_as_found(primary, harmful):
        run.to(as_count(epochs, "epochs", least=0), callback)
    for parameter, required in zip(model.parameters(), wanted, strict=True):
        parameter.requires_grad_(required)
    history = {key: np.array([r[key] for r in run.records]) for key in _RECORD}
    return DeepImmunization(model, split, history)


_RECORD = ("loss", "well", "ill", "lambda_P", "lambda_H", "grad_loss", "grad_well", "grad_ill")


def _parameters(model: SplitModel, blocks: list[nn.Module] | None) -> list[nn.Parameter]:
    """Leave only what is trained with a gradient."""
    if blocks is not None:
        model.model.requires_grad_(False)
        for block in (*blocks, model.head):
            block.requires_grad_()
    head = {id(module) for module in model.head.modules()}
    modules = (m for block in blocks or [model.model] for m in block.modules() if id(m) not in head)
    if not any(p.requires_grad for m in modules for p in m.parameters(recurse=False)):
        raise ValueError("no parameter of the trainable blocks requires a gradient")
    return [p for p in model.model.parameters() if p.requires_grad]


def _inspect(
    model: SplitModel,
    primary: Any,
    harmful: Any,
    device: torch.device,
    objective: Objective | None,
    loss: Loss,
) -> None:
    """Refuse, before any training, what would fail in the midst of it."""
    seen = []
    for loader, name in ((primary, "primary"), (harmful, "harmful")):
        task = task_of(loader, device, name)
        batch = next(iter(task.in_order()), None)
        if batch is None:
            raise ValueError(f"{name} has no batches")
        with running_on(name), torch.no_grad():
            found = task.run(model, batch)
        features = found.features
        refuse_few(len(features) if task.least is None else min(len(features), task.least), name)
        if not bool(features.isfinite().all()):
            raise ValueError(f"the features of {name} must be finite, and are not")
        if bool((features == features[0]).all()):
            raise ValueError(f"the features of {name} are the same for all samples: of rank 1 or 0")
        needs = name == "primary" or (objective is not None and objective.needs_harmful_labels)
        if needs and objective is not None and found.labels is None:
            raise ValueError(f"{name} must have labels: batches (inputs, labels)")
        seen.append(found)
    if objective is None:
        return
    try:
        _finite(loss(seen[0].logits, seen[0].labels))
        copy.copy(objective).terms(*seen)  # the state of the run's own is left as it is
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"loss and terms cannot be computed on a first batch of each task: {error}"
        ) from error


def _finite(loss: Tensor) -> Tensor:
    if not math.isfinite(float(loss.detach())):
        raise ImmucondError(
            f"the primary loss is {float(loss.detach())}: lower lr or the lambdas, or look at the "
            "primary data"
        )
    return loss


class _Steps:
    """One descent step on a pair of batches."""

    def __init__(
        self,
        model: SplitModel,
        objective: Objective,
        lambdas: tuple[float, float] | None,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self._lambdas, self._loss = lambdas, loss

    def __call__(self, P: Outcome, H: Outcome) -> dict[str, float]:
        """Take it; every term is differentiated by the features, and those once by the network."""
        for task, name in ((P, "primary"), (H, "harmful")):
            refuse_few(len(task.features), name)
        loss = _finite(self._loss(P.logits, P.labels))
        well, ill = self.objective.terms(P, H)
        by_loss = gradient_by(loss, P.features)
        by_well, by_ill = (
            torch.zeros_like(Z) if term is None else gradient_by(term, Z)
            for term, Z in ((well, P.features), (ill, H.features))
        )
        norms = [norm_of(gradient) for gradient in (by_loss, by_well, by_ill)]
        for norm, name in zip(norms, ("loss", "primary term", "harmful term"), strict=True):
            if not math.isfinite(norm):
                raise ImmucondError(f"the gradient of the {name} by the features is not finite")
        of_terms = [None if t is None else n for t, n in zip((well, ill), norms[1:], strict=True)]
        lambda_P, lambda_H = weights(self._lambdas, norms[0], of_terms)
        by_P = lambda_P * by_well
        if not self.objective.uses_loss:
            by_P = by_P - by_loss  # its gradient ends at the features, once through the head
        self.optimizer.zero_grad()
        roots = {
            root: gradient.to(root.dtype)
            for root, gradient in (
                (loss, torch.ones_like(loss)),
                (P.features, by_P),
                (H.features, lambda_H * by_ill),
            )
            if root.requires_grad
        }
        # In one pass, so that a weight of the head that stands elsewhere too gets both its parts.
        torch.autograd.backward(list(roots), list(roots.values()))
        self.optimizer.step()
        terms = (0.0 if t is None else float(t.detach()) for t in (loss, well, ill))
        return dict(zip(_RECORD, (*terms, lambda_P, lambda_H, *norms), strict=True))


class _Run:
    """Steps on pairs of batches, epoch after epoch, with checkpoints between them."""

    def __init__(
        self,
        steps: _Steps,
        P: Batches,
        H: Batches,
        generator: torch.Generator,
        checkpoint: Checkpoint | None,
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

    def _step(
        self, p: Any, h: Any, callback: Callable[[int, Mapping[str, float]], object] | None
    ) -> bool:
        model = self._steps.model
        record = self._steps(self._P.run(model, p), self._H.run(model, h))
        self.records.append(record)
        return callback is not None and bool(callback(len(self.records), record))

    def _resume(self) -> None:
        """Take up the checkpoint's state, if there is one."""
        if self._checkpoint is None:
            return
        model = self._steps.model.model
        state = self._checkpoint.load(next(model.parameters()).device)
        if state is None:
            return
        if not (self._P.alike and self._H.alike):
            for _ in range(state["epoch"]):  # they may count
                harmful = endless(lambda: self._H.epoch(self._generator), "harmful")
                deque(zip(self._P.epoch(self._generator), harmful, strict=False), maxlen=0)
        model.load_state_dict(state["model"])
        self._steps.optimizer.load_state_dict(state["optimizer"])
        self._steps.objective.state = state["objective"]
        self._start, self._random = state["start"].cpu(), state["random"].cpu()
        self._generator.set_state(self._start)
        torch.set_rng_state(self._random)
        self._epoch, self._batch, self.records = state["epoch"], state["batch"], state["records"]

    def _save(self) -> None:
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


def _closed_form(
    model: SplitModel,
    tasks: Mapping[str, Batches],
    kappa_P: float,
    delta: float | tuple[float, float],
) -> DeepImmunization:
    Z_P, Z_H = (all_features(model, task, name) for name, task in tasks.items())
    A = optimal_extractor(
        X_P=array(Z_P),
        X_H=array(Z_H),
        kappa_P=kappa_P,
        delta=delta,
        computed_in=str(Z_P.dtype).removeprefix("torch."),
    )
    replace_module(model.model, model.split, FoldedHead(model.head, A))
    done, primary = f"{model.split}.1", tasks["primary"]
    try:
        with torch.no_grad():
            primary.run(SplitModel(model.model, done), next(iter(primary.in_order())))
    except Exception as error:
        raise ValueError(
            f"the closed form puts two layers in the place of {model.split!r}, and the model does "
            f"not run with them: it reads the head elsewhere too ({error})"
        ) from error
    return DeepImmunization(model.model, done, {})
