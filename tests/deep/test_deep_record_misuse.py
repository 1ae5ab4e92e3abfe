"""What `record` is given by mistake: it says so, and names the module and the batch."""

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import data, net

import immucond.deep as icd

nn = torch.nn


def batches(count=20, size=8):
    x, y = data(count, 1)[:]
    return list(zip(x.split(size), y.split(size), strict=True))


def record(model=None, loader=None, modules="head", **options):
    given = batches() if loader is None else loader
    return icd.record(net() if model is None else model, given, modules, **options)


def test_patterns_that_match_nothing_are_told_with_near_names():
    with pytest.raises(ValueError, match=r"'block1\.2\.weight' matches none; near are 'block1.2'"):
        record(modules=["head", "block1.2.weight"])
    with pytest.raises(ValueError, match=r"'layers\.\*' matches none; near are "):
        record(modules="layers.*")
    for wrong in (None, [], 3, [net().head]):
        with pytest.raises((TypeError, ValueError), match=r"modules must be names|not iterable"):
            record(modules=wrong)


@pytest.mark.parametrize("of", ["input", "output", "gradient"])
def test_modules_that_never_ran_are_named(of):
    model = net()
    model.spare, model.other = nn.Linear(3, 3), nn.Linear(3, 3)
    with pytest.raises(ValueError, match="modules that never ran: 'spare', 'other'"):
        record(model, modules=["head", "spare", "other"], of=of)


def test_modules_without_a_gradient_are_named():
    class Idle(type(net())):
        def forward(self, x):
            self.drop(x)
            return super().forward(x)

    class Cut(type(net())):
        def forward(self, x):
            return self.head(self.block2(self.block1(torch.relu(self.stem(x)))).detach())

    with pytest.raises(ValueError, match=r"modules that have no gradient: 'stem', 'block1.1'"):
        record(net(Cut), modules=["stem", "block1.1", "head"], of="gradient")


class Told(nn.Module):
    """A layer whose output is whatever the test wants."""

    def __init__(self, make):
        super().__init__()
        self.make, self.layer = make, nn.Linear(6, 3)

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: (None, x), "a tuple whose first item is a NoneType"),
        (lambda x: [], "a list whose first item is a NoneType"),
        (lambda x: {"a": "b"}, "a dict whose first item is a str"),
        (lambda x: "text", "and is a str"),
        (lambda x: x.argmax(1, keepdim=True), "floating-point numbers, and is of int64"),
        (lambda x: x + 1j, "floating-point numbers, and is of complex64"),
        (lambda x: x.sum(), r"samples first and features, and has shape \(\)"),
        (lambda x: x.to_sparse(), "must be dense.*sparse_coo"),
        (lambda x: x / 0.0, "must be finite, and holds NaN or infinity"),
        (lambda x: x[:, : 3 + len(x)], "must have 6 features in all batches, and has 5"),
    ],
)
def test_what_is_no_row(make, told):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.told, self.layer = Told(make), nn.Linear(6, 3)

        def forward(self, x):
            self.told(x)
            return self.layer(x)

    loader = [torch.randn(4, 6), torch.randn(2, 6)]
    with pytest.raises(ValueError, match=rf"the output of 'told' .*{told}.* \(batch [12]\)"):
        record(Around(), loader, "told", of="output")


def test_the_batch_with_the_infinity_is_named():
    x, y = data(20, 1)[:]
    x[17, 0, 0, 0] = torch.inf
    loader = list(zip(x.split(5), y.split(5), strict=True))
    for factor in ("gram", "r"):
        for rows in ("token", "sample", "mean"):
            with pytest.raises(ValueError, match=r"what enters 'stem' must be finite.*\(batch 4\)"):
                record(loader=loader, modules="stem", factor=factor, rows=rows)


def test_sums_beyond_the_range_are_told():
    model = nn.Sequential(nn.Identity())
    for factor in ("gram", "r"):
        with pytest.raises(OverflowError, match=r"'0': .*(scale the rows down|passes 1.8e308)"):
            record(model, [torch.full((4, 2), 1e305, dtype=torch.float64)], "0", factor=factor)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.ones(4), r"the mask of batch 1 must have shape \(samples, tokens\)"),
        (torch.ones(4, 1, 1, 5), "and has shape"),
        (torch.ones(3, 5), "with 4 rows, and has shape"),
        (torch.full((4, 5), -1e9), "0 for padding and 1 for tokens, and holds other values"),
        (torch.full((4, 5), torch.nan), "and holds other values"),
        (torch.ones(4, 6), r"'0' must have samples and tokens as the mask has, \(4, 6\)"),
        ([[1] * 5] * 4, "must be a tensor, and is a list"),
    ],
)
def test_masks_that_do_not_fit(mask, told):
    model, x = nn.Sequential(nn.Linear(3, 3)), torch.randn(4, 5, 3)
    with pytest.raises((TypeError, ValueError), match=told):
        record(model, [x], "0", mask=lambda batch: mask)


def test_padding_in_flattened_samples_is_refused():
    model, x = nn.Sequential(nn.Linear(3, 3)), torch.randn(4, 5, 3)
    mask = torch.ones(4, 5)
    found = record(model, [x], "0", mask=lambda batch: mask, rows="sample")
    assert found.gram("0").shape == (15, 15)
    mask[0, 0] = 0
    with pytest.raises(ValueError, match="has padding, and rows='sample' makes one row"):
        record(model, [x], "0", mask=lambda batch: mask, rows="sample")


@pytest.mark.parametrize(
    ("cross", "told"),
    [
        (lambda batch: torch.ones(3, 2), "what cross makes of batch 1 must have one row a sample"),
        (lambda batch: torch.full((8, 2), torch.nan), "must be finite"),
        (lambda batch: None, "what cross makes of batch 1"),
        (lambda batch: torch.ones(8, 2, 2), "must have 1 or 2 dimensions"),
    ],
)
def test_targets_that_do_not_fit(cross, told):
    with pytest.raises((TypeError, ValueError), match=told):
        record(cross=cross)


