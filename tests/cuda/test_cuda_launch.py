"""Launch configurations and plans: pure functions of sizes."""

import pytest
from immucond._emulation import (
    LARGEST_ORDER,
    Kind,
    entry_blocks,
    is_small,
    plan_gram,
    small_launch,
    small_workspace_bytes,
    vector_blocks,
)

# Shared memory that a block may ask for, by compute capability (CUDA C++ Programming Guide).
SHARED = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_90": 227 * 1024}


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 100, 127, 128])
def test_a_block_fits_the_card(n):
    blocks, threads, shared = small_launch(Kind.features, 20, n, 512)
    assert blocks == 20
    assert threads % 32 == 0
    assert 64 <= threads <= 256
    assert n * n * 8 <= shared <= SHARED["sm_80"]


def test_threads_grow_with_the_order():
    threads = [small_launch(Kind.matrix, 1, n, n)[1] for n in range(1, LARGEST_ORDER + 1)]
    assert threads == sorted(threads)
    assert (threads[0], threads[-1]) == (64, 256)


@pytest.mark.parametrize("card", ["sm_80", "sm_90"])
def test_what_one_block_takes(card):
    limit = SHARED[card]
    assert is_small(Kind.features, 100, 512, limit)
    assert is_small(Kind.features, 64, 768, limit)
    assert is_small(Kind.features, 4096, 128, limit)
    assert is_small(Kind.matrix, 128, 128, limit)
    assert not is_small(Kind.matrix, 129, 129, limit)
    assert not is_small(Kind.features, 129, 200, limit)
    assert not is_small(Kind.features, 200_000, 128, limit)  # for all multiprocessors


def test_a_small_card_takes_smaller_matrices():
    takes = [n for n in range(1, 129) if is_small(Kind.matrix, n, n, SHARED["sm_86"])]
    assert takes == list(range(1, max(takes) + 1))
    assert 90 < max(takes) < 128


def test_workspace_is_the_gram_matrices_of_gradients():
    assert small_workspace_bytes(Kind.features, 20, 100, 512, True) == 20 * 100 * 100 * 8
    assert small_workspace_bytes(Kind.features, 20, 512, 100, True) == 20 * 100 * 100 * 8
    assert small_workspace_bytes(Kind.features, 20, 100, 512, False) == 0
    assert small_workspace_bytes(Kind.matrix, 20, 100, 100, True) == 0


def test_a_stack_beyond_any_grid_is_refused():
    assert small_launch(Kind.matrix, 0, 4, 4)[0] == 0
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1 matrices, and has 2147483648"):
        small_launch(Kind.matrix, 2**31, 4, 4)


def test_every_entry_of_a_vector_has_a_thread():
    assert [vector_blocks(n) for n in (1, 128, 129, 4096)] == [1, 1, 2, 32]


def test_entries_share_threads_where_there_are_very_many():
    assert [entry_blocks(n) for n in (1, 256, 257, 4096**2)] == [1, 1, 2, 2**14]
    assert entry_blocks(2**40) == 2**14


# (shape, strides, dtype) -> (direct, transposed, leading dimension)
PLANS = {
    "by rows": ((1000, 64), (64, 1), "float64", (True, False, 64)),
    "padded rows": ((1000, 64), (80, 1), "float64", (True, False, 80)),
    "by columns": ((1000, 64), (1, 1000), "float64", (True, True, 1000)),
    "padded columns": ((1000, 64), (1, 1024), "float64", (True, True, 1024)),
    "one row": ((1, 64), (0, 1), "float64", (True, False, 64)),
    "one column": ((1000, 1), (3, 7), "float64", (True, False, 3)),
    "one repeated row": ((1000, 64), (0, 1), "float64", (False, False, 64)),
    "backwards": ((1000, 64), (-64, 1), "float64", (False, False, 64)),
    "every other column": ((1000, 64), (128, 2), "float64", (False, False, 64)),
    "float32": ((1000, 64), (64, 1), "float32", (False, False, 64)),
    "bfloat16": ((1000, 64), (64, 1), "bfloat16", (False, False, 64)),
}


@pytest.mark.parametrize("layout", PLANS)
def test_a_gram_matrix_reads_in_place_what_blas_can_read(layout):
    shape, strides, dtype, expected = PLANS[layout]
    *plan, block, workspace = plan_gram(shape, strides, dtype, False)
    assert tuple(plan) == expected
    assert workspace == (0 if plan[0] else block * shape[1] * 8)
    assert block == shape[0]


def test_conversion_goes_by_blocks_of_bounded_size():
    *_, block, workspace = plan_gram((10**7, 512), (512, 1), "float32", False)
    assert 0 < workspace <= 64 * 2**20
    assert block == 64 * 2**20 // (512 * 8)
    *_, block, workspace = plan_gram((5, 10**8), (10**8, 1), "float32", False)
    assert (block, workspace) == (1, 8 * 10**8)  # at least a row


def test_narrow_products_read_in_place():
    assert plan_gram((1000, 64), (64, 1), "bfloat16", True)[:3] == (True, False, 64)
    assert plan_gram((1000, 64), (128, 2), "bfloat16", True)[0] is False


def test_sizes_beyond_blas_integers():
    # More rows than an int holds go by blocks; more columns are refused.
    direct, *_ = plan_gram((2**31, 4), (4, 1), "float64", False)
    assert not direct
    with pytest.raises(ValueError, match="2147483648 does not fit cuBLAS"):
        plan_gram((4, 2**31), (2**31, 1), "float64", False)
