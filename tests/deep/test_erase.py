"""Erasure takes what the primary task does not use out of a network's weights, and no more."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import immucond as ic
import immucond.deep as icd
from immucond.deep._batches import Loaded
from immucond.deep.erasure._exact import exact_product
from immucond.deep.erasure._layers import layers_of
from immucond.deep.erasure._run import Recovery
from immucond.deep.erasure._utility import Utility

Batches = list[tuple[Tensor, Tensor]]


def net_of(used: int = 2, inputs: int = 6, width: int = 12) -> nn.Sequential:
    """Return a network whose head reads the hidden units of the first inputs alone."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
    )
    with torch.no_grad():
        net[0].weight.zero_()
        for unit in range(width):  # each hidden unit of one input
            net[0].weight[unit, unit % inputs] = 1.0
        mine = torch.arange(width) % inputs < used
        net[2].weight.copy_(torch.where(mine[:, None] == mine[None, :], net[2].weight, 0.0))
        net[2].bias.zero_()
        net[4].weight.mul_(3.0 * mine)
        net[4].bias.zero_()
    return net.eval()


def data(net: nn.Module, rows: int, seed: int, inputs: int = 6) -> Batches:
    """Return primary rows with the classes that the network tells."""
    X = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return list(zip(X.split(200), net(X).argmax(1).split(200), strict=True))


def harmful(rows: int, seed: int, inputs: int = 6) -> Batches:
    """Return rows whose class is the sign of the last input."""
    X = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))
    return list(zip(X.split(200), (X[:, -1] > 0).long().split(200), strict=True))


def accuracy(net: nn.Module, batches: Batches) -> float:
    with torch.no_grad():
        return float(np.mean([float((net(x).argmax(1) == y).double().mean()) for x, y in batches]))


# ---- layers ----


class Images(nn.Module):
    """A padded convolution before a batch norm, one with a bias, one in groups, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(5, 5, 1, groups=5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.norm(self.first(x)).relu())
        return self.head(self.grouped(x).mean((2, 3)))


class Words(nn.Module):
    """An embedding, transformers' layer with its weight transposed, a layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.words = nn.Embedding(20, 6)
        self.turned = Conv1D(5, 6)
        self.plain = nn.Linear(5, 4, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.turned(self.words(x)).tanh()).mean(1))


def folded(net: nn.Module, x: Tensor, name: str, of: str) -> tuple[Tensor, Tensor]:
    """Return what a layer should put out with a map folded in, and what it does."""
    net = net.double().eval()
    layer = layers_of(net, x, None).layers[name]
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((layer.width, 2)) for _ in range(2))
    mean = rng.standard_normal(layer.width) if layer.shifts else np.zeros(layer.width)
    seen: list[Tensor] = []
    net.get_submodule(of).register_forward_hook(lambda *passed: seen.append(passed[-1]))
    axis = 1 if of in ("first", "norm", "second") else -1
    P, mu = torch.from_numpy(left @ right.T), torch.from_numpy(mean)
    with torch.no_grad():
        if of == name:
            net(x)
            wanted = (mu + (seen[0].movedim(axis, -1) - mu) @ P).movedim(-1, axis)
        else:  # by the batch norm behind it
            handle = layer.module.register_forward_hook(
                lambda _, __, o: (mu + (o.movedim(1, -1) - mu) @ P).movedim(-1, 1)
            )
            net(x)
            wanted = seen[0]
            handle.remove()
        layer.fold(left, right, mean)
        net(x)
    return wanted, seen[-1]


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_map_of_channels_folds_into_a_convolution(name: str) -> None:
    net = Images()
    with torch.no_grad():
        net.norm.running_mean.uniform_(-1.0, 1.0)
        net.norm.weight.uniform_(0.5, 2.0)
    wanted, got = folded(
        net, torch.randn(4, 3, 8, 8).double(), name, "norm" if name == "first" else name
    )
    torch.testing.assert_close(got, wanted, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "name"),
    [(Images, "first"), (Images, "second"), (Words, "words"), (Words, "turned"), (Words, "plain")],
)
def test_a_map_changes_what_its_layer_names_and_nothing_else(
    make: type[nn.Module], name: str
) -> None:
    """So that a trial is undone by putting those back."""
    net = make().eval()
    x = torch.arange(20).reshape(4, 5) if make is Words else torch.randn(4, 3, 8, 8)
    layer, before = layers_of(net, x, None).layers[name], copy.deepcopy(net.state_dict())
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((layer.width, 2)))[0]
    layer.fold(Q, Q, np.arange(layer.width) * float(layer.shifts))
    changed = {n: x for n, x in net.state_dict().items() if not torch.equal(x, before[n])}
    mine = [x.data_ptr() for x in layer.parameters]
    assert sorted(x.data_ptr() for x in changed.values()) == sorted(mine)


