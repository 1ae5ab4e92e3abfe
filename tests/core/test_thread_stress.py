"""Many threads at once, on arrays of their own and on shared ones: the bits that one thread gets.

It asks for nothing beyond NumPy, SciPy and threadpoolctl, so that interpreters without a GIL and
builds with ThreadSanitizer can run it.
"""

import threading
import warnings

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator
from threadpoolctl import threadpool_limits

import immucond as ic

THREADS, CALLS = 8, 40


@pytest.fixture(autouse=True)
def _filters():
    """Python before 3.14 keeps one list of filters a process, and threads mix it up."""
    with warnings.catch_warnings():
        yield


def own(spectrum):
    """Coefficients of the squared spectral norm: a regularizer that calls Python."""
    return 0.5 * spectrum.sigma_max**2, spectrum.sigma_max, 0.0, 0.0


def bits(found):
    """All that a call returned, as something to compare."""
    if isinstance(found, np.ndarray | np.generic | float):
        return np.asarray(found).tobytes()
    if isinstance(found, tuple | list):
        return tuple(map(bits, found))
    if isinstance(found, dict):
        return tuple((key, bits(value)) for key, value in sorted(found.items()))
    return bits(vars(found)) if hasattr(found, "__dict__") else repr(found)


def calls(seed, n, m):
    """One a concept of the core: products, ends by every method, gradients, stacks, callbacks."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, m))
    theta, K = rng.normal(size=(m, m)), ic.gram(Z) + np.diag(1.0 + np.arange(m))
    stack = rng.normal(size=(6, n, m))
    d = np.linspace(1.0, 2.0, m)
    product = LinearOperator((m, m), matvec=lambda x: d * x.reshape(-1), dtype=float)
    regularizer = ic.SpectralRegularizer("own", 2, own)

    def streamed():
        rows = ic.GramAccumulator(m)
        for block in np.array_split(Z, 3):
            rows.update(block)
        return rows.gram

    return {
        "gram": lambda: ic.gram(Z),
        "half": lambda: ic.gram(Z.astype(np.float16)),
        "streamed": streamed,
        "hessian": lambda: ic.hessian(theta, K),
        "feature_hessian": lambda: ic.feature_hessian(Z, theta),
        "direct": lambda: ic.extreme_pairs(Z, method="direct"),
        "lanczos": lambda: ic.psd_extreme_pairs(K, method="lanczos"),
        "jacobi": lambda: ic.extreme_pairs(Z, method="jacobi"),
        "qr": lambda: ic.feature_extreme_pairs(Z, method="qr"),
        "pencil": lambda: ic.generalized_extreme_pairs(K, K + theta.T @ theta),
        "stacked pairs": lambda: ic.feature_extreme_pairs(stack),
        "matrix": lambda: ic.log_kappa.value_and_grad(Z),
        "features": lambda: ic.r_ill.value_and_grad_features(Z),
        "theta": lambda: ic.r_well.value_and_grad_theta(theta, K),
        "stack": lambda: ic.kappa.value_and_grad_features(stack),
        "own": lambda: regularizer.value_and_grad(Z),
        "own stack": lambda: regularizer.value_and_grad_features(stack),
        "operator": lambda: ic.psd_extreme_pairs(product),
    }


def at_once(work, count=THREADS):
    """Run work(thread's number) in threads that start together; raise what any of them raised."""
    barrier, failed = threading.Barrier(count), []

    def run(number):
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("blas_threads", [1, 2])
def test_kernels_on_shared_and_own_arrays(blas_threads):
    """With two threads of the BLAS the core starts some itself, for stacks."""
    wrong = []
    with threadpool_limits(blas_threads):
        shared = calls(0, 60, 12)
        expected = {name: bits(call()) for name, call in shared.items()}
        of_its_own = [bits(call()) for k in range(THREADS) for call in calls(1 + k, 40, 8).values()]
        found = [[] for _ in range(THREADS)]

        def work(number):
            order = np.random.default_rng(number).choice(list(shared), size=CALLS)
            wrong.extend(str(n) for n in order if bits(shared[n]()) != expected[n])
            found[number] = [bits(call()) for call in calls(1 + number, 40, 8).values()]

        at_once(work)
    assert wrong == []
    assert [b for mine in found for b in mine] == of_its_own


def test_thread_count_changes_meanwhile():
    """Whoever sets the count waits for nobody, and no small problem sees it."""
    shared = calls(0, 60, 12)
    with threadpool_limits(1):
        expected = {name: bits(call()) for name, call in shared.items()}

        def work(number):
            if number == 0:
                for count in [2, 1] * 50:
                    ic._core.set_blas_threads(count)
                    assert ic._core.blas_threads() in (0, 1, 2)
                return
            for name in ("stack", "features", "gram", "own stack"):
                assert bits(shared[name]()) == expected[name], name

        at_once(work)


def test_one_accumulator_for_each_thread_merges_to_the_same_gram():
    rng = np.random.default_rng(3)
    blocks = [rng.normal(size=(30, 6)) for _ in range(THREADS)]

    def filled(block):
        rows = ic.GramAccumulator(6)
        rows.update(block)
        return rows

    parts = [None] * THREADS
    at_once(lambda number: parts.__setitem__(number, filled(blocks[number])))
    for part, block in zip(parts, blocks, strict=True):
        assert bits(part.gram) == bits(filled(block).gram)


@pytest.mark.parametrize("method", ["algorithm1", "closed_form", "fade"])
def test_immunize_on_shared_arrays(method):
    rng = np.random.default_rng(4)
    X_P, X_H = rng.normal(size=(40, 5)) * np.arange(1.0, 6.0), rng.normal(size=(45, 5))
    y_P, y_H = X_P @ rng.normal(size=5), X_H @ rng.normal(size=5)
    run = {
        "algorithm1": lambda: ic.immunize.algorithm1(
            X_P, y_P, X_H, lambda_P=0.05, lambda_H=1e2, lr=1e-3, steps=15
        ),
        "closed_form": lambda: ic.immunize.closed_form(X_P, y_P, X_H),
        "fade": lambda: ic.immunize.fade(X_P, y_P, X_H, y_H),
    }[method]
    expected = run()
    found = [None] * THREADS
    at_once(lambda number: found.__setitem__(number, run()))
    for result in found:
        assert bits(result.theta) == bits(expected.theta)
        assert bits(result.omega) == bits(expected.omega)