def test_labels_that_do_not_fit():
    x, y = data(8, 1)[:]
    with pytest.raises(ValueError, match="cross='labels' needs labels, and batch 1 has none"):
        record(loader=[x], cross="labels")
    with pytest.raises(ValueError, match="must count classes from 0, and hold -100"):
        record(loader=[(x, y - 100)], cross="labels")
    with pytest.raises(ValueError, match="of='gradient' needs labels, and batch 1 has none"):
        record(loader=[x], of="gradient")
    told = "the labels of batch 2 are numbers, and those of batches before classes"
    with pytest.raises(ValueError, match=told):
        record(loader=[(x, y), (x, y.double())], cross="labels")
    told = "the labels of batch 2 are classes, and those of batches before numbers"
    with pytest.raises(ValueError, match=told):
        record(loader=[(x, y.float()), (x, y)], cross="labels")
    with pytest.raises(ValueError, match="cross must be 'labels' or a function"):
        record(cross="targets")
    found = record(loader=[(x, y)])
    for call in (found.cross, found.alignment, found.energy):
        with pytest.raises(ValueError, match="no targets were recorded"):
            call("head")
    with pytest.raises(ValueError, match="head: the targets are constant"):
        record(loader=[(x, 0 * y)], cross="labels").alignment("head")


def test_losses_that_are_no_number():
    with pytest.raises(ValueError, match=r"the loss must be one number, and has shape \(8,\)"):
        record(
            of="gradient",
            loss=lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none"),
        )
    with pytest.raises(ValueError, match=r"logits of shape \(4, 5, 3\) are no row a sample"):
        record(
            nn.Sequential(nn.Linear(3, 3)),
            [(torch.ones(4, 5, 3), torch.ones(4))],
            "0",
            of="gradient",
        )
    with pytest.raises(ValueError, match="only of='gradient' has a loss"):
        record(loss=nn.functional.cross_entropy)


def test_patches_of_what_is_no_convolution():
    with pytest.raises(ValueError, match="and 'head' is a Linear"):
        record(modules=["stem", "head"], patches=True)
    with pytest.raises(ValueError, match="patches are those of inputs, and of is 'output'"):
        record(modules="stem", patches=True, of="output")
    model = nn.Sequential(nn.ConvTranspose2d(1, 2, 2))
    with pytest.raises(ValueError, match="'0' is a ConvTranspose2d"):
        record(model, [torch.ones(1, 1, 3, 3)], "0", patches=True)


def test_loaders_that_are_none():
    x, y = data(8, 1)[:]
    for wrong, told in (
        ((x, y), "must be a loader"),
        (x, "must be a loader"),
        (None, "must be a loader"),
        (iter([x]), "is an iterator"),
        ([x.numpy()], "NumPy arrays"),
        ([], "loader has no batches"),
        (icd.keep_activations(
            net(), torch.utils.data.DataLoader(data(8, 1), 4), split="head", trainable="block2"
        ), "must give whole batches"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=told):
            icd.record(net(), wrong, "head")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"modules": None}, "modules must be names of modules or patterns, and is None"),
        ({"modules": ["head", 3]}, "modules must be names of modules or patterns, and is"),
        ({"mask": True}, "mask must be a name, a function of a batch or None, not True"),
    ],
)
def test_what_is_no_name(given, told):
    with pytest.raises(TypeError, match=told):
        icd.record(net(), [data(8, 1)[:]], **{"modules": "head", **given})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"of": "inputs"}, "of must be one of"),
        ({"factor": "qr"}, "factor must be one of"),
        ({"rows": "tokens"}, "rows must be one of"),
        ({"channels": "second"}, "channels must be one of"),
        ({"repeated": True}, "repeated must be one of"),
        ({"max_bytes": 0}, "max_bytes must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"checkpoint": "x", "checkpoint_every": 0}, "checkpoint_every must be at least 1"),
    ],
)
def test_options_out_of_range(given, told):
    with pytest.raises(ValueError, match=told):
        record(**given)


def test_seeds_beyond_those_of_numpys_older_generators():
    dataset = torch.utils.data.TensorDataset(torch.arange(24.0).reshape(12, 2), torch.arange(12))
    dataset.drawn = np.random.RandomState(0)  # found, and seeded
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
    model = nn.Sequential(nn.Identity())
    one, two = (icd.record(model, loader, "0", seed=seed).gram("0") for seed in (2**32 - 1, 2**40))
    np.testing.assert_array_equal(one, two)  # of the same rows


def test_what_was_not_recorded():
    found = record()
    with pytest.raises(KeyError, match="no module 'stem' was recorded; there are 'head'"):
        found.gram("stem")
    with pytest.raises(ValueError, match="record with factor='r'"):
        found.R("head")


@pytest.mark.parametrize("factor", ["gram", "r"])
def test_activations_that_are_zero_have_rank_zero(factor):
    model = nn.Sequential(nn.Identity())
    found = record(model, [torch.zeros(5, 3)], "0", factor=factor)
    assert found.rank("0") == 0
    assert not found.gram("0").any()
    with pytest.raises(ValueError, match="0: "):
        found.kappa("0")


def test_more_modules_than_a_table_shows():
    model = nn.Sequential(*(nn.Identity() for _ in range(30)))
    lines = repr(record(model, [torch.ones(2, 2)], "*")).splitlines()
    assert len(lines) == 27
    assert lines[14].strip() == "... 6 more"
    assert np.isfinite(record(model, [torch.ones(2, 2)], "2?").gram("29")).all()
