"""immucond.cuda on the host, kernels emulated: which way a matrix goes, and what comes back."""

import re
from fractions import Fraction

import numpy as np
import pytest
from emulated_cuda import EmulatedCuda, install, read, view
from matrices import equal_rows, quiet, separated, with_eigenvalues, with_singular_values
from torch_cases import assert_close, torch

import immucond as ic
import immucond.cuda as icc
from immucond import _core
from immucond._rank import Rule
from immucond.cuda import _device
from immucond.cuda._device import candidates, runs_on
from immucond.cuda._large import LargeMatrix, start
from immucond.torch._kernels import CUDA

BOUND_MODULE = _device.bound_module
NAMES = pytest.mark.parametrize("name", ["r_well", "r_ill", "kappa", "log_kappa"])


@pytest.fixture
def cuda(monkeypatch):
    """Emulated kernels; `cuda.library` is PyTorch on the host."""
    emulated = EmulatedCuda()
    emulated.library = install(monkeypatch, emulated)
    return emulated


def features(*shape, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    k = min(shape)
    return torch.from_numpy(with_singular_values(rng, *shape, separated(rng, k))).to(dtype)


def check(name, Z, rtol=1e-10, **options):
    r = getattr(ic, name)
    value, gradient = icc.value_and_grad_features(r, Z, **options)
    precise = {"computed_in": str(Z.dtype).removeprefix("torch.")} | options
    expected = r.value_and_grad_features(Z.double().numpy(), **precise)
    assert_close(value, expected[0], rtol)
    assert_close(gradient, expected[1], max(rtol, 1e-6 if gradient.dtype == torch.float32 else 0))


@NAMES
@pytest.mark.parametrize("shape", [(5, 8), (8, 5)], ids=str)
def test_small_features_take_one_launch(cuda, name, shape):
    check(name, features(*shape))
    check(name, features(*shape, dtype=torch.float32), 1e-6)
    assert cuda.calls == ["small features"] * 2


@NAMES
@pytest.mark.parametrize("shape", [(30, 6), (6, 30)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_long_features_take_a_gram_matrix_first(cuda, name, shape, dtype):
    cuda.most = 40
    Z = features(*shape).to(dtype)
    check(name, Z)
    check(name, Z.T.contiguous().T)
    assert cuda.calls == ["gram", "small gram"] * 2


def test_sums_in_one_go_over_many_rows_keep_the_digits_that_are_told(cuda, monkeypatch):
    def in_one_go(*, X, out, **_):
        A = read(X)
        for i, j in np.ndindex(2, 2):
            view(out, np.float64, (2, 2))[i, j] = np.cumsum(A[:, i] * A[:, j])[-1]

    monkeypatch.setattr(cuda, "gram", in_one_go)
    cuda.most = 40
    Z, truth = equal_rows(200_000, 1e-4)
    pairs = icc.feature_extreme_pairs(torch.from_numpy(Z))
    assert_close(pairs.sigma_min, truth[1], 1e-6)
    for rows, carries in ((200, True), (10**6, False)):
        matrix = LargeMatrix(None, 200, None, 0, rule=Rule(0, 1e-14, 2.0**-52), rows=rows)
        assert matrix._carries(200, 1.0, 1e-7) == carries


@NAMES
@pytest.mark.parametrize("shape", [(150, 140), (140, 150)], ids=str)
def test_large_features_take_lanczos(cuda, name, shape):
    rng = np.random.default_rng(1)
    sigma = np.concatenate([[3.0], 2 + rng.random(138) / 2, [0.5]])
    check(name, torch.from_numpy(with_singular_values(rng, *shape, sigma)))
    assert {"gram", "lanczos"} == set(cuda.calls)


def test_p_counts_the_nonzero_ones_on_every_way(cuda):
    for shape, most in (((5, 8), np.inf), ((5, 30), 40), ((140, 150), np.inf)):
        cuda.most = most
        check("r_well", features(*shape), 1e-8, p="rank")


@NAMES
def test_large_psd_matrices(cuda, name):
    rng = np.random.default_rng(2)
    H = with_eigenvalues(rng, 140, np.concatenate([[3.0], 2 + rng.random(138) / 2, [0.5]]))
    r = getattr(ic, name)
    value, gradient = icc.value_and_grad(r, torch.from_numpy(H))
    expected = r.value_and_grad(H)
    assert_close(value, expected[0])
    assert_close(gradient, expected[1])
    assert set(cuda.calls) == {"lanczos"}


def test_what_lanczos_leaves_takes_the_direct_method(cuda):
    rng = np.random.default_rng(3)
    H = with_eigenvalues(rng, 140, np.append(np.linspace(1.0, 2.0, 139), 2 + 1e-11))
    pairs, core = icc.psd_extreme_pairs(torch.from_numpy(H)), ic.psd_extreme_pairs(H)
    assert cuda.calls[-1] == "syevd"
    assert_close(pairs.sigma_max, core.sigma_max, 1e-13)
    assert_close(pairs.sigma_min, core.sigma_min, 1e-13)
    assert_close(pairs.v_min, core.v_min, 1e-8)
    assert int(pairs.rank) == 140


def test_no_end_hides_from_vectors_that_anybody_can_know(cuda):
    """The largest eigenvalue's vector is orthogonal to what any other matrix would start from."""
    cuda.most, n, rng = 1, 200, np.random.default_rng(0)
    Q = np.linalg.qr(np.column_stack([start(n), rng.normal(size=(n, n - 2))]))[0]
    inside = (
        np.column_stack([Q[:, :2], Q[:, 4:]]) @ np.linalg.qr(rng.normal(size=(n - 2, n - 2)))[0]
    )
    # So that the iteration is done before rounding lets the hidden ones in.
    for b in (0.043, 0.088, 0.133, 0.155, 0.178):
        values = np.linspace(0.9 * b, b, n - 2)
        values[:2] = 1.0, 0.3 * b
        V, w = np.column_stack([Q[:, 2], inside, Q[:, 3]]), np.array([1.2, *values, 0.72 * b])
        H = (V * w) @ V.T
        pairs = icc.psd_extreme_pairs(torch.from_numpy((H + H.T) / 2))
        assert float(pairs.sigma_max) == pytest.approx(1.2, rel=1e-12)
        assert float(pairs.sigma_min) == pytest.approx(0.3 * b, rel=1e-12)


def test_a_large_matrix_of_low_rank(cuda):
    rng = np.random.default_rng(4)
    H = torch.from_numpy(with_eigenvalues(rng, 140, 1.0 + np.arange(100)))
    for options in ({}, {"rank": 100}):
        pairs = icc.psd_extreme_pairs(H, **options)
        assert int(pairs.rank) == 100
        assert_close(pairs.sigma_min, 1.0, 1e-10)
        v = pairs.v_min
        assert_close(H @ v, v, 1e-9)


def test_a_large_matrix_of_rank_one(cuda):
    Z = torch.from_numpy(with_singular_values(np.random.default_rng(9), 140, 150, np.array([3.0])))
    with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite"):
        icc.value_and_grad_features(ic.r_ill, Z, rank=1)
    value, gradient = icc.value_and_grad_features(ic.kappa, Z, rank=1)
    assert value == 1.0
    assert gradient.abs().max() < 1e-14


@NAMES
def test_a_stack_is_its_matrices(cuda, name):
    stack = torch.stack([features(5, 8, seed=seed) for seed in range(4)])
    r = getattr(ic, name)
    values, gradients = icc.value_and_grad_features(r, stack)
    assert cuda.calls == ["small features"]
    for Z, value, gradient in zip(stack, values, gradients, strict=True):
        one = icc.value_and_grad_features(r, Z)
        assert value == one[0]
        assert torch.equal(gradient, one[1])


def test_the_host_takes_over_what_the_kernels_leave(cuda):
    good = features(4, 6)
    ill = good * torch.from_numpy(np.geomspace(1.0, 1e-7, 6))
    value, gradient = icc.value_and_grad_features(ic.log_kappa, torch.stack([good, ill, good]))
    expected = ic.log_kappa.value_and_grad_features(ill.numpy())
    assert_close(value[1], expected[0], 1e-12)
    assert_close(gradient[1], expected[1], 1e-12)
    assert_close(value[0], ic.log_kappa.value_and_grad_features(good.numpy())[0], 1e-12)
    assert torch.equal(gradient[0], gradient[2])


def test_ties_warn_and_take_the_mean(cuda):
    Z = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    with pytest.warns(ic.DegenerateSpectrumWarning, match=r"Z\^T Z that r_well uses"):
        value, gradient = icc.value_and_grad_features(ic.r_well, Z)
    expected = quiet(ic.r_well.value_and_grad_features, Z.numpy())
    assert_close(value, expected[0])
    assert_close(gradient, expected[1])


def test_bad_input_is_refused_by_name(cuda):
    Z = features(4, 3)
    Z[2, 1] = torch.nan
    with pytest.raises(ValueError, match="Z must be finite, and holds NaN at row 2, column 1"):
        icc.value_and_grad_features(ic.kappa, Z)
    with pytest.raises(ValueError, match="Z has rank 0"):
        icc.feature_extreme_pairs(torch.zeros(3, 4, dtype=torch.float64))
    with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite"):
        icc.value_and_grad(ic.r_ill, torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"H must be a square matrix .* shape \(3, 4\)"):
        icc.psd_extreme_pairs(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"Z must be a matrix .* shape \(4,\)"):
        icc.value_and_grad_features(ic.kappa, torch.zeros(4))
    with pytest.raises(TypeError, match=r"Z must hold float64, .* and has dtype int32"):
        icc.feature_extreme_pairs(torch.zeros(3, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="regularizer must be one of r_well"):
        icc.value_and_grad(
            ic.SpectralRegularizer("norm", 1, lambda s: (0, 0, 0, 0)), features(3, 3)
        )
    with pytest.raises(TypeError, match="kappa does not depend on p"):
        icc.value_and_grad_features(ic.kappa, features(3, 4), p="rank")
    with pytest.raises(ValueError, match="rank must be between 1 and 3"):
        icc.value_and_grad_features(ic.kappa, features(3, 4), rank=4)


@pytest.mark.parametrize("most", [np.inf, 1], ids=["small", "large"])
def test_pairs_of_what_is_not_semidefinite_are_refused(cuda, most):
    cuda.most = most
    good = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    for bad, told in (
        (torch.diag(torch.tensor([1.0, -3.0, 2.0])), "positive semidefinite, .* eigenvalue -3"),
        (torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), "symmetric"),
    ):
        with pytest.raises(ValueError, match=f"H must be {told}"):
            icc.psd_extreme_pairs(torch.stack([good, bad.double()]))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)], ids=str)
