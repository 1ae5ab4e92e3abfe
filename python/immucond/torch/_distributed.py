"""A batch whose rows are spread over ranks (torch.distributed): what stands for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from .._rank import default_rtol, epsilon, rank_rule
from .._ranks import Ranks
from .._triangle import TriangleAccumulator
from ._kernels import kernels_for
from ._operator import DTYPES, Options, at_hand, check_finite, check_tensor, shifted, wide
from ._tokens import kept_rows

_LARGEST = 2.0**1000  # of entries whose columns have norms, on however many ranks
_NOTHING = 2.0**-60  # of an eigenvalue: only rounding
_FAR = 2000  # an exponent beyond all
_IN_RANGE = 400  # exponents of entries whose squares keep all their digits, and so do sums of them


class _First(torch.autograd.Function):
    """A gradient of first order, which has none: what other ranks' rows do to it is not here.

    PyTorch's `once_differentiable` would take it for a constant where one asks for the gradients of
    certain tensors, as `torch.autograd.functional` does: a second derivative of zero.
    """

    @staticmethod
    def forward(_: Any, gradient: Tensor, *of: Tensor) -> Tensor:  # noqa: ARG004
        return gradient.view_as(gradient)

    @staticmethod
    def backward(_: Any, upstream: Tensor) -> Any:
        raise NotImplementedError(
            "with group= there are first derivatives only: second ones need other ranks' rows"
        )


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse the derivative of a backward pass."""

    @wraps(backward)
    def first(ctx: Any, upstream: Tensor) -> Any:
        with torch.no_grad():
            by_rows, *others = backward(ctx, upstream)
        of = upstream, *ctx.saved_tensors
        return _First.apply(by_rows, *of), *others  # type: ignore[no-untyped-call]

    return first


class _SumOfGrams(torch.autograd.Function):
    """The Gram matrix of all ranks' rows: one all-reduce of m x m, and none in the backward pass.

    The loss is one for all ranks, so every rank has the same gradient G by H already, and the
    gradient by its own rows is ``Z (G + G^T)``.
    """

    @staticmethod
    def forward(ctx: Any, Z: Tensor, group: Any, exponent: int) -> Tensor:
        ctx.save_for_backward(Z)
        H = shifted(_sum_of_grams(Z, group, exponent), 2 * exponent)
        if not bool(H.isfinite().all()):
            raise OverflowError("Z^T Z of all ranks is not representable in float64; scale Z down")
        return H

    @staticmethod
    @_once
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (Z,) = ctx.saved_tensors
        return (Z.double() @ (upstream + upstream.mT)).to(Z.dtype), None, None


def _sum_of_grams(Z: Tensor, group: Any, exponent: int) -> Tensor:
    """Return the sum over ranks of ``Z^T Z``, of rows in units of 2^exponent."""
    H = Z.new_zeros(Z.shape[1], Z.shape[1], dtype=torch.float64)
    if len(Z) > 0:
        H = kernels_for(Z).gram(shifted(Z.detach().double(), -exponent) if exponent else Z)
    dist.all_reduce(H, group=group)
    # Ranks add the entries (i, j) and (j, i) in different orders.
    return (H + H.mT) / 2


class _FactorOfAll(torch.autograd.Function):
    """A square R with ``R^T R = Z^T Z`` of all ranks' rows; no communication in the backward pass.

    By a tree of QR factors, or by the sum of Gram matrices. Whatever depends on the rows by
    ``H = R^T R`` alone has the gradient ``U = 2 R G`` by R, G that by H, and
    ``2 Z G = Z R^+ U`` by a rank's own rows.
    """

    @staticmethod
    def forward(ctx: Any, Z: Tensor, group: Any, exponent: int, by_gram: bool) -> Tensor:
        if by_gram:
            R = shifted(_root(_sum_of_grams(Z, group, exponent)), exponent)
        else:
            accumulator = TriangleAccumulator(Z.shape[1])
            accumulator.update(Z.detach().double().cpu().numpy()).all_reduce(group)
            R = torch.from_numpy(accumulator.R).to(Z.device)
        ctx.save_for_backward(Z, R)
        ctx.by_gram = by_gram
        return R

    @staticmethod
    @_once
    def backward(ctx: Any, upstream: Tensor) -> Any:
        Z, R = ctx.saved_tensors
        largest = R.abs().max()
        solve = _solved_by_root if ctx.by_gram else _solved
        by_rows = (Z.double() / largest) @ solve(R / largest, upstream)
        check_finite(by_rows.to(wide(Z.dtype)), "the gradient by the features of this rank")
        return by_rows.to(Z.dtype), None, None, None


