"""The table of BLAS and LAPACK routines: checked by signature, bound whole or not at all."""

import ctypes
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import cython_blas, cython_lapack

import immucond as ic
from immucond import _core

BLAS, LAPACK = dict(cython_blas.__pyx_capi__), dict(cython_lapack.__pyx_capi__)
USED = sorted(_core.lapack_calls())

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_GetName.restype = ctypes.c_char_p
_api.PyCapsule_GetName.argtypes = [ctypes.py_object]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_names = []  # a capsule does not own its name


def capsule(address, signature):
    _names.append(signature.encode())
    return _api.PyCapsule_New(address, _names[-1], None)


def signature_of(name):
    return _api.PyCapsule_GetName(LAPACK.get(name, BLAS.get(name))).decode()


def changed(name, new):
    """The capsules with the signature of one routine changed."""
    blas, lapack = dict(BLAS), dict(LAPACK)
    table = blas if name in blas else lapack
    address = _api.PyCapsule_GetPointer(table[name], _api.PyCapsule_GetName(table[name]))
    table[name] = capsule(address, new(signature_of(name)))
    return blas, lapack


OTHER_SIGNATURES = {
    "returns a value": lambda s: s.replace("void (", "int (", 1),
    "first argument": lambda s: s.replace(s[6:], "double" + s[s.index(" *") :]),
    "one more": lambda s: s.replace(")", ", int *)"),
    "one less": lambda s: s.rsplit(",", 1)[0] + ")",
    "short integers": lambda s: s.replace("int *", "short *"),
    "by value": lambda s: s.replace(" *", ""),
    "cut off": lambda s: "void (",
    "no arguments": lambda s: "void ()",
    "empty": lambda s: "",
}


@pytest.fixture(autouse=True)
def _table_survives():
    """Whatever a test did to it, the table works as before."""
    Z = np.random.default_rng(0).normal(size=(30, 6))
    before = ic.log_kappa.value_and_grad_features(Z)
    bits = _core.build_info()["blas_integer_bits"]
    yield
    assert _core.build_info()["blas_integer_bits"] == bits
    after = ic.log_kappa.value_and_grad_features(Z)
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])


def test_scipys_own_capsules_bind():
    _core.bind_lapack(BLAS, LAPACK)


@pytest.mark.parametrize("name", USED)
def test_a_missing_routine(name):
    blas = {key: value for key, value in BLAS.items() if key != name}
    lapack = {key: value for key, value in LAPACK.items() if key != name}
    with pytest.raises(ImportError, match=f"do not hold {name}, which immucond needs; SciPy >="):
        _core.bind_lapack(blas, lapack)


@pytest.mark.parametrize("name", USED)
@pytest.mark.parametrize("new", OTHER_SIGNATURES.values(), ids=OTHER_SIGNATURES)
def test_another_signature(name, new):
    blas, lapack = changed(name, new)
    with pytest.raises(ImportError, match=f"capsule of {name} has the signature '.*needs 'void "):
        _core.bind_lapack(blas, lapack)


@pytest.mark.parametrize("name", USED)
@pytest.mark.parametrize("wide", ["long", "long long", "int64_t", "npy_int64_t"])
def test_one_routine_with_wider_integers_than_the_others(name, wide):
    blas, lapack = changed(name, lambda s: s.replace("int *", f"{wide} *"))
    with pytest.raises(ImportError, match="in every routine alike"):
        _core.bind_lapack(blas, lapack)


def test_two_widths_in_one_routine():
    blas, lapack = changed("dgemm", lambda s: s.replace("int *", "long *", 1))
    with pytest.raises(ImportError, match="capsule of dgemm has the signature"):
        _core.bind_lapack(blas, lapack)


def test_what_is_no_capsule_counts_as_missing():
    with pytest.raises(ImportError, match="do not hold dsyrk"):
        _core.bind_lapack(BLAS | {"dsyrk": 1}, LAPACK)
    with pytest.raises(TypeError):
        _core.bind_lapack(None, LAPACK)


def test_calls_are_counted():
    before = _core.lapack_calls()
    ic.gram(np.ones((5, 3)))
    after = _core.lapack_calls()
    assert {n: after[n] - before[n] for n in after if after[n] != before[n]} == {"dsyrk": 1}


# ---- 64-bit BLAS integers, with NumPy's own OpenBLAS ----

ILP64 = """
    import ctypes, sys
    import numpy as np
    import immucond as ic
    from test_lapack import USED, capsule, signature_of
    from immucond import _core

    library = ctypes.CDLL(sys.argv[1])
    rng = np.random.default_rng(0)
    Z, theta = rng.normal(size=(300, 40)), rng.normal(size=(40, 30))
    K = ic.gram(Z)

    def run():
        yield ic.gram(Z)
        yield ic.gram(Z.astype(np.float32)[::-1])
        yield ic.hessian(theta, K)
        yield ic.feature_hessian(Z, theta, method="features")
        yield ic.feature_hessian(Z, theta, method="gram")
        for pairs in (
            ic.extreme_pairs(Z),
            ic.extreme_pairs(Z.T),
            ic.psd_extreme_pairs(K),
            ic.feature_extreme_pairs(Z),
            ic.feature_extreme_pairs(Z, method="qr"),
        ):
            yield np.array([pairs.sigma_max, pairs.sigma_min, pairs.rank])
            yield pairs.v_min
        for r in (ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa):
            yield r.value_and_grad(Z)[1]
            yield r.value_and_grad_features(Z)[1]
            yield r.value_and_grad_theta(theta, K)[1]

    expected = list(run())
    assert _core.build_info()["blas_integer_bits"] == 32
    wide = {}
    for name in USED:
        address = ctypes.cast(getattr(library, f"scipy_{name}_64_"), ctypes.c_void_p).value
        wide[name] = capsule(address, signature_of(name).replace("int *", "long *"))
    _core.bind_lapack(wide, {})
    assert _core.build_info()["blas_integer_bits"] == 64
    for got, want in zip(run(), expected, strict=True):
        assert np.allclose(got, want, rtol=1e-9, atol=1e-9 * np.abs(want).max())

    try:
        ic.condition_number(np.zeros((2, 2)))
    except ValueError as error:
        assert "rank 0" in str(error)
    print("same results")
"""


def test_64_bit_blas_integers():
    libraries = sorted((Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas64_*"))
    if not libraries:
        pytest.skip("NumPy brings no 64-bit OpenBLAS")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ILP64), str(libraries[0])],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "same results\n"
