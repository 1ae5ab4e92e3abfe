"""Odd structures: what would change the function is left alone, and so is the caller's state."""

from types import MethodType

import pytest
from deep_cases import torch
from gauge_nets import off
from torch import nn

import immucond.deep as icd

LOCKS = [
    pytest.param(lambda net: icd.gauge.equalize(net, data=X, merge=True).model, id="merge"),
    pytest.param(lambda net: icd.gauge.lock(net, strength=10.0), id="lock"),
]
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


class Rectified(nn.Linear):
    """A linear layer by its class, and none by what it does."""

    def forward(self, x):
        return super().forward(x).relu()


def with_own_class():
    return nn.Sequential(Rectified(6, 6), nn.Linear(6, 3))


def with_own_forward():
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    net[1].forward = MethodType(lambda self, x: nn.Linear.forward(self, x.relu()), net[1])
    return net


def hooked(place, before):
    def build():
        net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
        if before:
            net[place].register_forward_pre_hook(lambda _, args: (args[0].relu(),))
        else:
            net[place].register_forward_hook(lambda *passed: passed[-1].relu())
        return net

    return build


class Within(nn.Module):
    """A sequence with a hook of its own, of which one layer would be left."""

    def __init__(self):
        super().__init__()
        self.both = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
        self.both.register_forward_hook(lambda *passed: passed[-1].relu())

    def forward(self, x):
        return self.both(x)


ODD = [
    with_own_class, with_own_forward, Within, hooked(0, True), hooked(0, False), hooked(1, True),
    hooked(1, False),
]  # fmt: skip


@pytest.mark.parametrize("change", LOCKS)
@pytest.mark.parametrize("build", ODD)
def test_layers_with_more_to_them_keep_what_they_do(build, change):
    torch.manual_seed(0)
    net = build()
    with torch.no_grad():
        before = net(X)
        assert off(change(net)(X), before) < 1e-5


def test_layers_with_more_to_them_are_told_where_they_are_named():
    net = with_own_class()
    assert isinstance(icd.gauge.lock(net, strength=2.0)[0], Rectified)
    with pytest.raises(ValueError, match=r"'0' shares its weight, .* or has a forward of its own"):
        icd.gauge.lock(net, strength=2.0, modules="0")


@pytest.mark.parametrize("groups", [2, 8])
def test_convolutions_in_groups_are_not_merged(groups):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=groups, padding=1), nn.Conv2d(8, 8, 1))
    x = torch.randn(2, 8, 5, 5)
    assert icd.gauge.inserted(net) == []
    found = icd.gauge.equalize(net, data=x, merge=True)
    assert found.merged == ()
    with torch.no_grad():
        assert off(found.model(x), net(x)) < 1e-6


def test_what_is_merged_trains_where_one_of_both_did():
    for frozen in ([], [0], [1], [0, 1]):
        net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
        for place in frozen:
            net[place].weight.requires_grad_(False)
        net[1].bias.requires_grad_(False)
        net[0].bias.requires_grad_(0 not in frozen)
        layer = icd.gauge.equalize(net, data=X, merge=True).model[0]
        assert layer.weight.requires_grad == (len(frozen) < 2)
        assert layer.bias.requires_grad == (0 not in frozen)


# ---- the state of the caller ----


def test_a_lock_draws_no_random_numbers_of_the_caller():
    nets = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    conv = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    before = torch.get_rng_state()
    icd.gauge.lock(nets, strength=2.0)
    icd.gauge.lock(conv, strength=2.0)
    icd.gauge.lock(nets, strength=2.0, groups="all")
    icd.gauge.equalize(nets)
    assert torch.equal(torch.get_rng_state(), before)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_modes_change_nothing(mode):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))

    def made():
        return (
            icd.gauge.lock(net, strength=4.0),
            icd.gauge.lock(net, strength=4.0, groups="all", data=X),
            icd.gauge.equalize(net, data=X).model,
            icd.gauge.equalize(net, data=X, metric="kernel").model,
        )

    kinds = [g.kind for g in icd.gauge.groups(net, X)]
    wanted = made()
    with MODES[mode]():
        assert [g.kind for g in icd.gauge.groups(net, X)] == kinds
        found = made()
    for one, other in zip(found, wanted, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
        one(X).sum().backward()  # an inference tensor would not be kept for that


# ---- what cannot be used is told by the library ----


def test_a_network_without_parameters_has_no_groups():
    assert icd.gauge.groups(nn.ReLU(), X) == []
    assert icd.gauge.equalize(nn.ReLU(), data=X).error == 0.0
    with pytest.raises(ValueError, match="no linear layer"):
        icd.gauge.lock(nn.ReLU(), strength=2.0)


def test_an_element_that_does_not_fit_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    (group,) = icd.gauge.groups(net)
    for other in (
        nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 4)),
        nn.Sequential(*[nn.PReLU()] * 2),
    ):
        with pytest.raises(ValueError, match=r"is not that of the group|has no parameter"):
            group.act(other, group.element())
    half = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).half()
    before = [p.detach().clone() for p in half.parameters()]
    with pytest.raises(ValueError, match=r"element makes '.\.weight' infinite in torch\.float16"):
        group.act(half, group.element(condition=1e13))
    assert all(torch.equal(p, q) for p, q in zip(half.parameters(), before, strict=True))


def test_arguments_that_are_no_numbers_are_named():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    (group,) = icd.gauge.groups(net)
    for name, ask in {
        "element": lambda: group.act(net, "one"),
        "seed": lambda: group.element(seed=1.5),
        "condition": lambda: group.element(condition="large"),
        "kinds": lambda: icd.gauge.groups(net, kinds=3),
        "tolerance": lambda: icd.gauge.groups(net, tolerance="none"),
        "strength": lambda: icd.gauge.lock(net, strength="large"),
        "delta": lambda: icd.gauge.lock(net, strength=2.0, delta=None),
    }.items():
        with pytest.raises(TypeError, match=f"{name} must be"):
            ask()
    for ask in (icd.gauge.groups, icd.gauge.equalize):
        with pytest.raises(ValueError, match="tolerance must be"):
            ask(net, tolerance=float("nan"))
