"""Which layers erasure folds maps into: those whose folding does what a map of the output would."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

import immucond.deep as icd
from immucond.deep.erasure._layers import layers_of
from immucond.deep.erasure._verify import verified


class InPlace(nn.Module):
    """What the batch norm reads is another output than that which left the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.norm, self.other = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 3)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.relu(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.first(x)).mean((2, 3)))


class Skip(InPlace):
    """The norm's input is read by a skip as well."""

    def body(self, x: Tensor) -> Tensor:
        o = self.conv(x)
        return relu(self.norm(o)) + o


class Added(InPlace):
    """A pre-activation block: what was before is added in place."""

    def body(self, x: Tensor) -> Tensor:
        o = self.conv(relu(x))
        o += x
        return relu(self.norm(o)) + o


class TwoNorms(InPlace):
    def body(self, x: Tensor) -> Tensor:
        o = self.conv(x)
        return relu(self.norm(o)) + relu(self.other(o))


class SharedNorm(InPlace):
    def body(self, x: Tensor) -> Tensor:
        return relu(self.norm(self.conv(x))) + relu(self.norm(self.second(x)))


class Plain(InPlace):
    """As residual networks are: each convolution has a norm of its own."""

    def body(self, x: Tensor) -> Tensor:
        y = relu(self.norm(self.conv(x)))
        return relu(self.other(self.second(y))) + y


class Scaled(nn.Embedding):
    def forward(self, x: Tensor) -> Tensor:
        return 8.0 * super().forward(x)


class Rectified(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return relu(super().forward(x))


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, w, self.bias, padding=1)


class Pooled(nn.Module):
    """A layer, and a head on its output's mean."""

    def __init__(self, layer: nn.Module, *axes: int) -> None:
        super().__init__()
        self.layer, self.head, self.axes = layer, nn.Linear(6, 3), axes

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return self.head(z.mean(self.axes) if self.axes else z)


