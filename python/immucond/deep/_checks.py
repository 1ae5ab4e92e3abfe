"""What `immunize` refuses, before any training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._validate import check_real
from ._activations import task_of
from ._batches import Batches, first_of, refuse_few, running_on
from ._descent import finite
from ._fingerprint import settings_of
from ._network import SplitModel
from ._objectives import Loss, Objective

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

LR, MOMENTUM = 3e-3, 0.9  # of the published results


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
    made = _made_by(make, parameters)
    return made, settings_of(made)


def _made_by(make: MakeOptimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    wanted = (
        "optimizer must make one of a list of parameters, such as "
        "lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
    )
    if not callable(make):
        raise TypeError(f"{wanted}, and is a {type(make).__name__}")
    made = make(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"{wanted}, and makes a {type(made).__name__}")
    return made


def refuse_given(why: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that do not go with the others."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f"{why} {', '.join(given)}")


def refuse_of_others(method: Any, given: Mapping[str, Any]) -> None:
    """Refuse what the closed form or fade has, delta both of them, for a method without it."""
    if method == "closed_form":
        refuse_given("only fade has", {"tau": given["tau"]})
    elif method == "fade":
        refuse_given("only the closed form has", {"kappa_P": given["kappa_P"]})
    else:
        refuse_given("the closed form and fade alone have", given)


def held_out_tasks(held_out: Any, where: torch.device) -> tuple[Batches, Batches] | None:
    """Return the tasks of rows to measure on, primary and harmful."""
    if held_out is None:
        return None
    if not isinstance(held_out, (tuple, list)) or len(held_out) != 2:
        raise ValueError("held_out must be two loaders, (primary, harmful), of rows to measure on")
    return (
        task_of(held_out[0], where, "held_out primary"),
        task_of(held_out[1], where, "held_out harmful"),
    )


def trained_parameters(model: SplitModel, blocks: list[nn.Module] | None) -> list[nn.Parameter]:
    """Leave only what is trained with a gradient."""
    if blocks is not None:
        model.model.requires_grad_(False)
        for block in (*blocks, model.head):
            block.requires_grad_()
    head = {id(module) for module in model.head.modules()}
    modules = (m for block in blocks or [model.model] for m in block.modules() if id(m) not in head)
    if not any(p.requires_grad for m in modules for p in m.parameters(recurse=False)):
        frozen = "the trainable blocks" if blocks is not None else "what comes before the head"
        raise ValueError(
            f"no parameter of {frozen} requires a gradient, so that the features cannot move: name "
            "blocks with parameters as trainable, or call requires_grad_() on them"
        )
    return [p for p in model.model.parameters() if p.requires_grad]


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
        refuse_few(len(features) if task.least is None else min(len(features), task.least), name)
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
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"loss and terms cannot be computed on a first batch of each task: {error}"
        ) from error
