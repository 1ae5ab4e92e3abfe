"""Every kind of gauge group: its elements keep the function, and what is no member breaks it."""

import numpy as np
import pytest
from deep_cases import torch
from gauge_nets import FAMILIES, bert, gpt2, llama, off, outputs, resnet, vit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import immucond.deep as icd
from immucond.deep.gauge._batch import batch_for
from immucond.deep.gauge._group import state_of
from immucond.deep.gauge._tape import change

BY_FAMILY = {
    llama: {"norm": 5, "query-key-rope": 2, "value-output": 2, "glu": 2},
    bert: {"query-key": 2, "value-output": 2},
    vit: {"norm": 5, "query-key": 2, "value-output": 2},
    gpt2: {"norm": 4, "query-key": 2, "value-output": 2},
    resnet: {"batchnorm": 9, "relu": 4},
}


def counted(found):
    kinds = [g.kind for g in found]
    return {kind: kinds.count(kind) for kind in kinds}


def doubled(batch):
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


@pytest.mark.parametrize("build", BY_FAMILY, ids=lambda f: f.__name__)
def test_the_groups_of_each_family(build):
    assert counted(icd.gauge.groups(build())) == BY_FAMILY[build]


@pytest.mark.parametrize("build", FAMILIES, ids=lambda f: f.__name__)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_element_keeps_the_function_to_rounding(build, seed):
    torch.manual_seed(0)
    net = build().double()
    batch = doubled(batch_for(net, 1))  # not the batch of the check
    before = outputs(net, batch)
    for number, group in enumerate(icd.gauge.groups(net)):
        A = group.element(condition=30.0, seed=(seed + number) % 2**32)
        assert np.linalg.matrix_rank(A.numpy()).min() == group.size
        group.act(net, A)
        # RMSNorm computes in float32, whatever the network's dtype.
        assert off(outputs(net, batch), before) < (1e-5 if build is llama else 1e-11)
    assert float(before.std()) > 1e-3


def test_dimensions_are_those_of_the_groups():
    found = {g.kind: g for g in icd.gauge.groups(llama())}
    assert found["value-output"].dimension == 2 * 4**2  # key-value heads, not queries
    assert found["query-key-rope"].dimension == 2 * 2 * 2  # a complex number a frequency
    assert found["glu"].dimension == 24
    assert found["norm"].dimension == 16


def test_a_matrix_between_queries_and_keys_breaks_rotary_embeddings():
    net = llama().double()
    with pytest.raises(ValueError, match=r"no group of kind 'query-key'"):
        icd.gauge.groups(net, kinds="query-key")
    (group, _) = icd.gauge.groups(net, kinds="query-key-rope")
    with pytest.raises(ValueError, match="complex numbers"):
        group.act(net, torch.diag(torch.tensor([1.0, 2.0])).repeat(group.blocks, 1, 1))
    batch = batch_for(net, 1)
    before = outputs(net, batch)
    group._act(state_of(net), torch.diag(torch.tensor([1.0, 2.0]).double()).repeat(4, 1, 1))
    assert off(outputs(net, batch), before) > 1e-3


def test_the_guess_that_ignores_rotary_embeddings_fails_its_check(monkeypatch):
    """Without the name in the way, numbers alone refuse it."""
    from immucond.deep.gauge import _attention, _find

    net = llama()

    class Renamed(type(net.model.rotary_emb)):
        pass

    Renamed.__name__ = "Positions"
    net.model.rotary_emb.__class__ = Renamed
    guesses = _attention.attentions(net, _find.taped(net, batch_for(net, 0)))
    assert {g.kind for found in guesses for g in found} == {"query-key", "value-output"}
    with pytest.raises(ValueError, match=r"'query-key' was found: an element on .* changed"):
        icd.gauge.groups(net, kinds="query-key")


@pytest.mark.parametrize("act", [nn.GELU(), nn.Tanh(), nn.SiLU(), nn.Sigmoid(), nn.ReLU6()])
def test_no_scale_passes_what_is_not_homogeneous(act):
    net = nn.Sequential(nn.Linear(6, 5), act, nn.Linear(5, 3))
    x = 5.0 * torch.randn(64, 6)
    assert icd.gauge.groups(net, x) == []
    with pytest.raises(ValueError, match=r"'relu' was found: an element on '0', '2' changed"):
        icd.gauge.groups(net, x, kinds=["relu"])


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU()])
def test_positive_scales_pass_relu_and_no_others(act):
    net = nn.Sequential(nn.Linear(6, 5), act, nn.Dropout(), nn.Linear(5, 3)).double()
    (group,) = icd.gauge.groups(net)
    assert (group.kind, group.dimension) == ("relu", 5)
    with pytest.raises(ValueError, match="positive numbers"):
        group.act(net, -torch.ones(5, 1, 1))
    x = torch.randn(9, 6).double()
    before = outputs(net.eval(), x)
    group._act(state_of(net), -torch.ones(5, 1, 1).double())
    assert off(outputs(net, x), before) > 0.1


