"""Loaders as users have them: samplers, generators and labels of their own."""

import logging
import random
from collections import UserDict, namedtuple
from functools import partial

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import Net, data, loaders, net, states_equal

import immucond.deep as icd
from immucond.deep._activations import Kept, Loaded, batches_of
from immucond.deep._head import SplitModel

# Settings here are for what is tested, and do not immunize.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the harmful task got easier"),
    pytest.mark.usefixtures("short_probes"),
]

DataLoader, Sampler = torch.utils.data.DataLoader, torch.utils.data.Sampler
SubsetRandomSampler = torch.utils.data.SubsetRandomSampler

OPTIONS = {"split": "head", "lr": 1e-2, "lambdas": "balance"}
WHOLE_OR_KEPT = pytest.mark.parametrize("trainable", [None, "block2"])


# ---- sizes ----


@WHOLE_OR_KEPT
@pytest.mark.parametrize(
    ("rows", "options", "steps"),
    [
        (65, {"batch_size": 32, "sampler": SubsetRandomSampler(range(64))}, 2),
        (64, {"batch_size": 32, "sampler": SubsetRandomSampler(range(33))}, None),
        (64, {"batch_size": 32, "sampler": SubsetRandomSampler(range(33)), "drop_last": True}, 1),
        (65, {"batch_sampler": [range(32), range(32, 64)]}, 2),
        (65, {"batch_sampler": [range(32), range(32, 64), range(64, 65)]}, None),
        (
            64,
            {"batch_size": 32, "sampler": torch.utils.data.RandomSampler(range(64), True, 33)},
            None,
        ),
    ],
)
def test_batches_are_as_small_as_the_sampler_makes_them(rows, options, steps, trainable):
    taken = []
    settings = OPTIONS | {"trainable": trainable, "callback": lambda step, _: taken.append(step)}
    tasks = loaders() | {"primary": DataLoader(data(rows, 1), **options)}
    if steps is None:
        with pytest.raises(ValueError, match="primary must have at least two samples"):
            icd.immunize(net(), **tasks, **settings)
        assert taken == []
    else:
        icd.immunize(net(), **tasks, **settings)
        assert len(taken) == steps


class Tempered(Net):
    def forward(self, temperature, x):
        return super().forward(x) / temperature


def test_a_number_beside_the_samples_has_no_length():
    tasks = {
        name: [
            {"temperature": torch.tensor(2.0), "x": x, "labels": y}
            for x, y in DataLoader(data(64, seed), batch_size=32)
        ]
        for name, seed in (("primary", 1), ("harmful", 2))
    }
    done = icd.immunize(net(Tempered), **tasks, **OPTIONS)
    assert len(done.history["loss"]) == 2
    assert icd.record(net(Tempered), tasks["primary"], "head", cross="labels").count("head") == 64


def test_an_iterable_data_set_may_say_any_length():
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 65

        def __iter__(self):
            return iter([data(64, 1)[i] for i in range(64)])

    tasks = loaders() | {"primary": DataLoader(Stream(), batch_size=32)}
    assert len(icd.immunize(net(), **tasks, **OPTIONS).history["loss"]) == 2


# ---- what is drawn and counted ----


class Counting(Sampler):
    """Another order in each epoch, by counting its own passes."""

    def __init__(self, count=64):
        self.count, self.epoch, self.seen = count, 0, []

    def __len__(self):
        return self.count

    def __iter__(self):
        self.epoch += 1
        self.seen.append(self.epoch)
        generator = torch.Generator().manual_seed(self.epoch)
        yield from torch.randperm(self.count, generator=generator).tolist()


