"""The least trace of a pair's training kernel: against Jacobians, SciPy, and every lock removed."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from deep_cases import torch
from gauge_nets import difference, gpt2, llama, off, outputs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import immucond.deep as icd

U = np.finfo(float).eps / 2


def pair(seed=0, sizes=(6, 4, 5), bias=True):
    torch.manual_seed(seed)
    one, two = nn.Linear(sizes[0], sizes[1], bias=bias), nn.Linear(sizes[1], sizes[2])
    return nn.Sequential(one, two).double()


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def trace(net, X):
    """Of the kernel, from the Jacobian of all outputs by all but the last bias."""
    parameters = {k: v.detach() for k, v in net.named_parameters() if k != "1.bias"}

    def by(p):
        return torch.func.functional_call(net, p, (X,))

    J = torch.func.jacrev(by)(parameters)
    return sum(float(j.square().sum()) for j in J.values())


def factors(net, X):
    """P = c H^T H and Q = ||X||^2 W2^T W2, in NumPy."""
    W1, W2 = (layer.weight.detach().numpy() for layer in net)
    X = X.reshape(-1, X.shape[-1]).numpy()
    if net[0].bias is not None:
        W1 = np.column_stack((W1, net[0].bias.detach().numpy()))
        X = np.column_stack((X, np.ones(len(X))))
    H = X @ W1.T
    return len(W2) * H.T @ H, np.square(X).sum() * W2.T @ W2


def least(net, X):
    P, Q = factors(net, X)
    root = scipy.linalg.sqrtm(P)
    return 2 * np.trace(scipy.linalg.sqrtm(root @ Q @ root)).real


def kernel(net, X, **more):
    return icd.gauge.equalize(net, data=X, metric="kernel", **more)


# ---- the minimum ----


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(20, 6), (3, 7, 6)])
def test_the_trace_is_least(shape, bias):
    net, X = pair(1, bias=bias), torch.randn(shape).double()
    found = kernel(net, X)
    ((key, rank),) = found.ranks.items()
    assert (key, rank) == (("linear", ("0", "1")), 4)
    value = trace(found.model, X)
    assert value == pytest.approx(least(net, X), rel=1e-10)
    assert value < 0.999 * trace(icd.gauge.equalize(net, data=X).model, X)
    P, Q = factors(found.model, X)
    assert pytest.approx(Q, rel=1e-8, abs=1e-10 * np.abs(Q).max()) == P
    for seed in range(20):
        moved = icd.gauge.equalize(net).model
        (group,) = icd.gauge.groups(moved)
        group.act(moved, group.element(seed=seed))
        assert trace(moved, X) > value


def test_a_descent_finds_nothing_lower():
    net, X = pair(2, (5, 3, 4)), rows(11, 5)
    P, Q = factors(net, X)

    def value(a):
        A = a.reshape(3, 3)
        S = A.T @ A
        return np.trace(S @ P) + np.trace(np.linalg.solve(S, Q))

    found = scipy.optimize.minimize(value, np.eye(3).ravel(), method="BFGS", tol=1e-9)
    assert trace(kernel(net, X).model, X) == pytest.approx(found.fun, rel=1e-6)
    assert trace(kernel(net, X).model, X) <= found.fun * (1 + 1e-10)


# ---- lock, then equalize ----


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("count", [30, 3])
def test_lock_then_equalize_is_equalize(kappa, count):
    for seed in range(3):
        X, locked = rows(count, 6, seed), pair(seed)
        (group,) = icd.gauge.groups(locked)
        group.act(locked, group.element(condition=kappa, seed=seed))
        found, plain = kernel(locked, X), kernel(pair(seed), X)
        assert difference(found.model, plain.model)[0] < 100 * U * kappa
        assert found.condition_before > 0.1 * kappa


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31 - 1),
    decades=st.floats(0.0, 6.0),
    sizes=st.sampled_from([(6, 4, 5), (6, 5, 3), (3, 5, 6)]),  # also products of lower rank
    count=st.sampled_from([30, 3]),  # also fewer rows than units
)
@example(seed=0, decades=6.0, sizes=(6, 4, 5), count=3)
@example(seed=19343329, decades=0.0, sizes=(6, 5, 3), count=30)  # of two that differ by 2 %
def test_a_gauge_leaves_no_trace(seed, decades, sizes, count):
    net, X, kappa = pair(seed, sizes), rows(count, sizes[0], seed), 10.0**decades
    plain = kernel(net, X)
    (group,) = icd.gauge.groups(net)
    locked = pair(seed, sizes)
    group.act(locked, group.element(condition=kappa, seed=seed))
    found = kernel(locked, X)
    assert found.ranks == plain.ranks
    assert set(found.ranks.values()) == {min(count, *sizes[1:], sizes[0] + 1)}
    assert difference(found.model, plain.model)[0] < 100 * U * kappa * spread(net, X)
    assert found.condition_after == pytest.approx(1.0, abs=1e-6)


def spread(net, X):
    """Condition number of the problem itself: of what remains when the gauge is gone.

    Singular values of the product that nearly meet leave their vectors, which are the basis, so
    much less certain.
    """
    W = icd.gauge.equalize(net).model[0].weight.detach()
    s = torch.linalg.svdvals(W)
    t = torch.linalg.svdvals(torch.cat((X, torch.ones(len(X), 1).double()), 1))
    values = torch.linalg.svdvals(
        net[1].weight @ torch.cat((net[0].weight, net[0].bias[:, None]), 1)
    )
    values = values[values > 1e-8 * values.max()].detach()
    gap = float((-values.diff()).min() / values.max()) if len(values) > 1 else 1.0
    whole = s.max() / s[s > 1e-8 * s.max()].min() * t.max() / t[t > 1e-8 * t.max()].min()
    return float(whole) / gap


@pytest.mark.parametrize("build", [llama, gpt2], ids=lambda f: f.__name__)
def test_heads_forget_their_gauge(build):
    net, kappa = build().double(), 1e3
    data = {"input_ids": torch.randint(0, 30, (4, 12))}
    plain = kernel(net, data)
    assert {kind for kind, _ in plain.ranks} == {"value-output"}
    assert plain.error < 1e-11
    found = kernel(icd.gauge.lock(net, strength=kappa, groups="all", seed=5), data)
    assert difference(found.model, plain.model)[0] < 100 * U * kappa * 10
    assert found.condition_after == pytest.approx(1.0, abs=1e-5)
    assert difference(plain.model, icd.gauge.equalize(net).model)[0] > 1e-3


# ---- what no row uses ----


@pytest.mark.parametrize("case", ["few", "zero", "dead", "faint"])
def test_the_function_is_kept_off_the_batch(case):
    """An attacker's batch that says nothing of most directions may not erase them."""
    net = pair(4, (6, 5, 7), bias=case != "zero")
    X = rows(40, 6)
    if case == "few":
        X = X[:1]
    elif case == "zero":
        X = torch.zeros_like(X)
    elif case == "dead":
        X[:, 1:] = 0.0
    else:
        X = X * torch.tensor([1, 1, 1e-7, 1e-12, 1e-15, 1e-40])
    found = kernel(net, X)
    rank = {"few": 1, "zero": 0, "dead": 2}.get(case)
    assert rank is None or list(found.ranks.values()) == [rank]
    fresh = 100 * torch.randn(50, 6).double()
    assert off(outputs(found.model, fresh), outputs(net, fresh)) < (1e-7 if rank is None else 1e-12)
    for layer in found.model:
        assert torch.linalg.matrix_rank(layer.weight) == 5
    if rank == 0:
        assert difference(found.model, icd.gauge.equalize(net).model)[0] < 1e-12


