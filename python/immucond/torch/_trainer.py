"""Immunization in a training loop that somebody else runs: Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from ._activations import task_of
from ._batches import Outcome, endless, outcome, refuse_few
from ._evaluated import evaluating
from ._objectives import (
    Method,
    Objective,
    gradient_by,
    lambdas_of,
    norm_of,
    objective_of,
    refuse_frozen,
    weights,
)
from ._split import SplitModel
from ._wrapped import refuse_compiled


class TrainerMixin:
    """Adds the terms of immunization to ``compute_loss``: put it before ``Trainer``.

    Call `immunize_against` before training. The learning rate, what is trainable (by
    ``requires_grad``), checkpoints and logs are the trainer's; the terms of the last batch stand in
    its logs as ``primary_term`` and ``harmful_term``, their weights as ``lambda_P`` and
    ``lambda_H``. Evaluation is left as it is.

    Notes
    -----
    The loss is the mean over a batch, and gradients that are accumulated over several batches are
    averaged. Harmful batches go through the network in evaluation mode, so that no statistics are
    taken of them. A run that the trainer resumes reads them from the start. Where an extractor is
    frozen (no feature requires a gradient) a term with a weight is a ValueError.

    Examples
    --------
    With ``transformers``::

        class ImmunizingTrainer(ict.TrainerMixin, transformers.Trainer): ...

        trainer = ImmunizingTrainer(model, arguments, train_dataset=primary)
        trainer.immunize_against(harmful_loader, split="classifier")
        trainer.train()
    """

    model: Any
    _immunization: tuple[str, Objective, tuple[float, float] | None] | None = None
    _harmful: Iterator[Any]
    _record: dict[str, float]
    current_gradient_accumulation_steps: int  # the trainer's own

    def immunize_against(
        self,
        harmful: Any,
        *,
        split: str,
        method: Method | Objective = "algorithm1",
        lambdas: tuple[float, float] | Literal["balance"] = "balance",
    ) -> None:
        """Say what is harmful, and where the features are; the arguments are those of `immunize`.

        Raises
        ------
        ValueError, TypeError
            As `immunize` does.
        """
        SplitModel(self.model, split)
        least = task_of(harmful, next(self.model.parameters()).device, "harmful").least
        if least is not None:
            refuse_few(least, "harmful")
        objective = objective_of(method)
        if objective is None:
            raise ValueError("method must be one that trains, and is 'closed_form'")
        self._immunization = (split, objective, lambdas_of(lambdas))
        self._harmful = endless(lambda: iter(harmful), "harmful")
        self._record = {}
        self.loss_is_scaled_for_ga = False  # the trainer is to average; newer versions ask

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **keywords: Any
    ) -> Any:
        """Return the trainer's loss plus the terms, with its outputs if these are asked for."""
        above: Any = super()
        if self._immunization is None or not torch.is_grad_enabled():
            return above.compute_loss(model, inputs, return_outputs=return_outputs, **keywords)
        split, objective, lambdas = self._immunization
        network = SplitModel(self.model, split)
        if lambdas is None:
            refuse_compiled(self.model)
            refuse_compiled(model)
        # Without the number of items in all accumulated batches the loss is this one's mean.
        items = keywords.pop("num_items_in_batch", None)
        with network.watched() as seen:
            loss, outputs = above.compute_loss(model, inputs, return_outputs=True, **keywords)
        primary = Outcome(network.checked(seen), torch.empty(0), None)
        with evaluating(self.model) as served:
            batch = next(self._harmful)
            harmful = outcome(SplitModel(served, split), batch, primary.features.device)
        refuse_few(len(harmful.features), "harmful")
        total = self._total(objective, lambdas, loss, primary, harmful)
        if self._averages_itself(items):
            total = total / self.current_gradient_accumulation_steps
        return (total, outputs) if return_outputs else total

    def _averages_itself(self, items: Any) -> bool:
        """Whether the trainer takes this loss for one that its batches' sum need not be divided by.

        Older versions do not ask, and take what knows the number of items to have used it.
        """
        if hasattr(super(), "loss_is_scaled_for_ga"):
            return False
        knows = getattr(self, "model_accepts_loss_kwargs", False) and items is not None
        return knows or getattr(self, "compute_loss_func", None) is not None

    def log(self, logs: dict[str, float], *rest: Any, **keywords: Any) -> None:
        """Log the terms beside the training loss."""
        above: Any = super()
        if self._immunization is not None and "loss" in logs:
            logs = logs | self._record
        above.log(logs, *rest, **keywords)

    def _total(
        self,
        objective: Objective,
        lambdas: tuple[float, float] | None,
        loss: Tensor,
        primary: Outcome,
        harmful: Outcome,
    ) -> Tensor:
        terms = objective.terms(primary, harmful)
        sides = (primary.features, harmful.features)
        if lambdas is None:
            of_loss, *of_terms = (
                None if term is None else norm_of(gradient_by(term, Z))
                for term, Z in zip((loss, *terms), (sides[0], *sides), strict=True)
            )
            chosen = weights(None, of_loss or 0.0, of_terms)
        else:
            chosen = lambdas
            for weight, term, Z in zip(chosen, terms, sides, strict=True):
                if weight > 0.0 and term is not None:
                    refuse_frozen(Z)
        total = loss if objective.uses_loss else 0.0 * loss
        self._record = dict(zip(("lambda_P", "lambda_H"), chosen, strict=True))
        for name, weight, term in zip(("primary", "harmful"), chosen, terms, strict=True):
            if term is not None:
                self._record[f"{name}_term"] = float(term.detach())
                total = total + weight * term
        return total
