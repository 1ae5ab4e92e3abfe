"""Fade distilled into the last blocks, which learn to serve the faded features themselves.

Where a normalization or a pooling comes before the head there is no layer that the map could be
folded into, and whoever reads the network takes an inserted one out. Weights that were trained to
serve ``Z A`` load with the network's own code.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..linear import FadeMap
from ._batches import Batches, everything
from ._head import SplitModel
from ._maps import NetworkFade, change, map_of
from ._network import copied
from ._objectives import Alignment, Objective
from ._outcome import Outcome

WEIGHTS = (1.0, 1.0)
"""Of the primary and of the harmful term."""

ALIGNMENT = 0.3
"""Of log rho in the harmful term."""

_ADAM_LR = 1e-3
_RISING = 0.1  # of all steps
_ROUNDING = 4.0  # of a feature, in eps: more than the sums of a layer leave
_HALF_EPS = 1e-2  # float16 holds the squares of gradients above this share of 1 alone


class Lesson(NamedTuple):
    """What the network said of a batch before, and what the map makes of its features."""

    features: Tensor
    faded: Tensor
    logits: Tensor
    labels: Any


class Taught:
    """A task whose batches come with their `Lesson` in place of the labels."""

    def __init__(self, task: Batches, teacher: SplitModel, A: FadeMap) -> None:
        self._task, self._teacher, self._map = task, teacher, A
        self.least, self.alike, self.fingerprint = task.least, task.alike, task.fingerprint
        self.count = task.count
        self.epoch, self.in_order, self.drawn = task.epoch, task.in_order, task.drawn

    def run(self, model: SplitModel, batch: Any) -> Outcome:
        """Return what the model makes of a batch, and as labels what it is to learn."""
        found = self._task.run(model, batch)
        with torch.no_grad():
            before = self._task.run(self._teacher, batch)
        Z = before.features
        faded = torch.from_numpy(Z.double().cpu().numpy() @ self._map).to(Z)
        return found._replace(labels=Lesson(Z, faded, before.logits, before.labels))


def _spread(features: Tensor) -> Tensor:
    """Mean square of what differs from row to row: a constant is the head's bias.

    In float64, which holds the squares of all that the features' dtype holds.
    """
    features = features.double()
    return (features - features.mean(0)).square().sum(1).mean()


def _relative(error: Tensor, to: Tensor, features: Tensor) -> Tensor:
    """Spread of an error relative to that of something else, and to what rounding makes of it.

    Rows of equal samples differ too, by their place in a batch: by a few eps of the features.
    """
    rounding = _ROUNDING * torch.finfo(features.dtype).eps
    least = rounding**2 * features.double().square().sum(1).mean()
    scale = (_spread(to) + least).clamp_min(torch.finfo(torch.float64).tiny)
    return (_spread(error) / scale).to(torch.promote_types(features.dtype, torch.float32))


class Distillation(Objective):
    """Regression on the faded features of both tasks, and the logarithm of the harmful rho."""

    needs_harmful_labels: ClassVar[bool] = True

    def terms(self, primary: Outcome, harmful: Outcome) -> tuple[Tensor | None, Tensor | None]:
        """Error of the primary features relative to themselves, of the harmful to their change.

        The latter is 1 for features that have not moved; it comes with 0.3 log rho. Were the former
        relative to its change too, which is small by fade's design, the primary task would weigh a
        hundred times more, and harmful labels stay readable in the error of their own features.
        """
        P, H = primary.labels, harmful.labels
        missed_P = _relative(primary.features - P.faded, P.features, P.features)
        missed_H = _relative(harmful.features - H.faded, H.faded - H.features, H.features)
        log_rho = Alignment().terms(primary, harmful._replace(labels=H.labels))[1]
        return missed_P, missed_H if log_rho is None else missed_H + ALIGNMENT * log_rho


def imitation(logits: Tensor, lesson: Any) -> Tensor:
    """How far logits are from those before: Kullback and Leibler's, or of targets the square."""
    # Squares and probabilities leave the range of float16, or its digits.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    now, said, labels = logits.to(dtype), lesson.logits.to(dtype), lesson.labels
    targets = isinstance(labels, Tensor) and labels.is_floating_point()
    if targets or now.ndim != 2 or now.shape[1] == 1:
        size = said.square().mean()
        spread = (said - said.mean(0)).square().mean() + torch.finfo(dtype).eps * size
        square: Tensor = (now - said).square().mean() / torch.where(spread > 0.0, spread, 1.0)
        return square
    divergence: Tensor = nn.functional.kl_div(
        now.log_softmax(1), said.log_softmax(1), reduction="batchmean", log_target=True
    )
    return divergence


def adam(
    parameters: list[nn.Parameter], lr: float | None, steps: int | None
) -> torch.optim.Optimizer:
    """Return the optimizer; in float16 one that does not divide by squares that underflowed.

    The rate rises over the first tenth of so many steps, since Adam's first ones are as long as its
    last whatever the gradients are, and falls to 0 along a cosine, so that the last ones settle.
    """
    half = any(p.dtype == torch.float16 for p in parameters)
    rate = _ADAM_LR if lr is None else lr
    made = torch.optim.Adam(parameters, lr=rate, eps=_HALF_EPS if half else 1e-8)

    def share(done: int) -> float:
        if not steps:
            return 1.0
        rising, at = min(1.0, (done + 1) / (_RISING * steps)), min(1.0, done / steps)
        return rising * (1.0 + math.cos(math.pi * at)) / 2.0

    def schedule(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        done = max((int(state["step"]) for state in optimizer.state.values()), default=0)
        for group in optimizer.param_groups:
            group["lr"] = rate * share(done)

    made.register_step_pre_hook(schedule)
    return made


class Lessons:
    """Both tasks as they are taught, by the network as it is now and the map for it."""

    def __init__(
        self, model: SplitModel, P: Batches, H: Batches, tau: float, delta: Any, computed_in: Any
    ) -> None:
        self._primary = P
        self.map, self._logits = map_of(
            model, {"primary": P, "harmful": H}, tau, delta, computed_in
        )
        where = next(model.model.parameters()).device
        teacher = SplitModel(copied(model.model, where).eval(), model.split)
        self.tasks = Taught(P, teacher, self.map), Taught(H, teacher, self.map)

    def learnt(self, model: SplitModel, place: str, exact_rho: float | None) -> NetworkFade:
        """Return what became of the primary logits."""
        logits = everything(model, self._primary, "primary").logits
        return NetworkFade(place, "distilled", change(self._logits, logits), self.map, exact_rho)