@pytest.mark.parametrize("name", ["words", "turned", "plain"])
def test_a_map_folds_into_layers_of_words(name: str) -> None:
    wanted, got = folded(Words(), torch.arange(40).reshape(4, 10) % 20, name, name)
    torch.testing.assert_close(got, wanted, rtol=0.0, atol=1e-5)


def test_layers_that_cannot_take_a_map_are_named() -> None:
    found = layers_of(Images().eval(), torch.randn(2, 3, 8, 8), None)
    assert list(found.layers) == ["first", "second"]
    assert found.head == "head"
    assert found.skipped == {"grouped": "no layer that a map can be folded into"}


def test_tied_and_idle_layers_are_named() -> None:
    net = nn.Module()
    net.a, net.b, net.idle, net.head = (
        nn.Linear(3, 3),
        nn.Linear(3, 3),
        nn.Linear(3, 3),
        nn.Linear(3, 2),
    )
    net.b.weight = net.a.weight
    net.forward = lambda x: net.head(net.b(net.a(x)))  # type: ignore[method-assign]
    found = layers_of(net, torch.randn(4, 3), None)
    assert not found.layers
    assert found.skipped == {
        "a": "its weight is tied to another", "b": "its weight is tied to another",
        "idle": "it never ran by itself",
    }  # fmt: skip


# ---- what goes, and what stays ----


def test_what_the_primary_task_does_not_use_is_gone() -> None:
    net = net_of()
    primary, held_out = data(net, 800, 1), data(net, 1000, 2)
    done = icd.erase(
        net, primary, held_out=held_out, tol=0.0, harmful=harmful(600, 3),
        harmful_held_out=harmful(600, 4),
    )  # fmt: skip
    assert done.lost <= 0.0
    assert done.ranks["0"][0] <= 2
    assert done.leak_before is not None
    assert done.leak is not None
    assert done.leak_before.ceiling > 0.95
    assert done.leak.ceiling < done.leak.majority + 0.08
    # By what the network itself does with other values of the inputs that are not used.
    X = torch.randn(50, 6)
    moved = X.clone()
    moved[:, 2:] = torch.randn(50, 4)
    with torch.no_grad():
        one, other = (done.model[:4](x) for x in (X, moved))
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-3)
        torch.testing.assert_close(done.model(X).argmax(1), net(X).argmax(1))


def test_primary_rows_alone_do_as_well() -> None:
    net = net_of()
    done = icd.erase(net, data(net, 800, 1), held_out=data(net, 1000, 2), tol=0.0)
    assert done.ranks["0"][0] <= 2
    assert done.leak is None
    X, more = torch.randn(50, 6), torch.randn(50, 4)
    with torch.no_grad():
        one, other = (done.model[:4](x) for x in (X, torch.cat([X[:, :2], more], 1)))
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-5)
    found = icd.leak_profile(
        done.model, harmful(600, 3), primary=data(net, 800, 1), held_out=harmful(600, 4),
        untrained=False,
    )  # fmt: skip
    assert found.ceiling < found.majority + 0.08


def test_no_gauge_brings_it_back() -> None:
    net = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)).double().eval()
    primary, held_out = (
        [(x.double(), net(x.double()).argmax(1)) for x, _ in harmful(800, seed)] for seed in (1, 2)
    )
    done = icd.erase(net, primary, held_out=held_out, tol=0.01)
    locked = icd.gauge.lock(done.model, strength=1e3, groups="linear", seed=1)
    task = [(x.double(), y) for x, y in harmful(600, 3)]
    test = [(x.double(), y) for x, y in harmful(600, 4)]
    plain, hidden = (
        icd.leak_profile(
            n, task, primary=primary, held_out=test, untrained=False, computed_in="float32"
        )
        for n in (done.model, locked)
    )
    for name, found in plain.cuts.items():
        assert found.rank == hidden.cuts[name].rank
        assert np.mean(found.predictions != hidden.cuts[name].predictions) < 0.01


def rank_of(W: np.ndarray[Any, Any], prime: int = 2**61 - 1) -> int:
    """Rank in exact arithmetic, by elimination modulo a prime: less by a chance of 1e-15 alone."""
    ratios = [[float(x).as_integer_ratio() for x in row] for row in W]
    rows = [[top * pow(below, -1, prime) % prime for top, below in row] for row in ratios]
    rank = 0
    for column in range(W.shape[1]):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, prime)
        for i in range(rank + 1, len(rows)):
            by = rows[i][column] * inverse
            rows[i] = [(x - by * y) % prime for x, y in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 24), (np.float64, 53)])
