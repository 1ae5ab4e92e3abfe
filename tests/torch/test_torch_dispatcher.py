"""immucond.torch as PyTorch's own machinery sees it: opcheck, compile, autocast, inference mode."""

import pytest
from torch.library import opcheck
from torch_cases import FUNCTIONS, INPUTS, NAMES, assert_close, tensor, torch

import immucond.torch as ict

OPS = torch.ops.immucond
STACK = torch.stack([tensor((4, 3)), tensor((4, 3), seed=1)])
INPUTS_OF_OPS = {
    "float64": tensor((4, 3)),
    "no gradient": tensor((4, 3)).requires_grad_(False),
    "wide": tensor((3, 5)),
    "stack": STACK,
    "strided": tensor((8, 6), 6)[::2, ::2],
    "float32": tensor((4, 3)).float(),
    "bfloat16": tensor((4, 3)).bfloat16(),
}


def leaf(name):
    X = INPUTS_OF_OPS[name].detach()
    return X.requires_grad_(name != "no gradient")


@pytest.mark.parametrize("kind", INPUTS_OF_OPS)
@pytest.mark.parametrize("features", [False, True], ids=["matrix", "features"])
def test_opcheck(kind, features):
    # Tracing by the dispatcher is the slow part, and does not depend on what is given.
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if kind == "float64" and features:
        tests.append("test_aot_dispatch_dynamic")
    X = leaf(kind)
    for op, arguments in (
        (OPS.spectral, ("r_ill", features, None, None, None, 0, True)),
        (OPS.spectral, ("r_well", features, 3, 1e-9, "float32", -1, False)),
        (OPS.extreme_pairs, (features, None, None, None, True)),
    ):
        opcheck(op.default, (X, *arguments), test_utils=tests)


def test_opcheck_of_the_others():
    A = torch.eye(3, 2, dtype=torch.float64) * torch.tensor([1.0, 2.0], dtype=torch.float64)
    s, z, g = torch.ones(1), torch.tensor([1.0, 0, 0, 1, 0]) / 2**0.5, torch.arange(5.0)
    given = [x.double().requires_grad_() for x in (A, s[0], z, g)]
    opcheck(OPS.resolvent.default, (*given, torch.tensor(True)))
    exponent = torch.tensor(3.0, dtype=torch.float64)
    for single in (False, True):
        opcheck(OPS.times_power.default, (given[0], exponent, single))
    theta, K = tensor((3, 2)).requires_grad_(), torch.eye(3, dtype=torch.float64)
    for op in (OPS.precondition, OPS.gram_solve):
        opcheck(op.default, (theta, K, 0.5))
    opcheck(OPS.widened.default, (STACK.float().detach().requires_grad_(),))
    opcheck(OPS.label_energy.default, (STACK.detach().requires_grad_(),))
    opcheck(OPS.one_hot.default, (torch.tensor([[0, 2], [1, 1]]), 3))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(6, 4, dtype=torch.float64)
        self.well, self.ill = ict.RWell(p="rank"), ict.RIll()
        self.loss = ict.ImmunizationLoss(0.1, 2.0)

    def forward(self, x):
        z = self.body(x).tanh()
        H = z.T @ z
        pairs = ict.extreme_pairs(z)
        total = self.well(z) + self.ill(z) + ict.log_kappa(H) + ict.condition_number(features=z)
        held = ict.precondition(H, torch.eye(4, dtype=z.dtype) * 2.0)
        return total + self.loss(z, 2 * z) + pairs.v_min[0] + pairs.sigma_max + held.sum()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    torch.manual_seed(0)
    net = Net()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (9, 12):
        x = tensor((rows, 6), 6)
        results = []
        for run in (net, compiled):
            net.zero_grad()
            value = run(x)
            value.backward()
            results.append((value.detach(), net.body.weight.grad.clone()))
        assert_close(results[1][0], results[0][0], 1e-13)
        assert_close(results[1][1], results[0][1], 1e-12)
        with torch.no_grad():
            assert_close(compiled(x), results[0][0], 1e-13)
    torch.compiler.reset()


def test_compile_of_vmap():
    run = torch.compile(torch.vmap(ict.r_ill), fullgraph=True, backend="aot_eager")
    assert_close(run(STACK), ict.r_ill(STACK), 1e-14)
    torch.compiler.reset()


def test_compiled_forward_mode_raises():
    def change(x):
        return torch.func.jvp(ict.r_ill, (x,), (torch.ones_like(x),))[1]

    run = torch.compile(change, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="no forward-mode derivative of its own"):
        run(tensor((4, 3)))
    torch.compiler.reset()


def test_fake_tensors_and_tracing():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(tensor((4, 3)).requires_grad_())
        value = ict.r_ill(features=fake)
        (gradient,) = torch.autograd.grad(value, fake)
        assert (value.shape, gradient.shape) == ((), (4, 3))
    meta = ict.r_ill(features=torch.ones(4, 3, device="meta", requires_grad=True))
    assert (meta.device.type, meta.shape) == ("meta", ())
    # A traced program calls the operator instead of holding what it gave for one input.
    graph = make_fx(lambda x: ict.r_well(features=x))(tensor((4, 3)))
    other = tensor((4, 3), seed=4)
    assert_close(graph(other), ict.r_well(features=other), 1e-15)
    exported = torch.export.export(Holder(), (tensor((4, 3)),))
    assert_close(exported.module()(other), ict.r_well(features=other), 1e-15)


class Holder(torch.nn.Module):
    def forward(self, x):
        return ict.r_well(features=x)


@NAMES
@INPUTS
def test_autocast(name, given):
    X = tensor((6, 4)).float()
    expected = torch.func.grad(lambda x: FUNCTIONS[name](**{given: x}))(X)
    leaf = X.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = FUNCTIONS[name](**{given: leaf})
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), leaf)
        assert_close(gradient, expected, 1e-15)
        assert second.isfinite().all()
        layer = torch.nn.Linear(4, 4)
        z = layer(X)  # bfloat16 now: so is the rank rule
        assert z.dtype == torch.bfloat16
        value = FUNCTIONS[name](**{given: z})
    assert value.dtype == torch.float32
    value.backward()
    assert layer.weight.grad.isfinite().all()


@NAMES
@INPUTS
def test_inference_mode(name, given):
    expected = FUNCTIONS[name](**{given: tensor((4, 3))})
    with torch.inference_mode():
        X = tensor((4, 3))
        assert X.is_inference()
        assert FUNCTIONS[name](**{given: X}) == expected
        assert ict.extreme_pairs(**{given: X}).sigma_max > 0
        assert (ict.precondition(X, torch.eye(4, dtype=X.dtype)) == X).all()


def test_saved_tensors_are_guarded_against_changes_in_place():
    X = tensor((4, 3)).requires_grad_()
    Z = X * 1.0
    value = ict.r_ill(features=Z)
    Z.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_parameters_and_gradient_accumulation():
    layer = torch.nn.Parameter(tensor((4, 3)))
    for _ in range(2):
        ict.r_ill(features=layer).backward()
    expected = torch.func.grad(lambda x: ict.r_ill(features=x))(layer.detach())
    assert_close(layer.grad, 2 * expected, 1e-14)
