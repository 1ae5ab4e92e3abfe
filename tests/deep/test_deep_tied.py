"""Networks that use a weight in several places, against autograd on the network as it stands."""

import copy
import logging

import pytest
from torch_cases import torch
from torch_nets import data, states_equal

import immucond.deep as icd
import immucond.torch as ict

# Settings here are for what is tested, and do not immunize.
pytestmark = [
    pytest.mark.usefixtures("short_probes"),
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.filterwarnings("ignore:the (primary|harmful) features have rank"),
]

nn = torch.nn
parametrize = torch.nn.utils.parametrize

LR, LAMBDAS = 0.05, (0.02, 3.0)


class Tower(nn.Module):
    """Four square layers: any of them can be tied to the head, of the same shape."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.stem = nn.Linear(36, 6)
        self.front = nn.Linear(6, 6)
        self.block = nn.Linear(6, 6)
        self.head = nn.Linear(6, 6)

    def forward(self, x):
        x = torch.tanh(self.stem(self.flatten(x)))
        x = torch.tanh(self.front(x))
        return self.head(torch.tanh(self.block(x)))


class Functional(Tower):
    """A weight of the head is read in the midst of the forward pass."""

    def forward(self, x):
        x = torch.tanh(self.stem(self.flatten(x)))
        x = torch.tanh(nn.functional.linear(x, self.weight()))
        return self.head(torch.tanh(self.block(x)))

    def weight(self):
        return self.head.weight


class Detached(Functional):
    def weight(self):
        return self.head.weight.detach()


class Held(Functional):
    """The head is kept where no one finds it among the modules."""

    def __init__(self):
        super().__init__()
        self.others = [self.head]

    def weight(self):
        return self.others[0].weight


class Of(nn.Module):
    """A parametrization: the weight is another module's, times a half."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def forward(self, weight):
        return 0.5 * self.other.weight + 0.0 * weight