def test_a_product_is_stored_with_its_rank(dtype: Any, digits: int) -> None:
    rng = np.random.default_rng(0)
    for d, r, n in ((12, 3, 15), (9, 1, 9), (16, 9, 10), (5, 0, 4), (64, 20, 30)):
        Q = np.linalg.qr(rng.standard_normal((d, r)))[0] if r else np.zeros((d, 0))
        Q[:2] *= 1e-6  # rows of any size
        B = rng.standard_normal((r, n)) * 10.0 ** rng.integers(-20, 20, n)  # and columns
        found = exact_product(Q, B, digits)
        assert np.array_equal(found.astype(dtype), found)
        assert rank_of(found) == min(r, n)
        if r:
            size = np.abs(Q).max(1)[:, None] * np.abs(B).max(0)
            assert np.max(np.abs(found - Q @ B) / size) < r * 2.0 ** (3 - digits / 2)


@pytest.mark.parametrize("positive", [True, False])
def test_a_product_of_many_terms_keeps_its_digits(positive: bool) -> None:
    """Whole numbers take the room that their products need, and not that of their sizes."""
    rng = np.random.default_rng(1)
    Q = np.linalg.qr(rng.standard_normal((400, 380)))[0]
    B = rng.standard_normal((380, 300))
    B[:, 0] = np.sign(Q[0])  # a column as wide as can be
    B[:, 1] = Q[:, 2] @ Q  # and one whose product is a unit vector, nearly
    if positive:
        Q, B = np.abs(Q), np.abs(B)  # where nothing cancels
    found, true = exact_product(Q, B, 24), Q @ B
    assert np.array_equal(found.astype(np.float32), found)
    lost = np.linalg.norm(found - true, axis=0)
    assert np.max(lost / np.linalg.norm(true, axis=0)) < 2.0**-7
    assert np.linalg.norm(lost) < 2.0**-9 * np.linalg.norm(true)


def test_a_column_that_rounding_makes_too_wide_has_a_digit_less() -> None:
    """Just below 2^24 before, and an odd number above it after, which float32 does not hold."""
    A, B = np.full((1, 15), 1537 / 2048), np.full((15, 1), 727.6 / 1024)
    B[0] = 727 / 1024
    assert 1537 * (727 + 14 * 727.6) < 2**24 < 1537 * (727 + 14 * 728)
    found = exact_product(A, B, 24)
    assert np.array_equal(found.astype(np.float32), found)


def test_rounding_tells_nothing_of_what_is_gone() -> None:
    """Whoever computes in float64 sees no more than the ranks; a rounded product shows it all."""
    net = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)).eval()
    rows = [(x, net(x).argmax(1)) for x, _ in harmful(800, 1)]
    done = icd.erase(
        net, rows, held_out=[(x, net(x).argmax(1)) for x, _ in harmful(800, 2)], tol=0.01
    )
    wide = copy.deepcopy(done.model).double()
    for name, (rank, _) in done.ranks.items():
        assert rank_of(wide.get_parameter(f"{name}.weight").detach().numpy()) <= rank
    X = torch.randn(500, 6).double()
    with torch.no_grad():
        features = wide[:2](X).numpy()
    s = np.linalg.svd(features - features.mean(0), compute_uv=False)
    assert np.count_nonzero(s > 1e-13 * s[0]) == done.ranks["1"][0]


def test_the_output_of_each_layer_has_its_rank() -> None:
    net = net_of(4)
    done = icd.erase(net, data(net, 800, 1), held_out=data(net, 800, 2), tol=0.05)
    seen: dict[str, Tensor] = {}
    for name in done.ranks:
        done.model.get_submodule(name).register_forward_hook(
            lambda *passed, name=name: seen.update({name: passed[-1]})
        )
    done.model.double()(torch.randn(300, 6).double())
    for name, (rank, width) in done.ranks.items():
        rows = seen[name].detach().numpy()
        s = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
        assert np.count_nonzero(s > 1e-5 * s[0]) == rank < width


