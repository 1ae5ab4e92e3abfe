"""What the tests of `immucond.deep.record` share: a network, its data, and sameness to the bit."""

import numpy as np
import pytest
from torch_cases import torch
from torch_nets import data, net

import immucond.deep as icd

FACTORS = pytest.mark.parametrize("factor", ["gram", "r"])
NAMES = ("stem", "block1.1", "block2.0", "head")


def shuffled(count=70, size=16, **options):
    return torch.utils.data.DataLoader(data(count, 1), batch_size=size, shuffle=True, **options)


def recorded(model=None, loader=None, **options):
    given = {"modules": list(NAMES), "cross": "labels", **options}
    return icd.record(net() if model is None else model, loader or shuffled(), **given)


def assert_same(a, b):
    """To the bit."""
    assert a.names == b.names
    for name in a:
        assert a.count(name) == b.count(name)
        for of in ("gram", "cross"):
            assert np.array_equal(getattr(a, of)(name), getattr(b, of)(name)), (name, of)
        if a.settings["factor"] == "r":
            assert np.array_equal(a.R(name), b.R(name))
        assert np.array_equal(a.mean(name), b.mean(name))
        assert a.energy(name) == b.energy(name)
