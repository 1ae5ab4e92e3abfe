"""Same input, same bits: wherever it lies in memory, and however many threads call at once."""

import threading

import numpy as np
import pytest
from gil import lets_another_thread_run
from threadpoolctl import threadpool_limits

import immucond as ic


def kernels(sizes):
    """Calls that between them reach every kernel."""
    rng = np.random.default_rng(0)
    calls = {}
    for n, m in sizes:
        Z = rng.normal(size=(n, m))
        H, theta = ic.gram(Z), rng.normal(size=(m, m))
        K = H + np.diag(1.0 + np.arange(m))
        for name, call in {
            "gram": lambda Z=Z: ic.gram(Z),
            "hessian": lambda t=theta, K=K: ic.hessian(t, K),
            "feature_hessian": lambda Z=Z, t=theta: ic.feature_hessian(Z, t, method="features"),
            "extreme_pairs": lambda Z=Z: ic.extreme_pairs(Z).u_min,
            "psd_extreme_pairs": lambda K=K: ic.psd_extreme_pairs(K).v_min,
            "feature_extreme_pairs": lambda Z=Z: ic.feature_extreme_pairs(Z, method="qr").v_min,
            "by matrix": lambda Z=Z: ic.log_kappa.value_and_grad(Z)[1],
            "by features": lambda Z=Z: ic.r_ill.value_and_grad_features(Z)[1],
            "by theta": lambda t=theta, K=K: ic.r_well.value_and_grad_theta(t, K)[1],
        }.items():
            calls[f"{name} {n} x {m}"] = call
    return calls


def test_many_threads_get_the_bits_that_one_gets():
    calls = kernels([(300, 40), (50, 120), (900, 100), (10, 3)])
    names = list(calls)
    wrong = []

    def work(seed):
        order = np.random.default_rng(seed).choice(names, size=60)
        wrong.extend(str(n) for n in order if not np.array_equal(calls[n](), expected[n]))

    with threadpool_limits(1):
        expected = {name: call() for name, call in calls.items()}
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_place_in_memory_changes_no_bit():
    rng = np.random.default_rng(1)
    for shape in [(300, 40), (40, 40), (64, 300), (1, 9), (7, 1)]:
        Z = rng.normal(size=shape)
        base = np.empty(Z.size + 16)
        results = []
        for offset in range(9):
            moved = base[offset : offset + Z.size].reshape(shape)
            moved[...] = Z
            pairs = vars(ic.extreme_pairs(moved)) | vars(ic.feature_extreme_pairs(moved))
            gradient = ic.kappa.value_and_grad_features(moved)[1]
            results.append([ic.gram(moved).tobytes(), gradient.tobytes(), repr(pairs)])
        assert results == results[:1] * 9


@pytest.mark.parametrize("name", kernels([(200, 100)]))
def test_the_gil_is_released(name):
    assert lets_another_thread_run(kernels([(200, 100)])[name])


def test_the_gil_is_held_by_what_is_no_kernel():
    assert not lets_another_thread_run(ic._core.lapack_calls)