def test_of_two_directions_that_cost_alike_the_harmful_one_goes() -> None:
    """The head needs inputs 0 and 1 alike; the harmful rows vary along 1 alone."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3))
        net[0].bias.zero_()
        net[1].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]))
    primary, held_out = data(net, 1000, 1, 3), data(net, 1000, 2, 3)

    def rows(seed: int) -> Batches:
        X = torch.randn(500, 3, generator=torch.Generator().manual_seed(seed)) * 0.1
        X[:, 1] *= 30.0
        return [(X, (X[:, 1] > 0).long())]

    done = icd.erase(
        net, primary, held_out=held_out, tol=0.5, harmful=rows(3), harmful_held_out=rows(4)
    )  # fmt: skip
    P = torch.linalg.svd(done.model[0].weight.detach())[2][0]  # what is left
    assert done.ranks["0"][0] == 1
    assert abs(float(P[0])) > 0.9
    assert done.leak is not None
    assert done.leak.ceiling < 0.75


def test_variance_is_principal_components() -> None:
    net = net_of(6)
    primary = data(net, 800, 1)
    done = icd.erase(
        net, primary, held_out=data(net, 800, 2), tol=0.1, metric="variance", modules="0", rounds=1
    )
    X = torch.cat([x for x, _ in primary])
    with torch.no_grad():
        a = net[0](X).double().numpy()
        b = done.model[0](X).double().numpy()
    mean = a.mean(0)
    V = np.linalg.svd(a - mean, full_matrices=False)[2][: done.ranks["0"][0]]
    np.testing.assert_allclose(b, mean + (a - mean) @ V.T @ V, atol=1e-2)
    assert done.method == "pca"


def test_costs_are_in_units_of_what_a_layer_is_worth() -> None:
    """Of half of both layers' worths here; without harmful rows no map of the ranks costs less."""
    net = net_of(4)
    primary = data(net, 600, 1)
    path = icd.erasure_path(net, primary)
    done = icd.erase(net, primary, held_out=data(net, 600, 2), tol=0.05, path=path)
    values = {name: np.linalg.eigvalsh(each.path.worth) for name, each in path.worth.items()}
    assert list(values) == ["0", "2"]
    unit = sum(s.sum() for s in values.values()) / 2.0
    stays = {name: s > done.curve[-1].price * unit for name, s in values.items()}
    assert done.ranks == {name: (int(s.sum()), 12) for name, s in stays.items()}
    lost = sum(s[~stays[name]].sum() for name, s in values.items()) / unit
    assert lost > 1e-3
    assert (done.bound, done.curve[-1].cost) == pytest.approx((lost, lost), rel=1e-9)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_means_of_harmful_classes_weigh_ten_times_on_top(labelled: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    y = torch.arange(400) % 4
    X = torch.randn(400, 6) + torch.nn.functional.one_hot(y, 6)
    H = [(X, y)] if labelled else [X]
    path = icd.erasure_path(net, data(net, 400, 1), harmful=H).worth["0"].path
    Z = net[0](X).detach().double().numpy()
    means = np.stack([Z[y == c].mean(0) for c in range(4)])
    wanted = np.cov(Z.T, bias=True) + 10.0 * labelled * np.cov(means.T, bias=True)
    R = path.root.scale * path.root.matrix
    assert path.harm is not None
    np.testing.assert_allclose(R.T @ path.harm @ R, wanted, rtol=1e-4, atol=1e-5)


# ---- the tolerance, by rows of one's own ----


@pytest.mark.parametrize("tol", [0.003, 0.01, 0.1])
def test_no_more_is_lost_than_allowed(tol: float) -> None:
    net = net_of(6)
    held_out = data(net, 1000, 2)
    done = icd.erase(net, data(net, 800, 1), held_out=held_out, tol=tol)
    assert done.primary == pytest.approx(accuracy(done.model, held_out))
    assert accuracy(net, held_out) - accuracy(done.model, held_out) <= tol
    assert [stage.kept for stage in done.curve] == sorted(
        (stage.kept for stage in done.curve), reverse=True
    )
    assert done.curve[-1].kept == done.kept[0]


def test_targets_are_measured_by_the_logits() -> None:
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)).eval()
    rows = [(x, net(x).detach()) for x, _ in harmful(600, 1)]
    test = [(x, net(x).detach()) for x, _ in harmful(600, 2)]
    done = icd.erase(net, rows, held_out=test, tol=0.02, metric="gram")
    now = torch.cat([done.model(x).detach() for x, _ in test])
    was = torch.cat([y for _, y in test])
    lost = float((now - was).square().sum() / (was - was.mean(0)).square().sum())
    assert done.measure == "logits"
    assert done.lost == pytest.approx(lost, rel=1e-5)
    assert done.lost <= 0.02


def test_as_many_rows_may_be_lost_as_the_tolerance_says() -> None:
    """3 of 1000 are 0.003, and 1 - 0.997 is more in floating point."""
    net = net_of(6)
    primary, held_out = data(net, 600, 1), data(net, 1000, 2)
    path, more = icd.erasure_path(net, primary), []
    for tol in (0.01, 0.02, 0.05, 0.1, 0.2):
        done = icd.erase(net, primary, held_out=held_out, tol=tol, path=path)
        rows = 1000 - round(1000 * done.primary)
        assert done.lost == rows / 1000
        again = icd.erase(net, primary, held_out=held_out, tol=rows / 1000, path=path)
        assert (again.kept, again.lost) == (done.kept, done.lost)
        more.append(done.primary_before - done.primary > rows / 1000)
    assert any(more)


