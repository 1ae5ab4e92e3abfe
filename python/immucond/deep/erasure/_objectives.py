"""Descents that keep what the network says of the primary task, and undo the harmful one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from .._distillation import adam, imitation
from .._head import SplitModel
from .._loaders import parse_batch
from .._outcome import Outcome
from .._reading import Reading, summed
from .._rows import mean_of_kept
from .._search import Settings
from ._bench import Bench, Rival, adapting

Term = Callable[[Outcome, Any, Rival], Tensor]
"""What is minimised, of a harmful batch's outcome, the batch, and the harmful head."""

_INNER = 4  # steps of the attacker that TAR simulates


def graddiff(bench: Bench, settings: Settings) -> None:
    """Ascend the harmful cross-entropy, and descend on distillation."""
    _descend(bench, settings, bench.student(), lambda found, _, rival: -rival.loss(found))


def npo(bench: Bench, settings: Settings) -> None:
    """Negative preference optimization: harmful classes less likely than they were."""
    reference, start, beta = bench.before(), bench.rival(), settings["beta"]

    def term(found: Outcome, batch: Any, rival: Rival) -> Tensor:
        with torch.no_grad():
            told = _said(start, bench.harmful.run(reference, batch))
        ratio = beta * (_said(rival, found) - told)
        loss: Tensor = softplus(ratio).mean() * (2.0 / beta)
        return loss

    _descend(bench, settings, bench.student(), term)


def _said(rival: Rival, found: Outcome) -> Tensor:
    """Return the logarithm of the probability of each row's own class."""
    return -cross_entropy(rival(found), found.labels.long(), reduction="none")


def collapse(bench: Bench, settings: Settings) -> None:
    """Drive what varies among harmful rows to nothing at every layer, beside primary rows."""
    with _watched(bench) as seen:

        def term(_: Outcome, batch: Any, __: Rival) -> Tensor:
            primary, harmful = seen.passes  # of this step
            y = parse_batch(batch)[1] if settings["part"] == "between" else None
            ratios = [
                _spread(H if y is None else _means(H, y.to(H.device)))
                / (_spread(primary[name]) + torch.finfo(H.dtype).tiny)
                for name, H in harmful.items()
            ]
            return torch.stack(ratios).mean()

        _descend(bench, settings, bench.student(), term, seen.begin)


def _spread(rows: Tensor) -> Tensor:
    found: Tensor = (rows - rows.mean(0)).square().sum(1).mean()
    return found


def _means(rows: Tensor, y: Tensor) -> Tensor:
    """Return the mean of each row's class in its place."""
    hot = nn.functional.one_hot(y.long()).to(rows)
    return hot @ ((hot.T @ rows) / hot.sum(0).clamp(min=1.0)[:, None])


class _Seen:
    """What layers put out in the last two passes, each sample's mean over its tokens or places."""

    def __init__(self, bench: Bench) -> None:
        self._reading = Reading(bench.work, bench.harmful, bench.mask, None, summed, bench.seed)
        self._mask: Tensor | None = None
        self.passes: list[dict[str, Tensor]] = []

    def begin(self, batch: Any) -> None:
        """Take note of a batch that runs next."""
        self._mask = self._reading.samples(batch, 1, False).mask
        self.passes = [*self.passes[-1:], {}]

    def see(self, name: str, module: nn.Module, _: Any, output: Any) -> None:
        """Keep an output."""
        if not self.passes or not isinstance(output, Tensor) or output.ndim < 2:
            return
        mask = None if self._mask is None else self._mask.to(output.device)
        if isinstance(module, nn.modules.conv._ConvNd):
            output = output.movedim(1, -1)
        if mask is not None and output.shape[:-1] == mask.shape:
            self.passes[-1][name] = mean_of_kept(output, mask)
        else:
            self.passes[-1][name] = output.flatten(1, -2).mean(1) if output.ndim > 2 else output


@contextmanager
def _watched(bench: Bench) -> Iterator[_Seen]:
    seen = _Seen(bench)
    with ExitStack() as stack:
        for name, layer in bench.layers.items():
            handle = layer.module.register_forward_hook(partial(seen.see, name))
            stack.callback(handle.remove)
        yield seen


def _descend(
    bench: Bench,
    settings: Settings,
    student: SplitModel,
    term: Term,
    begin: Callable[[Any], object] = lambda _: None,
) -> None:
    """Descend on distillation plus the weighted term, while the harmful head adapts."""
    teacher, rival = bench.before(), bench.rival()
    optimizer, adapt = adam(bench.trained, settings["rate"], bench.steps), adapting(rival)
    for batch, other in bench.pairs():
        begin(batch)
        loss = _retained(bench, student, teacher, batch)
        begin(other)
        found = bench.harmful.run(student, other)
        optimizer.zero_grad()
        (loss + settings["weight"] * term(found, other, rival)).backward()
        optimizer.step()
        adapt(found)


def _retained(bench: Bench, student: SplitModel, teacher: SplitModel, batch: Any) -> Tensor:
    with torch.no_grad():
        lesson = bench.primary.run(teacher, batch)
    return imitation(bench.primary.run(student, batch).logits, lesson)


# ---- against an attacker who adapts ----


def tar(bench: Bench, settings: Settings) -> None:
    """Raise the entropy of what an attacker says who has adapted network and head, first order.

    Its gradient at the adapted parameters is added at those before: nothing is differentiated
    through the attacker's steps.
    """
    student, teacher, rival = bench.student(), bench.before(), bench.rival()
    trained, weight = bench.trained, settings["weight"]
    optimizer = adam(trained, settings["rate"], bench.steps)
    for batch, other in bench.pairs():
        kept = torch.autograd.grad(
            _retained(bench, student, teacher, batch), trained, allow_unused=True
        )
        before = [p.detach().clone() for p in trained]
        attacker = torch.optim.Adam([*trained, *rival.parameters()], lr=settings["inner"])
        for _ in range(_INNER):
            attacker.zero_grad()
            rival.loss(bench.harmful.run(student, other)).backward()
            attacker.step()
        said = rival(bench.harmful.run(student, other)).log_softmax(1)
        adapted = torch.autograd.grad((said.exp() * said).sum(1).mean(), trained, allow_unused=True)
        with torch.no_grad():
            for p, value in zip(trained, before, strict=True):
                p.copy_(value)
        for p, g, h in zip(trained, kept, adapted, strict=True):
            p.grad = (torch.zeros_like(p) if g is None else g) + (0.0 if h is None else weight * h)
        optimizer.step()