def _root(H: Tensor) -> Tensor:
    """Return R with ``R^T R = H`` to rounding: a triangle, or of singular H orthogonal rows."""
    R: Tensor
    R, info = torch.linalg.cholesky_ex(H, upper=True)
    if info.item() != 0:
        values, vectors = torch.linalg.eigh(H)
        values = torch.where(values > _NOTHING * values[-1], values, 0.0)
        R = values.sqrt()[:, None] * vectors.mT
    return R


def _solved_by_root(R: Tensor, U: Tensor) -> Tensor:
    """Return ``R^+ U`` for an R that `_root` made."""
    if bool((R.diagonal() > 0.0).all()) and not bool(R.tril(-1).any()):
        result: Tensor = torch.linalg.solve_triangular(R, U, upper=True)
        return result
    squares = R.square().sum(-1, keepdim=True)
    return R.mT @ torch.where(squares > 0.0, U / squares, 0.0)


def _solved(R: Tensor, U: Tensor) -> Tensor:
    """Return ``R^+ U`` for a triangle R of any rank, whose columns are of any scale."""
    R, U, device = R.cpu(), U.cpu(), R.device  # no other has this driver
    size = torch.linalg.vector_norm(R, dim=0)
    size = torch.where(size > 0.0, size, 1.0)[:, None]  # dead ones too
    result: Tensor = torch.linalg.lstsq(R / size.T, U, driver="gelsd").solution / size
    return result.to(device)


class _AllRows(torch.autograd.Function):
    """All ranks' rows, in the order of the ranks; each rank's gradient is that of its own rows."""

    @staticmethod
    def forward(ctx: Any, Z: Tensor, group: Any, counts: list[int]) -> Tensor:
        here = dist.get_rank(group)
        ctx.rows = slice(sum(counts[:here]), sum(counts[: here + 1]))
        # Collectives want one shape: short blocks are padded.
        padded = Z.new_zeros(max(counts), Z.shape[1])
        padded[: len(Z)] = Z
        blocks = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(blocks, padded, group=group)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    @staticmethod
    @_once
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return upstream[ctx.rows], None, None


def local_rows(features: Tensor | None, group: Any) -> tuple[Tensor | None, Any]:
    """Return this rank's rows and the process group, of a DTensor or a mesh where one is given."""
    sharded = hasattr(features, "full_tensor")  # a DTensor
    if group is None and not sharded:
        return features, None
    if torch.compiler.is_compiling():
        # Which collectives run follows from numbers that other ranks hold.
        raise NotImplementedError(
            "group= cannot be part of a compiled graph: call the regularizer outside the function "
            "that torch.compile compiles, or in one under torch.compiler.disable"
        )
    if sharded:
        from torch.distributed.tensor import DTensor, Shard

        assert isinstance(features, DTensor)
        if features.placements != (Shard(0),):
            raise ValueError(
                "features must be sharded by rows over a mesh of one dimension, (Shard(dim=0),), "
                f"and have placements {features.placements}"
            )
        group = features.device_mesh if group is None else group
        features = features.to_local()
    group = group.get_group() if hasattr(group, "get_group") else group
    if features is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be a ProcessGroup or a DeviceMesh, and is of type {type(group).__name__}"
        )
    return features, group


def _met(Z: Tensor, group: Any, name: str) -> tuple[list[int], int]:
    """Return the number of rows on each rank, and the exponent of a unit for all of them.

    The rows must be finite, of one width and dtype. The unit is 1 where squares are in range.
    """
    held = Z.detach().abs()
    largest = float(held.max()) if len(Z) > 0 else 0.0  # NaN wins
    bad = 2 * (not math.isfinite(largest)) or int(largest > _LARGEST)
    exponent = -_FAR if bad or largest == 0.0 else math.frexp(largest)[1]
    told = [len(Z), Z.shape[1], DTYPES.index(Z.dtype), bad, exponent]
    mine = torch.tensor(told, device=Z.device)
    all_ = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_, mine, group=group)
    shapes = [tuple(int(x) for x in t) for t in all_]
    if len({shape[1:3] for shape in shapes}) > 1:
        seen = "; ".join(f"{m} columns of {DTYPES[d]}" for _, m, d, *_ in shapes)
        raise ValueError(f"{name} must have one width and dtype on all ranks, and have {seen}")
    for rank, (*_, found, _) in enumerate(shapes):
        if found == 2:
            raise ValueError(f"{name} must be finite, and hold NaN or infinity on rank {rank}")
        if found == 1:
            raise OverflowError(
                f"{name} must be below {_LARGEST:.2g} with group, and are not on rank {rank}; "
                "scale them down"
            )
    unit = max(shape[-1] for shape in shapes)
    return [shape[0] for shape in shapes], unit if _IN_RANGE < abs(unit) < _FAR else 0