def test_logits_that_never_vary_are_all_lost_where_they_move() -> None:
    net, x = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)).eval(), torch.randn(40, 6)
    with torch.no_grad():
        net[1].weight.zero_()
    utility = Utility(net, "1", Loaded([x], torch.device("cpu")))
    assert (utility.measure, utility.of(net)) == ("logits", 1.0)
    net[1].bias.data.add_(1.0)
    assert utility.of(net) == 0.0


def test_a_round_may_lose_its_share() -> None:
    net, told = net_of(6), []
    icd.erase(
        net, data(net, 600, 1), held_out=data(net, 600, 2), tol=0.06, rounds=3,
        callback=lambda trial, record: told.append((trial, record)),
    )  # fmt: skip
    allowed = {record["round"]: record["allowed"] for _, record in told}
    assert allowed == pytest.approx({1: 0.02, 2: 0.04, 3: 0.06})
    assert all(trial <= record["trials"] for trial, record in told)


def test_recovery_stays_within_what_is_left() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))
    with torch.no_grad():
        for at in (0, 2, 4):
            net[at].weight.mul_(2.0)
    primary, held_out = data(net.eval(), 1600, 1), data(net, 1600, 2)
    plain, recovered = (
        icd.erase(net, primary, held_out=held_out, tol=0.03, recover=n, lr=3e-3) for n in (0, 80)
    )
    assert recovered.lost <= 0.03
    assert recovered.kept[0] <= plain.kept[0]
    assert recovered.primary > plain.primary
    for name, (rank, _) in recovered.ranks.items():
        weight = recovered.model.get_parameter(f"{name}.weight").detach().numpy()
        assert rank_of(weight) <= rank  # in exact arithmetic, after the last step too


def test_recovery_that_gains_nothing_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although what it loses would be allowed: with the same directions it never loses more."""

    def spoil(net: nn.Module) -> nn.Module:
        with torch.no_grad():
            net[4].bias[0] += 0.3
        return net

    monkeypatch.setattr(Recovery, "run", lambda _, work, *__: spoil(work))
    net = net_of(6)
    held_out = data(net, 1000, 2)
    path = icd.erasure_path(net, data(net, 600, 1))
    plain, recovered = (
        icd.erase(net, data(net, 600, 1), held_out=held_out, tol=0.2, path=path, recover=n, lr=1e-3)
        for n in (0, 1)
    )
    worse = 1.0 - accuracy(spoil(copy.deepcopy(plain.model)), held_out)
    assert plain.lost < worse <= 0.2
    assert recovered.curve == plain.curve
    for one, other in zip(recovered.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("make", "name"),
    [(Images, "first"), (Images, "second"), (Words, "words"), (Words, "turned"), (Words, "plain")],
)
def test_a_map_that_is_folded_again_changes_nothing(make: type[nn.Module], name: str) -> None:
    """As recovery does after each step; a batch norm's mean is shifted once."""
    torch.manual_seed(0)
    net = make().double().eval()
    x = torch.arange(20).reshape(4, 5) if make is Words else torch.randn(4, 3, 8, 8).double()
    layer = layers_of(net, x, None).layers[name]
    rng = np.random.default_rng(0)
    right = np.linalg.qr(rng.standard_normal((layer.width, 2)))[0]
    left = right + rng.standard_normal(right.shape)
    left = np.linalg.solve(left.T @ right, left.T).T  # so that it is a projector
    mean = rng.standard_normal(layer.width) if layer.shifts else np.zeros(layer.width)
    layer.fold(left, right, mean)
    with torch.no_grad():
        once = net(x)
        for exact in (True, False, False):
            layer.fold(left, right, mean, exact=exact, again=True)
        torch.testing.assert_close(net(x), once, rtol=0, atol=1e-6)


def test_recovery_of_a_network_with_batch_norms() -> None:
    torch.manual_seed(0)
    net = Images().eval()
    with torch.no_grad():
        net.norm.running_mean.copy_(torch.linspace(-1.0, 1.0, 6))
        net.norm.running_var.fill_(0.1)

    def images(rows: int, seed: int) -> Tensor:
        return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))

    with torch.no_grad():
        net.head.bias.sub_(net(images(400, 0)).mean(0))  # so that it tells classes apart
        primary, held_out = (
            [(x, net(x).argmax(1)) for x in images(800, seed).split(200)] for seed in (1, 2)
        )
    plain, recovered = (
        icd.erase(net, primary, held_out=held_out, tol=0.06, recover=n, modules="first")
        for n in (0, 60)
    )
    assert recovered.lost <= 0.06
    assert (recovered.kept[0], recovered.lost) < (plain.kept[0], plain.lost)


