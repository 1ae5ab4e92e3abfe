"""What a type checker tells a user of the library is what runs; mypy checks this file, strictly."""

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import immucond as ic

Floats = npt.NDArray[np.float64]


def test_pairs_of_a_matrix_are_numbers() -> None:
    S = np.diag([3.0, 2.0])
    for pairs in (
        ic.extreme_pairs(S),
        ic.extreme_pairs([[3.0, 0.0], [0.0, 2.0]]),
        ic.psd_extreme_pairs(S, rank=2, method="direct"),
        ic.feature_extreme_pairs(S),
        ic.generalized_extreme_pairs(S, np.eye(2)),
    ):
        assert_type(pairs, ic.ExtremePairs)
        assert type(assert_type(pairs.sigma_max, float)) is float
        assert type(assert_type(pairs.condition_number, float)) is float
        assert type(assert_type(pairs.rank, int)) is int
        assert type(assert_type(pairs.simple_min, bool)) is bool
        assert type(assert_type(pairs.method, str)) is str
        assert assert_type(pairs.v_max, Floats).shape == (2,)


def test_pairs_of_a_stack_are_arrays() -> None:
    stack = np.zeros((4, 2, 2))
    stack[:] = np.diag([3.0, 2.0])
    for pairs in (
        ic.extreme_pairs(stack),
        ic.extreme_pairs([[[3.0, 0.0], [0.0, 2.0]]] * 4),
        ic.psd_extreme_pairs(stack, rtol=1e-12),
        ic.feature_extreme_pairs(stack),
    ):
        assert assert_type(pairs.sigma_min, Floats).dtype == np.float64
        assert assert_type(pairs.rank, npt.NDArray[np.int64]).dtype == np.int64
        assert assert_type(pairs.simple_max, npt.NDArray[np.bool_]).dtype == np.bool_
        assert len(assert_type(pairs.method, list[str])) == 4
        assert type(assert_type(pairs[1], ic.ExtremePairs).sigma_min) is float


def widest(pairs: ic.ExtremePairs) -> float:
    return pairs.sigma_max


def test_an_annotation_without_parameters_is_of_one_matrix() -> None:
    assert widest(ic.extreme_pairs([[2.0]])) == 2.0
    unknown: Any = [[2.0]]
    assert_type(ic.extreme_pairs(unknown).sigma_max, Any)


def test_subpackages_are_typed() -> None:
    limit = ic.linear.immunity_limit(np.diag([100.0, 1.0]), np.diag([2.0, 1.0]))
    assert type(assert_type(limit.rir, float)) is float
    assert_type(ic.condition_number(np.eye(2)), float)


def test_results_that_show_themselves_are_typed() -> None:
    K_P, K_H = np.diag([100.0, 1.0]), np.diag([2.0, 1.0])
    line = ic.linear.frontier(K_P, K_H, points=3)
    ax: Axes = Figure().subplots()
    assert assert_type(line.plot(ax), Axes) is ax
    cost = ic.probing.attack_cost(np.diag([2.0, 1.0]), [1.0, 1.0])
    assert assert_type(cost.plot(ax, label="cost", color="k"), Axes) is ax
    for result in (line, cost, line.limit, ic.extreme_pairs(K_P)):
        frame = result.to_pandas()
        assert len(frame.columns) > 2


def hears(monitor: ic.deep.Monitor, model: Any, trainer: Any) -> None:
    """Only read by the checker: it needs no PyTorch then."""
    assert_type(monitor.measure(model), dict[str, float])
    assert_type(monitor.log(model, None, 0), dict[str, float])
    assert_type(monitor.attach(trainer, every=5), None)
    assert_type(monitor.plot(), Axes)
