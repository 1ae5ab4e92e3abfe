"""The modules, and the layer that preconditions."""

import copy

import numpy as np
import pytest
from matrices import separated, with_eigenvalues
from torch_cases import assert_close, tensor, torch

import immucond as ic
import immucond.torch as ict


def test_modules_are_their_functions():
    Z, H = tensor((5, 4)), ict.gram(tensor((5, 4)))
    assert ict.RWell()(Z) == ict.r_well(features=Z)
    assert ict.RWell(p="rank")(Z.T) == ict.r_well(features=Z.T, p="rank")
    assert ict.RIll(rtol=1e-9)(Z) == ict.r_ill(features=Z)
    assert ict.RIll(input="matrix")(H) == ict.r_ill(H)
    assert ict.RWell(input="matrix", rank=4)(H) == ict.r_well(H)
    loss = ict.ImmunizationLoss(0.5, 3.0, p="rank")
    expected = 0.5 * ict.r_well(features=Z.T, p="rank") + 3.0 * ict.r_ill(features=2 * Z)
    assert_close(loss(Z.T, 2 * Z), expected, 1e-15)


def test_modules_print_copy_and_pass_through_state_dicts():
    loss = ict.ImmunizationLoss(0.5, 3.0, p="rank")
    assert "lambda_P=0.5, lambda_H=3" in repr(loss)
    assert repr(ict.RWell(p="rank", rtol=0.1)) == "RWell(rtol=0.1, p='rank')"
    assert repr(ict.RIll()) == "RIll()"
    assert loss.state_dict() == {}
    Z = tensor((4, 3))
    assert copy.deepcopy(loss)(Z, Z) == loss(Z, Z)


def test_wrong_arguments_of_modules():
    with pytest.raises(ValueError, match="input must be one of 'features', 'matrix'"):
        ict.RWell(input="gram")
    with pytest.raises(ValueError, match="lambda_P must be in"):
        ict.ImmunizationLoss(-1.0, 1.0)
    with pytest.raises(TypeError, match="lambda_H must be a real number"):
        ict.ImmunizationLoss(1.0, "much")
    with pytest.raises(TypeError, match="lambda_H must be a number, and is a tensor that requires"):
        ict.ImmunizationLoss(1.0, torch.nn.Parameter(torch.tensor(1.0)))


def test_training_with_it_drives_the_tasks_apart():
    torch.manual_seed(0)
    X_P, X_H = tensor((40, 6), seed=1), tensor((40, 6), seed=2)
    theta = torch.eye(6, dtype=torch.float64, requires_grad=True)
    loss, optimizer = ict.ImmunizationLoss(1e-3, 1e2), torch.optim.Adam([theta], lr=5e-3)

    def ratio():
        with torch.no_grad():
            kappa = [ict.condition_number(features=X @ theta) for X in (X_P, X_H)]
        return kappa[1] / kappa[0]

    before = ratio()
    for _ in range(60):
        optimizer.zero_grad()
        loss(X_P @ theta, X_H @ theta).backward()
        optimizer.step()
    assert ratio() > 3 * before


# ---- precondition ----


@pytest.mark.parametrize("r", [ic.r_well, ic.r_ill, ic.log_kappa], ids=lambda r: r.name)
def test_precondition_gives_2_theta_g(r):
    d, m = 6, 4
    X, theta = tensor((20, d), seed=3), tensor((d, m)).requires_grad_()
    K = ict.gram(X)
    held = ict.precondition(theta, K)
    assert torch.equal(held, theta)
    getattr(ict, r.name)(held.T @ K @ held).backward()
    _, expected = r.value_and_grad_theta(theta.detach().numpy(), K.numpy(), preconditioned=True)
    assert_close(theta.grad, expected, 1e-9)


def test_precondition_with_a_ridge_and_on_the_range():
    rng = np.random.default_rng(0)
    singular = with_eigenvalues(rng, 5, separated(rng, 3))
    g = rng.normal(size=(5, 2))
    for ridge, inverse in (
        (0.0, np.linalg.pinv(singular, rcond=1e-10)),
        (0.3, np.linalg.inv(singular + 0.3 * np.eye(5))),
    ):
        theta = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
        K = torch.from_numpy(singular)
        (ict.precondition(theta, K, ridge=ridge) * torch.from_numpy(g)).sum().backward()
        assert_close(theta.grad, inverse @ g, 1e-12)


