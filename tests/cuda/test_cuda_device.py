"""On a device: what only a device can show. The other tests marked `cuda` are those of the CPU."""

import numpy as np
import pytest
from matrices import separated, with_eigenvalues, with_singular_values
from torch_cases import FUNCTIONS, INPUTS, NAMES, assert_close, require_device, torch

import immucond as ic
import immucond.cuda as icc
import immucond.torch as ict

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("device")]


@pytest.fixture
def device():
    require_device()


SHAPES = [(5, 9), (100, 512), (64, 768), (128, 128), (4096, 96), (300, 200), (200, 300)]


def features(*shape, seed=0):
    rng = np.random.default_rng(seed)
    sigma = np.concatenate([[3.0], 1.5 + rng.random(min(shape) - 2), [1.0]])
    return torch.from_numpy(with_singular_values(rng, *shape, sigma)).cuda()


@NAMES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_features_on_every_way(name, shape):
    Z = features(*shape).requires_grad_()
    value = FUNCTIONS[name](features=Z)
    value.backward()
    r = getattr(ic, name)
    expected = r.value_and_grad_features(Z.detach().cpu().numpy())
    assert value.is_cuda
    assert_close(value.cpu(), expected[0], 1e-11)
    assert_close(Z.grad.cpu(), expected[1], 1e-9)


@pytest.mark.parametrize("n", [3, 100, 128, 129, 1024])
def test_psd_pairs(n):
    rng = np.random.default_rng(n)
    H = with_eigenvalues(rng, n, np.concatenate([[9.0], 2 + rng.random(n - 2), [1.0]]))
    pairs = icc.psd_extreme_pairs(torch.from_numpy(H).cuda())
    assert_close(pairs.sigma_max.cpu(), 9.0, 1e-12)
    assert_close(pairs.sigma_min.cpu(), 1.0, 1e-12)
    for value, v in ((9.0, pairs.v_max), (1.0, pairs.v_min)):
        v = v.cpu().numpy()
        assert np.linalg.norm(H @ v - value * v) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["rows", "columns", "strided"])
def test_gram(dtype, layout):
    X = torch.randn(3000, 70, device="cuda", dtype=torch.float64).to(dtype)
    X = {"rows": X, "columns": X.T.contiguous().T, "strided": torch.stack([X, X], -1)[..., 0]}[
        layout
    ]
    expected = X.double().cpu().numpy()
    H = icc.gram(X).cpu()
    assert torch.equal(H, H.T)
    assert_close(H, expected.T @ expected, 1e-13)
    if dtype != torch.float64 and layout != "strided":
        narrow = icc.gram(X, accumulate="float32")
        assert narrow.dtype == torch.float32
        assert_close(narrow.double().cpu(), expected.T @ expected, 2e-3)


def test_feature_hessian():
    X = torch.randn(5000, 60, device="cuda", dtype=torch.float32)
    theta = torch.randn(60, 40, device="cuda", dtype=torch.float64)
    Y = X.double() @ theta
    assert_close(icc.feature_hessian(X, theta).cpu(), (Y.T @ Y).cpu(), 1e-12)


def test_the_callers_stream_is_honoured():
    Z = features(100, 512)
    expected = icc.value_and_grad_features(ic.r_ill, Z)[1].clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # whoever does not wait for it reads zeros
        late = torch.zeros_like(Z)
        late.copy_(Z)
        found = icc.value_and_grad_features(ic.r_ill, late)[1]
    stream.synchronize()
    assert torch.equal(found, expected)


def test_a_graph_captures_it():
    Z = torch.stack([features(100, 512, seed=seed) for seed in range(3)])
    icc.value_and_grad_features(ic.r_ill, Z)  # what is loaded on first use
    graph, still = torch.cuda.CUDAGraph(), Z.clone()
    with torch.cuda.graph(graph):
        value, gradient = icc.value_and_grad_features(ic.r_ill, still)
    still.copy_(2 * Z)
    graph.replay()
    torch.cuda.synchronize()
    expected = icc.value_and_grad_features(ic.r_ill, 2 * Z)
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1])
    still[1] = float("nan")
    graph.replay()
    torch.cuda.synchronize()
    assert value.isnan().tolist() == [False, True, False]


def test_the_same_bits_each_time():
    Z = torch.stack([features(100, 512, seed=seed) for seed in range(20)])
    first = icc.value_and_grad_features(ic.log_kappa, Z)
    for _ in range(5):
        again = icc.value_and_grad_features(ic.log_kappa, Z)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@INPUTS
@NAMES
def test_derivatives(name, given):
    rng = np.random.default_rng(8)
    X = torch.from_numpy(with_singular_values(rng, 4, 4, separated(rng, 4))).cuda()
    X = (X @ X.T if given == "S" else X).requires_grad_()
    assert torch.autograd.gradcheck(lambda X: FUNCTIONS[name](**{given: X}), X)


def test_opcheck_and_compile():
    Z = features(6, 9).requires_grad_()
    options = ("r_ill", True, None, None, None, 0, True)
    torch.library.opcheck(torch.ops.immucond.spectral.default, (Z, *options))
    compiled = torch.compile(lambda Z: ict.r_ill(features=Z), backend="aot_eager")
    assert_close(compiled(Z).detach().cpu(), ict.r_ill(features=Z).detach().cpu(), 1e-14)


def test_cupy_arrays():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    Z = features(100, 512)
    expected = icc.value_and_grad_features(ic.r_ill, Z)
    found = icc.value_and_grad_features(ic.r_ill, cupy.from_dlpack(Z))
    assert all(type(array).__module__.startswith("cupy") for array in found)
    for got, wanted in zip(found, expected, strict=True):
        assert np.array_equal(cupy.asnumpy(got), wanted.cpu().numpy())
