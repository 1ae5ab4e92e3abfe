"""Immunization in a training loop that somebody else runs: Hugging Face's Trainer."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._files import whole
from .._validate import plain, refuse_other
from ..torch import sum_over_ranks
from ._activations import task_of
from ._batches import first_of, outcome, refuse_few
from ._checkpoint import name_of
from ._head import SplitModel
from ._loaders import parse_batch
from ._network import evaluating, refuse_compiled
from ._objectives import (
    Method,
    Objective,
    Pair,
    Terms,
    asked_by,
    balanced,
    first_weights,
    gradient_by,
    norm_of,
    objective_of,
    refuse_frozen,
    refuse_idle,
    weighting,
    weights,
)
from ._outcome import Outcome, outcome_of
from ._processes import Ranks, harmful_by_rank

SETTINGS = "immunization.json"
"""In each checkpoint's folder: what the run is immunized by, and its first weights."""


class TrainerMixin:
    """Adds the terms of immunization to ``compute_loss``: put it before ``Trainer``.

    Call `immunize_against` before training. The learning rate, what is trainable (by
    ``requires_grad``), checkpoints and logs are the trainer's. Beside its ``loss``, which is the
    total, stand ``primary_loss`` and the unweighted terms ``well`` and ``ill``, means over the
    batches since the last log as the loss is, and the weights ``lambda_P`` and ``lambda_H``.
    Evaluation is left as it is.

    Notes
    -----
    The loss is the mean over a batch, and gradients that are accumulated over several batches are
    averaged. Harmful batches go through the network in evaluation mode, so that no statistics are
    taken of them. A run that the trainer resumes reads them from the start, and keeps its weights:
    they stand in each checkpoint's folder, in ``immunization.json``, with the method, the terms and
    the split, and other ones are refused.
    Where an extractor is frozen (no feature requires a gradient) a term with a weight is a
    ValueError.

    Over several processes the terms are those of all their rows together, and each process reads
    harmful samples of its own.

    Examples
    --------
    With ``transformers``::

        class ImmunizingTrainer(icd.TrainerMixin, transformers.Trainer): ...

        trainer = ImmunizingTrainer(model, arguments, train_dataset=primary)
        trainer.immunize_against(harmful_loader, split="classifier")
        trainer.train()
    """

    model: Any
    _immunization: tuple[str, Objective, tuple[float, float] | Terms | None] | None = None
    _harmful: Iterator[Any]
    _ranks: Ranks
    _first: tuple[float, float] | None  # the weights of the first step
    _settings: dict[str, Any]  # what a resumed run must agree in
    _asked: str  # which argument weights the terms
    _immunized: bool  # whether the step at hand is
    _sums: dict[str, float]  # of the batches since the last log
    _weights: dict[str, float]
    current_gradient_accumulation_steps: int  # the trainer's own

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Refuse an order in which the trainer's own ``compute_loss`` comes first."""
        super().__init_subclass__(**keywords)
        for base in cls.__mro__[: cls.__mro__.index(TrainerMixin)]:
            if not issubclass(base, TrainerMixin) and "compute_loss" in vars(base):
                raise TypeError(
                    f"TrainerMixin must come before {base.__name__}, whose compute_loss would hide "
                    f"that of immunization: class {cls.__name__}(TrainerMixin, {base.__name__})"
                )

    def immunize_against(
        self,
        harmful: Any,
        *,
        split: str,
        method: Method | Objective = "algorithm1",
        terms: Pair | None = None,
        lambdas: Pair | Literal["balance"] | None = None,
        computed_in: Any = None,
        group: Any = None,
    ) -> None:
        """Say what is harmful, and where the features are.

        Parameters
        ----------
        harmful, split, method, terms, lambdas, computed_in
            As in `immunize`; `terms` are those of the first pair of batches.
        group : torch.distributed.ProcessGroup, optional
            The processes whose rows the terms are of; by default all, where there are several.

        Raises
        ------
        ValueError, TypeError
            As `immunize` does.
        """
        network = SplitModel(self.model, split)
        ranks = Ranks(group)
        objective = objective_of(method, computed_in, ranks.group)
        if objective is None:
            raise ValueError(f"method must be one that trains, and is {method!r}")
        task = task_of(harmful, next(self.model.parameters()).device, "harmful")
        if task.least is not None and not network.runs_on_tokens:
            refuse_few(task.least, "harmful")
        batch = first_of(task, "harmful")
        if objective.needs_harmful_labels and parse_batch(batch)[1] is None:
            raise ValueError(f"harmful must have labels for {method!r}: batches (inputs, labels)")
        rule = weighting(lambdas, terms, objective)
        self._immunization, self._asked = (split, objective, rule), asked_by(lambdas, terms)
        named = method if isinstance(method, str) else name_of(method, without=("state",))
        weighted = "balance" if rule is None else None if isinstance(rule, Terms) else rule
        self._settings = plain({
            "split": split,
            "method": named,
            "terms": rule if isinstance(rule, Terms) else None,
            "lambdas": weighted,
            "computed_in": computed_in,
        })  # fmt: skip
        self._harmful = harmful_by_rank(harmful, ranks)
        self._ranks, self._first, self._sums, self._weights = ranks, None, {}, {}
        self.loss_is_scaled_for_ga = False  # the trainer is to average; newer versions ask

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        """Train, as the trainer does; refuse before what would immunize nothing, or fail midway."""
        if self._immunization is None:
            linear = [name for name, m in self.model.named_modules() if isinstance(m, nn.Linear)]
            head = linear[-1] if linear else "NAME OF THE HEAD"
            raise RuntimeError(
                "there is nothing to immunize against: before train(), call "
                f"trainer.immunize_against(harmful_loader, split={head!r})"
            )
        self._refuse_a_last_batch_of_one()
        resumed = arguments[0] if arguments else keywords.get("resume_from_checkpoint")
        self._first = self._weights_in(self._last_checkpoint() if resumed is True else resumed)
        above: Any = super()
        return above.train(*arguments, **keywords)

    def _last_checkpoint(self) -> str | None:
        from transformers.trainer_utils import get_last_checkpoint  # type: ignore[import-not-found, import-untyped, unused-ignore]

        found: str | None = get_last_checkpoint(self.args.output_dir)  # type: ignore[attr-defined]
        return found

    def _weights_in(self, folder: Any) -> tuple[float, float] | None:
        """Return the first weights of the run that is resumed; refuse to resume another."""
        if not folder or not (Path(folder) / SETTINGS).is_file():
            return None
        path = Path(folder) / SETTINGS
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            first, second = there.pop("weights")
            weights = float(first), float(second)
        except Exception as error:
            raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        remedy = "Give immunize_against what it was given then, or train anew"
        refuse_other(there, self._settings, f"checkpoint {folder}", remedy)
        return weights

    def _save_checkpoint(self, model: Any, trial: Any, *rest: Any, **keywords: Any) -> None:
        """Keep what the run is immunized by beside what the trainer writes."""
        above: Any = super()
        above._save_checkpoint(model, trial, *rest, **keywords)
        if self._immunization is not None and self._first is not None and self.args.should_save:  # type: ignore[attr-defined]
            folder = Path(above._get_output_dir(trial=trial))
            folder /= f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
            if folder.is_dir():  # the trainer may keep a few alone
                with whole(folder / SETTINGS) as file:
                    told = self._settings | {"weights": list(self._first)}
                    file.write((json.dumps(told, indent=1) + "\n").encode())

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        """Train on a batch, as the trainer does; refuse a ``compute_loss`` that hides this one."""
        self._immunized = False
        above: Any = super()
        loss = above.training_step(*arguments, **keywords)
        if self._immunization is not None and not self._immunized:
            classes = type(self).__mro__[: type(self).__mro__.index(TrainerMixin)]
            named = [c.__name__ for c in classes if "compute_loss" in vars(c)]
            raise TypeError(
                f"compute_loss of {named[0] if named else type(self).__name__} does not call "
                "super().compute_loss, which adds the terms of immunization: nothing is immunized"
            )
        return loss

    def _refuse_a_last_batch_of_one(self) -> None:
        options, data = getattr(self, "args", None), getattr(self, "train_dataset", None)
        size = getattr(options, "train_batch_size", None)
        if size is None or not isinstance(data, Sized) or self._ranks.size > 1:
            return
        assert self._immunization is not None
        if SplitModel(self.model, self._immunization[0]).runs_on_tokens:
            return
        count = len(data)
        if size == 1 or (count % size == 1 and not getattr(options, "dataloader_drop_last", False)):
            raise ValueError(
                f"every batch must have at least two samples, and {count} of train_dataset by "
                f"batches of {size} leave one alone: set dataloader_drop_last=True, or another "
                "per_device_train_batch_size, in the TrainingArguments"
            )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **keywords: Any
    ) -> Any:
        """Return the trainer's loss plus the terms, with its outputs if these are asked for."""
        above: Any = super()
        if self._immunization is None or not torch.is_grad_enabled():
            return above.compute_loss(model, inputs, return_outputs=return_outputs, **keywords)
        self._immunized = True
        split, objective, rule = self._immunization
        network = SplitModel(self.model, split)
        if rule is None:
            refuse_compiled(self.model)
            refuse_compiled(model)
        # Without the number of items in all accumulated batches the loss is this one's mean.
        items = keywords.pop("num_items_in_batch", None)
        _, labels = parse_batch(inputs)  # from which a loss of one's own takes the labels out
        with network.watched() as seen:
            loss, outputs = above.compute_loss(model, inputs, return_outputs=True, **keywords)
        error = None
        try:
            # Of samples no logits are needed, and a trainer may return none.
            of_tokens = any(x.ndim == 3 for x in seen.features)
            shown = network.shown(seen, outputs if of_tokens else torch.empty(0))
            primary = outcome_of(network, shown, labels)
            with evaluating(self.model) as served:
                batch = next(self._harmful)
                harmful = outcome(SplitModel(served, split), batch, primary.features.device)
        except Exception as failure:
            error = failure
        self._ranks.agree(error)
        if self._ranks.size == 1:
            refuse_few(len(primary.features), "primary")
            refuse_few(len(harmful.features), "harmful")
        total = self._total(objective, rule, loss, primary, harmful)
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
        """Log the primary loss, the terms and their weights beside the training loss."""
        above: Any = super()
        if self._immunization is not None and "loss" in logs and self._sums:
            count = self._sums.pop("batches")
            means = {name: x / count for name, x in self._sums.items()}
            means["primary_loss"] = self._ranks.mean(means["primary_loss"])
            logs, self._sums = logs | means | self._weights, {}
        above.log(logs, *rest, **keywords)

    def _total(
        self,
        objective: Objective,
        rule: tuple[float, float] | Terms | None,
        loss: Tensor,
        primary: Outcome,
        harmful: Outcome,
    ) -> Tensor:
        asked = rule
        if isinstance(rule, Terms):
            rule = self._first or self._by_size(objective, rule, primary, harmful)
        terms = objective.terms(primary, harmful)
        refuse_idle(asked, terms, self._asked, objective.intermittent)
        sides = (primary.root, harmful.root)
        if rule is None:
            norms = [
                None if term is None else norm_of(gradient_by(term, Z))
                for term, Z in zip((loss, *terms), (sides[0], *sides), strict=True)
            ]
            if objective.intermittent:  # another process may have a term where this one has none
                norms[2] = self._ranks.norm(norms[2] or 0.0) / self._ranks.size**0.5 or None
            of_loss, *of_terms = (None if x is None else self._ranks.norm(x) for x in norms)
            chosen = weights(None, (of_loss or 0.0) / self._ranks.size, of_terms, self._first)
        else:
            chosen = rule
            for weight, term, Z in zip(chosen, terms, sides, strict=True):
                if weight > 0.0 and term is not None:
                    refuse_frozen(Z)
        waiting = isinstance(asked, Terms) and asked.harmful > 0.0 and chosen[1] == 0.0
        if not (objective.intermittent and waiting):  # else a later batch sets the weights
            self._first = first_weights(self._first, chosen)
        self._weights = dict(zip(("lambda_P", "lambda_H"), chosen, strict=True))
        total = loss if objective.uses_loss else 0.0 * loss
        self._add("batches", 1.0)
        self._add("primary_loss", float(loss.detach()))
        for name, weight, term in zip(("well", "ill"), chosen, terms, strict=True):
            if term is not None:
                self._add(name, float(term.detach()))
                part = weight * term
                spread = objective.of_all_ranks and self._ranks.size > 1
                total = total + (sum_over_ranks(part, self._ranks.group) if spread else part)
        return total

    def _add(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value

    def _by_size(
        self, objective: Objective, terms: Terms, primary: Outcome, harmful: Outcome
    ) -> tuple[float, float]:
        """Return the weights under which the terms of this pair of batches have these sizes."""
        objective = copy.copy(objective)  # the state of the run's own is left as it is
        found: list[Tensor | None] = []
        for term in objective.terms(primary, harmful):
            size = None if term is None else abs(float(term.detach()))
            having = self._ranks.mean(float(term is not None)) if objective.intermittent else 1.0
            if having and (size is not None or objective.intermittent):
                found.append(torch.tensor(self._ranks.mean(size or 0.0) / having))
            else:
                found.append(None)
        return balanced(terms, [(found[0], found[1])])