@pytest.mark.parametrize("turned", [False, True])
def test_precondition_inverts_the_symmetric_part(turned):
    K = torch.diag(torch.tensor([1.0, 1e-6, 1e-6]))
    K[2, 1], K[1, 2] = 9e-7, -9e-7  # no more than rounding in float32
    K = K.T if turned else K
    theta = torch.eye(3, requires_grad=True)
    ict.precondition(theta, K).sum().backward()
    assert torch.allclose(theta.grad, torch.tensor([[1.0], [1e6], [1e6]]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precondition_keeps_the_dtype(dtype):
    theta = torch.eye(3, dtype=dtype, requires_grad=True)
    ict.precondition(theta, torch.diag(torch.tensor([4.0, 2.0, 1.0]))).sum().backward()
    assert theta.grad.dtype == dtype
    assert theta.grad[:, 0].tolist() == [0.25, 0.5, 1.0]


def test_precondition_sees_a_k_that_changed():
    theta, K = torch.ones(2, 1, requires_grad=True), torch.eye(2)
    for factor in (1.0, 2.0, 2.0):
        theta.grad = None
        K.mul_(factor)
        ict.precondition(theta, K).sum().backward()
        assert_close(theta.grad, torch.ones(2, 1) / K[0, 0], 1e-7)


def _twice_by_numpy(K):
    array = K.numpy()
    array *= 2.0


@pytest.mark.parametrize("twice", [lambda K: K.data.mul_(2.0), _twice_by_numpy])
def test_precondition_sees_a_k_that_changed_without_a_version(twice):
    """As of a running mean of Gram matrices."""
    theta, K = torch.ones(2, 1, requires_grad=True), torch.eye(2)
    for _ in range(3):
        theta.grad = None
        twice(K)
        ict.precondition(theta, K).sum().backward()
        assert_close(theta.grad, torch.ones(2, 1) / K[0, 0], 1e-7)


def test_precondition_finds_the_eigenpairs_once(monkeypatch):
    found = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda K: found.append(K) or eigh(K))
    theta, K = torch.ones(2, 1, requires_grad=True), torch.eye(2)
    for _ in range(3):
        ict.precondition(theta, K).sum().backward()
    assert len(found) == 1


def test_precondition_takes_a_k_of_inference_mode():
    theta = torch.ones(2, 1, requires_grad=True)
    with torch.inference_mode():
        K = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        assert torch.equal(ict.precondition(theta, K), theta)
    ict.precondition(theta, K).sum().backward()
    assert_close(theta.grad, torch.tensor([[2.0], [3.0]]) / 11.0, 1e-6)  # K^-1 1, by hand


def test_precondition_under_transforms():
    K = ict.gram(tensor((9, 4), seed=1))
    thetas = torch.stack([tensor((4, 3), seed=seed) for seed in range(3)])

    def gradient(theta):
        return torch.func.grad(lambda t: ict.log_kappa(ict.precondition(t, K)))(theta)

    expected = torch.stack([gradient(theta) for theta in thetas])
    assert_close(torch.vmap(gradient)(thetas), expected, 1e-13)
    plain = torch.stack([torch.func.grad(ict.log_kappa)(theta) for theta in thetas])
    assert_close(expected, torch.linalg.solve(K, plain), 1e-9)
    # Differentiated again it stays linear.
    (second,) = torch.autograd.grad(
        (ict.precondition(leaf := thetas[0].clone().requires_grad_(), K) ** 2).sum(),
        leaf,
        create_graph=True,
    )
    (third,) = torch.autograd.grad(second.sum(), leaf)
    solved = torch.linalg.solve(K, 2 * torch.linalg.solve(K, torch.ones_like(leaf)))
    assert_close(third, solved, 1e-9)


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "K must be symmetric"),
        (torch.eye(512).half() + 0.5 * torch.eye(512).half().roll(1, 1), "K must be symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "positive semidefinite"),
        (torch.zeros(2, 2), "not zero"),
        (torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), "K must be finite"),
    ],
)
def test_precondition_refuses_what_is_no_gram_matrix(K, message):
    theta = torch.ones(len(K), 1, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        ict.precondition(theta, K).sum().backward()


@pytest.mark.parametrize(("dtype", "scale"), [("float64", 1e-310), ("float32", 1e-200)])
def test_precondition_beyond_the_range_is_an_overflow_error(dtype, scale):
    K = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)) * scale
    theta = torch.eye(2, dtype=getattr(torch, dtype), requires_grad=True)
    with pytest.raises(OverflowError, match=f"not representable in {dtype}: scale the inputs up"):
        ict.precondition(theta, K).sum().backward()
    ict.precondition(theta, K, ridge=1e3).sum().backward()
    assert_close(theta.grad, torch.full((2, 2), 1e-3), 1e-6)


def test_precondition_refuses_shapes_and_ridges():
    with pytest.raises(ValueError, match=r"got shapes \(3, 2\) and \(2, 2\)"):
        ict.precondition(torch.ones(3, 2), torch.eye(2))
    with pytest.raises(ValueError, match="ridge must be in"):
        ict.precondition(torch.ones(2, 2), torch.eye(2), ridge=-1.0)
    with pytest.raises(ValueError, match="K must be on the device of theta, cpu, and is on meta"):
        ict.precondition(torch.ones(2, 2), torch.eye(2, device="meta"))
