"""Stacks of matrices: the same as one after the other, in one call and on several threads."""

import dataclasses

import numpy as np
import pytest
from matrices import quiet
from threadpoolctl import threadpool_limits

import immucond as ic
from immucond import _core
from immucond._pairs import Search
from immucond._rank import Rule

RULE = Rule(0, 1e-12, 2.0**-52)
RNG = np.random.default_rng(20)
STACK = RNG.normal(size=(17, 30, 12))
FIELDS = [f.name for f in dataclasses.fields(ic.ExtremePairs) if "neigh" not in f.name]


def psd(stack):
    return np.stack([ic.gram(X) for X in stack])


CASES = [
    (ic.extreme_pairs, STACK),
    (ic.extreme_pairs, STACK.transpose(0, 2, 1)),
    (ic.psd_extreme_pairs, psd(STACK)),
    (ic.feature_extreme_pairs, STACK),
    (ic.feature_extreme_pairs, STACK[:, :5]),
    (ic.feature_extreme_pairs, STACK[::-2, ::3].astype(np.float32)),
    (ic.psd_extreme_pairs, np.broadcast_to(np.diag([3.0, 2.0, 1.0]), (4, 3, 3))),
    (ic.extreme_pairs, STACK[:1, :1, :1]),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("function", "stack"), CASES)
def test_a_stack_is_its_matrices_one_by_one(function, stack, threads):
    with threadpool_limits(threads):
        pairs = function(stack)
    assert len(pairs) == len(stack)
    for i, matrix in enumerate(stack):
        alone, one = function(matrix), pairs[i]
        for field in FIELDS:
            value = getattr(alone, field)
            assert np.array_equal(getattr(pairs, field)[i], value)
            assert np.array_equal(getattr(one, field), value)
            assert type(getattr(one, field)) is type(value)


def test_fields_are_arrays():
    pairs = ic.psd_extreme_pairs(psd(STACK))
    assert pairs.sigma_max.shape == pairs.condition_number.shape == (17,)
    assert pairs.v_min.shape == (17, 12)
    assert pairs.rank.dtype == np.int64
    assert pairs.simple_max.dtype == np.bool_
    assert "17 matrices" in repr(pairs)


def test_indexing():
    pairs = ic.feature_extreme_pairs(STACK)
    assert pairs[-1].sigma_max == pairs.sigma_max[-1]
    assert len(list(pairs)) == 17
    with pytest.raises(IndexError, match="index 17 is out of range for a stack of 17"):
        pairs[17]
    with pytest.raises(TypeError, match="of one matrix, not of a stack"):
        len(pairs[0])


def test_keywords_hold_for_every_matrix():
    stack = STACK.copy()
    stack[:, :, -1] = stack[:, :, 0]
    assert (ic.feature_extreme_pairs(stack).rank == 11).all()
    assert (ic.feature_extreme_pairs(stack, rank=10).rank == 10).all()
    assert (ic.extreme_pairs(stack, rtol=0.5).rank < 11).all()


def test_errors_name_the_matrix():
    bad = psd(STACK)
    bad[5, 2, 3] = np.nan
    bad[9, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"^H\[5\] must be finite, and holds NaN at row 2"):
        ic.psd_extreme_pairs(bad)
    bad = psd(STACK)
    bad[4] -= 2 * np.trace(bad[4]) * np.eye(12)
    with pytest.raises(ValueError, match=r"^H\[4\] must be positive semidefinite"):
        ic.psd_extreme_pairs(bad)
    bad = STACK.copy()
    bad[3] = 0.0
    with pytest.raises(ValueError, match=r"^Z\[3\] has rank 0"):
        ic.feature_extreme_pairs(bad)
    bad[3] = 1e308
    with pytest.raises(OverflowError, match=r"Z\^T Z\[3\], or their norm, are not"):
        ic.feature_extreme_pairs(bad)


def test_warnings_name_the_first():
    tied = np.stack([np.diag([3.0, 2.0, 1.0]), np.eye(3), np.diag([2.0, 1.0, 1.0])])
    told = r"largest \(at 1 in the stack\) and the smallest \(at 1 and 1 others in the stack\)"
    with pytest.warns(ic.DegenerateSpectrumWarning, match=told):
        ic.psd_extreme_pairs(tied)


