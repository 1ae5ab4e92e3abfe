"""Deep immunization: the last blocks of a pre-trained network, moved against a harmful task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .._validate import FloatArray, as_count, check_real
from ._activations import batches_of, refuse_few, running_on, task_of
from ._checkpoint import Checkpoint
from ._closed_form import closed_form
from ._descent import RECORD, Run, Steps, finite
from ._fingerprint import fingerprint
from ._loaders import left_as_found
from ._objectives import Loss, Method, Objective, lambdas_of, objective_of
from ._reached import let_gradients_through
from ._split import SplitModel, blocks_named, names_of
from ._ties import copied
from ._wrapped import refuse_compiled


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
        done = closed_form(splitted, tasks, kappa_P, delta)
        return DeepImmunization(model, done, {})
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    parameters = _parameters(splitted, blocks)
    generator = torch.Generator().manual_seed(seed)
    P, H = (
        batches_of(splitted, blocks, loader, where, folder, name, deterministic)
        for loader, name in ((primary, "primary"), (harmful, "harmful"))
    )
    first = next(iter(P.in_order()))
    let_gradients_through(splitted, parameters, lambda: P.run(splitted, first).features)
    steps = Steps(
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
    run = Run(steps, P, H, generator, kept)
    with left_as_found(primary, harmful):
        run.to(as_count(epochs, "epochs", least=0), callback)
    for parameter, required in zip(model.parameters(), wanted, strict=True):
        parameter.requires_grad_(required)
    history = {key: np.array([r[key] for r in run.records]) for key in RECORD}
    return DeepImmunization(model, split, history)


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
        finite(loss(seen[0].logits, seen[0].labels))
        copy.copy(objective).terms(*seen)  # the state of the run's own is left as it is
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"loss and terms cannot be computed on a first batch of each task: {error}"
        ) from error
