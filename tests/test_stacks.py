"""Stacks of matrices: the same as one after the other, in one call and on several threads."""

import dataclasses

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import immucond as ic

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
    with pytest.raises(OverflowError, match=r"Z\^T Z\[3\] are not representable"):
        ic.feature_extreme_pairs(bad)


def test_warnings_name_the_first():
    tied = np.stack([np.diag([3.0, 2.0, 1.0]), np.eye(3), np.diag([2.0, 1.0, 1.0])])
    told = r"largest \(at 1 in the stack\) and the smallest \(at 1 and 1 others in the stack\)"
    with pytest.warns(ic.DegenerateSpectrumWarning, match=told):
        ic.psd_extreme_pairs(tied)


@pytest.mark.parametrize("function", [ic.gram, ic.kappa, ic.condition_number, ic.r_well])
def test_where_one_matrix_is_needed(function):
    with pytest.raises(ValueError, match=r"must have 2 dimension.*has shape \(17, 30, 12\)"):
        function(STACK)


def test_no_start_for_a_stack():
    H = psd(STACK)
    with pytest.raises(ValueError, match="start must be None for a stack"):
        ic.psd_extreme_pairs(H, start=ic.psd_extreme_pairs(H[0]))
    with pytest.raises(ValueError, match="start must be the pairs of one matrix"):
        ic.psd_extreme_pairs(H[0], start=ic.psd_extreme_pairs(H))