def test_pairs_by_features(cuda, shape):
    Z = torch.stack([features(*shape), features(*shape, seed=1)])
    pairs, core = icc.feature_extreme_pairs(Z), ic.feature_extreme_pairs(Z.numpy())
    for field in icc.Pairs._fields:
        assert_close(getattr(pairs, field), getattr(core, field), 1e-9)
    one = icc.feature_extreme_pairs(Z[0])
    assert one.sigma_max == pairs.sigma_max[0]
    assert torch.equal(one.v_min, pairs.v_min[0])


@pytest.mark.parametrize("shape", [(30, 6), (6, 30), (150, 140), (140, 150)], ids=str)
def test_pairs_by_long_and_by_large_features(cuda, shape):
    cuda.most = 40
    sigma = np.concatenate([[3.0], 2 + np.random.default_rng(5).random(min(shape) - 2), [0.5]])
    Z = with_singular_values(np.random.default_rng(6), *shape, sigma)
    pairs, core = icc.feature_extreme_pairs(torch.from_numpy(Z)), ic.feature_extreme_pairs(Z)
    assert set(cuda.calls) == {"gram", "small gram" if min(shape) == 6 else "lanczos"}
    for field in icc.Pairs._fields:
        assert_close(getattr(pairs, field), getattr(core, field), 1e-9)


