"""Bad input, one by one: an error names the argument, what it saw and what it needs."""

import math

import numpy as np
import pytest
import scipy.sparse
from matrices import quiet

import immucond as ic

EYE = np.diag([3.0, 2.0, 1.0])

# Every matrix argument of every kernel: (call with the argument, its name). All take diag(3, 2, 1).
ARGUMENTS = {
    "gram": (ic.gram, "X"),
    "hessian theta": (lambda a: ic.hessian(a, EYE), "theta"),
    "hessian gram": (lambda a: ic.hessian(EYE, a), "gram"),
    "feature_hessian X": (lambda a: ic.feature_hessian(a, EYE), "X"),
    "feature_hessian theta": (lambda a: ic.feature_hessian(EYE, a), "theta"),
    "feature_hessian X, gram": (lambda a: ic.feature_hessian(a, EYE, method="gram"), "X"),
    "feature_hessian theta, gram": (lambda a: ic.feature_hessian(EYE, a, method="gram"), "theta"),
    "feature_hessian X, features": (lambda a: ic.feature_hessian(a, EYE, method="features"), "X"),
    "accumulator": (lambda a: ic.GramAccumulator(3).update(a), "X"),
    "triangle accumulator": (lambda a: ic.TriangleAccumulator(3).update(a), "X"),
    "extreme_pairs": (ic.extreme_pairs, "S"),
    "psd_extreme_pairs": (ic.psd_extreme_pairs, "H"),
    "feature_extreme_pairs": (ic.feature_extreme_pairs, "Z"),
    "feature_extreme_pairs, qr": (lambda a: ic.feature_extreme_pairs(a, method="qr"), "Z"),
    "condition_number S": (ic.condition_number, "S"),
    "condition_number features": (lambda a: ic.condition_number(features=a), "features"),
    "condition_number, ridge": (lambda a: ic.condition_number(a, ridge=1.0), "S"),
    "condition_number features, ridge": (
        lambda a: ic.condition_number(features=a, ridge=1.0),
        "features",
    ),
}
for _r in (ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa):
    ARGUMENTS |= {
        f"{_r.name} value": (_r, "S"),
        f"{_r.name} gradient": (_r.value_and_grad, "S"),
        f"{_r.name} theta": (lambda a, r=_r: r.value_and_grad_theta(a, EYE), "theta"),
        f"{_r.name} gram": (lambda a, r=_r: r.value_and_grad_theta(EYE, a), "gram"),
        f"{_r.name} features": (_r.value_and_grad_features, "Z"),
    }

every_argument = pytest.mark.parametrize(("call", "name"), ARGUMENTS.values(), ids=ARGUMENTS)
SYMMETRIC = [
    "hessian gram",
    "psd_extreme_pairs",
    "condition_number, ridge",
    "r_well gram",
    "r_ill gram",
    "kappa gram",
    "log_kappa gram",
]
every_symmetric_argument = pytest.mark.parametrize(
    ("call", "name"), [ARGUMENTS[key] for key in SYMMETRIC], ids=SYMMETRIC
)


@every_argument
@pytest.mark.parametrize("kind", ["csr_array", "coo_array", "csc_matrix", "dia_array"])
def test_sparse_input_is_told_to_be_sparse(call, name, kind):
    given = getattr(scipy.sparse, kind)(EYE)
    with pytest.raises(TypeError, match=rf"{name} is sparse \({kind}\).*{name}\.toarray\(\)"):
        call(given)
    call(given.toarray())


@every_argument
def test_what_is_good_passes_unchanged(call, name):
    for good in (
        EYE,
        EYE.tolist(),
        EYE.astype(np.float32),
        EYE.astype(int),
        np.asfortranarray(EYE),
    ):
        before = np.array(good, copy=True)
        quiet(call, good)
        assert np.array_equal(before, good)
    frozen = EYE.copy()
    frozen.flags.writeable = False
    quiet(call, frozen)


# ---- entries ----


@every_argument
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")]
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_not_finite(call, name, dtype, value, text, order):
    for row, column in ((0, 0), (1, 2), (2, 1), (2, 2)):
        bad = np.array(EYE, dtype, order=order)
        bad[row, column] = value
        where = f"^{name} must be finite, and holds {text} at row {row}, column {column}$"
        with pytest.raises(ValueError, match=where):
            call(bad)