class Told(Counting):
    """Another order in each epoch, by being told which."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        yield from torch.randperm(self.count, generator=generator).tolist()


class Shuffled(Sampler):
    """Indices that are shuffled where they are, further and further."""

    def __init__(self):
        self.indices, self.generator = np.arange(64), np.random.default_rng(3)

    def __len__(self):
        return 64

    def __iter__(self):
        self.generator.shuffle(self.indices)
        yield from self.indices.tolist()


class Own:
    """An iterable that nobody knows, with a generator and a counter."""

    def __init__(self):
        self.generator, self.epoch = torch.Generator().manual_seed(4), 0

    def __iter__(self):
        self.epoch += 1
        x, y = data(64, self.epoch)[:]
        order = torch.randperm(64, generator=self.generator)
        return iter([(x[at], y[at]) for at in order.split(32)])


class Stream(torch.utils.data.IterableDataset):
    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        return iter([data(64, self.epoch)[i] for i in range(64)])


class Augmented(torch.utils.data.Dataset):
    """Samples with noise from a generator: the data set's own, NumPy's or Python's."""

    def __init__(self, draw, generator=None):
        self.draw, self.generator = draw, generator

    def __len__(self):
        return 64

    def __getitem__(self, index):
        x, y = data(64, 1)[index]
        return x + self.draw(self.generator), y


def by_torch(generator):
    return float(torch.randn((), generator=generator))


def by_numpy(_):
    return np.random.randn()  # noqa: NPY002


def by_python(_):
    return random.gauss()


def closed_over():
    generator = torch.Generator().manual_seed(6)

    def collate(samples):
        x, y = torch.utils.data.default_collate(samples)
        return x + torch.randn(x.shape, generator=generator), y

    return collate


def noise(samples, generator):
    x, y = torch.utils.data.default_collate(samples)
    return x + torch.from_numpy(generator.normal(size=x.shape)).float(), y


def loader(**options):
    return DataLoader(data(64, 1), **{"batch_size": 32} | options)


def own_sampler():
    return torch.utils.data.RandomSampler(range(64), generator=torch.Generator().manual_seed(9))


KINDS = {
    "generator": lambda: loader(shuffle=True, generator=torch.Generator().manual_seed(8)),
    "generator of a sampler": lambda: loader(sampler=own_sampler()),
    "generator of a batch sampler": lambda: DataLoader(
        data(64, 1),
        batch_sampler=torch.utils.data.BatchSampler(own_sampler(), 32, drop_last=False),
    ),
    "counting": lambda: loader(sampler=Counting()),
    "told": lambda: loader(sampler=Told()),
    "told within": lambda: DataLoader(
        data(64, 1), batch_sampler=torch.utils.data.BatchSampler(Told(), 32, drop_last=False)
    ),
    "shuffled in place": lambda: loader(sampler=Shuffled()),
    "distributed": lambda: loader(
        sampler=torch.utils.data.DistributedSampler(range(64), num_replicas=1, rank=0)
    ),
    "own iterable": Own,
    "stream": lambda: DataLoader(Stream(), batch_size=32),
    "data set": lambda: DataLoader(
        Augmented(by_torch, torch.Generator().manual_seed(2)), batch_size=32
    ),
    "persistent workers": lambda: DataLoader(
        Augmented(by_torch), batch_size=32, num_workers=1, persistent_workers=True
    ),
    "numpy": lambda: DataLoader(Augmented(by_numpy), batch_size=32),
    "python": lambda: DataLoader(Augmented(by_python), batch_size=32),
    "closure": lambda: loader(collate_fn=closed_over()),
    "partial": lambda: loader(collate_fn=partial(noise, generator=np.random.default_rng(1))),
}
OF_ITS_OWN = pytest.mark.parametrize("kind", KINDS)


def same(one, other):
    return states_equal(one.model, other.model) and all(
        np.array_equal(values, other.history[key]) for key, values in one.history.items()
    )


def immunized(task, harmful=None, trainable=None, **changes):
    harmful = loaders()["harmful"] if harmful is None else harmful
    options = OPTIONS | {"epochs": 3, "trainable": trainable} | changes
    return icd.immunize(net(), primary=task, harmful=harmful, **options)


def interrupt(step, _, at):
    if step == at:
        raise KeyboardInterrupt


