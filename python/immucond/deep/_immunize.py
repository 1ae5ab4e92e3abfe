"""Deep immunization: the last blocks of a pre-trained network, moved against a harmful task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from torch import nn

from .._errors import DivergenceError, ImmunityWarning, warn
from .._validate import as_count, as_path
from ._activations import batches_of, task_of
from ._batches import Batches
from ._checkpoint import NetworkCheckpoint, fingerprint, name_of, unsaved
from ._descent import (
    RECORD,
    MakeOptimizer,
    Run,
    Steps,
    first_terms,
    optimizer_of,
    outcomes,
)
from ._distillation import WEIGHTS, Distillation, Lessons, adam, imitation
from ._frozen import let_gradients_through, trained_parameters
from ._head import SplitModel
from ._loaders import left_as_found
from ._maps import checked_tau, closed_form, fade_network
from ._network import blocks_named, copied, device_of, names_of, refuse_compiled
from ._objectives import (
    Loss,
    Method,
    Objective,
    Pair,
    asked_by,
    objective_of,
    refuse_idle,
    weighting,
)
from ._report import DeepImmunization, DeepReport, Measurement, warn_if_easier


@torch.inference_mode(False)
@torch.random.fork_rng(devices=[])
def immunize(
    model: nn.Module,
    *,
    split: str,
    primary: Any,
    harmful: Any,
    method: Method | Objective = "algorithm1",
    terms: Pair | None = None,
    lambdas: Pair | Literal["balance"] | None = None,
    trainable: str | Sequence[str] | None = None,
    epochs: SupportsIndex | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    loss: Loss | None = None,
    optimizer: MakeOptimizer | None = None,
    kappa_P: float | None = None,
    delta: float | tuple[float, float] | None = None,
    tau: float | None = None,
    held_out: tuple[Any, Any] | None = None,
    computed_in: Any = None,
    seed: SupportsIndex = 0,
    device: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: SupportsIndex | None = None,
    cache: str | Path | None = None,
    deterministic: bool | None = None,
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
        The name of its head, a linear layer: no adapter around one, and not quantized.
    primary, harmful : DataLoader, iterable of batches, or what `keep_activations` returned
        Batches ``(inputs, labels)``, mappings with ``"labels"``, or inputs alone where no labels
        are needed (harmful ones are for "imma", "alignment" and "fade"). Inputs are one tensor, a
        tuple of positional or a mapping of keyword arguments. The harmful ones start anew as often
        as needed. Where the head runs on tokens (B, T, m), rows are those that ``attention_mask``
        keeps, as the network ran with it, and whose label is not -100; of causal models labels are
        those of the tokens behind.
    method : str or Objective
        "algorithm1"; the baselines "r_ill", "opt_kappa" and "imma"; "alignment", whose harmful term
        is the logarithm of `immucond.torch.r_align`; or one of two without training, at the same
        primary logits: "closed_form", which puts the optimal linear map after the features and its
        inverse into the head, and "fade", the map of `immucond.linear.fade`, which is folded into
        the linear layer before the head where nothing else reads that one's output, and else
        inserted. With `trainable`, fade is distilled into these blocks instead: they are trained
        to serve ``Z A`` (regression on both tasks, and log rho on the harmful one), the head to say
        what it said before. So the network keeps its form where pooling or a normalization comes
        before the head.
    terms : (float, float), optional
        How large the weighted terms of the primary and of the harmful features are at the start,
        on the mean over eight pairs of batches; that sets the weights, once. 0 for a term that the
        method does not have. By default (1, 10) for "algorithm1", (0, 3) for "r_ill" and "imma",
        (1, 0.03) for "opt_kappa", (0, 0.3) for "alignment"; an `Objective` has its own.
        Distillation has the weights (1, 1), of what its terms are relative to: the spread of the
        primary features, the change of the harmful ones.
    lambdas : (float, float) or "balance", optional
        The weights instead, as two numbers in a tuple, a list, an array or a tensor. "balance"
        makes each term's gradient by the features in every step as large as that of the primary
        loss, by a weight of at most ten times what it was in the first step; not in distillation,
        whose loss starts at zero.
    trainable : str or sequence of str, optional
        The names of the blocks to train, the last ones of the network; by default all of it. A
        layer whose weight is that of one of them, or of the head, moves with it.
    epochs : int, default 1
        Passes over the primary loader.
    lr, momentum : float, default 3e-3 and 0.9
        Of stochastic gradient descent. Distillation takes Adam, by default from 1e-3 on, falling
        to 0 along a cosine where the primary loader's length is known.
    loss : callable, optional
        From logits and labels, of rows as above; by default the cross-entropy.
    optimizer : callable, optional
        From a list of parameters to an optimizer, instead of `lr` and `momentum`.
    kappa_P, delta : float, optional
        For the closed form, as in `immucond.linear.optimal_extractor`; by default the primary
        condition number stays as it is, and delta is 0. Fade has a delta too, one number.
    tau : float, default 1e4
        For fade, as in `immucond.linear.fade`; finite.
    held_out : (loader, loader), optional
        Primary and harmful rows that are not trained on, for the report. Without them it is of
        the rows immunized on.
    computed_in : dtype_like, optional
        The precision in which the features are computed, which decides their rank; by default that
        of their dtype, where half precision counts as computed in float32 and rounded once.
    seed : int
        Of the order of the samples, and of what the loaders and the network draw: generators of
        PyTorch, NumPy and Python, global ones and such as a loader holds, are seeded from it, and
        left as they were, as samplers are. A sampler's ``set_epoch`` is called with 0, 1, ...
    device : torch.device, optional
        By default that of the model.
    checkpoint : path, optional
        A file that keeps the run's state. Where it is there already, of the same network, data,
        loss and settings (`epochs` may be more, but not of distillation), the run goes on from it,
        to the same bits. Data are told apart by their length and first batch; a loss and an
        objective by their code and all that they hold, an optimizer by its type and its groups'
        settings. Loaders whose order follows from more than a generator (samplers, iterables of
        one's own) are read again from the first epoch on.
    checkpoint_every : int, default 100
        Steps from one writing of it to the next; it is written at the end too.
    cache : path, optional
        A folder for kept activations beyond one GiB, which are mapped into memory from there; by
        default they stay in memory.
    deterministic : bool, optional
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
        not take, a model that is compiled (``torch.compile``), arguments that the method does not
        have. For fade without harmful labels, and where a primary logit would change by more than
        1e-2 of the largest one, by rounding, unless it is distilled.
    ImmucondError
        Where the loss or a gradient is not finite at the start, or a weight would be zero or not
        finite.
    DivergenceError
        Where that is so later: its ``result`` is a `DeepImmunization` of the last network at which
        all was finite, with the history up to it.

    Warns
    -----
    ImmunityWarning
        Where the harmful task got easier: (i) of the report is below 1, or a probe got better than
        chance explains. Where a rank changed, so that (i) or (ii) compares different spectra, and
        where the network could not be measured.

    The logger ``immucond`` tells where activations are not kept, and why (samples that may be drawn
    at random, batches of different shapes, tied weights).

    Notes
    -----
    Source: arXiv 2505.23760, Sec. 5.3. The rank rule follows the dtype in which the features are
    computed, and a batch with fewer samples than features takes p = k in R_well.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> X, y = torch.randn(64, 6), torch.arange(64) % 3
    >>> primary, harmful = [(X[:32], y[:32]), (X[32:], y[32:])], [(X.flip(1), y)]
    >>> done = icd.immunize(net, split="2", primary=primary, harmful=harmful, epochs=3)
    >>> done.history["loss"].shape
    (6,)
    """
    of_training = {
        "terms": terms, "lambdas": lambdas, "trainable": trainable, "epochs": epochs, "lr": lr,
        "momentum": momentum, "loss": loss, "optimizer": optimizer, "checkpoint": checkpoint,
        "checkpoint_every": checkpoint_every, "cache": cache, "deterministic": deterministic,
        "callback": callback,
    }  # fmt: skip
    distilled = method == "fade" and trainable is not None
    objective = Distillation() if distilled else objective_of(method, computed_in)
    of_maps = {"kappa_P": kappa_P, "delta": delta, "tau": tau}
    _refuse_misplaced("distilled" if distilled else method, of_training, of_maps)
    strength = checked_tau(1e4 if tau is None else tau)
    where = device_of(model, device)
    drawn = as_count(seed, "seed", least=0)
    torch.manual_seed(drawn)
    model = copied(model, where).eval()
    splitted = SplitModel(model, split)
    if objective is not None:
        refuse_compiled(model)
    blocks = None if trainable is None else blocks_named(model, trainable)
    wanted_loss: Loss = imitation if distilled else loss or nn.functional.cross_entropy
    rule = None if objective is None else weighting(lambdas, terms, objective)
    untaught = None if distilled else objective
    found = first_terms(splitted, primary, harmful, where, untaught, wanted_loss, method == "fade")
    unseen, tasks = _held_out_tasks(held_out, where), {"primary": primary, "harmful": harmful}
    added = 0.0 if delta is None else delta
    if objective is None:
        whole = {name: task_of(loader, where, name) for name, loader in tasks.items()}
        measurement = _measured(splitted, whole["primary"], whole["harmful"], unseen, computed_in)
        faded = None
        if method == "fade":
            done, faded = fade_network(splitted, whole, strength, added, computed_in)
        else:
            done = closed_form(splitted, whole, kappa_P, added, computed_in)
        report = _reported(measurement, SplitModel(model, done))
        return DeepImmunization(model, done, {}, report, faded)
    if distilled:
        rule = rule if asked_by(lambdas, terms) else WEIGHTS
    else:
        refuse_idle(rule, found, asked_by(lambdas, terms), objective.intermittent)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    parameters = trained_parameters(splitted, blocks)
    folder = None if cache is None else as_path(cache, "cache")
    P, H = (
        batches_of(splitted, blocks, loader, where, folder, name, bool(deterministic))
        for name, loader in tasks.items()
    )
    first = next(iter(P.in_order()))
    let_gradients_through(splitted, parameters, lambda: P.run(splitted, first).features)
    passes = as_count(1 if epochs is None else epochs, "epochs", least=0)
    if distilled and optimizer is None:
        decay_over = None if P.count is None else passes * P.count
        optimizer = partial(adam, lr=lr, steps=decay_over)
    descending, optimizer_settings = optimizer_of(optimizer, parameters, lr, momentum)
    steps = Steps(splitted, objective, rule, wanted_loss, descending)
    lesson = None
    if distilled:
        lesson = Lessons(splitted, P, H, strength, added, computed_in)
    kept = None
    if checkpoint is not None:
        settings = {
            "model": fingerprint(model, unsaved(model)),
            "primary": P.fingerprint(),
            "harmful": H.fingerprint(),
            "split": split,
            "trainable": None if trainable is None else names_of(trainable),
            "frozen": frozen or None if trainable is None else None,
            "method": method if isinstance(method, str) else name_of(method, without=("state",)),
            "lambdas": lambdas,
            "terms": steps.terms,
            "computed_in": computed_in,
            "loss": name_of(wanted_loss),
            "optimizer": optimizer_settings,
            "seed": drawn,
        }
        if distilled:
            settings["map"] = [strength, added]
            settings["epochs"] = passes  # the rate falls over them
        every = 100 if checkpoint_every is None else checkpoint_every
        count = as_count(every, "checkpoint_every", least=1)
        kept = NetworkCheckpoint(checkpoint, count, settings)
    taught = (P, H) if lesson is None else lesson.tasks
    run = Run(steps, *taught, torch.Generator().manual_seed(drawn), kept)
    with torch.random.fork_rng(devices=[]), left_as_found(primary, harmful):
        measurement = _measured(splitted, P, H, unseen, computed_in)
        if steps.terms is not None:
            steps.weigh(outcomes(splitted, *taught))

    def finished() -> DeepImmunization:
        model.zero_grad()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        history = {key: np.array([r[key] for r in run.records]) for key in RECORD}
        faded = None
        if lesson is not None:
            place = ", ".join(names_of(trainable or ()))
            faded = lesson.learnt(splitted, place, measurement.rho_under(lesson.map))
        return DeepImmunization(model, split, history, _reported(measurement, splitted), faded)

    try:
        with left_as_found(primary, harmful):
            run.to(passes, callback)
    except DivergenceError as error:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the divergence is what counts
            error.result = finished()
        raise
    return finished()


