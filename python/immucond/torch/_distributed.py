"""A batch whose rows are spread over ranks (torch.distributed): what stands for all of them."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable

from .._pairs import warn_half
from .._rank import Rule, default_rtol, epsilon, rank_rule
from .._ranks import Ranks
from .._triangle import TriangleAccumulator
from ._kernels import kernels_for
from ._operator import DTYPES, Options, at_hand, check_tensor
from ._tokens import kept_rows

_LARGEST = 2.0**1000  # of entries whose columns have norms, on however many ranks


class _SumOfGrams(torch.autograd.Function):
    """The Gram matrix of all ranks' rows: one all-reduce of m x m, and none in the backward pass.

    The loss is one for all ranks, so every rank has the same gradient G by H already, and the
    gradient by its own rows is ``Z (G + G^T)``.
    """

    @staticmethod
    def forward(ctx: Any, Z: Tensor, group: Any) -> Tensor:
        ctx.save_for_backward(Z)
        H = Z.new_zeros(Z.shape[1], Z.shape[1], dtype=torch.float64)
        if len(Z) > 0:
            H = kernels_for(Z).gram(Z)
        dist.all_reduce(H, group=group)
        # Ranks add the entries (i, j) and (j, i) in different orders.
        return (H + H.mT) / 2

    @staticmethod
    @once_differentiable  # what other ranks' rows do to G is not here
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (Z,) = ctx.saved_tensors
        return (Z.double() @ (upstream + upstream.mT)).to(Z.dtype), None


class _TriangleOfAll(torch.autograd.Function):
    """The QR factor R of all ranks' rows: a tree of merges, and nothing in the backward pass.

    Whatever depends on the rows by ``H = R^T R`` alone has the gradient ``U = 2 R G`` by R, G that
    by H, and ``2 Z G = Z R^+ U`` by a rank's own rows.
    """

    @staticmethod
    def forward(ctx: Any, Z: Tensor, group: Any) -> Tensor:
        accumulator = TriangleAccumulator(Z.shape[1])
        accumulator.update(Z.detach().double().cpu().numpy()).all_reduce(group)
        R = torch.from_numpy(accumulator.R)
        ctx.save_for_backward(Z, R)
        return R.to(Z.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        Z, R = ctx.saved_tensors
        largest = R.abs().max()
        unit = R / largest
        size = torch.linalg.vector_norm(unit, dim=0)
        size = torch.where(size > 0.0, size, 1.0)[:, None]  # columns of any scale, dead ones too
        G = torch.linalg.lstsq(unit / size.T, upstream.cpu(), driver="gelsd").solution / size
        return ((Z.double() / largest.to(Z.device)) @ G.to(Z.device)).to(Z.dtype), None


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
    @once_differentiable
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
    return features, group.get_group() if hasattr(group, "get_group") else group


def _counts(Z: Tensor, group: Any) -> list[int]:
    """Return the number of rows on each rank, which must be finite, of one width and dtype."""
    held = Z.detach().abs()
    bad = 2 * (not held.isfinite().all()) or int((held > _LARGEST).any())
    mine = torch.tensor([len(Z), Z.shape[1], DTYPES.index(Z.dtype), bad], device=Z.device)
    all_ = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_, mine, group=group)
    shapes = [tuple(int(x) for x in t) for t in all_]
    if len({shape[1:3] for shape in shapes}) > 1:
        seen = "; ".join(f"{m} columns of {DTYPES[d]}" for _, m, d, _ in shapes)
        raise ValueError(f"features must have one width and dtype on all ranks, and have {seen}")
    for rank, (*_, found) in enumerate(shapes):
        if found == 2:
            raise ValueError(f"features must be finite, and hold NaN or infinity on rank {rank}")
        if found == 1:
            raise OverflowError(
                f"features must be below {_LARGEST:.2g} with group, and are not on rank {rank}; "
                "scale them down"
            )
    return [shape[0] for shape in shapes]


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
    _counts(Z, group)
    result: Tensor = _SumOfGrams.apply(Z, group)  # type: ignore[no-untyped-call]
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
def spread(Z: Tensor, options: Options, group: Any) -> tuple[Tensor, Options, Rule]:
    """Return the matrix or the features that stand for all ranks' rows, with options to match.

    And the rule that decides the rank of what was given.
    """
    features, rank, rtol, computed_in = options
    if not features:
        raise ValueError("group goes with features, whose rows the ranks hold; S is one matrix")
    if Z.ndim != 2:
        raise ValueError(f"features must have 2 dimensions with group, got shape {tuple(Z.shape)}")
    counts = _counts(Z, group)
    width = Z.shape[1]
    shape = (sum(counts), width)
    rule = rank_rule(
        shape,
        Z.dtype,  # type: ignore[arg-type]
        rank=None,
        rtol=rtol,
        computed_in=computed_in,
        given="features",
    )
    if rank is not None:
        rule = rule._replace(rounded=0.0)
    if sum(counts) < width:
        return _AllRows.apply(Z, group, counts), options, rule  # type: ignore[no-untyped-call]
    if epsilon(computed_in or Z.dtype) <= epsilon("float64"):
        return _TriangleOfAll.apply(Z, group), options, rule  # type: ignore[no-untyped-call]
    # The rounding of coarser rows hides all that a Gram matrix in float64 loses.
    H: Tensor = _SumOfGrams.apply(Z, group)  # type: ignore[no-untyped-call]
    # Of H: singular values of features are square roots, and H itself is rounded.
    of_H = max(rule.rtol**2, default_rtol(shape, "float64", "gram"))
    if rule.rounded > 0.0:  # lambda_1 >= ||H||_F^2 / tr H: never less than the rule of one rank
        trace, size = float(H.detach().trace()), float(torch.linalg.matrix_norm(H.detach()))
        of_H = max(of_H, (rule.rounded * trace / size) ** 2) if size > 0.0 else of_H
        values = torch.linalg.eigvalsh(H.detach())
        kept = int((values > min(0.5, of_H) * values[-1]).sum())
        warn_half("Z^T Z", kept, width, rule)
    return H, (False, rank, min(0.5, of_H), "float64"), rule