def test_functions_between_layers_are_seen_by_what_they_do():
    class Net(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 3)
            self.function = function

        def forward(self, x):
            return self.two(self.function(self.one(x)))

    batch = torch.randn(16, 6)
    (group,) = icd.gauge.groups(Net(torch.relu), batch)
    assert group.kind == "relu"
    assert icd.gauge.groups(Net(torch.nn.functional.gelu), batch) == []
    # In place, on the memory that the layer wrote: not a linear pair.
    inplace = Net(lambda x: torch.nn.functional.relu(x, inplace=True))
    assert [g.kind for g in icd.gauge.groups(inplace, batch)] == ["relu"]
    (pair,) = icd.gauge.groups(Net(lambda x: x), batch)
    assert (pair.kind, pair.dimension) == ("linear", 25)


def test_a_layer_with_a_second_reader_is_no_pair_of_the_first():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = self.one(x)
            return self.three(self.two(h) + h)

    found = icd.gauge.groups(Net(), torch.randn(4, 6))
    assert not any("one" in g.modules for g in found)


def test_convolutions_pools_and_flattened_channels():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1),
        nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 2),
    ).double()  # fmt: skip
    x = torch.randn(3, 3, 8, 8).double()
    found = icd.gauge.groups(net, x)
    assert [(g.kind, g.modules) for g in found] == [
        ("relu", ("0", "3")), ("linear", ("3", "4")), ("relu", ("4", "8")),
    ]  # fmt: skip
    before = outputs(net, x)
    for group in found:
        group.act(net, group.element(condition=100.0, seed=1))
    assert off(outputs(net, x), before) < 1e-12


def test_batch_norms_scale_statistics_and_keep_eps():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1), nn.Tanh()).double().eval()
    nn.init.uniform_(net[1].running_var, 0.01, 2.0)
    x = torch.randn(3, 3, 8, 8).double()
    (group,) = icd.gauge.groups(net, x)
    before = outputs(net, x)
    group.act(net, group.element(condition=1e4, seed=1))
    assert off(outputs(net, x), before) < 1e-12
    with pytest.raises(ValueError, match=r"variance of '1.running_var' negative"):
        group.act(net, torch.full((4, 1, 1), 1e-4))


def test_multihead_attention_of_torch():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    x = torch.randn(2, 5, 8).double()
    found = icd.gauge.groups(net, x)
    # A feed-forward network with ReLU is called as a function: found by what it does.
    assert counted(found) == {"norm": 2, "relu": 2, "query-key": 2, "value-output": 2}
    before = net(x).detach()
    for group in found:
        group.act(net, group.element(condition=50.0))
    assert off(net(x).detach(), before) < 1e-11


# ---- shared, frozen, and wrong ----


def test_tied_weights_and_shared_modules_are_left_alone():
    tied, untied = (icd.gauge.groups(llama(tie_word_embeddings=t)) for t in (True, False))
    last = {("model.norm", "lm_head")}
    assert {g.modules for g in untied} - {g.modules for g in tied} == last
    one = nn.Linear(5, 5)
    assert icd.gauge.groups(nn.Sequential(one, one)) == []
    two = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    two[1].weight = two[0].weight
    assert icd.gauge.groups(two) == []


def test_the_network_is_left_as_it_was():
    net = vit().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    icd.gauge.groups(net)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_wrong_inputs_are_named():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="kinds must be of 'linear'"):
        icd.gauge.groups(net, kinds="shear")
    with pytest.raises(ValueError, match="batch must be given"):
        icd.gauge.groups(nn.Sequential(nn.Conv2d(3, 3, 3)))
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module"):
        icd.gauge.groups("net")
    with pytest.raises(TypeError, match="compiled"):
        icd.gauge.groups(torch.compile(net, backend="eager"))
    with pytest.raises(TypeError, match="must run on the batch"):
        icd.gauge.groups(net, torch.randn(2, 4))
    (group,) = icd.gauge.groups(net)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 3\)"):
        group.act(net, torch.eye(3))
    with pytest.raises(ValueError, match="invertible"):
        group.act(net, torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match=r"shape \(1, 3, 3\) and be finite"):
        group.act(net, torch.full((1, 3, 3), float("nan")))
    with pytest.raises(ValueError, match=r"no parameter '0.weight'"):
        group.act(nn.Linear(3, 3), torch.eye(3)[None])
    with pytest.raises(ValueError, match="condition must be"):
        group.element(condition=0.5)


