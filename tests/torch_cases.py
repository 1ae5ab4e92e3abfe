"""What the tests of immucond.torch share: its functions, their truth, and where to run them."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

from matrices import separated, with_singular_values  # noqa: E402

import immucond as ic  # noqa: E402
import immucond.torch as ict  # noqa: E402
from immucond.cuda import _device as _cuda_device  # noqa: E402
from immucond.torch import _distributed, _pairs, _spectral  # noqa: E402
from immucond.torch._kernels import CPU, CUDA, FALLBACK  # noqa: E402

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "r_well": ict.r_well,
    "r_ill": ict.r_ill,
    "log_kappa": ict.log_kappa,
    "kappa": ict.condition_number,
}
NAMES = pytest.mark.parametrize("name", FUNCTIONS)
INPUTS = pytest.mark.parametrize("given", ["S", "features"])
SHAPES = pytest.mark.parametrize("shape", [(5, 4), (3, 5), (4, 4)], ids=str)


def tensor(shape: tuple[int, int], k: int | None = None, seed: int = 0) -> Any:
    """A float64 matrix with well separated singular values, k of them (by default all)."""
    rng = np.random.default_rng(seed)
    sigma = separated(rng, min(shape) if k is None else k)
    return torch.from_numpy(with_singular_values(rng, *shape, sigma))


def on_ranks(work: Callable[..., None], world: int, folder: Path) -> list[Any]:
    """What ``work(rank, world, folder)`` saved as folder/rank in each process, None where nothing.

    From a server that has imported PyTorch already: starting takes longer than what they do.
    """
    multiprocessing.set_forkserver_preload(["immucond.torch"])
    torch.multiprocessing.start_processes(
        work, args=(world, str(folder)), nprocs=world, start_method="forkserver"
    )
    files = [folder / str(rank) for rank in range(world)]
    return [torch.load(f, weights_only=False) if f.exists() else None for f in files]


def assert_close(got: Any, expected: Any, rtol: float = 1e-10) -> None:
    """Relative to the largest entry, in float64."""
    got, expected = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (got, expected))
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= rtol * expected.abs().max()


def by_svd(name: str, given: str, X: Any, p: int | None = None) -> Any:
    """The value at full rank by PyTorch's own SVD, which differentiates it by itself."""
    sigma = torch.linalg.svdvals(X)
    p = (min(X.shape) if given == "S" else X.shape[-1]) if p is None else p
    if given == "features":
        sigma = sigma**2
    first, last, squares, k = sigma[..., 0], sigma[..., -1], (sigma**2).sum(-1), sigma.shape[-1]
    if name == "r_well":
        return first**2 / 2 - squares / (2 * p)
    if name == "r_ill":
        return 1 / (squares / (2 * k) - last**2 / 2)
    return first / last if name == "kappa" else torch.log(first / last)


def core_value_and_grad(name: str, given: str, X: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """What the NumPy interface says."""
    r = getattr(ic, name)
    return (r.value_and_grad if given == "S" else r.value_and_grad_features)(X, **options)


class OnDevice:
    """The kernels for CUDA tensors, for CPU tensors: there and back."""

    @staticmethod
    def evaluate(regularizer: Any, X: Any, **options: Any) -> Any:
        found = CUDA.evaluate(regularizer, X.cuda(), **options)
        gradient = None if found.gradient is None else found.gradient.cpu()
        return found._replace(value=found.value.cpu(), gradient=gradient)

    @staticmethod
    def pairs(X: Any, **options: Any) -> Any:
        found = CUDA.pairs(X.cuda(), **options)
        return type(found)(*(field.cpu() for field in found))

    @staticmethod
    def gram(X: Any) -> Any:
        return CUDA.gram(X.cuda()).cpu()


def require_device() -> None:
    """Skip, and say why, where there is no CUDA device."""
    if not _cuda_device.available():
        pytest.skip(f"the CUDA kernels cannot run here: {_cuda_device._why_not(None)}")


@pytest.fixture(
    params=["core", "pure torch", "emulated", pytest.param("cuda", marks=pytest.mark.cuda)]
)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel that could stand behind the seam, on CPU tensors."""
    if request.param == "cuda":
        require_device()
    if request.param == "emulated":
        from emulated_cuda import EmulatedCuda, install

        install(monkeypatch, EmulatedCuda())
    chosen: Any = {"core": CPU, "pure torch": FALLBACK, "emulated": CUDA, "cuda": OnDevice}
    for module in (_spectral, _pairs, _distributed):
        monkeypatch.setattr(module, "kernels_for", lambda X: chosen[request.param])