# Whole networks read every kind in one way, which interrupted runs compare too.
@pytest.mark.parametrize(
    ("kind", "trainable"),
    [*((kind, "block2") for kind in KINDS), ("generator", None), ("own iterable", None)],
)
def test_the_same_seed_gives_the_same_run(kind, trainable):
    task = KINDS[kind]()
    first = immunized(task, trainable=trainable)
    assert same(first, immunized(task, trainable=trainable))  # on what the first one left behind
    assert same(first, immunized(KINDS[kind](), trainable=trainable))


# Workers are slow to start: one role of theirs.
@pytest.mark.parametrize(
    ("kind", "role"),
    [(k, r) for k in KINDS for r in ("primary", "harmful")
     if (k, r) != ("persistent workers", "primary")],
)  # fmt: skip
def test_an_interrupted_run_ends_at_the_same_bits(kind, role, tmp_path):
    def run(**changes):
        task = KINDS[kind]()
        other = loaders(96)["harmful"]  # unequal: harmful passes end within primary ones
        return immunized(*((task, other) if role == "primary" else (other, task)), **changes)

    straight = run()
    options = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 1}
    for at in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(callback=partial(interrupt, at=at), **options)
    assert same(straight, run(**options))


def draws(task):
    """What a loader gives next, of all it may draw or count."""
    return [x[0] for x in task]