def test_a_large_psd_matrix_in_float32(cuda):
    sigma = np.concatenate([[3.0], 2 + np.random.default_rng(7).random(138) / 2, [0.5]])
    H = torch.from_numpy(with_eigenvalues(np.random.default_rng(8), 140, sigma)).float()
    value, gradient = icc.value_and_grad(ic.kappa, H)
    expected = ic.kappa.value_and_grad(H.numpy())
    assert set(cuda.calls) == {"lanczos"}
    assert gradient.dtype == torch.float32
    assert_close(value, expected[0], 1e-12)
    assert_close(gradient, expected[1], 1e-6)


@NAMES
@pytest.mark.parametrize("exponent", [-520, -205, -90, 90, 200])
@pytest.mark.parametrize("shape", [(5, 8), (6, 30), (140, 150)], ids=str)
def test_every_scale_on_every_way(cuda, shape, exponent, name):
    cuda.most = 40 if shape == (6, 30) else np.inf
    Z = np.ldexp(features(*shape).numpy(), exponent)
    r = getattr(ic, name)
    try:
        value, gradient = r.value_and_grad_features(Z)
    except OverflowError as error:
        with pytest.raises(OverflowError, match=re.escape(str(error))):
            icc.value_and_grad_features(r, torch.from_numpy(Z))
        return
    found = icc.value_and_grad_features(r, torch.from_numpy(Z))
    assert_close(found[0], value, 1e-10)
    assert_close(found[1], gradient, 1e-9)