def _refuse_misplaced(
    method: Any, of_training: Mapping[str, Any], of_maps: Mapping[str, Any]
) -> None:
    """Refuse arguments that the method, or an optimizer of one's own, does not have."""

    def refuse(why: str, arguments: Mapping[str, Any], *names: str) -> None:
        given = [name for name in names or arguments if arguments[name] is not None]
        if given:
            raise ValueError(f"{why} {', '.join(given)}")

    if method == "closed_form":
        refuse("the closed form does not train, and has no", of_training)
        refuse("only fade has", of_maps, "tau")
    elif method == "fade":
        refuse(
            "fade does not train unless it is distilled into blocks, trainable, and has no",
            of_training,
        )
        refuse("only the closed form has", of_maps, "kappa_P")
    elif method == "distilled":
        refuse("distillation imitates the network's own logits, and has no", of_training, "loss")
        refuse("distillation takes Adam, and has no", of_training, "momentum")
        if isinstance(lambdas := of_training["lambdas"], str) and lambdas == "balance":
            raise ValueError(
                "lambdas must be two numbers for distillation, and is 'balance', which goes by the "
                "gradient of the primary loss: that is zero for a network that has not moved"
            )
        refuse("only the closed form has", of_maps, "kappa_P")
    else:
        refuse("the closed form and fade alone have", of_maps)
    if of_training["optimizer"] is not None:
        refuse("an optimizer of one's own has its own", of_training, "lr", "momentum")


