"""Kernels for CUDA devices, on arrays of PyTorch, CuPy or whoever speaks DLPack, without a copy.

The functions have the names of `immucond`'s own. `immucond.torch` finds them by itself: its
operators run on them for tensors on a CUDA device.
"""

from ._device import CudaUnavailableError, available
from ._device import facts as facts
from ._functions import (
    Pairs,
    feature_extreme_pairs,
    feature_hessian,
    gram,
    psd_extreme_pairs,
    value_and_grad,
    value_and_grad_features,
)

__all__ = [
    "CudaUnavailableError",
    "Pairs",
    "available",
    "feature_extreme_pairs",
    "feature_hessian",
    "gram",
    "psd_extreme_pairs",
    "value_and_grad",
    "value_and_grad_features",
]