@OF_ITS_OWN
def test_the_users_loader_is_left_as_it_was(kind):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    wanted, task = KINDS[kind](), KINDS[kind]()
    torch.manual_seed(2)
    before = draws(wanted)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    immunized(task)
    immunized(task, trainable="block2")
    icd.rir(net(), net(), task, task, split="head", groups=1, size=20)
    if isinstance(getattr(task, "sampler", None), Told):
        assert task.sampler.epoch == 0
    torch.manual_seed(2)
    for x, y in zip(before, draws(task), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("kind", [Counting, Told])
def test_samplers_count_epochs_within_a_run(kind):
    orders = []

    class Watched(kind):
        def __iter__(self):
            orders.append([])
            for index in super().__iter__():
                orders[-1].append(index)
                yield index

    immunized(loader(sampler=Watched()))
    whole = [tuple(order) for order in orders if len(order) == 64]
    assert len(set(whole)) == 3
    start = 1 if kind is Counting else 0
    for number in range(3):
        generator = torch.Generator().manual_seed(start + number)
        assert tuple(torch.randperm(64, generator=generator).tolist()) in whole


def test_an_interrupted_run_leaves_the_loader_as_it_was():
    task = loader(sampler=Counting(), generator=torch.Generator().manual_seed(8))
    state = task.generator.get_state()
    with pytest.raises(KeyboardInterrupt):
        immunized(task, callback=partial(interrupt, at=3))
    assert task.sampler.seen == []
    assert torch.equal(task.generator.get_state(), state)


def test_an_interrupt_within_the_network_leaves_generators_alone_at_once():
    """Not when the traceback goes, which a notebook keeps, into whatever is drawn by then."""

    class Interrupted(Net):
        def forward(self, *_):
            raise KeyboardInterrupt

    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(KeyboardInterrupt) as caught:
        icd.rir(net(Interrupted), net(), **loaders(), split="head")
    assert caught.tb is not None
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


# ---- labels and batches of other kinds ----

Pair = namedtuple("Pair", ["x", "y"])


def rows(form):
    if form is None:
        return Opened()
    x, y = data(64, 1)[:]
    return [form(x[i], y[i]) for i in range(64)]


def stacked(samples):
    """Labels that no tensor holds: of another length in each sample."""
    x = torch.stack([x for x, _ in samples])
    return x, [y.repeat(1 + int(y)) for _, y in samples]


class Opened(torch.utils.data.Dataset):
    """Samples that are there once a worker is prepared."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.rows[index]


def open_(_):
    opened = torch.utils.data.get_worker_info().dataset
    if isinstance(opened, Opened):
        opened.rows = data(64, 1)


def of_dict(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels["y"]) + labels["w"].mean() * 0


def of_first(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels[0]) + labels[1].mean() * 0


def of_pair(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels.y)


def of_ragged(logits, labels):
    return torch.nn.functional.cross_entropy(logits, torch.stack([y[0] for y in labels]))


LABELS = {
    "named batches": (Pair, {}, None, True),
    "dict": (lambda x, y: (x, {"y": y, "w": 0.5 * y}), {}, of_dict, True),
    "tuple": (lambda x, y: (x, (y, 2.0 * y)), {}, of_first, True),
    "named": (lambda x, y: (x, Pair(2.0 * y, y)), {}, of_pair, True),
    "ragged": (lambda x, y: (x, y), {"collate_fn": stacked}, of_ragged, False),
    "ragged, one batch": (
        lambda x, y: (x, y),
        {"collate_fn": stacked, "batch_size": 64},
        of_ragged,
        False,
    ),
    "worker_init_fn": (None, {"num_workers": 1, "worker_init_fn": open_}, None, False),
}


@WHOLE_OR_KEPT
@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind(kind, trainable):
    form, options, loss, _ = LABELS[kind]
    task = DataLoader(rows(form), **{"batch_size": 64} | options)
    done = immunized(task, loaders(size=64)["harmful"], trainable=trainable, loss=loss)
    plain = immunized(loader(batch_size=64), loaders(size=64)["harmful"], trainable=trainable)
    np.testing.assert_allclose(done.history["loss"], plain.history["loss"], rtol=1e-4)


@pytest.mark.parametrize("kind", LABELS)
def test_kept_labels_are_those_of_their_samples(kind):
    form, options, _, can = LABELS[kind]
    task, model = DataLoader(rows(form), **{"batch_size": 16} | options), net()
    split = SplitModel(model, "head")
    found = batches_of(split, [model.block2], task, torch.device("cpu"), None, "primary")
    assert isinstance(found, Kept if can else Loaded)
    if can:
        index = torch.tensor([40, 3, 17])
        labels = found.run(split, index).labels
        wanted = torch.utils.data.default_collate([rows(form)[i] for i in index])[1]
        torch.testing.assert_close(labels, wanted, rtol=0, atol=0)


def test_what_is_constant_in_one_batch_and_not_in_the_next_is_not_kept(caplog):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.head = self.net.head

        def forward(self, x, scale):
            return self.net(x * scale)

    def collate(samples):
        x, y = torch.utils.data.default_collate(samples)
        return (x, float(1 + y.sum())), y

    torch.manual_seed(0)
    task = DataLoader(data(64, 1), batch_size=16, collate_fn=collate)
    with caplog.at_level(logging.WARNING, logger="immucond"):
        icd.immunize(Scaled(), split="net.head", primary=task, harmful=task, trainable="net.block2")
    assert "primary runs through the whole model in every epoch" in caplog.text


# ---- activations are kept where samples are known to be the same each time ----


class Rare(Augmented):
    """An augmentation that one sample in fifty gets."""

    def __init__(self, p=0.02):
        super().__init__(lambda _: 3.0 * float(torch.rand(()) < p))


def mixup(samples):
    x, y = torch.utils.data.default_collate(samples)
    share = torch.rand(())
    return share * x + (1 - share) * x.flip(0), y


def rolled(samples):
    """Nothing random, but what a sample is depends on the others."""
    x, y = torch.utils.data.default_collate(samples)
    return 0.7 * x + 0.3 * x.roll(1, 0), y


class Mixing(DataLoader):
    def __iter__(self):
        for x, y in super().__iter__():
            yield x + torch.randn(()), y


SAME_EACH_TIME = Augmented(lambda _: 0.5)

RANDOM = {
    "collate_fn": lambda **o: DataLoader(data(64, 1), collate_fn=mixup, **o),
    "rare": lambda **o: DataLoader(Rare(), **o),
    "a subset of it": lambda **o: DataLoader(torch.utils.data.Subset(Rare(), list(range(64))), **o),
    "a part of it": lambda **o: DataLoader(
        torch.utils.data.ConcatDataset([data(32, 1), torch.utils.data.Subset(Rare(), range(32))]),
        **o,
    ),
    "a loader": lambda **o: Mixing(data(64, 1), **o),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", RANDOM)
def test_samples_that_may_be_random_are_drawn_anew_in_every_epoch(kind, seed, caplog):
    task = RANDOM[kind](batch_size=64)
    with caplog.at_level(logging.WARNING, logger="immucond"):
        losses = immunized(task, trainable="block2", lr=0.0, epochs=8, seed=seed).history["loss"]
    assert len(set(losses)) > 2
    assert caplog.text.count("primary runs through the whole model in every epoch") == 1
    with pytest.raises(ValueError, match="activations cannot be kept"):
        icd.keep_activations(net(), task, split="head", trainable="block2")


def test_what_is_plainly_random_is_not_taken_for_deterministic():
    for draws in (DataLoader(data(64, 1), 64, collate_fn=mixup), DataLoader(Rare(0.5), 64)):
        with pytest.raises(ValueError, match="drawn at random anew each time"):
            icd.keep_activations(net(), draws, split="head", trainable="block2", deterministic=True)
    mixed = DataLoader(data(64, 1), 32, collate_fn=rolled)
    with pytest.raises(ValueError, match="a sample depends on the others in its batch"):
        icd.keep_activations(net(), mixed, split="head", trainable="block2", deterministic=True)


def own_collate(samples):
    return torch.utils.data.default_collate(samples)


class Encoding(UserDict):
    """A mapping that PyTorch's trees do not know, as tokenizers return."""


def encoded(samples):
    x, y = torch.utils.data.default_collate(samples)
    return Encoding(x=x, labels=y)


@pytest.mark.parametrize(
    "task",
    [
        DataLoader(SAME_EACH_TIME, batch_size=32),
        DataLoader(data(64, 1), batch_size=32, collate_fn=own_collate),
        DataLoader(data(64, 1), batch_size=32, collate_fn=encoded),
    ],
    ids=["data set", "collate_fn", "mapping"],
)
def test_who_knows_better_says_so(task, caplog):
    with caplog.at_level(logging.WARNING, logger="immucond"):
        immunized(task, trainable="block2", deterministic=True)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING, logger="immucond"):
        immunized(task, trainable="block2")
    assert "not known to give the same samples each time" in caplog.text
    assert "deterministic=True says so" in caplog.text