def test_recovery_finds_the_steps_that_a_network_bears() -> None:
    # The same function with one layer's weights a thousandth: steps of 1e-3 are as long as they.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    with torch.no_grad():
        for x, by in ((net[0].weight, 2e-3), (net[0].bias, 1e-3), (net[2].weight, 2e3)):
            x.mul_(by)
    primary, held_out = data(net.eval(), 1600, 1), data(net, 1600, 2)
    lost, kept = {}, {}
    for name, steps, lr in (("not", 0, None), ("long", 80, 1e-3), ("found", 80, None)):
        done = icd.erase(net, primary, held_out=held_out, tol=0.03, recover=steps, lr=lr)
        lost[name], kept[name] = done.lost, done.kept[0]
    assert max(lost.values()) <= 0.03
    assert (kept["long"], lost["long"]) == (kept["not"], lost["not"])  # nothing came of it
    assert (kept["found"], lost["found"]) < (kept["not"], lost["not"])


def test_recovery_leaves_no_gradients_and_what_was_frozen_frozen() -> None:
    net = net_of(6)
    net[0].requires_grad_(False)
    done = icd.erase(
        net, data(net, 400, 1), held_out=data(net, 400, 2), tol=0.1, recover=2, lr=1e-4
    )
    flags = [p.requires_grad for p in net.parameters()]
    assert [p.requires_grad for p in done.model.parameters()] == flags
    assert all(p.grad is None for p in done.model.parameters())


# ---- the network that was given, seeds, files ----


def test_the_network_and_the_random_state_stay() -> None:
    net = net_of().train()
    before = copy.deepcopy(net.state_dict())
    drawn = torch.get_rng_state()
    icd.erase(net.train(), data(net, 400, 1), held_out=data(net, 400, 2))
    assert net.training
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Any) -> None:
    net = net_of(6)
    given = {"primary": data(net, 400, 1), "held_out": data(net, 600, 2)}
    settings: dict[str, Any] = {
        "tol": 0.03, "rounds": 3, "recover": 3, "harmful": harmful(300, 3),
        "harmful_held_out": harmful(300, 4),
    }  # fmt: skip
    whole = icd.erase(net, **given, **settings)
    seen: list[int] = []

    def kill(trial: int, record: Any) -> None:
        seen.append(trial)
        if record["round"] == 2:
            raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        icd.erase(net, **given, **settings, checkpoint=path, callback=kill)
    assert seen == list(range(1, len(seen) + 1))
    again = icd.erase(net, **given, **settings, checkpoint=path)
    for name, x in whole.model.state_dict().items():
        assert torch.equal(x, again.model.state_dict()[name])
    assert again.as_dict() == whole.as_dict()
    other = {"tol": 0.02, "rounds": 4, "recover": 4, "lr": 1e-4, "metric": "gram", "seed": 1,
             "mask": None}  # fmt: skip
    for name, value in other.items():
        with pytest.raises(ValueError, match=f"that of another run: {name} is"):
            icd.erase(net, **given, **{**settings, name: value}, checkpoint=path)
    for name in ("held_out", "harmful", "harmful_held_out"):
        with pytest.raises(ValueError, match="that of another run: data is"):
            icd.erase(net, **{**given, **settings, name: data(net, 600, 9)}, checkpoint=path)


# ---- tokens, half precision ----


def test_a_language_model_with_a_tied_head() -> None:
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    net = transformers.LlamaForCausalLM(config).eval()

    def batches(seed: int) -> list[dict[str, Tensor]]:
        words = torch.randint(0, 40, (12, 9), generator=torch.Generator().manual_seed(seed))
        kept = torch.ones_like(words)
        kept[::2, 6:] = 0
        return [{"input_ids": words, "attention_mask": kept,
                 "labels": torch.where(kept == 1, words, -100)}]  # fmt: skip

    done = icd.erase(net, batches(1), held_out=batches(2), tol=0.05, split="lm_head")
    assert done.skipped == {"model.embed_tokens": "its weight is tied to another"}
    assert len(done.ranks) == 14
    assert done.kept[0] < done.kept[1]
    assert done.rows == 6 * 8 + 6 * 5  # tokens that are predicted, but for padding


def test_half_precision_is_measured_as_it_is_stored() -> None:
    net = net_of(6)
    held_out = data(net, 2000, 2)
    half = copy.deepcopy(net).bfloat16()
    cast = [(x.bfloat16(), y) for x, y in held_out]
    primary = [(x.bfloat16(), y) for x, y in data(net, 600, 1)]
    done = icd.erase(half, primary, held_out=cast, tol=0.05)
    assert {p.dtype for p in done.model.parameters()} == {torch.bfloat16}
    assert done.primary == pytest.approx(accuracy(done.model, cast))
    assert done.lost <= 0.05