class Buffered(Tower):
    """A frozen layer reads the head's memory through a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", self.head.weight.detach())

    def forward(self, x):
        x = torch.tanh(self.stem(self.flatten(x)))
        x = torch.tanh(nn.functional.linear(x, self.memory))
        return self.head(torch.tanh(self.block(x)))


def build(kind=Tower, tie=lambda _: None):
    torch.manual_seed(0)
    model = kind()
    tie(model)
    return model.eval()


def parameter_of(where):
    def tie(model):
        getattr(model, where).weight = model.head.weight

    return tie


def memory_of(where):
    def tie(model):
        getattr(model, where).weight.data = model.head.weight.data

    return tie


def parametrized(model):
    parametrize.register_parametrization(model.head, "weight", Of(model.front))


def module(model):
    model.front = model.block


KINDS = {
    "none": lambda: build(),
    "parameter of the block": lambda: build(tie=parameter_of("block")),
    "parameter of the front": lambda: build(tie=parameter_of("front")),
    "memory of the block": lambda: build(tie=memory_of("block")),
    "memory of the front": lambda: build(tie=memory_of("front")),
    "parametrization": lambda: build(tie=parametrized),
    "module": lambda: build(tie=module),
    "functional": lambda: build(Functional),
    "detached": lambda: build(Detached),
    "held in a list": lambda: build(Held),
    "buffer": lambda: build(Buffered),
}
MEETS_THE_FRONT = [
    kind for kind in KINDS if kind not in {"none", "parameter of the block", "memory of the block"}
]


def tasks(count=64):
    return {
        name: torch.utils.data.DataLoader(data(count, seed), batch_size=64)
        for name, seed in (("primary", 1), ("harmful", 2))
    }


def steps_of_autograd(model, trainable, method, steps):
    """The same descent with every gradient left to autograd; batches are whole tasks."""
    model = copy.deepcopy(model) if not shares_memory(model) else model
    if trainable is not None:
        model.requires_grad_(False)
        for name in (trainable, "head"):
            model.get_submodule(name).requires_grad_()
    (x, y), (x_H, _) = data(64, 1)[:], data(64, 2)[:]
    for _ in range(steps):
        Z = []
        hook = model.head.register_forward_pre_hook(lambda _, args, Z=Z: Z.append(args[0]))
        logits = model(x)
        model(x_H)
        hook.remove()
        if method == "algorithm1":
            loss = nn.functional.cross_entropy(logits, y)
            total = loss + ict.ImmunizationLoss(*LAMBDAS)(*Z)
        else:  # the loss reaches the head where it stands as the head, and nothing else
            weight, bias = model.head.weight, model.head.bias
            at_head = nn.functional.linear(Z[0].detach(), weight, bias)
            total = nn.functional.cross_entropy(at_head, y) + LAMBDAS[1] * ict.r_ill(features=Z[1])
        model.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= LR * parameter.grad
    return model


def shares_memory(model):
    """Whether a plain copy would not be tied any more."""
    storages = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    return len(storages) < len([*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("method", ["algorithm1", "r_ill"])
@pytest.mark.parametrize("trainable", [None, "block"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_autograd(kind, trainable, method):
    model = KINDS[kind]()
    before = copy.deepcopy(model.state_dict())
    done = icd.immunize(
        model,
        split="head",
        **tasks(),
        method=method,
        lambdas=LAMBDAS if method == "algorithm1" else (0.0, LAMBDAS[1]),
        trainable=trainable,
        epochs=3,
        lr=LR,
        momentum=0.0,
    )
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    wanted = steps_of_autograd(KINDS[kind](), trainable, method, 3).state_dict()
    for name, x in done.model.state_dict().items():
        moved = (wanted[name] - before[name]).abs().max()
        assert torch.allclose(x, wanted[name], rtol=0, atol=2e-4 * float(moved) + 1e-7), name


@pytest.mark.parametrize("kind", MEETS_THE_FRONT)
def test_activations_that_depend_on_what_is_trained_are_not_kept(kind, caplog):
    model = KINDS[kind]()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"has a weight of what is trained|changes with their w|reaches past them"
    ):
        icd.keep_activations(model, tasks()["primary"], split="head", trainable="block")
    assert states_equal(model, _with(model, before))
    with caplog.at_level(logging.WARNING, logger="immucond"):
        icd.immunize(model, split="head", **tasks(), trainable="block")
    assert "primary runs through the whole model in every epoch" in caplog.text


def _with(model, state):
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("kind", ["none", "parameter of the block", "memory of the block"])
def test_activations_before_a_tie_are_kept(kind, caplog):
    with caplog.at_level(logging.WARNING, logger="immucond"):
        icd.immunize(KINDS[kind](), split="head", **tasks(), trainable="block")
    assert caplog.text == ""


def test_a_graph_that_is_alive_survives_the_check():
    model = build()
    loss = model(data(8, 1)[:][0]).square().sum()
    icd.keep_activations(model, tasks()["primary"], split="head", trainable="block")
    loss.backward()
    assert model.stem.weight.grad.isfinite().all()


def test_memory_that_is_shared_stays_shared_in_the_copy():
    model = build(tie=memory_of("front"))
    done = icd.immunize(model, split="head", **tasks()).model
    assert done.front.weight.data_ptr() == done.head.weight.data_ptr()
    assert done.front.weight.data_ptr() != model.front.weight.data_ptr()
    with pytest.raises(ValueError, match=r"'front.weight' and 'head.weight' share memory"):
        icd.immunize(model, split="head", **tasks(), device="meta")


class Twice(Tower):
    """The head under two names, and run by the second."""

    def __init__(self):
        super().__init__()
        self.output = self.head

    def forward(self, x):
        x = torch.tanh(self.stem(self.flatten(x)))
        return self.output(torch.tanh(self.block(x)))


def test_the_closed_form_replaces_a_head_under_all_its_names():
    model = build(Twice)
    done = icd.immunize(model, split="head", **tasks(), method="closed_form")
    assert done.model.output is done.model.head
    assert done.model.output is not model.head
    found = icd.rir(done.model, model, **tasks(), split=(done.split, "head"), groups=1, size=64)
    assert found.mean > 2


@pytest.mark.parametrize("method", ["closed_form", "fade"])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_before_the_head_keep_the_logits_or_say_why_not(kind, method):
    model = KINDS[kind]()
    options = {"split": "head", **tasks(), "method": method}
    if kind in {"functional", "detached"}:
        with pytest.raises(ValueError, match=r"'head'.* it reads the head elsewhere too"):
            icd.immunize(model, **options)
        return
    done = icd.immunize(model, **options)
    x, _ = data(50, 3)[:]
    with torch.no_grad():
        assert torch.allclose(done.model(x), model(x), atol=1e-4)


def test_a_block_that_is_tied_to_the_head_is_something_to_train():
    model = build(tie=parameter_of("block"))
    model.block.bias = model.head.bias
    done = icd.immunize(model, split="head", **tasks(), trainable="block")
    assert not torch.equal(done.model.block.weight, model.block.weight)
    with pytest.raises(ValueError, match="no parameter of the trainable blocks"):
        icd.immunize(model, split="head", **tasks(), trainable="head")


# ---- weights that are other Parameters in the same memory, converted to another dtype ----


class Mirrored(nn.Module):
    """The last layer's weight is the first one's memory, transposed: another Parameter."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.tie()

    def tie(self):
        self.three.weight = nn.Parameter(self.one.weight.detach().T)
        return self

    def forward(self, x):
        return self.head(torch.tanh(self.three(torch.tanh(self.two(self.one(x))))))


def test_gauges_leave_alone_what_shares_memory_in_float32():
    torch.manual_seed(0)
    net, X = Mirrored(), torch.randn(8, 6)
    before = net(X).detach()
    assert icd.gauge.groups(net, X) == []
    for changed in (
        icd.gauge.equalize(net, data=X).model,
        icd.gauge.lock(net, strength=10.0, groups="all", data=X),
    ):
        assert torch.equal(changed(X), before)


def test_erase_leaves_alone_what_shares_memory_in_half_precision():
    torch.manual_seed(0)
    net = Mirrored()
    with torch.no_grad():
        net.head.bias.zero_()
        net.one.weight.mul_(3.0)
    net, X = net.bfloat16().tie(), 3.0 * torch.randn(600, 6).bfloat16()
    rows = list(zip(X.split(100), net(X).argmax(1).split(100), strict=True))
    done = icd.erase(net, rows[:3], held_out=rows[3:], tol=0.25)
    assert {"one", "three"} <= set(done.skipped)
    assert torch.equal(done.model.one.weight, net.one.weight)
    assert torch.equal(done.model.three.weight, net.one.weight.T)