PLAIN = {
    "tensors": data(64, 1),
    "subset": torch.utils.data.Subset(data(80, 1), list(range(64))),
    "concatenated": torch.utils.data.ConcatDataset([data(32, 1), data(32, 2)]),
    "stacked": torch.utils.data.StackDataset(*data(64, 1).tensors),
    "a list": [(x, int(y)) for x, y in zip(*data(64, 1).tensors, strict=True)],
    "a list of arrays": [
        (x.numpy(), np.int64(y)) for x, y in zip(*data(64, 1).tensors, strict=True)
    ],
}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_lies_in_memory_is_kept(kind, caplog):
    with caplog.at_level(logging.WARNING, logger="immucond"):
        immunized(DataLoader(PLAIN[kind], batch_size=32, shuffle=True), trainable="block2")
    assert caplog.text == ""


def test_missing_values_that_the_network_takes_are_no_reason(caplog):
    class Filled(Net):
        def forward(self, x):
            return super().forward(x.nan_to_num())

    x, y = data(64, 1)[:]
    x[::7, :, 2] = torch.nan
    task = DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32)
    with caplog.at_level(logging.WARNING, logger="immucond"):
        icd.immunize(net(Filled), split="head", primary=task, harmful=task, trainable="block2")
    assert caplog.text == ""
