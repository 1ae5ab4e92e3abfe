"""Immunity measured while a network is trained: in one's own loop, or Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any, SupportsIndex

import torch
from torch import nn

from .._display import Columns, Curves, Line, Plotted
from .._errors import ImmucondError, ImmunityWarning, extra, warn
from .._rank import epsilon
from .._validate import as_count
from ._activations import task_of
from ._head import SplitModel
from ._network import device_of, in_evaluation
from ._report import Measurement

_DRAWN = ("kappa_P", "kappa_H", "rho", "rir")


class Monitor(Plotted):
    r"""Condition numbers, RIR and label alignment of a network, as often as one likes in training.

    A measurement leaves training as it is: without gradients, each module in the mode that it was
    in, and no generator of random numbers moves, so that a run ends in the same weights with it and
    without. `to_pandas` and `plot` show all that were made.

    Parameters
    ----------
    primary, harmful : DataLoader, or iterable of batches
        Rows to measure on, the same ones each time; at most 4096 of each are read. A DataLoader
        that shuffles does so alike each time.
    split : str
        Name of the head; its input are the features.
    reference : nn.Module, optional
        The network that (i), (ii) and the RIR are relative to; by default the one that is measured
        first. A run that is resumed needs the one that it began with.
    computed_in : dtype_like, optional
        The precision in which the features are computed, as in `immunize`.

    Attributes
    ----------
    history : list of dict
        Each measurement that was logged, with its ``step``.

    Raises
    ------
    ValueError, TypeError
        For tasks that cannot be read again and again, or are no batches.

    Notes
    -----
    Over several processes each measures the same rows, and the first one logs. A network whose
    weights are spread over processes is refused: `record` measures those.

    Source: arXiv 2505.23760, Definition 3.1; rho is `immucond.linear.alignment`.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> primary, harmful = ([(torch.randn(60, 6), torch.arange(60) % c)] for c in (3, 2))
    >>> monitor = icd.Monitor(primary, harmful, split="2")
    >>> sorted(monitor.measure(net))
    ['i', 'ii', 'kappa_H', 'kappa_P', 'rank_H', 'rank_P', 'rho', 'rir']
    >>> class Writer:  # as TensorBoard's SummaryWriter
    ...     def add_scalar(self, name, value, step):
    ...         if name == "immunity/rir":
    ...             print(name, value, step)
    >>> found = monitor.log(net, Writer(), step=0)
    immunity/rir 1.0 0

    With ``transformers``::

        monitor = icd.Monitor(primary_loader, harmful_loader, split="classifier")
        monitor.attach(trainer, every=100)
        trainer.train()
    """

    def __init__(
        self,
        primary: Any,
        harmful: Any,
        *,
        split: str,
        reference: nn.Module | None = None,
        computed_in: Any = None,
    ) -> None:
        if computed_in is not None:
            epsilon(computed_in)  # refuses what is no dtype
        self._tasks = {"primary": primary, "harmful": harmful}
        self._split, self._computed_in = split, computed_in
        for name, task in self._tasks.items():
            task_of(task, torch.device("cpu"), name)  # refuses what is none
        self.history: list[dict[str, float]] = []
        self._first: dict[str, float] | None = None
        if reference is not None:
            self.measure(reference)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Measure the network as it is.

        Returns
        -------
        dict of str to float
            ``kappa_P``, ``kappa_H``, ``rank_P``, ``rank_H``; ``i``, ``ii`` and ``rir`` relative to
            the reference; and ``rho`` of the harmful labels where they are classes.

        Raises
        ------
        ValueError
            For a head that is not there, features that are not finite, fewer than two rows, or
            weights that are spread over processes.
        """
        where = device_of(model)
        _refuse_spread(model)
        devices = [where] if where.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), in_evaluation(model):
            tasks = [task_of(task, where, name) for name, task in self._tasks.items()]
            seen = Measurement(
                SplitModel(model, self._split), (tasks[0], tasks[1]), None, "given",
                self._computed_in,
            )  # fmt: skip
            found, rho = seen.kappas(), seen.rho()
        first = self._first = self._first or dict(found)
        i, ii = (found[f"kappa_{task}"] / first[f"kappa_{task}"] for task in "HP")
        found |= {"i": i, "ii": ii, "rir": i / ii}
        return found if rho is None else found | {"rho": rho}

    def log(
        self, model: nn.Module, writer: Any, step: SupportsIndex, *, prefix: str = "immunity/"
    ) -> dict[str, float]:
        """Measure, and hand the numbers to what keeps the curves of a run.

        Where nothing can be measured, such as where features collapsed to zero, a warning says why
        and nothing is logged: training goes on.

        Parameters
        ----------
        model : nn.Module
        writer
            With ``add_scalar(name, value, step)``, as TensorBoard's SummaryWriter, or with
            ``log(dict, step=step)``, as a run of wandb's; None to keep `history` alone.
        step : int
        prefix : str
            Before each name.

        Returns
        -------
        dict of str to float
            As `measure` returns; empty where nothing could be measured.

        Raises
        ------
        TypeError
            For a writer that has neither.

        Warns
        -----
        ImmunityWarning
            Where nothing can be measured.
        """
        if not (writer is None or hasattr(writer, "add_scalar") or hasattr(writer, "log")):
            raise TypeError(
                "writer must have add_scalar(name, value, step) or log(dict, step=), and is a "
                f"{type(writer).__name__}"
            )
        at = as_count(step, "step", least=0)
        found = self._kept(model, at)
        named = {prefix + name: value for name, value in found.items()}
        if hasattr(writer, "add_scalar"):
            for name, value in named.items():
                writer.add_scalar(name, value, at)
        elif writer is not None and named:
            writer.log(named, step=at)
        return found

    def attach(self, trainer: Any, *, every: SupportsIndex | None = None) -> None:
        """Measure while a Trainer of transformers' trains, and log through its own log.

        Before the first step, after each evaluation, and after every so many steps of the
        optimizer: never between batches whose gradients are accumulated. TensorBoard, wandb, the
        progress bar and ``trainer.state.log_history`` get the numbers under the names of `measure`.

        Parameters
        ----------
        trainer : transformers.Trainer
        every : int, optional
            Steps; by default at evaluations alone.

        Raises
        ------
        ImportError
            Without transformers, which the extra ``deep`` holds.
        """
        steps = None if every is None else as_count(every, "every", least=1)
        trainer.add_callback(_callback(self, trainer, steps))

    def _kept(self, model: nn.Module, step: int) -> dict[str, float]:
        try:
            found = self.measure(model)
        except (ArithmeticError, ImmucondError, ValueError) as error:
            warn(f"immunity could not be measured at step {step}: {error}", ImmunityWarning)
            return {}
        self.history.append({"step": step, **found})
        return found

    def __repr__(self) -> str:
        last = f", rir={self.history[-1]['rir']:.4g}" if self.history else ""
        return f"Monitor(split={self._split!r}, {len(self.history)} measurements{last})"

    def _columns(self) -> Columns:
        names = dict.fromkeys(name for found in self.history for name in found)
        return {name: [found.get(name) for found in self.history] for name in names}

    def _curves(self) -> Curves:
        lines = []
        for name in _DRAWN:
            points = [(found["step"], found[name]) for found in self.history if name in found]
            if points:
                x, y = zip(*points, strict=True)
                lines.append(Line(name, x, y, style={"marker": "."}))
        return Curves("step", "condition numbers, rho and RIR", lines, scales=("linear", "log"))


def _refuse_spread(model: nn.Module) -> None:
    """Refuse weights of which a process has a part: by FSDP, or by DeepSpeed's third stage."""
    for name, parameter in model.named_parameters():
        if any(hasattr(parameter, of) for of in ("full_tensor", "_is_flat_param", "ds_id")):
            raise ValueError(
                f"the weight {name!r} is spread over processes: immucond.deep.record measures such "
                "a network"
            )


def _callback(monitor: Monitor, trainer: Any, every: int | None) -> Any:
    with extra("deep"):
        from transformers import TrainerCallback

    class MonitorCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Measures for a trainer, which no event hands on."""

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self._tell(state, control)

        on_train_begin = on_evaluate

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if every is not None and state.global_step % every == 0:
                self._tell(state, control)

        def _tell(self, state: Any, control: Any) -> None:
            if monitor.history and monitor.history[-1]["step"] == state.global_step:
                return  # an evaluation at a step that was measured
            found = monitor._kept(trainer.model, state.global_step)
            if found:
                # Whoever logs is done with this step; the trainer's own loss is yet to come.
                due = control.should_log
                trainer.log(dict(found))
                control.should_log = due

    return MonitorCallback()