@pytest.mark.parametrize("place", [0, 1, 4999, 5000, 700 * 40 - 1])
def test_one_nan_in_a_large_matrix_is_found(place):
    # PyTorch #187759: svdvals swallows NaN.
    for shape in ((700, 40), (40, 700)):
        bad = np.random.default_rng(place).normal(size=shape)
        bad.flat[place] = math.nan
        row, column = np.unravel_index(place, shape)
        for call in (
            ic.gram,
            ic.extreme_pairs,
            ic.feature_extreme_pairs,
            ic.condition_number,
            ic.kappa,
            ic.kappa.value_and_grad_features,
        ):
            for laid in (bad, np.asfortranarray(bad), bad[::-1][::-1], bad.astype(np.float32)):
                with pytest.raises(ValueError, match=f"NaN at row {row}, column {column}$"):
                    call(laid)


# ---- shape ----


@every_argument
@pytest.mark.parametrize(
    "bad",
    [np.float64(1.0), np.ones(3), np.ones((3, 3, 3, 3)), 2.0, [1.0, 2.0]],
    ids=["scalar", "vector", "four", "float", "list"],
)
def test_other_dimensions(call, name, bad):
    shape = str(np.shape(bad)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"^{name} must have 2 dimension.*has shape {shape}$"):
        call(bad)


@every_argument
@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)])
def test_empty(call, name, shape):
    with pytest.raises(ValueError, match=f"^{name} must have at least one entry, and has shape "):
        call(np.empty(shape))


