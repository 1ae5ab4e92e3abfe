"""Runs of deep immunization on disk: an interrupted one ends at the bits of a straight one."""

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import Net, data, loaders, net, states_equal

import immucond.deep as icd
import immucond.torch as ict

nn = torch.nn

# Settings here are for what is tested, and do not immunize.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.usefixtures("short_probes"),
]

SETTINGS = {"split": "head", "trainable": "block2", "lr": 1e-2}


class Augmented(torch.utils.data.Dataset):
    """Samples drawn at random anew, from PyTorch's generator."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        x, y = data(64, 1)[index]
        return x + torch.randn(x.shape), y


class Dropped(Net):
    """A network that draws from PyTorch's generator in every forward pass."""

    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.2))


def own_generators():
    tasks = loaders()
    for task in tasks.values():
        task.generator = task.sampler.generator = torch.Generator().manual_seed(5)
    return tasks


def augmented():
    return loaders() | {"primary": torch.utils.data.DataLoader(Augmented(), 32, shuffle=True)}


def lists():
    return {name: [data(40, seed)[:]] * 3 for name, seed in (("primary", 1), ("harmful", 2))}


RUNS = {
    "kept": (net, loaders, {}),
    "unequal tasks": (net, lambda: loaders(64) | {"harmful": loaders(96)["harmful"]}, {}),
    "augmented": (net, augmented, {}),
    "own generators": (net, own_generators, {"trainable": None, "lr": 1e-3}),
    "lists": (net, lists, {}),
    "adapting": (net, loaders, {"method": "imma"}),
    "adam": (net, loaders, {"optimizer": torch.optim.Adam, "lr": None}),
    "random": (lambda: net(Dropped), loaders, {}),
}


def interrupt(at):
    def callback(step, record):
        if step == at:
            raise KeyboardInterrupt

    return callback


def same(one, other):
    assert states_equal(one.model, other.model)
    assert one.history.keys() == other.history.keys()
    for key, values in one.history.items():
        assert np.array_equal(values, other.history[key])


@pytest.mark.parametrize(
    ("case", "every"), [*((case, 2) for case in RUNS), ("kept", 1), ("augmented", 3)]
)
def test_an_interrupted_run_ends_at_the_same_bits(case, every, tmp_path):
    model, tasks, changes = RUNS[case]
    options = SETTINGS | changes | {"epochs": 4}
    straight = icd.immunize(model(), **tasks(), **options)
    options |= {"checkpoint": tmp_path / "run.pt", "checkpoint_every": every}
    steps = []
    for at in (5, 6):  # the second one goes on from the first
        with pytest.raises(KeyboardInterrupt):
            icd.immunize(model(), **tasks(), callback=interrupt(at), **options)
    resumed = icd.immunize(
        model(), **tasks(), callback=lambda step, _: steps.append(step), **options
    )
    same(straight, resumed)
    assert 6 - every <= steps[0] - 1 < 6  # at most one interval is lost
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