def images(count: int = 10) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def words(count: int = 10) -> Tensor:
    return torch.randint(0, 20, (count, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def moving(net: nn.Module) -> nn.Module:
    """Give batch norms statistics that are not those of their first day."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize(
    ("make", "shifted"),
    [(InPlace, ()), (Skip, ()), (Added, ()), (TwoNorms, ()), (SharedNorm, ()),
     (Plain, ("conv", "second"))],
)  # fmt: skip
def test_a_norm_takes_the_shift_where_it_alone_reads_the_output(make, shifted):
    """Beside a map that a hook puts in: the logits are the same, for all layers at once."""
    net, x = moving(make()).double(), images().double()
    layers = verified(net, layers_of(net, x, None).layers, x)
    assert "conv" in layers
    assert tuple(name for name, layer in layers.items() if layer.norm is not None) == shifted
    rng = np.random.default_rng(1)
    hooks = []
    maps = {}
    for name, layer in layers.items():
        Q = np.linalg.qr(rng.standard_normal((layer.width, 3)))[0]
        mean = rng.standard_normal(layer.width) if layer.shifts else np.zeros(layer.width)
        maps[name] = Q, mean

        def mapped(P: Tensor, mu: Tensor, _: nn.Module, __: object, o: Tensor) -> Tensor:
            return (mu + (o.movedim(1, -1) - mu) @ P).movedim(-1, 1)

        hook = partial(mapped, torch.from_numpy(Q @ Q.T), torch.from_numpy(mean))
        hooks.append(layer.module.register_forward_hook(hook))
    with torch.no_grad():
        wanted = net(x)
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.fold(maps[name][0], *maps[name], exact=False)
        torch.testing.assert_close(net(x), wanted, rtol=1e-9, atol=1e-9)


def test_a_norm_without_statistics_of_its_own_takes_no_shift():
    """It centres each batch, so that a shift is gone behind it; a map about zero is left."""
    net = moving(Plain())
    net.norm = nn.BatchNorm2d(6, track_running_stats=False)
    inputs = [images(40), images(40).flip(0) + 0.1]
    batches = [(x, (net(x) - net(inputs[0]).mean(0)).argmax(1)) for x in inputs]
    with torch.no_grad():
        net.head.bias -= net(inputs[0]).mean(0)
    layers = verified(net, layers_of(net, inputs[0], None).layers, inputs[0])
    assert {name: layer.norm for name, layer in layers.items()} == {
        "first": None, "conv": None, "second": net.other,
    }  # fmt: skip
    done = icd.erase(net, batches[:1], held_out=batches[1:], tol=0.2)
    assert done.ranks["conv"][0] < 6


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Pooled(Scaled(20, 6), 1), words()),
        (Pooled(Rectified(5, 6)), torch.randn(10, 5)),
        (Pooled(Standardized(1, 6, 3, padding=1), 2, 3), images()),
    ],
)
def test_a_layer_that_does_more_than_its_class_is_left_alone_and_named(net, x):
    net = net.eval()
    with torch.no_grad():
        if isinstance(net.layer, Scaled):
            net.layer.weight.add_(1.0)  # what is shifted is scaled too
        inputs = [torch.cat([x, x.flip(0)]), torch.cat([x.flip(-1), x])]
        batches = [(x, net(x).argmax(1)) for x in inputs]
    assert "layer" in layers_of(net, x, None).layers
    with pytest.raises(ValueError, match="'layer': it is no plain layer: a map of its output does"):
        icd.erasure_path(net, batches)


class Skips(nn.Module):
    """A convolution that a norm and a skip read, and many layers behind."""

    def __init__(self, deep: int, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.rest = nn.Sequential(
            *(part for _ in range(deep) for part in (nn.Linear(width, width), nn.GELU()))
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        o = self.conv(x)
        return self.head(self.rest((relu(self.norm(o)) + o).mean((2, 3))))


@pytest.mark.parametrize("bad", [0, 5])
def test_layers_behind_hide_none_that_does_more_than_its_class(bad):
    """Few directions of each of many layers leave nothing of an error before them."""
    kinds = [Rectified if at == bad else nn.Linear for at in range(12)]
    parts = [part for kind in kinds for part in (kind(128, 128), nn.GELU())]
    net, x = nn.Sequential(*parts, nn.Linear(128, 3)).eval(), torch.randn(20, 128)
    kept = verified(net, layers_of(net, x, None).layers, x)
    assert list(kept) == [str(2 * at) for at in range(12) if at != bad]


def test_layers_behind_hide_no_shift_that_is_read_elsewhere():
    net, x = moving(Skips(12, 64)), images()
    kept = verified(net, layers_of(net, x, None).layers, x)
    assert len(kept) == 13
    assert kept["conv"].norm is None


@pytest.mark.parametrize("axes", [(5,), (1, 5)])
def test_an_output_that_is_by_places_is_told_by_another_number_of_samples(axes):
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(20, 6), nn.Embedding(5, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.words(x) + self.places(torch.arange(5).reshape(axes))).mean(1))

    net = Placed().eval()
    for count in (5, 1, 7):  # as many samples as places among them
        found = layers_of(net, words(count), None)
        assert list(found.layers) == ["words"], count
        assert found.skipped == {"places": "what it puts out is not by samples"}


def test_a_network_of_one_size_of_batches_is_taken_by_that():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x.reshape(7, 5)).tanh())

    assert list(layers_of(Fixed().eval(), torch.randn(7, 5), None).layers) == ["layer"]


def test_a_module_that_puts_out_whole_numbers_is_no_matter():
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(1)

    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.most, self.head = nn.Linear(5, 6), Rounded(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x).tanh()) + self.most(x)[:, None]

    assert list(layers_of(Chosen().eval(), torch.randn(7, 5), None).layers) == ["layer"]


def test_without_a_module_that_a_gradient_reaches_the_head_is_asked_for():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.matrix = nn.Identity(), nn.Parameter(torch.ones(5, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.whole(x.round().long()).float() @ self.matrix

    with pytest.raises(ValueError, match="no linear layer makes the logits: name the head"):
        layers_of(Bare().eval(), torch.randn(7, 5), None)


def test_the_head_is_what_makes_the_logits():
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.main, self.other = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            z = self.body(x).tanh()
            return {"logits": self.main(z), "aux": self.other(z)}

    class Halved(TwoHeads):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            found = super().forward(x)
            return {"logits": found["logits"] / 2.0}

    for make in (TwoHeads, Halved):
        found = layers_of(make().eval(), torch.randn(7, 5), None)
        assert found.head == "main"
        assert not found.layers["other"].used


def test_matrices_that_are_no_layers_weight_are_named():
    class Whole(nn.Linear):
        """A weight in eight bits, as packages that quantize hold it."""

        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            bits = (100.0 * self.weight).round().to(torch.int8)
            self.weight = nn.Parameter(bits.detach(), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight / 100.0, self.bias)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W, self.whole = nn.Parameter(torch.randn(5, 6)), Whole(6, 6)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.normed(self.whole(x @ self.W)).tanh())

    found = layers_of(Own().eval(), torch.randn(7, 5), None)
    assert found.skipped == {
        "": "no layer that a map can be folded into",
        "normed": "its weight is computed from others",
        "whole": "its weight holds no numbers of its own",
    }


def test_a_network_without_gradients_or_finite_logits_is_refused():
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()

    class Frozen(nn.Module):
        def __init__(self, first: int) -> None:
            super().__init__()
            self.net, self.first = net, first

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.net[: self.first](x)
            return self.net[self.first :](x)

    for first in (1, 3):
        with pytest.raises(ValueError, match=r"no gradient reaches what 'net\.0' puts out"):
            layers_of(Frozen(first), torch.randn(7, 5), None)
    with torch.no_grad():
        net[2].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="logits on the first batch of primary are not finite"):
        layers_of(net, torch.randn(7, 5), None)


def test_a_leak_profile_reads_at_the_head_that_makes_the_logits():
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.main = nn.Linear(5, 6), nn.Linear(6, 3)
            self.beside, self.other = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            logits = self.main(self.body(x).tanh())
            return {"logits": logits, "aux": self.other(self.beside(x).tanh())}

    x = torch.randn(120, 5)
    batches = [(part, (part[:, 0] > 0).long()) for part in x.split(40)]
    found = icd.leak_profile(
        TwoHeads(), batches[:1], primary=batches[1:2], held_out=batches[2:], untrained=False
    )
    assert "main (input)" in found.cuts
    assert "other (input)" not in found.cuts