@every_argument
def test_ragged(call, name):
    with pytest.raises(ValueError, match=f"^{name} does not form an array"):
        call([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize(
    ("call", "one", "other"),
    [
        (ic.hessian, "theta", "gram"),
        (ic.feature_hessian, "X", "theta"),
        (ic.kappa.value_and_grad_theta, "theta", "gram"),
    ],
)
def test_mismatched_sizes(call, one, other):
    told = rf"{one} has shape \(4, 2\) and {other} has shape \(3, 3\): theta needs as many rows"
    with pytest.raises(ValueError, match=told):
        call(np.ones((4, 2)), EYE)


def test_mismatched_widths_of_an_accumulator():
    with pytest.raises(ValueError, match=r"X must have 4 columns, and has shape \(3, 3\)"):
        ic.GramAccumulator(4).update(EYE)


# ---- type ----


@every_argument
def test_tensors_that_numpy_cannot_read(call, name):
    torch = pytest.importorskip("torch")
    for X in (torch.eye(3, dtype=torch.bfloat16), torch.eye(3, requires_grad=True)):
        with pytest.raises(TypeError, match=f"^{name} does not form an array: .*(ScalarType|grad)"):
            call(X)


WRONG_TYPES = {
    "complex": EYE + 0j,
    "complex64": EYE.astype(np.complex64),
    "longdouble": EYE.astype(np.longdouble),
    "object": EYE.astype(object),
    "text": EYE.astype(str),
    "bytes": EYE.astype(bytes),
    "list of texts": [["a", "b"], ["c", "d"]],
    "None": None,
    "list with None": [[1.0, None], [None, 1.0]],
    "dates": np.array([["2020-01-01"]], dtype="M8[D]"),
    "durations": np.array([[1]], dtype="m8[s]"),
    "records": np.zeros((2, 2), dtype=[("a", "f8")]),
    "huge integers": [[10**30, 1], [1, 1]],
    "dict": {"a": 1},
}


@every_argument
@pytest.mark.parametrize("bad", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_other_types(call, name, bad):
    if bad is None and call in [ARGUMENTS[key][0] for key in ARGUMENTS if "number" in key]:
        with pytest.raises(ValueError, match=r"give a matrix.*, or features.*: got (neither|both)"):
            call(bad)  # None means: not given
        return
    with pytest.raises(TypeError, match=f"^{name} must hold float16, .*, and has dtype "):
        call(bad)


@every_argument
def test_masked(call, name):
    masked = np.ma.masked_array(EYE, mask=np.eye(3))
    for bad in (masked, np.ma.masked_array(EYE), list(masked), tuple(masked)):
        with pytest.raises(TypeError, match=f"^{name} is a masked array"):
            call(bad)


@every_argument
@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_integers_that_float64_may_not_hold(call, name, value):
    with pytest.raises(ValueError, match=f"^{name} holds the integer {value}, which float64"):
        call(np.array([[value, 0, 0], [0, 1, 0], [0, 0, 1]]))
    if value > 0:
        with pytest.raises(ValueError, match=f"^{name} holds the integer"):
            call(np.array([[2**64 - 1, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint64))


# ---- structure ----


@every_symmetric_argument
def test_not_square(call, name):
    with pytest.raises(ValueError, match=rf"{name} .*\(3, 2\)"):
        call(np.ones((3, 2)))


@every_symmetric_argument
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i4"])
def test_not_symmetric(call, name, dtype):
    bad = EYE.astype(dtype)
    bad[0, 1] = 1
    with pytest.raises(
        ValueError, match=f"^{name} must be symmetric, and max.*is 1, where rounding"
    ):
        call(bad)


@pytest.mark.parametrize("key", [key for key in SYMMETRIC if key != "hessian gram"])
def test_indefinite(key):
    call, name = ARGUMENTS[key]
    with pytest.raises(ValueError, match=f"{name} .*must be positive semidefinite.*eigenvalue -1 "):
        call(np.diag([3.0, 2.0, -1.0]))
    for bad in (-EYE, np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])):
        with pytest.raises(ValueError, match="must be positive semidefinite"):
            call(bad)


def test_the_symmetric_tolerance_is_that_of_the_dtype():
    skewed = EYE.copy()
    skewed[0, 1] = 1e-6
    with pytest.raises(ValueError, match="H must be symmetric"):
        ic.psd_extreme_pairs(skewed)
    assert ic.psd_extreme_pairs(skewed.astype(np.float32)).rank == 3


NO_SPECTRUM = ("gram", "hessian", "feature_hessian", "accumulator", "triangle")


@pytest.mark.parametrize(
    "key",
    [key for key in ARGUMENTS if key.split()[0] not in NO_SPECTRUM and not key.endswith("ridge")],
)
def test_rank_zero(key):
    call, _ = ARGUMENTS[key]
    with pytest.raises(ValueError, match="has rank 0"):
        call(np.zeros((3, 3)))


def test_zero_matrices_have_gram_matrices_and_hessians():
    for call in (ic.gram, lambda a: ic.hessian(a, EYE), lambda a: ic.feature_hessian(a, EYE)):
        assert np.array_equal(call(np.zeros((3, 3))), np.zeros((3, 3)))


# ---- keywords ----

RULED = {
    "extreme_pairs": ic.extreme_pairs,
    "psd_extreme_pairs": ic.psd_extreme_pairs,
    "feature_extreme_pairs": ic.feature_extreme_pairs,
    "condition_number": ic.condition_number,
    "condition_number features": lambda Z, **k: ic.condition_number(features=Z, **k),
    "by matrix": ic.kappa,
    "by matrix, gradient": ic.r_well.value_and_grad,
    "by theta": lambda t, **k: ic.r_ill.value_and_grad_theta(t, EYE, **k),
    "by features": ic.log_kappa.value_and_grad_features,
}
every_ruled = pytest.mark.parametrize("call", RULED.values(), ids=RULED)


@every_ruled
@pytest.mark.parametrize(
    ("keywords", "error", "told"),
    [
        ({"rank": 0}, ValueError, "rank must be between 1 and 3 .*, and is 0"),
        ({"rank": -1}, ValueError, "rank must be between 1 and 3 .*, and is -1"),
        ({"rank": 4}, ValueError, "rank must be between 1 and 3 .*, and is 4"),
        ({"rank": 2.0}, TypeError, "rank must be an integer, and is 2.0"),
        ({"rank": "2"}, TypeError, "rank must be an integer, and is '2'"),
        ({"rtol": -1e-9}, ValueError, r"rtol must be in \[0, 1\), and is -1e-09"),
        ({"rtol": 1.0}, ValueError, r"rtol must be in \[0, 1\), and is 1"),
        ({"rtol": math.nan}, ValueError, r"rtol must be in \[0, 1\), and is nan"),
        ({"rtol": math.inf}, ValueError, r"rtol must be in \[0, 1\), and is inf"),
        ({"rtol": "small"}, TypeError, "rtol must be a real number, and is 'small'"),
        ({"rtol": [0.1, 0.2]}, TypeError, "rtol must be a real number, and is"),
        ({"rtol": 1j}, TypeError, "rtol must be a real number, and is 1j"),
        ({"rtol": np.complex64(1j)}, TypeError, "rtol must be a real number, and is"),
        ({"rtol": np.array(0.1 + 0j)}, TypeError, "rtol must be a real number, and is"),
        ({"computed_in": "float8"}, TypeError, "computed_in must be a dtype, and is 'float8'"),
        ({"computed_in": object()}, TypeError, "computed_in must be a dtype, and is"),
        ({"computed_in": np.complex128}, ValueError, "computed_in must be one of float64, "),
        ({"computed_in": np.longdouble}, ValueError, "computed_in must be one of float64, "),
        ({"computed_in": str}, ValueError, "computed_in must be one of float64, "),
    ],
)
def test_the_rank_rule(call, keywords, error, told):
    with pytest.raises(error, match=told):
        call(EYE, **keywords)


@pytest.mark.parametrize("call", [v for k, v in RULED.items() if "condition" not in k])
def test_start_is_pairs(call):
    with pytest.raises(TypeError, match="start must be an ExtremePairs or None, and is int"):
        call(EYE, start=3)


PAIRS = (ic.extreme_pairs, ic.psd_extreme_pairs, ic.feature_extreme_pairs)


@pytest.mark.parametrize("function", PAIRS)
@pytest.mark.parametrize(
    ("keywords", "error", "told"),
    [
        ({"tol": -1.0}, ValueError, "tol must be in .*, and is -1"),
        ({"tol": math.nan}, ValueError, "tol must be in .*, and is nan"),
        ({"tol": "tight"}, TypeError, "tol must be a real number, and is 'tight'"),
        ({"method": "arnoldi"}, ValueError, "method must be one of 'auto', .*, and is 'arnoldi'"),
        ({"method": ["direct"]}, ValueError, "method must be one of .*, and is \\['direct'\\]"),
        ({"method": np.array(["direct", "auto"])}, ValueError, "method must be one of 'auto', "),
        ({"method": None}, ValueError, "method must be one of 'auto', .*, and is None"),
        ({"method": "DIRECT"}, ValueError, "method must be one of 'auto', .*, and is 'DIRECT'"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_pairs_keywords(function, keywords, error, told):
    with pytest.raises(error, match=told):
        function(EYE, **keywords)


def test_feature_hessian_method():
    told = "method must be one of 'auto', 'features', 'gram', and is 'qr'"
    with pytest.raises(ValueError, match=told):
        ic.feature_hessian(EYE, EYE, method="qr")


@pytest.mark.parametrize(
    ("ridge", "error", "told"),
    [
        (-1e-6, ValueError, "ridge must be in .*, and is -1e-06"),
        (math.nan, ValueError, "ridge must be in .*, and is nan"),
        (math.inf, ValueError, "ridge must be in .*, and is inf"),
        ("small", TypeError, "ridge must be a real number, and is 'small'"),
        (None, TypeError, "ridge must be a real number, and is None"),
    ],
)
def test_ridge(ridge, error, told):
    for keywords in ({"S": EYE}, {"features": EYE}):
        with pytest.raises(error, match=told):
            ic.condition_number(**keywords, ridge=ridge)


@pytest.mark.parametrize("r", [ic.r_ill, ic.kappa, ic.log_kappa], ids=lambda r: r.name)
def test_p_is_for_r_well(r):
    for call in (r, r.value_and_grad, r.value_and_grad_features):
        with pytest.raises(TypeError, match=f"{r.name} does not depend on p"):
            call(EYE, p="rank")
    with pytest.raises(TypeError, match=f"{r.name} does not depend on p"):
        r.value_and_grad_theta(EYE, EYE, p="rank")


def test_p_of_r_well():
    for p in ("m", "RANK", 0, -1, 2.5, True, 2**63):
        told = "p must be None, 'rank' or a positive integer below .*, and is "
        with pytest.raises(ValueError, match=told):
            ic.r_well(EYE, p=p)
    with pytest.raises(ValueError, match="p must be at least the rank, 3, and is 2"):
        ic.r_well(EYE, p=2)


def test_unknown_keywords_of_regularizers():
    for call in (ic.kappa, ic.kappa.value_and_grad, ic.kappa.value_and_grad_features):
        with pytest.raises(TypeError, match="ridge"):
            call(EYE, ridge=1.0)


@pytest.mark.parametrize(
    ("d", "error", "told"),
    [
        (0, ValueError, "d must be at least 1, and is 0"),
        (-3, ValueError, "d must be at least 1, and is -3"),
        (2.5, TypeError, "d must be an integer, and is 2.5"),
        (None, TypeError, "d must be an integer, and is None"),
    ],
)
def test_accumulator_width(d, error, told):
    with pytest.raises(error, match=told):
        ic.GramAccumulator(d)
