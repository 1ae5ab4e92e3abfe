"""Rows of known rank, dead, repeated and nearly dependent columns among them: the guide's table."""

import numpy as np
from scripts_of_pages import imported

script = imported("rank_of_grams")


def test_ranks_of_a_thousand_sets_of_rows_are_right_where_peers_are_not():
    right = script.count(1000, seed=0)
    instances, *ours, _, gram_of_float32, cholesky = right.values()
    assert sum(instances.values()) == 1000
    assert ours == [instances, instances]
    for peer in (gram_of_float32, cholesky):
        assert sum(peer.values()) < 950


def test_the_exact_rank_is_that_of_known_factors():
    rng = np.random.default_rng(3)
    for rank in (1, 5, 12):
        X = rng.integers(-9, 10, (40, rank)) @ rng.integers(-9, 10, (rank, 12))
        assert script.exact_rank(X) == rank
    assert script.exact_rank(np.zeros((4, 3), dtype=int)) == 0