@pytest.mark.parametrize("shape", [(5, 8), (6, 30), (150, 140)], ids=str)
def test_a_gradient_beyond_float32_is_an_error(cuda, shape):
    cuda.most = 40 if shape == (6, 30) else np.inf
    Z = 1e-12 * features(*shape, dtype=torch.float32)
    with pytest.raises(OverflowError, match="the gradient of r_ill is not representable in float3"):
        icc.value_and_grad_features(ic.r_ill, Z)


def test_gram_and_feature_hessian(cuda):
    X, theta = features(20, 6), features(6, 4)
    assert_close(icc.gram(X), X.T @ X, 1e-14)
    assert_close(icc.gram(X.float()), X.float().double().T @ X.float().double(), 1e-14)
    assert icc.gram(X.float(), accumulate="float32").dtype == torch.float32
    assert_close(icc.feature_hessian(X, theta), (X @ theta).T @ (X @ theta), 1e-13)
    with pytest.raises(ValueError, match="accumulate must be 'float64' or 'float32'"):
        icc.gram(X, accumulate="float16")
    with pytest.raises(ValueError, match=r"X has shape \(20, 6\) on device 0, theta \(4, 6\)"):
        icc.feature_hessian(X, theta.T.contiguous())
    for given in (theta.T.contiguous().T, theta.float()):
        F = X @ given.double()
        assert_close(icc.feature_hessian(X, given), F.T @ F, 1e-13)
    with pytest.raises(ValueError, match="X must be a matrix with at least one entry"):
        icc.gram(X[:0])


def test_while_a_graph_is_captured_nothing_comes_back(cuda, monkeypatch):
    def never(array):
        raise AssertionError("the host waits")

    monkeypatch.setattr(cuda.library, "capturing", lambda: True)
    monkeypatch.setattr(cuda.library, "to_numpy", never)
    Z = features(4, 6)
    value, gradient = icc.value_and_grad_features(ic.log_kappa, torch.stack([Z, 0 * Z]))
    assert_close(value[0], ic.log_kappa.value_and_grad_features(Z.numpy())[0], 1e-12)
    assert value[1].isnan()
    assert gradient[1].isnan().all()
    pairs = icc.feature_extreme_pairs(torch.stack([Z, 0 * Z]))
    assert pairs.v_max[1].isnan().all()


def test_the_torch_bridge_takes_them(cuda):
    Z = features(5, 8).requires_grad_()
    rule = Rule(0, 1e-12, 2.0**-52)
    value, gradient, tied, determined, rank = CUDA.evaluate(
        ic.r_ill, Z, features=True, rule=rule, p=0, gradient=True
    )
    expected = ic.r_ill.value_and_grad_features(Z.detach().numpy())
    assert_close(value, expected[0])
    assert_close(gradient, expected[1])
    assert (tied, determined, rank) == (False, True, 5)
    assert_close(CUDA.gram(Z), Z.T @ Z, 1e-14)


# ---- the rules of the host ----


def test_excesses_cancel_nothing():
    sigma = 1.0 + np.array([3e-9, 2e-9, 1e-9])
    squares = sum((Fraction(s) ** 2 for s in sigma.tolist()), Fraction(0))
    ends = _core.Spectrum.of_squares(
        p=3,
        rank=3,
        sigma_max=sigma[0],
        sigma_min=sigma[2],
        squares=float(squares),
        rest=float(squares - Fraction(float(squares))),
    )
    exact = float(sum(Fraction(sigma[0]) ** 2 - Fraction(s) ** 2 for s in sigma.tolist()))
    assert ends.below_max == pytest.approx(exact, rel=1e-15)
    assert ends.above_min > 0.0


def test_neighbours_within_rounding_are_not_clearly_simple():
    rule = Rule(0, 1e-13, 2.0**-52)
    simple = LargeMatrix(None, 200, None, 0, rule=rule)._simple
    assert simple(1.0, 0.9, 0.0, 1.0)
    assert not simple(1.0, 1.0 - 1e-14, 0.0, 1.0)
    assert not simple(1.0, 0.9, 0.2, 1.0)  # not known so well


# ---- without a device ----


def test_arrays_of_the_host_are_refused():
    for x in (torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.int8)):
        with pytest.raises(TypeError, match="X must be on a CUDA device, and is on the host"):
            icc.gram(x)
    with pytest.raises(TypeError, match=r"X must be an array on a CUDA device .* and is list"):
        icc.gram([[1.0]])
    theirs = np.zeros((3, 3))
    theirs.flags.writeable = False  # which DLPack would refuse for another reason
    with pytest.raises(TypeError, match="X must be on a CUDA device, and is on the host"):
        icc.gram(theirs)