def _held_out_tasks(held_out: Any, where: torch.device) -> tuple[Batches, Batches] | None:
    """Return the tasks of rows to measure on, primary and harmful."""
    if held_out is None:
        return None
    if not isinstance(held_out, (tuple, list)) or len(held_out) != 2:
        raise ValueError("held_out must be two loaders, (primary, harmful), of rows to measure on")
    P, H = (
        task_of(task, where, f"held_out {name}")
        for task, name in zip(held_out, ("primary", "harmful"), strict=True)
    )
    return P, H


def _measured(
    model: SplitModel,
    P: Batches,
    H: Batches,
    unseen: tuple[Batches, Batches] | None,
    computed_in: Any,
) -> Measurement:
    """Measure the network that is to be immunized, on rows that it is not, where there are any."""
    if unseen is None:
        return Measurement(model, (P, H), None, "immunized on", computed_in)
    return Measurement(model, unseen, H, "held-out", computed_in)


def _reported(measurement: Measurement, model: SplitModel) -> DeepReport | None:
    """Measure, and warn; what cannot be measured is said, and costs nobody the network."""
    try:
        report = measurement.report(model)
    except Exception as error:
        warn(
            "the network is immunized, and could not be measured, so that its report is None: "
            f"{type(error).__name__}: {error}",
            ImmunityWarning,
        )
        return None
    warn_if_easier(report)
    return report
