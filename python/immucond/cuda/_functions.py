"""The functions of `immucond.cuda`, on arrays of any library."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, SupportsIndex

from .._errors import warn_accuracy, warn_tied
from .._pairs import explaining, warn_half
from .._rank import Given, rank_rule
from .._regularizers import Counted, SpectralRegularizer, counted
from . import _device
from ._device import DeviceArray, Library, Place, float64_by_rows, ingest
from .stacks import Stack, built_in, gram_of

_BUILT_IN = ("r_well", "r_ill", "kappa", "log_kappa")


def gram(X: Any, *, accumulate: Literal["float64", "float32"] = "float64") -> Any:
    """Return the Gram matrix ``X^T X``, on the device and the stream of X.

    Parameters
    ----------
    X : array on a CUDA device, shape (N, d)
        float64, float32, bfloat16 or float16 of any strides; read in place where it lies by rows
        or by columns in float64, else converted by blocks of rows.
    accumulate : {"float64", "float32"}
        "float32": products by the tensor cores in the entries' own precision (float32 rounded to
        TF32), summed in float32; for what lies by rows or columns.

    Returns
    -------
    array, shape (d, d)
        Of the library of X, float64 or float32.

    Raises
    ------
    CudaUnavailableError
        Where the kernels, a device or cuBLAS are not there.
    TypeError, ValueError
        Where X is not a matrix on a CUDA device, or not of these dtypes.

    Notes
    -----
    Nothing is waited for, so NaN and infinity in X stay in the result.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     X = torch.ones(3, 2, device="cuda")
    ...     assert icc.gram(X).tolist() == [[3.0, 3.0], [3.0, 3.0]]
    """
    if accumulate not in ("float64", "float32"):
        raise ValueError(f"accumulate must be 'float64' or 'float32', and is {accumulate!r}")
    library, _, inputs = _matrix(X, "X")
    return gram_of(inputs, library, narrow=accumulate == "float32")


def feature_hessian(X: Any, theta: Any) -> Any:
    """Return ``(X theta)^T (X theta)``, without ever holding ``X theta``.

    Parameters
    ----------
    X : array on a CUDA device, shape (N, d)
        As in `gram`.
    theta : array on the same device, shape (d, m)
        Linear feature extractor; read in place in float64 by rows, else copied.

    Returns
    -------
    array, shape (m, m), float64

    Raises
    ------
    CudaUnavailableError, TypeError, ValueError
        As in `gram`, and where the shapes do not match.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     X, theta = torch.ones(3, 2).cuda(), 2 * torch.eye(2, dtype=torch.float64).cuda()
    ...     assert icc.feature_hessian(X, theta).tolist() == [[12.0, 12.0], [12.0, 12.0]]
    """
    library, _, inputs = _matrix(X, "X")
    _, theta, extractor = _matrix(theta, "theta")
    d, m = extractor.shape
    if inputs.shape[1] != d or inputs.device != extractor.device:
        raise ValueError(
            f"X must have one column a row of theta, on the same device; X has shape "
            f"{inputs.shape} on device {inputs.device}, theta {extractor.shape} on "
            f"{extractor.device}"
        )
    theta = float64_by_rows(library.adopt(theta), extractor, library)
    cuda, place = _device.bound_module(), Place(library, inputs.device)
    out = place.empty(m, m)
    workspace = place.workspace(cuda.feature_hessian_workspace_bytes(inputs.layout, m))
    place.run(
        cuda.feature_hessian, X=inputs.layout, theta=theta, columns=m, out=out, workspace=workspace
    )
    return out


def _matrix(X: Any, name: str) -> tuple[Library, Any, DeviceArray]:
    """As `ingest`, for a matrix with at least one entry."""
    library, X, found = ingest(X, name)
    if len(found.shape) != 2 or 0 in found.shape:
        raise ValueError(
            f"{name} must be a matrix with at least one entry, and has shape {found.shape}"
        )
    return library, X, found


class Pairs(NamedTuple):
    """The largest and the smallest nonzero eigenpair, as arrays on the device.

    Attributes
    ----------
    sigma_max, sigma_min : array, shape () or (b,), float64
        Eigenvalues.
    v_max, v_min : array, shape (n,) or (b, n), float64
        Unit eigenvectors, the largest component of each positive.
    rank : array, shape () or (b,), int32
        Number of eigenvalues that count as nonzero.
    """

    sigma_max: Any
    v_max: Any
    sigma_min: Any
    v_min: Any
    rank: Any


def psd_extreme_pairs(
    H: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
) -> Pairs:
    """Return the extreme eigenpairs of a symmetric positive semidefinite matrix, or of a stack.

    Parameters
    ----------
    H : array on a CUDA device, shape (n, n) or (b, n, n)
        Symmetric to the bit; up to n = 128 the stack is one launch, beyond that each takes Lanczos
        and a Cholesky factorization, or cuSOLVER's direct method where that does not converge.
    rank, rtol, computed_in
        As in `immucond.psd_extreme_pairs`.

    Returns
    -------
    Pairs

    Raises
    ------
    CudaUnavailableError
        Where the kernels, a device, or for large matrices cuBLAS and cuSOLVER are not there.
    ValueError, TypeError
        As in `immucond.psd_extreme_pairs`.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     pairs = icc.psd_extreme_pairs(torch.tensor([[2.0, 1.0], [1.0, 2.0]], device="cuda"))
    ...     assert round(float(pairs.sigma_max / pairs.sigma_min), 12) == 3.0
    """
    return _pairs(H, "H", "matrix", rank=rank, rtol=rtol, computed_in=computed_in)


def feature_extreme_pairs(
    Z: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
) -> Pairs:
    """Return the extreme eigenpairs of ``H = Z^T Z`` for features (N, m) or a stack of groups.

    See `psd_extreme_pairs`; `rtol` is on the singular values of Z.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     groups = torch.randn(20, 100, 512, device="cuda")
    ...     assert icc.feature_extreme_pairs(groups).sigma_max.shape == (20,)
    """
    return _pairs(Z, "Z", "features", rank=rank, rtol=rtol, computed_in=computed_in)


def value_and_grad(
    regularizer: SpectralRegularizer,
    S: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    p: Counted = None,
) -> tuple[Any, Any]:
    """Return value and gradient at a symmetric positive semidefinite matrix, or a stack of them.

    Other matrices are copied to the host and computed there.

    Parameters
    ----------
    regularizer : SpectralRegularizer
        `immucond.r_well`, `immucond.r_ill`, `immucond.kappa` or `immucond.log_kappa`.
    S : array on a CUDA device, shape (p_r, p_c) or (b, p_r, p_c)
        Of PyTorch, CuPy, or anything with DLPack or ``__cuda_array_interface__``.
    rank, rtol, computed_in, p
        As in `immucond.SpectralRegularizer.value_and_grad`.

    Returns
    -------
    value : array, shape () or (b,), float64
    gradient : array of the shape of S, float64 for float64 and float32 for narrower entries

    Raises
    ------
    CudaUnavailableError
        Where the kernels or a device are not there.
    ValueError, TypeError, OverflowError, DegenerateSpectrumError
        As in `immucond.SpectralRegularizer.value_and_grad`.

    Warns
    -----
    DegenerateSpectrumWarning, AccuracyWarning
        As there.

    Examples
    --------
    >>> import torch
    >>> import immucond as ic
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     value, grad = icc.value_and_grad(ic.kappa, torch.tensor([[3.0, 0], [0, 1]]).cuda())
    ...     assert round(float(value), 12) == 3.0
    """
    of_rank = {"rank": rank, "rtol": rtol, "computed_in": computed_in}
    return _value_and_grad(regularizer, S, "S", "matrix", p, **of_rank)


def value_and_grad_features(
    regularizer: SpectralRegularizer,
    Z: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    p: Counted = None,
) -> tuple[Any, Any]:
    """Return value at ``H = Z^T Z`` and gradient by Z, for features (N, m) or a stack of groups.

    A stack with the smaller of N and m up to 128 is one launch. See `value_and_grad` for the
    parameters, results and errors.

    Examples
    --------
    >>> import torch
    >>> import immucond as ic
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     groups = torch.randn(20, 100, 512, device="cuda", dtype=torch.float64)
    ...     value, grad = icc.value_and_grad_features(ic.r_ill, groups)
    ...     assert (value.shape, grad.shape) == ((20,), groups.shape)
    """
    of_rank = {"rank": rank, "rtol": rtol, "computed_in": computed_in}
    return _value_and_grad(regularizer, Z, "Z", "features", p, **of_rank)


def _stack(
    x: Any, name: str, given: Given, *, square: bool = False, **of_rank: Any
) -> tuple[Stack, bool]:
    """Return a matrix, or a stack of them, with the rule that decides rank; and whether it is one.

    `square`: a matrix must be.
    """
    library, x, array = ingest(x, name)
    shape = array.shape
    square = square and given == "matrix"
    if len(shape) not in (2, 3) or 0 in shape or (square and shape[-1:] != shape[-2:-1]):
        raise ValueError(
            f"{name} must be {'a square matrix' if square else 'a matrix'} with at least one "
            f"entry, or a stack of them, and has shape {shape}"
        )
    rule = rank_rule(shape[-2:], array.dtype, given=given, **of_rank)  # type: ignore[arg-type]
    single = len(shape) == 2
    stacked = x[None] if single else x
    features = given == "features"
    return Stack(stacked, array.stacked(), library, features=features, rule=rule), single


def _pairs(x: Any, name: str, given: Given, **of_rank: Any) -> Pairs:
    stack, single = _stack(x, name, given, square=True, **of_rank)
    found = stack.pairs(psd=given == "matrix")
    fields = (getattr(found, field) for field in Pairs._fields)
    return Pairs(*(field[0] if single else field for field in fields))


def _value_and_grad(
    regularizer: SpectralRegularizer, x: Any, name: str, given: Given, p: Counted, **of_rank: Any
) -> tuple[Any, Any]:
    if built_in(regularizer) is None:
        raise ValueError(
            f"regularizer must be one of {', '.join(_BUILT_IN)}, and is {regularizer!r}"
        )
    number = counted(p, regularizer)
    stack, single = _stack(x, name, given, **of_rank)
    with explaining(stack.rule):
        found = stack.evaluate(regularizer, p=number, gradient=True)
    what = "Z^T Z" if given == "features" else "S"
    warn_half(what, found.rank, min(stack.where.shape[-2:]), stack.rule)
    if not found.determined:
        warn_accuracy(what)
    if found.tied:
        warn_tied(what, regularizer.name)
    return (found.value[0], found.gradient[0]) if single else (found.value, found.gradient)