class Branch(nn.Module):
    """A residual branch at its start: next to nothing of what it computes is seen."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)
        self.scale = nn.Parameter(torch.full((6,), 1e-6))

    def forward(self, x):
        return x + self.scale * self.down(self.act(self.up(x)))


def small(activation, size=1.0):
    net = nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(5, 3))
    with torch.no_grad():
        for p in net[0].parameters():
            p.mul_(size)
    return net


@pytest.mark.parametrize(
    "build",
    [
        Branch,
        lambda: small(nn.ReLU6()),
        lambda: small(nn.Hardtanh(), 0.1),
        lambda: small(nn.Tanh(), 1e-4),
        lambda: small(nn.Hardshrink(1e-6)),
    ],
    ids=["a branch of 1e-6", "ReLU6 below 6", "Hardtanh below 1", "tanh of 1e-4", "none shrunk"],
)
def test_what_is_linear_on_the_batch_alone_passes_no_scale(build):
    torch.manual_seed(0)
    net, X = build(), torch.randn(16, 6)
    assert icd.gauge.groups(net, X) == []
    locked = icd.gauge.lock(net, strength=1e4, groups="all", data=X)
    assert off(locked(100.0 * X).detach(), net(100.0 * X).detach()) == 0.0


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x)


def smooth(*after):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3), *after)


@pytest.mark.parametrize("what", ["NaN", "one row of NaN", "no rows"])
def test_a_batch_that_tells_nothing_verifies_nothing(what):
    """A GELU passes no scale: a group that seems to would change the function."""
    net, X = smooth(), torch.randn(8, 6)
    assert icd.gauge.groups(net, X) == []
    X = {"NaN": X * torch.nan, "one row of NaN": X, "no rows": X[:0]}[what]
    X[:1] = torch.nan
    told = r"has a tensor of shape \(0, 6\)" if what == "no rows" else "has NaN"
    for ask in (
        lambda: icd.gauge.groups(net, X),
        lambda: icd.gauge.lock(net, strength=100.0, groups="all", data=X),
        lambda: icd.gauge.equalize(net, data=X),
    ):
        with pytest.raises(ValueError, match=f"the batch of inputs must have rows.*{told}"):
            ask()


def test_outputs_that_are_nan_verify_nothing():
    net = smooth(Log())
    with torch.no_grad():
        net[2].bias.fill_(-30.0)
    for ask in (icd.gauge.groups, icd.gauge.equalize):
        with pytest.raises(ValueError, match="outputs on the batch must be numbers"):
            ask(net)
    with torch.no_grad():
        net[2].bias.copy_(torch.tensor([0.0, 30.0, 30.0]))  # the first, in some rows
    X = torch.randn(20, 6)
    assert 0 < int(net(X).isnan().sum()) < 20
    assert icd.gauge.groups(net, X) == []
    pair = nn.Sequential(nn.Linear(6, 6), *net)
    assert [g.kind for g in icd.gauge.groups(pair, X)] == ["linear"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_named(value):
    net = smooth()
    with torch.no_grad():
        net[0].weight[0, 0] = value
    for ask in (
        lambda: icd.gauge.groups(net),
        lambda: icd.gauge.equalize(net),
        lambda: icd.gauge.lock(net, strength=10.0),
        lambda: icd.gauge.lock(net, strength=10.0, groups="all"),
    ):
        with pytest.raises(ValueError, match=r"weights must be finite, and '0\.weight' has"):
            ask()


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ([[1.0, -torch.inf]], [[1.0, -torch.inf]], 0.0),  # a mask
        ([[1.0, -torch.inf]], [[1.0, torch.inf]], torch.inf),
        ([[1.0, torch.nan], [3.0, 4.0]], [[1.0, torch.nan], [3.0, 9.0]], 1.0),
        ([[1.0, torch.nan]], [[1.0, torch.nan]], torch.inf),
        ([[1.0]], [[torch.nan]], torch.inf),
        ([[]], [[]], torch.inf),
    ],
)
def test_what_is_not_finite_is_no_evidence(before, after, wanted):
    assert change([torch.tensor(before)], [torch.tensor(after)]) == wanted
