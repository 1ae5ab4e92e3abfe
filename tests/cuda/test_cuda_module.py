"""The compiled module on a machine without a device, where it was built."""

import subprocess

import pytest


@pytest.fixture(scope="module")
def cuda():
    return pytest.importorskip("immucond._cuda", reason="the CUDA kernels were not built")


def test_it_was_built_for_the_architectures_that_are_promised(cuda):
    info = cuda.build_info()
    assert info["architectures"] == "80-real, 90-real, 90-virtual"
    assert info["compiler"].startswith("NVIDIA ")
    assert info["runtime"] >= 11000


def test_it_links_nothing_of_cuda(cuda):
    needed = subprocess.run(
        ["ldd", cuda.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert not [line for line in needed.splitlines() if "cu" in line.split("=>")[0]]


def test_without_a_driver_it_says_so(cuda):
    if cuda.driver_version():
        assert cuda.devices()
        return
    with pytest.raises(cuda.CudaError, match=r"cudaGetDeviceCount: .*driver"):
        cuda.devices()


def test_libraries_that_are_not_there(cuda):
    assert issubclass(cuda.MissingLibrary, ImportError)
    with pytest.raises(cuda.MissingLibrary, match="cuBLAS was not found: install PyTorch"):
        cuda.bind_libraries([], [])
    with pytest.raises(cuda.MissingLibrary, match="no-such-library"):
        cuda.bind_libraries(["no-such-library.so"], [])
    with pytest.raises(cuda.MissingLibrary, match=r"libm\.so\.6 lacks cublas"):
        cuda.bind_libraries(["libm.so.6"], [])


def test_bad_names_and_shapes_are_refused(cuda):
    good = {
        "stack": (0, "float64", (1, 3, 3), (9, 3, 1)),
        "kind": "matrix",
        "rule": (0, 1e-12, 2.0**-52, 0.0),
        "regularizer": "kappa",
        "p": 0,
        **dict.fromkeys(("value", "gradient", "sigma", "vectors", "rank", "status", "gram"), 0),
        "device": 0,
        "stream": 0,
    }
    with pytest.raises(ValueError, match="unknown name cube"):
        cuda.is_small("cube", 3, 3, 1 << 17)
    with pytest.raises(ValueError, match="a stack of matrices is needed"):
        cuda.small_problems(**good | {"stack": (0, "float64", (3, 3), (3, 1))})
    with pytest.raises(ValueError, match="a matrix is needed"):
        cuda.gram_workspace_bytes((0, "float64", (3,), (1,)))
    with pytest.raises(ValueError, match="unknown name int8"):
        cuda.gram_workspace_bytes((0, "int8", (3, 3), (3, 1)))


def test_pure_functions_agree_with_the_emulation(cuda):
    from immucond import _emulation

    for kind in ("matrix", "features", "gram"):
        for shape in ((100, 100), (128, 128), (129, 129), (100, 512), (4, 10**9)):
            expected = _emulation.is_small(getattr(_emulation.Kind, kind), *shape, 232448)
            assert cuda.is_small(kind, *shape, 232448) == expected
    assert not cuda.is_small("features", 4, 2**40, 232448)