def test_rounding_that_eats_the_tolerance_is_refused() -> None:
    half = net_of(2).bfloat16()
    rows, test = (
        [(x.bfloat16(), half(x.bfloat16()).detach().float()) for x, _ in harmful(600, seed)]
        for seed in (1, 2)
    )
    with pytest.raises(ValueError, match=r"rounding to torch\.bfloat16"):
        icd.erase(half, rows, held_out=test, tol=1e-6, metric="gram")


# ---- bad input ----


def test_bad_input() -> None:
    net = net_of(6)
    good: dict[str, Any] = {"held_out": data(net, 300, 2)}
    primary = data(net, 300, 1)

    def refused(match: str, error: type[Exception] = ValueError, **changed: Any) -> None:
        given = {"primary": primary, **good, **changed}
        with pytest.raises(error, match=match):
            icd.erase(given.pop("model", net), given.pop("primary"), **given)

    refused("are the same rows", held_out=primary)
    refused("are the same rows", harmful=primary, harmful_held_out=harmful(200, 4))
    refused("harmful_held_out is given without harmful", harmful_held_out=harmful(200, 3))
    refused("tol", tol=-0.1)
    refused("tol", tol=math.nan)
    refused("metric must be", metric="kappa")
    refused("rounds", rounds=0)
    refused("recover", recover=-1)
    refused("split must name", split="nothing")
    refused("'4': it is the head", modules=["4"])
    refused("no module|matches", modules="nothing*")
    refused("held_out has no batches", held_out=[])
    refused("loader or an iterable", TypeError, held_out=None)
    refused("primary must be a loader or an iterable", TypeError, primary=None)
    refused("batches", TypeError, primary=(torch.randn(5, 6), torch.arange(5)))
    bad = [(torch.full((20, 6), math.nan), torch.zeros(20, dtype=torch.long))]
    refused("NaN|finite", primary=bad)
    x, y = torch.randn(40, 3, 8, 8), torch.arange(40) % 2
    with pytest.raises(ValueError, match=r"'grouped': no layer"):
        icd.erase(Images(), [(x, y)], held_out=[(x + 1.0, y)], modules="grouped")


def test_what_was_measured_once_serves_every_tolerance() -> None:
    """A path gives the bits of the first round, and is refused where anything else was measured."""
    net = net_of(4)
    primary, held_out, H = data(net, 600, 1), data(net, 600, 2), harmful(300, 3)
    path = icd.erasure_path(net, primary, harmful=H, seed=5)
    for tol in (0.005, 0.05):
        given = {"held_out": held_out, "tol": tol, "harmful": H, "seed": 5}
        alone, by_path = (icd.erase(net, primary, **given, **more) for more in ({}, {"path": path}))
        assert by_path.curve == alone.curve
        for one, other in zip(by_path.model.parameters(), alone.model.parameters(), strict=True):
            assert torch.equal(one, other)
    twice = icd.erase(net, primary, held_out=held_out, tol=0.05, rounds=2, seed=5, harmful=H)
    again = icd.erase(
        net, primary, held_out=held_out, tol=0.05, rounds=2, seed=5, harmful=H, path=path
    )
    assert again.curve == twice.curve

    def refused(what: str, *, model: nn.Module = net, rows: Any = primary, **changed: Any) -> None:
        given = {"held_out": held_out, "harmful": H, "seed": 5, **changed}
        with pytest.raises(ValueError, match=f"path is that of another run: {what}"):
            icd.erase(model, rows, path=path, **given)

    refused("data is", harmful=None)
    refused("data is", rows=data(net, 600, 7))
    refused("metric is 'fisher' there and 'gram' here", metric="gram")
    refused("seed is 5 there and 0 here", seed=0)
    refused("model is", model=net_of(5))
    refused("layers is", modules=[next(iter(path.worth))])
    refused("mask is 'attention_mask' there and None here", mask=None)
    path = icd.erasure_path(net, primary, harmful=H, seed=5, modules="0")
    refused("head is '4' there and '2' here", modules="0", split="2")


def test_what_the_task_needs_stays_however_harmful_it_is() -> None:
    """Of what tells the classes the harmful rows have 1e10 times the variance: only a low price."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3))
        net[1].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
        for layer in net:
            layer.bias.zero_()
    size = torch.tensor([1e5, 1.0, 1.0])
    H = [(x * size, (x[:, 1] > 0).long()) for x in torch.randn(2, 400, 3)]
    primary, held_out = ([(x, net(x).argmax(1)) for x in torch.randn(2, 400, 3)] for _ in range(2))
    done = icd.erase(net, primary, held_out=held_out, harmful=H, tol=0.0)
    assert done.ranks["0"] == (1, 3)
    assert done.curve[-1].price < 1e-9


def test_a_tolerance_that_no_rank_meets() -> None:
    """Either of two directions tells the classes, and there are no others."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
    with pytest.raises(ic.ToleranceError, match="leaves every direction"):
        icd.erase(net, data(net, 400, 1, 2), held_out=data(net, 400, 2, 2), tol=0.0, metric="gram")