def test_unused_directions_stay_balanced_by_parameters():
    """Where the batch is silent on hidden directions, the pair is least among what leaves them."""
    net = icd.gauge.equalize(pair(5, (6, 5, 7), bias=False)).model
    W1, W2 = (layer.weight.detach().clone() for layer in net)
    X = rows(3, 6)
    found = kernel(net, X).model
    A = found[0].weight.detach() @ torch.linalg.pinv(W1)
    _, _, Z = torch.linalg.svd(X @ W1.T)
    silent = Z[3:].T
    assert torch.allclose((A.T @ A) @ silent, silent, atol=1e-10)
    assert torch.allclose(found[1].weight @ (A @ silent), W2 @ silent, atol=1e-10)
    used = Z[:3]
    P, Q = 7 * (X @ W1.T @ used.T).numpy(), (X.norm() * W2 @ used.T).numpy()
    P, Q = P.T @ P / 7, Q.T @ Q
    S = (used @ A.T @ A @ used.T).numpy()
    assert pytest.approx(Q, rel=1e-7, abs=1e-9 * np.abs(Q).max()) == S @ P @ S


# ---- what is left by parameters, and bad input ----


def test_chains_and_scales_stay_by_parameters():
    torch.manual_seed(0)
    chain = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3))).double()
    relu = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    for net in (chain, relu):
        found, plain = kernel(net, rows(9, 5)), icd.gauge.equalize(net)
        assert found.ranks == plain.ranks == {}
        assert difference(found.model, plain.model)[0] == 0.0


def test_wrong_input_is_named():
    net, X = pair(), rows(8, 6)
    with pytest.raises(ValueError, match="metric='kernel' needs data"):
        icd.gauge.equalize(net, metric="kernel")
    with pytest.raises(ValueError, match="metric must be 'parameters' or 'kernel', and is 'ntk'"):
        icd.gauge.equalize(net, data=X, metric="ntk")
    for bad in (float("nan"), float("inf")):
        X[3, 2] = bad
        with pytest.raises(ValueError, match=r"rows of numbers|finite inputs to '0'"):
            kernel(net, X)