def gram(Z: Tensor, *, mask: Tensor | None = None, group: Any = None) -> Tensor:
    """Return the Gram matrix ``Z^T Z`` in float64, of the rows of all ranks with `group`.

    Parameters
    ----------
    Z : Tensor, shape (N, m)
        Features, one row a sample: with `group`, this rank's rows (N may differ between ranks, and
        be 0). A DTensor sharded by rows brings its group along.
    mask : Tensor, shape (B, T), optional
        Of Z (B, T, m): as in `r_well`.
    group : torch.distributed.ProcessGroup or DeviceMesh, optional
        One all-reduce of m x m in the forward pass, and no communication in the backward pass. All
        ranks must call, and the loss must be the same on all of them: then each gets the gradient
        of that one loss by its own rows. ``DistributedDataParallel`` averages the parameters'
        gradients over the ranks; the sum is what is meant here: `sum_over_ranks`.

    Returns
    -------
    Tensor, shape (m, m), float64

    Raises
    ------
    ValueError, TypeError
        Where `Z` is not a finite matrix of a floating-point dtype; traced programs do not look.
    OverflowError
        Where an entry of the result passes 1.8e308.

    Notes
    -----
    With `group` first derivatives only, in eager mode.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> ict.gram(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[10., 14.],
            [14., 20.]], dtype=torch.float64)
    """
    rows, group = local_rows(Z, group)
    Z = cast(Tensor, kept_rows(rows, mask, "Z", empty=group is not None))
    check_tensor(Z, "Z", empty=group is not None)
    if Z.ndim != 2:
        raise ValueError(f"Z must have 2 dimensions, and has shape {tuple(Z.shape)}")
    if group is None:
        H = Z.double().mT @ Z.double()
        if at_hand(Z) and not bool(H.diagonal().isfinite().all()):
            if not bool(Z.isfinite().all()):
                raise ValueError("Z must be finite, and holds NaN or infinity")
            raise OverflowError("Z^T Z is not representable in float64; scale Z down")
        return H
    _, exponent = _met(Z, group, "Z")
    result: Tensor = _SumOfGrams.apply(Z, group, exponent)  # type: ignore[no-untyped-call]
    return result


def sum_over_ranks(term: Tensor, group: Any = None) -> Tensor:
    """Return a term of all ranks' rows whose gradient is still their sum once ranks average it.

    Each rank's gradient of such a term is a part, and the sum of all parts is meant.
    ``DistributedDataParallel`` and ``fully_shard`` take the mean over W ranks, which is right for
    a loss that is a mean over each rank's own samples. This one counts W times in the gradient,
    and once in the value.

    Parameters
    ----------
    term : Tensor
        A regularizer with ``group=``, times its weight.
    group : torch.distributed.ProcessGroup or DeviceMesh, optional
        The ranks whose gradients are averaged; by default every process.

    Returns
    -------
    Tensor
        Of the same value.

    Raises
    ------
    RuntimeError
        Where there is no process group.

    Examples
    --------
    In a training loop of one's own the first line is that of the launcher (here one process):

    >>> import torch
    >>> import immucond.torch as ict
    >>> store = torch.distributed.HashStore()
    >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> _ = torch.manual_seed(0)
    >>> net, x, group = torch.nn.Linear(4, 3), torch.randn(8, 4), torch.distributed.group.WORLD
    >>> term = 0.1 * ict.r_ill(features=net(x), group=group)
    >>> (net(x).square().mean() + ict.sum_over_ranks(term, group)).backward()
    >>> torch.distributed.destroy_process_group()
    """
    return term + (Ranks(group).size - 1) * (term - term.detach())


# Collectives, and NumPy between them. The public decorator would import the whole compiler here.
@_disable_dynamo
def spread(Z: Tensor, options: Options, group: Any) -> tuple[Tensor, Options]:
    """Return the features that stand for all ranks' rows, with options to match."""
    features, rank, rtol, computed_in = options
    if not features:
        raise ValueError("group goes with features, whose rows the ranks hold; S is one matrix")
    if Z.ndim != 2:
        raise ValueError(f"features must have 2 dimensions with group, got shape {tuple(Z.shape)}")
    counts, exponent = _met(Z, group, "features")
    shape = (sum(counts), Z.shape[1])
    # What stands for the rows may be of another dtype; theirs decides rank and ties.
    options = features, rank, rtol, computed_in or str(Z.dtype).removeprefix("torch.")
    if shape[0] < shape[1]:
        return _AllRows.apply(Z, group, counts), options  # type: ignore[no-untyped-call]
    dtype: Any = options[3]
    rule = rank_rule(shape, dtype, rank=rank, rtol=rtol, computed_in=None, given="features")
    # Where the rounding of coarser rows decides the rank, it hides all that a Gram matrix loses.
    by_gram = (
        rank is None
        and epsilon(dtype) > epsilon("float64")
        and rule.rtol**2 >= default_rtol(shape, "float64", "gram")
    )
    R: Tensor = _FactorOfAll.apply(Z, group, exponent, by_gram)  # type: ignore[no-untyped-call]
    return R, options
