"""A gauge group: where in a network it acts, its elements, and how they act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..._display import Columns, Record
from ..._validate import as_integer, check_real

Kind = Literal[
    "linear", "value-output", "query-key", "query-key-rope", "relu", "glu", "norm", "batchnorm"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SIGNED = ("glu", "norm")  # scales of either sign; those of the other scales are positive
_MATRICES = ("linear", "value-output", "query-key")  # every invertible matrix
_REACH = 1.0  # of a random element's log singular values, for a check

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Side:
    """What of one parameter a group acts on: places along an axis, by block.

    Attributes
    ----------
    parameter : str
        Dotted name of the parameter, or of a buffer.
    axis : int
        The axis that is multiplied.
    index : (blocks, size, copies) Tensor
        Places along it; copies are multiplied alike, such as the query heads of one key head.
    """

    parameter: str
    axis: int
    index: Tensor

    def read(self, state: State) -> Tensor:
        """Return the rows of each block, (blocks, size, copies * rest), in float64."""
        rows = _rows(state[self.parameter], self.axis)
        blocks, size, _ = self.index.shape
        if not (self._in_order and self.index.numel() == len(rows)):
            rows = rows[self.index.to(rows.device)]
        return rows.reshape(blocks, size, -1).double()

    @cached_property
    def _in_order(self) -> bool:
        """Whether the places are 0, 1, ...: where they are the whole axis, none is looked up."""
        count = self.index.numel()
        return bool((self.index.flatten() == torch.arange(count)).all())

    def fits(self, state: State) -> bool:
        """Whether the parameter has these places."""
        shape = state[self.parameter].shape
        return self.axis < len(shape) and int(self.index.max()) < shape[self.axis]

    def width(self, state: State) -> int:
        """Return the last length of what :meth:`read` returns."""
        parameter = state[self.parameter]
        return int(self.index.shape[2]) * (parameter.numel() // parameter.shape[self.axis])

    def write(self, state: State, value: Tensor) -> None:
        """Put rows in the place of those that :meth:`read` returns."""
        parameter = state[self.parameter]
        moved = parameter.detach().movedim(self.axis, 0)
        if self._in_order and self.index.numel() == len(moved):
            with torch.no_grad():
                moved.copy_(value.reshape(moved.shape))
            return
        rows = _rows(parameter, self.axis).clone()
        rows[self.index.to(rows.device)] = value.reshape(*self.index.shape, -1).to(rows.dtype)
        with torch.no_grad():
            parameter.copy_(rows.reshape(moved.shape).movedim(0, self.axis))


def _rows(parameter: Tensor, axis: int) -> Tensor:
    moved = parameter.detach().movedim(axis, 0)
    return moved.reshape(moved.shape[0], -1)


@dataclass(frozen=True)
class GaugeGroup(Record):
    """Reparameterizations that keep the function of a network, found by :func:`groups`.

    An element is a stack of invertible matrices A, one a block. It maps what is written, W to A W
    (with its bias), and what is read, V to V A^-1, so that V W stays. Blocks are the heads of an
    attention, the pairs of one frequency of its rotary embedding, or the units of a layer.

    Attributes
    ----------
    kind : str
        ``"linear"``: two linear maps without a nonlinearity between, GL(h). ``"value-output"``,
        ``"query-key"``: GL of each head, under grouped queries of each key and value head.
        ``"query-key-rope"``: a complex number for each frequency. ``"relu"``: positive scales of
        the units. ``"glu"``: nonzero scales of the linear half of a gated layer. ``"norm"``:
        nonzero scales of a normalization's output. ``"batchnorm"``: positive scales of what enters
        a batch norm, with its statistics.
    modules : tuple of str
        Names of the modules that it changes.
    dimension : int
        Real dimension of the group.
    blocks, size : int
        How many matrices an element has, and of which size.
    error : float
        Relative change of the outputs under a random element, on the batch of the check.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    >>> (group,) = icd.gauge.groups(net)
    >>> group.kind, group.modules, group.dimension
    ('relu', ('0', '2'), 5)
    >>> x = torch.randn(4, 6)
    >>> before = net(x)
    >>> group.act(net, group.element(condition=100.0, seed=0))
    >>> bool(torch.allclose(net(x), before, atol=1e-5))
    True
    """

    kind: Kind
    modules: tuple[str, ...]
    error: float
    _writers: tuple[Side, ...] = field(repr=False)
    _readers: tuple[Side, ...] = field(repr=False)
    _variances: tuple[tuple[Side, float], ...] = field(repr=False, default=())

    def _columns(self) -> Columns:
        names = ("kind", "modules", "dimension", "blocks", "size", "error")
        return {name: [getattr(self, name)] for name in names}

    @property
    def blocks(self) -> int:
        """How many matrices an element has."""
        return int(self._writers[0].index.shape[0])

    @property
    def size(self) -> int:
        """Rows of each of them."""
        return int(self._writers[0].index.shape[1])

    @property
    def dimension(self) -> int:
        """Real dimension of the group."""
        return self.blocks * (self.size**2 if self.kind in _MATRICES else self.size)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters and buffers that it changes."""
        sides = (*self._writers, *self._readers, *(side for side, _ in self._variances))
        return tuple(dict.fromkeys(side.parameter for side in sides))

    def element(self, *, condition: float | None = None, seed: int = 0) -> Tensor:
        """Draw an element, (blocks, size, size) in float64.

        Parameters
        ----------
        condition : float, optional
            Condition number: of every block's matrix where the group has all of them; of the
            scales over all blocks where it has scales. By default what the check draws, singular
            values between 1/e and e.
        seed : int
            Of the draw.

        Raises
        ------
        ValueError
            For a condition number that is not finite or below 1.
        TypeError
            For one that is no number, and a seed that is no whole one.
        """
        if condition is not None:
            condition = check_real(condition, "condition", low=1.0)
        generator = torch.Generator().manual_seed(as_integer(seed, "seed"))
        b, d = self.blocks, self.size
        matrices = self.kind in _MATRICES
        count = (b, d) if matrices else (b,)
        if condition is None:
            logs = _REACH * (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1)
        else:
            logs = (torch.linspace(-0.5, 0.5, count[-1]) if count[-1] > 1 else torch.zeros(1)).to(
                torch.float64
            )
            order = torch.argsort(torch.rand(count, generator=generator), dim=-1)
            logs = logs[order] * torch.log(torch.tensor(condition, dtype=torch.float64))
        values = logs.exp()
        if matrices:
            left, right = (_orthogonal((b, d, d), generator) for _ in range(2))
            return (left * values[:, None, :]) @ right
        if self.kind == "query-key-rope":
            return values[:, None, None] * _turn(
                2 * torch.pi * torch.rand(b, generator=generator, dtype=torch.float64)
            )
        if self.kind == "batchnorm":  # at least 1: the variance less eps could be below 0 else
            values = values / values.min()
        if self.kind in _SIGNED:
            values = values * (2 * torch.randint(0, 2, (b,), generator=generator) - 1)
        return values[:, None, None]

    def act(self, model: nn.Module, element: Tensor) -> None:
        """Change a network by an element, in place; computed in float64.

        Parameters
        ----------
        model : nn.Module
            With the parameters that the group names.
        element : Tensor of shape (blocks, size, size)
            Of the group: invertible, and of its form.

        Raises
        ------
        ValueError
            For another shape or form, a singular element, a model that lacks the parameters or has
            others by their names, and what is not finite in their dtypes: the model is as it was.
        TypeError
            For an element that is no tensor of numbers.
        """
        try:
            A = torch.as_tensor(element, dtype=torch.float64).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"element must be a tensor of numbers, and is {element!r}") from error
        wanted = (self.blocks, self.size, self.size)
        if tuple(A.shape) != wanted or not A.isfinite().all():
            raise ValueError(
                f"element must have shape {wanted} and be finite, and has shape {tuple(A.shape)}"
            )
        form = self._wrong_form(A)
        if form:
            raise ValueError(f"element is not of the group {self.kind!r}, whose blocks are {form}")
        state = state_of(model)
        missing = [name for name in self.parameters if name not in state]
        if missing:
            raise ValueError(f"the model has no parameter {missing[0]!r}: of which is the group?")
        for side in (*self._writers, *self._readers, *(side for side, _ in self._variances)):
            if not side.fits(state):
                raise ValueError(
                    f"the model's parameter {side.parameter!r} has shape "
                    f"{tuple(state[side.parameter].shape)}, and is not that of the group"
                )
        for side, eps in self._variances:
            if (A.square() * (side.read(state).cpu() + eps) < eps * (1 - 1e-12)).any():
                raise ValueError(
                    f"element makes a variance of {side.parameter!r} negative: its square must be "
                    f"at least {eps:g}/(variance + {eps:g}), and 1 will do"
                )
        before = {name: state[name].detach().clone() for name in self.parameters}
        self._act(state, A)
        lost = [name for name in before if not bool(state[name].isfinite().all())]
        if lost:
            with torch.no_grad():
                for name, value in before.items():
                    state[name].copy_(value)
            raise ValueError(
                f"element makes {lost[0]!r} infinite in {before[lost[0]].dtype}, or it was before"
            )

    def _wrong_form(self, A: Tensor) -> str:
        """Say what blocks have to be, where they are not."""
        singular = torch.linalg.matrix_rank(A) < self.size
        if self.kind in _MATRICES or self.kind in _SIGNED:
            return "invertible matrices" if singular.any() else ""
        if self.kind == "query-key-rope":
            twisted = torch.stack((A[:, 0, 0] - A[:, 1, 1], A[:, 0, 1] + A[:, 1, 0])).abs()
            wrong = bool(singular.any()) or bool((twisted > 1e-12 * A.abs().amax()).any())
            return "complex numbers other than 0, [[a, -b], [b, a]]" if wrong else ""
        return "positive numbers" if bool((A <= 0).any()) else ""

    def _act(self, state: State, A: Tensor) -> None:
        A = A.to(state[self._writers[0].parameter].device)
        times = torch.mul if self.size == 1 else torch.matmul
        inverse = torch.linalg.inv(A).mT
        for sides, by in ((self._writers, A), (self._readers, inverse)):
            for side in sides:
                side.write(state, times(by, side.read(state)))
        for side, eps in self._variances:
            # The root of variance plus eps is what scales: eps itself stays.
            variance = A.square() * (side.read(state) + eps) - eps
            side.write(state, variance.clamp(min=0.0))

    @property
    def _scales(self) -> bool:
        """Whether elements are scales: of units, or with a phase of the pairs of a frequency."""
        return self.kind not in _MATRICES

    def _norms(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the norms of all that is written, and of all that reads it, by block."""
        squares = (
            sum(side.read(state).square().sum(dim=(1, 2)) for side in sides)
            for sides in (self._writers, self._readers)
        )
        written, read = (torch.as_tensor(x).sqrt() for x in squares)
        return written, read

    def _written(self, state: State) -> Tensor:
        """Return all that is written, (blocks, size, m)."""
        return torch.cat([side.read(state) for side in self._writers], dim=-1)

    def _read(self, state: State) -> Tensor:
        """Return all that reads it, (blocks, size, k)."""
        return torch.cat([side.read(state) for side in self._readers], dim=-1)

    def _put(self, state: State, written: Tensor, read: Tensor) -> None:
        """Write back what :meth:`_written` and :meth:`_read` returned."""
        for sides, value in ((self._writers, written), (self._readers, read)):
            at = 0
            for side in sides:
                width = side.width(state)
                side.write(state, value[..., at : at + width])
                at += width


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by all their names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def _orthogonal(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    Q, R = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
    signed: Tensor = Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    return signed


def _turn(angle: Tensor) -> Tensor:
    """Return rotations of the plane."""
    c, s = angle.cos(), angle.sin()
    return torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)