@pytest.fixture
def asked_anew():
    _device._why_not.cache_clear()
    yield
    _device._why_not.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_an_unavailable_module_says_why(monkeypatch):
    monkeypatch.setattr(_device, "_devices", lambda: ((), "not built: no CUDA compiler was found"))
    assert not icc.available()
    assert not icc.available(0)
    with pytest.raises(icc.CudaUnavailableError, match="cannot run here: not built") as caught:
        _device.module()
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, ic.ImmucondError)
    with pytest.raises(icc.CudaUnavailableError):
        _device.bound_module()


ARCHITECTURES = "80-real, 90-real, 90-virtual"


@pytest.mark.parametrize(
    ("architectures", "capability", "expected"),
    [
        (ARCHITECTURES, (7, 5), False),
        (ARCHITECTURES, (8, 0), True),
        (ARCHITECTURES, (8, 9), True),
        (ARCHITECTURES, (9, 0), True),
        (ARCHITECTURES, (12, 0), True),  # by PTX
        ("90-real", (8, 0), False),
        ("90-real", (10, 0), False),
        ("86-real", (8, 0), False),
        ("80", (10, 3), True),
        ("90a-real", (9, 0), True),
    ],
)
def test_which_devices_run_what_was_built(architectures, capability, expected):
    assert runs_on(architectures, capability) == expected


@pytest.mark.usefixtures("asked_anew")
def test_a_device_that_runs_nothing_of_it_is_left_to_pytorch(monkeypatch):
    class Built:
        @staticmethod
        def build_info():
            return {"architectures": ARCHITECTURES}

    devices = ({"name": "Old", "capability": (7, 5)}, {"name": "New", "capability": (9, 0)})
    monkeypatch.setattr(_device, "_load", lambda: (Built, ""))
    monkeypatch.setattr(_device, "_devices", lambda: (devices, ""))
    assert [icc.available(d) for d in (None, 0, 1)] == [True, False, True]
    monkeypatch.setattr(_device, "_devices", lambda: (devices[:1], ""))
    _device._why_not.cache_clear()
    with pytest.raises(icc.CudaUnavailableError, match=r"do not run on Old \(sm_75\)"):
        _device.module()


def test_without_cublas_one_error_says_so(cuda, monkeypatch):
    class MissingLibraryError(ImportError):
        pass

    def bind_libraries(cublas, cusolver):
        assert cublas[0] == "libcublas.so.13"
        assert cusolver[0] == "libcusolver.so.12"
        raise MissingLibraryError("cuBLAS was not found: install PyTorch for CUDA")

    monkeypatch.setattr(cuda, "libraries_bound", lambda: False, raising=False)
    monkeypatch.setattr(cuda, "bind_libraries", bind_libraries, raising=False)
    monkeypatch.setattr(cuda, "MissingLibrary", MissingLibraryError, raising=False)
    monkeypatch.setattr(_device, "bound_module", BOUND_MODULE.__wrapped__)
    for call in (icc.gram, icc.psd_extreme_pairs):
        with pytest.raises(
            icc.CudaUnavailableError, match=r"^cuBLAS was not found: install PyTorch"
        ):
            call(torch.eye(140, dtype=torch.float64))
    small = icc.psd_extreme_pairs(torch.diag(torch.arange(1.0, 4.0)))  # needs none
    assert_close(small.sigma_max, 3.0)


def test_info_tells_of_cuda(capsys):
    from immucond._cli import main

    main(["info"])
    lines = dict(re.findall(r"^(\S+(?: \S+)*)  +(.*)$", capsys.readouterr().out, re.MULTILINE))
    built = lines["cuda"].startswith(("sm_", "PTX"))
    assert built or lines["cuda"].startswith("not ")
    assert ("cuda devices" in lines) == built


def test_libraries_are_sought_where_pytorch_puts_them(tmp_path):
    for name in ("nvidia/cu13/lib/libcublas.so.13", "torch/lib/libcublas.so.12"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    found = candidates("cublas", [str(tmp_path)])
    assert found[:3] == ["libcublas.so.13", "libcublas.so.12", "libcublas.so.11"]
    assert found[3:] == [
        str(tmp_path / "nvidia/cu13/lib/libcublas.so.13"),
        str(tmp_path / "torch/lib/libcublas.so.12"),
    ]
    assert candidates("cusolver", [str(tmp_path)]) == ["libcusolver.so.12", "libcusolver.so.11"]
