"""Kernels for one matrix, applied to a stack of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Evaluate = Callable[..., tuple[Any, Tensor | None, bool, bool]]


def each_of_a_stack(evaluate: Evaluate) -> Evaluate:
    """Let it take a stack (b, rows, columns), and return values (b) and gradients as tensors."""

    @wraps(evaluate)
    def of_a_stack(
        regularizer: Any, X: Tensor, **options: Any
    ) -> tuple[Any, Tensor | None, bool, bool]:
        if X.ndim == 2:
            return evaluate(regularizer, X, **options)
        results = [evaluate(regularizer, x, **options) for x in X]
        values, gradients, tied, determined = zip(*results, strict=True)
        return (
            torch.tensor(values, dtype=torch.float64),
            torch.stack(gradients) if options["gradient"] else None,
            any(tied),
            all(determined),
        )

    return of_a_stack