SCRIPT = """
import os, signal, sys
import torch
from torch_nets import loaders, net
import immucond.deep as icd
import immucond.torch as ict

def kill(step, record):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

def kill_writing(state, file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

def callback(step, record):
    if step == 5:
        torch.save = kill_writing

icd.immunize(
    net(), **loaders(), split="head", trainable="block2", lr=1e-2, epochs=4, checkpoint_every=2,
    checkpoint=sys.argv[1], callback=kill if sys.argv[2] == "step" else callback,
)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("during", ["step", "writing"])
def test_a_killed_run_ends_at_the_same_bits(during, tmp_path):
    path, steps = tmp_path / "run.pt", []
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), during],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    resumed = icd.immunize(
        net(),
        **loaders(),
        **SETTINGS,
        epochs=4,
        checkpoint=path,
        callback=lambda step, _: steps.append(step),
    )
    assert steps == [5, 6, 7, 8]
    same(icd.immunize(net(), **loaders(), **SETTINGS, epochs=4), resumed)


def test_more_epochs_go_on_from_fewer(tmp_path):
    options = SETTINGS | {"checkpoint": tmp_path / "run.pt"}
    icd.immunize(net(), **loaders(), epochs=2, **options)
    longer = icd.immunize(net(), **loaders(), epochs=4, **options)
    same(longer, icd.immunize(net(), **loaders(), epochs=4, **SETTINGS))
    again = icd.immunize(net(), **loaders(), epochs=4, callback=interrupt(9), **options)
    same(longer, again)
    with pytest.raises(ValueError, match=r"epochs must be at least 4.*and is 3"):
        icd.immunize(net(), **loaders(), epochs=3, **options)


@pytest.mark.parametrize("method", ["algorithm1", "alignment", "fade"])
def test_a_stopped_run_goes_on(method, tmp_path):
    options = SETTINGS | {"checkpoint": tmp_path / "run.pt", "epochs": 4, "method": method}
    icd.immunize(net(), **loaders(), callback=lambda step, _: step == 4, **options)
    steps = []
    done = icd.immunize(net(), **loaders(), callback=lambda step, _: steps.append(step), **options)
    assert steps == [5, 6, 7, 8]
    same(done, icd.immunize(net(), **loaders(), epochs=4, method=method, **SETTINGS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"lr": 0.5}, r"optimizer is \[0.01, 0.9\] there and \[0.5, 0.9\] here"),
        ({"trainable": None}, r".*trainable is \['block2'\] there and None here"),
        ({"method": "r_ill"}, "method is 'algorithm1' there and 'r_ill' here"),
        ({"lambdas": (1, 2)}, r"lambdas is None there and \[1, 2\] here; terms is"),
        ({"terms": (1, 2)}, r"terms is \[1.0, 10.0\] there and \[1.0, 2.0\] here"),
        (
            {"loss": partial(torch.nn.functional.cross_entropy, label_smoothing=0.1)},
            r"loss is 'torch.nn.functional.cross_entropy' there and .*label_smoothing=0.1\)' here",
        ),
        ({"loss": torch.nn.MSELoss()}, r"loss is .* there and 'MSELoss\(\)"),
        (
            {"optimizer": torch.optim.Adam, "lr": None},
            r"optimizer is .*'torch.optim.adam.Adam', .* here",
        ),
        ({"harmful": loaders()["primary"]}, r"harmful is '64 samples in batches of 32, \w+' there"),
        ({"primary": loaders(96)["primary"]}, r"primary is '64 samples .* and '96 samples"),
        ({"primary": [data(64, 1)[:]]}, r"primary is '64 samples .* and '1 batches, \w+' here"),
    ],
)
def test_checkpoints_of_other_runs_are_refused(change, message, tmp_path):
    options = SETTINGS | {"checkpoint": tmp_path / "run.pt"}
    icd.immunize(net(), **loaders(), **options)
    before = options["checkpoint"].read_bytes()
    if isinstance(change.get("loss"), torch.nn.MSELoss):
        loss = change["loss"]  # of the logits, as a loss that takes labels does
        loss.forward = lambda logits, labels: logits.square().mean() + 0.0 * labels.sum()
    with pytest.raises(ValueError, match=f"that of another run: .*{message}"):
        icd.immunize(net(), **loaders() | options | change)
    assert options["checkpoint"].read_bytes() == before


def smoothed(by):
    return lambda logits, labels: nn.functional.cross_entropy(logits, labels, label_smoothing=by)


def nested(by):
    def loss(logits, labels):
        return (lambda x: by * x)(nn.functional.cross_entropy(logits, labels))

    return loss


class Scaled:
    def __init__(self, by):
        self.by = by

    def __call__(self, logits, labels):
        return torch.as_tensor(self.by).sum() * nn.functional.cross_entropy(logits, labels)


class Weighted(icd.Objective):
    def __init__(self, by):
        self.by = by

    def terms(self, primary, harmful):
        self.state = torch.ones(1)  # what a run leaves there is no setting
        return self.by[0] * ict.r_well(features=primary.features), None


def defaulted(by):
    def loss(logits, labels, by=by):
        return by * nn.functional.cross_entropy(logits, labels)

    return loss


FACTOR = 0.0


def by_a_global(by):
    globals()["FACTOR"] = by
    return lambda logits, labels: FACTOR * nn.functional.cross_entropy(logits, labels)


SETTING = {"smoothing": [0.0]}
CRITERION = nn.CrossEntropyLoss()


def by_a_collection(by):
    SETTING["smoothing"][0] = by / 10
    return lambda a, b: nn.functional.cross_entropy(a, b, label_smoothing=SETTING["smoothing"][0])


def by_a_module_of_the_file(by):
    CRITERION.label_smoothing = by / 10
    return lambda logits, labels: CRITERION(logits, labels)


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by

    def __call__(self, logits, labels):
        return self.by * nn.functional.cross_entropy(logits, labels)


OTHERS = {
    "constant": lambda by: {
        1.0: {"loss": lambda a, b: nn.functional.cross_entropy(a, b, label_smoothing=0.1)},
        5.0: {"loss": lambda a, b: nn.functional.cross_entropy(a, b, label_smoothing=0.5)},
    }[by],
    "name": lambda by: {
        1.0: {"loss": lambda a, b: nn.functional.cross_entropy(a, b)},
        5.0: {"loss": lambda a, b: nn.functional.multi_margin_loss(a, b)},
    }[by],
    "closure": lambda by: {"loss": smoothed(by / 10)},
    "nested": lambda by: {"loss": nested(by)},
    "default": lambda by: {"loss": defaulted(by)},
    "global": lambda by: {"loss": by_a_global(by)},
    "global collection": lambda by: {"loss": by_a_collection(by)},
    "global module": lambda by: {"loss": by_a_module_of_the_file(by)},
    "slots": lambda by: {"loss": Slotted(by)},
    "module": lambda by: {"loss": nn.CrossEntropyLoss(label_smoothing=by / 10)},
    "module's weight": lambda by: {"loss": nn.CrossEntropyLoss(torch.full((3,), by))},
    "partial": lambda by: {"loss": partial(nested(by))},
    "object": lambda by: {"loss": Scaled(by)},
    "object's tensor": lambda by: {"loss": Scaled(torch.tensor([by]))},
    "object's list": lambda by: {"loss": Scaled([by])},
    "method": lambda by: {"loss": Scaled(by).__call__},
    "objective": lambda by: {"method": Weighted(torch.tensor([by]))},
    "rate": lambda by: {"optimizer": lambda p: torch.optim.SGD(p, lr=by * 1e-3)},
    "kind": lambda by: {
        "optimizer": lambda p: {1.0: torch.optim.SGD, 5.0: torch.optim.Adam}[by](p, lr=1e-3)
    },
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_a_loss_an_optimizer_or_an_objective_holds_makes_another_run(case, tmp_path):
    options = {"split": "head", "trainable": "block2", "checkpoint": tmp_path / "run.pt"}
    done = icd.immunize(net(), **loaders(), **options, **OTHERS[case](1.0))
    same(done, icd.immunize(net(), **loaders(), **options, **OTHERS[case](1.0)))
    with pytest.raises(ValueError, match=r"that of another run: (loss|optimizer|method) is"):
        icd.immunize(net(), **loaders(), **options, **OTHERS[case](5.0))


def test_what_the_user_froze_makes_another_run(tmp_path):
    options = {"split": "head", "checkpoint": tmp_path / "run.pt", **loaders()}
    one, other = net(), net()
    one.block1.requires_grad_(False)
    other.block2.requires_grad_(False)
    same(icd.immunize(one, **options), icd.immunize(one, **options))
    told = r"frozen is \['block1.1.weight', .* there and \['block2.0.weight', .* here"
    with pytest.raises(ValueError, match=told):
        icd.immunize(other, **options)


def test_an_objective_may_be_given_again_to_its_own_run(tmp_path):
    options = SETTINGS | {"checkpoint": tmp_path / "run.pt", "method": Weighted(torch.ones(1))}
    icd.immunize(net(), **loaders(), **options)
    icd.immunize(net(), **loaders(), **options, epochs=2)


NAMES = """
from immucond.deep._checkpoint import name_of
print(name_of(lambda x: x in {"some", "words", "of", "a", "set"} and [y for y in x]))
"""


def test_names_are_the_same_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-c", NAMES],
            env=os.environ
            | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": str(at)},
            check=True,
            capture_output=True,
        ).stdout
        for at in range(2)
    }
    assert len(found) == 1


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_other_files_are_refused_and_left(content, tmp_path):
    path = tmp_path / "model.pt"
    if content is None:
        torch.save(net().state_dict(), path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    reason = "it has no settings of a run" if content is None else "BadZipFile: "
    with pytest.raises(ValueError, match=rf"model.pt is not one of immucond; .*\({reason}"):
        icd.immunize(net(), **loaders(), checkpoint=path, **SETTINGS)
    assert path.read_bytes() == before


def test_settings_that_are_none_are_told_with_the_file(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"settings": [1]}, path)
    with pytest.raises(ValueError, match=r"checkpoint .*model\.pt is of no run: .* \[1\]"):
        icd.immunize(net(), **loaders(), checkpoint=path, **SETTINGS)


def test_bad_numbers(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, and is 0"):
        icd.immunize(
            net(), **loaders(), checkpoint=tmp_path / "run.pt", checkpoint_every=0, **SETTINGS
        )


SCALARS = {
    "float64": np.float64,
    "float32": np.float32,
    "array": np.array,
    "tensor": lambda x: torch.tensor(x, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", SCALARS)
def test_numbers_of_any_kind_are_those_of_python(kind, tmp_path):
    """Powers of two, which every precision holds; a second run that differed would be refused."""
    number = SCALARS[kind]
    options = {"split": "head", "trainable": "block2", "checkpoint": tmp_path / "run.pt"}
    given = {"lr": number(2.0**-10), "momentum": number(0.5), "lambdas": (number(0.5), number(2.0))}
    counts = {"seed": np.int64(3), "epochs": np.int32(2), "checkpoint_every": np.uint8(1)}
    found = icd.immunize(net(), **loaders(), **options, **given, **counts)
    plain = {"lr": 2.0**-10, "momentum": 0.5, "lambdas": [0.5, 2.0], "seed": 3, "epochs": 2}
    same(found, icd.immunize(net(), **loaders(), **options, **plain))
    del options["checkpoint"]
    same(found, icd.immunize(net(), **loaders(), **options, **plain))


def test_a_numpy_number_in_an_optimizer_can_be_read_again(tmp_path):
    options = {"split": "head", "trainable": "block2", "checkpoint": tmp_path / "run.pt"}
    options["optimizer"] = partial(torch.optim.Adam, lr=np.float64(1e-3))
    for epochs in (1, 2):
        found = icd.immunize(net(), **loaders(), **options, epochs=epochs)
    del options["checkpoint"]
    same(found, icd.immunize(net(), **loaders(), **options, epochs=2))


class Keeping(icd.Objective):
    """An objective whose state no checkpoint can hold."""

    def terms(self, primary, harmful):
        self.state = Path
        return None, harmful.features.square().mean()


def test_a_state_that_could_not_be_read_again_is_told_at_once(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(TypeError, match=r"run.pt could not be read again: the state of"):
        icd.immunize(net(), **loaders(), **SETTINGS, method=Keeping(), checkpoint=path)
    assert not path.exists()


def test_samples_that_differ_each_time_are_told_by_their_shapes(tmp_path):
    """They cannot be compared, and the run may go on."""

    class Fresh:
        def __iter__(self):
            x, y = data(40, 1)[:]
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(next(self.seeds)))
            return iter([(x + noise, y)] * 3)

        seeds = iter(range(10**6))

    options = {"split": "head", "harmful": loaders()["harmful"], "checkpoint": tmp_path / "run.pt"}
    icd.immunize(net(), primary=Fresh(), **options)
    longer = icd.immunize(net(), primary=Fresh(), epochs=2, **options)
    assert len(longer.history["loss"]) == 6


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    options = SETTINGS | {"checkpoint": tmp_path / "run.pt"}
    icd.immunize(net(), **loaders(), **options)
    other = net()
    with torch.no_grad():
        other.stem.bias += 1.0
    with pytest.raises(ValueError, match=r"another run: model is '\w+' there and '\w+' here"):
        icd.immunize(other, **loaders(), **options)


class Rescaled(nn.Sequential):
    """A network that multiplies by a buffer that no state holds."""

    def __init__(self, activation=nn.Tanh, scale=1.0):
        torch.manual_seed(0)
        super().__init__(nn.Linear(6, 8), activation(), nn.Linear(8, 3))
        self.register_buffer("scale", torch.full((6,), scale), persistent=False)

    def forward(self, x):
        return super().forward(self.scale * x)


def rows(seed):
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(seed))
    return list(zip(x.split(20), (torch.arange(60) % 3).split(20), strict=True))


def runs_of_all(model, path):
    """Calls that go on with what another one kept of the same network."""
    P, test, H = rows(1), rows(2), rows(3)
    immunize = {"split": "2", "primary": P, "harmful": H, "checkpoint": path / "immunize"}
    attack = {"held_out": test, "split": "2", "attackers": "lstsq", "trials": 1, "scratch": False}
    worth = icd.erasure_path(model, P, metric="gram")
    recorded = icd.record(model, P, "2")
    return {
        "immunize": lambda of: icd.immunize(of, **immunize),
        "record": lambda of: icd.record(of, P, "2", checkpoint=path / "record"),
        "merge": lambda of: icd.record(of, P, "2").merge(recorded),
        "attack": lambda of: icd.attack(of, H, **attack, checkpoint=path / "attack"),
        "erase": lambda of: icd.erase(
            of, P, held_out=test, metric="gram", tol=0.9, path=worth, checkpoint=path / "erase"
        ),
    }


@pytest.mark.parametrize("other", [Rescaled(scale=2.0), Rescaled(nn.ReLU)], ids=["buffer", "layer"])
@pytest.mark.parametrize("call", ["immunize", "record", "merge", "attack", "erase"])
def test_networks_of_the_same_state_are_not_taken_for_each_other(call, other, tmp_path):
    run = runs_of_all(Rescaled(), tmp_path)[call]
    run(Rescaled())
    assert states_equal(other, Rescaled())
    with pytest.raises(ValueError, match="there and"):
        run(other)
    run(Rescaled())


@pytest.mark.parametrize(
    "call",
    [
        lambda model: icd.immunize(model, **loaders(), split="head"),
        lambda model: icd.immunize(model, **loaders(), split="head", trainable="block2"),
        lambda model: icd.immunity_report(model, model, *loaders().values(), split="head"),
        lambda model: icd.immunize(model, **loaders(), split="head", method="closed_form"),
        lambda model: icd.immunize(model, **loaders(), split="head", method="fade"),
        lambda model: icd.immunize(model, **loaders(), split="head", method="alignment"),
        lambda model: icd.immunize(model, **augmented(), split="head", trainable="block2"),
        lambda model: icd.rir(model, model, **loaders(), split="head", groups=2, size=20),
        lambda model: icd.keep_activations(
            model, loaders()["primary"], split="head", trainable="block2"
        ),
    ],
    ids=[
        "immunize",
        "kept",
        "report",
        "closed form",
        "fade",
        "alignment",
        "augmented",
        "rir",
        "keep_activations",
    ],
)
def test_the_users_generator_is_left_alone(call):
    model = net()
    torch.manual_seed(7)
    others = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    before = torch.get_rng_state()
    call(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == others[0]
    assert np.array_equal(np.random.get_state()[1], others[1])  # noqa: NPY002


def test_what_the_network_draws_follows_the_seed():
    model, found = net(Dropped), []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(icd.immunize(model, **loaders(), **SETTINGS))
    same(*found)
    other = icd.immunize(model, **loaders(), **SETTINGS, seed=1)
    assert not states_equal(found[0].model, other.model)
