"""The primary and the harmful task together: how both are given, and the roots of both."""

from __future__ import annotations

from typing import Any, SupportsIndex

from ._task import Given, Root, root_of, warn_if_lost
from ._validate import as_delta

Ranks = tuple[SupportsIndex | None, SupportsIndex | None]
Names = tuple[str, str, str, str]
NAMES: Names = ("X_P", "X_H", "K_P", "K_H")


def by_inputs(given: tuple[Any, Any, Any, Any], names: Names = NAMES) -> bool:
    """Whether two tasks are given by their inputs, and not by their Gram matrices."""
    there = tuple(value is not None for value in given)
    if there not in ((True, True, False, False), (False, False, True, True)):
        seen = ", ".join(name for name, is_there in zip(names, there, strict=True) if is_there)
        raise TypeError(
            f"give either {names[0]} and {names[1]} or {names[2]} and {names[3]}, got "
            f"{seen or 'nothing'}; the first are inputs, one row a sample, the others their Gram "
            "matrices"
        )
    return there[0]


def known_ranks(ranks: Ranks | None) -> Ranks:
    """Return the known ranks of the primary and of the harmful task, None where there is none."""
    if ranks is None:
        return None, None
    if not (isinstance(ranks, tuple | list) and len(ranks) == 2):
        raise ValueError(
            f"ranks must be a pair (of the primary and of the harmful task), got {ranks!r}"
        )
    return ranks[0], ranks[1]


def roots(
    X_P: Given, X_H: Given, K_P: Given, K_H: Given, *,
    ranks: Ranks | None = None, computed_in: Any = None,
    names: Names = NAMES,
) -> tuple[Root, Root]:  # fmt: skip
    """Roots of two tasks, from inputs or from Gram matrices; `names` are those of the arguments."""
    rank_P, rank_H = known_ranks(ranks)
    inputs = by_inputs((X_P, X_H, K_P, K_H), names)
    one, other = names[:2] if inputs else names[2:]
    P = root_of(X_P, K_P, names[0], names[2], rank=rank_P, computed_in=computed_in)
    H = root_of(X_H, K_H, names[1], names[3], rank=rank_H, computed_in=computed_in)
    if P.dim != H.dim:
        needed = "have as many columns" if inputs else "be of one size"
        raise ValueError(f"{one} and {other} must {needed}, got {P.dim} and {H.dim}")
    return P, H


def roots_plus(
    X_P: Given, X_H: Given, K_P: Given, K_H: Given, delta: float | tuple[float, float], *,
    ranks: Ranks | None, computed_in: Any,
) -> tuple[Root, Root, tuple[float, float]]:  # fmt: skip
    """Roots of ``K_P + delta_P I`` and ``K_H + delta_H I``, and both deltas; warns of lost ones."""
    deltas = as_delta(delta)
    exact = roots(X_P, X_H, K_P, K_H, ranks=ranks, computed_in=computed_in)
    P, H = (root.plus(added) for root, added in zip(exact, deltas, strict=True))
    warn_if_lost(P, H)
    return P, H, deltas