@pytest.mark.parametrize("function", [ic.gram, ic.condition_number])
def test_where_one_matrix_is_needed(function):
    with pytest.raises(ValueError, match=r"must have 2 dimension.*has shape \(17, 30, 12\)"):
        function(STACK)


def test_no_start_for_a_stack():
    H = psd(STACK)
    with pytest.raises(ValueError, match="start must be None for a stack"):
        ic.psd_extreme_pairs(H, start=ic.psd_extreme_pairs(H[0]))
    with pytest.raises(ValueError, match="start must be the pairs of one matrix"):
        ic.psd_extreme_pairs(H[0], start=ic.psd_extreme_pairs(H))


# ---- regularizers ----

REGULARIZERS = [ic.r_well, ic.r_ill, ic.kappa, ic.log_kappa]
FORMS = {"S": "value_and_grad", "Z": "value_and_grad_features"}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=lambda r: r.name)
def test_regularizers_of_a_stack(regularizer, form, threads):
    function = getattr(regularizer, FORMS[form])
    options = {"p": "rank"} if regularizer is ic.r_well else {}
    for stack in (STACK, STACK[:, :5], STACK[::-2, ::3].astype(np.float32), STACK[:1]):
        with threadpool_limits(threads):
            values, gradients, pairs = function(stack, return_pairs=True, **options)
            alone = function(stack, **options)
        assert values.shape == (len(stack),)
        assert gradients.shape == stack.shape
        assert np.array_equal(alone[0], values)
        assert np.array_equal(alone[1], gradients)
        for i, matrix in enumerate(stack):
            value, gradient, one = function(matrix, return_pairs=True, **options)
            assert values[i] == value
            assert np.array_equal(gradients[i], gradient)
            assert pairs[i].sigma_min == one.sigma_min
            assert np.array_equal(pairs[i].v_max, one.v_max)
        if form == "S":
            assert np.array_equal(regularizer(stack, **options), values)


def test_regularizers_of_an_empty_stack():
    with pytest.raises(ValueError, match=r"at least one entry, and has shape \(0, 3, 3\)"):
        ic.r_well(np.empty((0, 3, 3)))
    with pytest.raises(ValueError, match=r"at least one entry, and has shape \(0, 3, 3\)"):
        _core.evaluate(
            np.empty((0, 3, 3)),
            coefficients=ic.r_well.coefficients,
            degree=ic.r_well.degree,
            rule=RULE,
            search=Search(),
            p=0,
            gradient=True,
            pairs=False,
        )


def test_errors_of_regularizers_name_the_matrix():
    bad = STACK.copy()
    bad[5, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"^Z\[5\] must be finite, and holds NaN at row 2"):
        ic.r_ill.value_and_grad_features(bad)
    bad[2] = 0.0
    with pytest.raises(ValueError, match=r"^S\[2\] has rank 0"):
        ic.r_ill.value_and_grad(bad)
    bad = STACK * np.geomspace(1e-150, 1e160, 17)[:, None, None]
    with pytest.raises(OverflowError, match="the value is not representable"):
        ic.r_well(bad)
    tied = np.stack([np.diag([3.0, 2.0, 1.0]), np.eye(3)])
    with pytest.raises(ic.DegenerateSpectrumError, match="r_ill is infinite"):
        ic.r_ill(tied)
    with pytest.raises(ValueError, match="start must be None for a stack"):
        ic.r_ill(STACK, start=ic.extreme_pairs(STACK[0]))


def test_warnings_of_regularizers_name_the_first():
    tied = np.stack([np.diag([3.0, 2.0, 1.0]), np.diag([3.0, 3.0, 1.0]), np.diag([2.0, 2.0, 1.0])])
    told = r"of S \(at 1 and 1 others in the stack\) that r_well uses"
    with pytest.warns(ic.DegenerateSpectrumWarning, match=told):
        _, gradients = ic.r_well.value_and_grad(tied)
    alone = quiet(ic.r_well.value_and_grad, tied[2])[1]
    assert np.array_equal(gradients[2], alone)


def test_a_regularizer_of_ones_own_may_fail_in_the_midst():
    def coefficients(spectrum):
        raise KeyError(spectrum.rank)

    failing = ic.SpectralRegularizer("failing", 1, coefficients)
    for threads in (1, 2):
        with threadpool_limits(threads), pytest.raises(KeyError, match="12"):
            failing(STACK)