def test_a_task_that_needs_nothing() -> None:
    net = net_of(6)
    with torch.no_grad():
        net[4].bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="in one class"):
        icd.erase(net, data(net, 300, 1), held_out=data(net, 300, 2), metric="gram")


def test_texts() -> None:
    net = net_of()
    done = icd.erase(
        net, data(net, 400, 1), held_out=data(net, 400, 2), harmful=harmful(300, 3),
        harmful_held_out=harmful(300, 4),
    )  # fmt: skip
    assert "directions left" in repr(done)
    lines = str(done).splitlines()
    assert lines[0].split() == [
        "price",
        "directions",
        "cost",
        "primary",
        "accuracy",
        "ceiling",
        "at",
    ]
    assert len(lines) == 2 + len(done.curve)
    told = done.as_dict()
    assert told["ranks"]["0"] == list(done.ranks["0"])
    assert told["curve"][-1]["primary"] == done.primary
    assert isinstance(ic.linear.erasure(np.eye(2), np.eye(2), 1), ic.linear.Erasure)


def test_a_branch_that_the_logits_do_not_need_goes_whole() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.pooler, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.places = nn.Embedding(1, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x) + self.places(torch.zeros(1, dtype=torch.long))
            self.pooler(h)
            return self.head(h)

    torch.manual_seed(0)
    net = Two().eval()
    done = icd.erase(
        net, data(net, 600, 1), held_out=data(net, 600, 2), tol=0.02, harmful=harmful(300, 3),
        harmful_held_out=harmful(300, 4),
    )  # fmt: skip
    assert done.ranks["pooler"] == (0, 8)
    assert done.skipped == {"places": "what it puts out is not by samples"}
    assert done.leak is not None
    blind = done.leak.cuts["pooler"]
    y = torch.cat([y for _, y in harmful(300, 4)]).numpy()
    most = np.bincount(torch.cat([y for _, y in harmful(300, 3)]).numpy()).argmax()
    assert (blind.rank, blind.accuracy) == (0, float(np.mean(y == most)))
    assert blind.kappa == math.inf


def test_what_is_lost_has_its_standard_error():
    """Of each row beside itself: rows that are right before and after carry none of it."""
    net = net_of(used=6).train()
    held_out = data(net, 400, 1)
    found = icd.erase(net, data(net, 1000, 0), held_out=held_out, tol=0.2)
    assert found.model.training
    before, after = (
        torch.cat([model(x).argmax(1) == y for x, y in held_out]).double().detach().numpy()
        for model in (net.eval(), found.model.eval())
    )
    assert found.lost == pytest.approx(before.mean() - after.mean())
    assert found.lost_error == pytest.approx(np.std(before - after, ddof=1) / 20.0)
    assert 0.0 < found.lost_error < 0.03
    assert f"± {found.lost_error:.2%}" in str(found)
    assert found.as_dict()["lost_error"] == found.lost_error
    batches = [(x, x @ torch.ones(6, 1)) for x, _ in held_out]  # no classes
    numbers = [(x, x[:, :1]) for x, _ in data(net, 1000, 0)]
    with pytest.raises(ValueError, match=r"numbers, of torch.float32, .*give metric='gram'"):
        icd.erase(net, numbers, held_out=batches, tol=0.2)
    regression = icd.erase(net, numbers, held_out=batches, tol=0.2, metric="gram")
    assert regression.measure == "logits"
    assert regression.lost_error is None


def test_a_network_that_puts_out_nan_is_worth_nothing_and_one_that_does_not_run_is_told():
    net = net_of()
    x = torch.randn(40, 6)
    utility = Utility(net, "4", Loaded([(x, net(x).argmax(1))], torch.device("cpu")))
    assert utility.of(net) == 1.0
    spoiled = copy.deepcopy(net)
    spoiled[2].weight.data.fill_(math.nan)
    assert utility.of(spoiled) == 0.0
    constant = copy.deepcopy(net)
    constant[4].bias.data[0] = 100.0  # the share of a class is no worth
    assert utility.of(constant) == 0.0
    narrow = copy.deepcopy(net)
    narrow[0] = nn.Linear(5, 12)
    with pytest.raises((ValueError, RuntimeError), match=r"does not run|shapes"):
        utility.of(narrow)
