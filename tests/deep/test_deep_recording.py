"""What a recording gives: alignment, centred moments, merges, and files."""

import copy
import pickle
import re

import numpy as np
import pytest
from record_cases import FACTORS, NAMES, assert_same, recorded
from torch_cases import torch
from torch_nets import data, net

import immucond as ic
import immucond.deep as icd
from immucond.deep._checkpoint import identity

nn = torch.nn


def rows_by_hand(name="block2.0"):
    """What enters a module, with the labels."""
    model, (x, y) = net(), data(70, 1)[:]
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return seen[0].double().numpy(), y.numpy()


@FACTORS
def test_what_is_handed_out_is_apart(factor):
    found = recorded(factor=factor)
    name = NAMES[0]
    before, rank = found.gram(name), found.rank(name)
    taken = found[name]
    taken.update(np.full((50, len(before)), 7.0))
    assert np.array_equal(found.gram(name), before)
    assert found.rank(name) == rank == found.pairs(name).rank
    assert found[name].count == found.count(name) == taken.count - 50
    merged = found.merge(recorded(factor=factor))
    assert np.allclose(merged.gram(name), 2.0 * before, rtol=1e-13)


@FACTORS
def test_alignment_is_that_of_all_rows(factor):
    found = recorded(factor=factor)
    Z, y = rows_by_hand()
    Y = np.eye(3)[y]
    for center in (True, False):
        wanted = ic.linear.alignment(Z, Y, center=center, computed_in="float32")
        got = found.alignment("block2.0", center=center)
        assert got.rho == pytest.approx(wanted.rho, rel=1e-5)
        assert got.explained == pytest.approx(wanted.explained, rel=1e-5)
        assert got.rank == wanted.rank
    assert np.allclose(found.cross("block2.0"), Z.T @ Y, rtol=1e-5, atol=1e-5)
    Zc, Yc = Z - Z.mean(0), Y - Y.mean(0)
    assert np.allclose(found.cross("block2.0", center=True), Zc.T @ Yc, rtol=1e-5, atol=1e-5)
    assert np.allclose(found.gram("block2.0", center=True), Zc.T @ Zc, rtol=1e-5, atol=1e-5)
    assert found.energy("block2.0") == pytest.approx(np.sum(Yc**2), rel=1e-12)
    assert found.energy("block2.0", center=False) == 70


@FACTORS
def test_moments_feed_the_linear_theory(factor):
    found = recorded(factor=factor)
    Z, y = rows_by_hand()
    K, b = found.gram("block2.0", center=True), found.cross("block2.0", center=True)
    given = {"K_H": K, "b_H": b, "energy_H": found.energy("block2.0")}
    by_moments = ic.linear.fade(K_P=found.gram("block2.0"), **given, computed_in="float32")
    by_rows = ic.linear.fade(Z, Z, y, computed_in="float32")
    assert np.allclose(by_moments.theta, by_rows.theta, atol=1e-3)
    limit = ic.linear.alignment_limit(K_P=np.eye(12), **given, kappa_P=10.0)
    wanted = ic.linear.alignment_limit(np.eye(12), Z, y, kappa_P=10.0, computed_in="float32")
    assert limit.attained == pytest.approx(wanted.attained, rel=1e-3)


def test_a_triangle_is_centred_without_cancellation():
    """A mean of 1e6 beside a spread of 1e-4, and a constant column: Gram matrices lose it all."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6)) * np.geomspace(1.0, 1e-4, 6) + 1e6
    rows[:, 3] = 7e5
    y = torch.arange(300) % 3
    x = torch.from_numpy(rows)
    batches = list(zip(x.split(64), y.split(64), strict=True))
    found = icd.record(nn.Sequential(nn.Identity()), batches, "0", factor="r", cross="labels")
    centred = rows - rows.mean(axis=0)
    wanted = np.linalg.svd(centred, compute_uv=False)
    got = np.linalg.svd(found.R("0", center=True), compute_uv=False)
    assert np.all(np.abs(got - wanted) <= 1e-15 * 6 * np.linalg.norm(rows))
    assert np.allclose(got[:5], wanted[:5], rtol=1e-4)
    aligned, direct = found.alignment("0"), ic.linear.alignment(rows, y.numpy())
    assert aligned.rank == direct.rank == 5
    assert aligned.rho == pytest.approx(direct.rho, rel=1e-6)


def test_kappa_of_a_triangle_keeps_what_a_gram_matrix_loses():
    rng = np.random.default_rng(1)
    Q, _ = np.linalg.qr(rng.normal(size=(200, 8)))
    V, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    rows = Q @ np.diag(np.geomspace(1.0, 1e-9, 8)) @ V.T
    batches = list(torch.from_numpy(rows).split(30))
    found = icd.record(nn.Sequential(nn.Identity()), batches, "0", factor="r")
    assert found.rank("0") == 8
    assert found.kappa("0") == pytest.approx(1e18, rel=1e-6)
    by_gram = icd.record(nn.Sequential(nn.Identity()), batches, "0")
    assert by_gram.rank("0") < 8  # and says so, where Cholesky's factor would end


@FACTORS
def test_constant_rows_have_no_alignment(factor):
    batches = [(torch.full((6, 3), 0.1), torch.arange(6) % 2)] * 3
    found = icd.record(nn.Sequential(nn.Identity()), batches, "0", factor=factor, cross="labels")
    with pytest.raises(ValueError, match="0: the rows are constant"):
        found.alignment("0")


def test_nothing_is_left_of_a_constant_feature():
    """Centred by a difference, it would leave a rounding of either sign."""
    rng = np.random.default_rng(0)
    rows = np.hstack(
        [rng.normal(size=(1000, 1)) + 5.0, np.tile(rng.normal(size=40) * 300, (1000, 1))]
    )
    batches = list(torch.from_numpy(rows.astype(np.float32)).split(64))
    found = icd.record(nn.Sequential(nn.Identity()), batches, "0")
    K = found.gram("0", center=True)
    assert not K[1:].any()
    assert not K[:, 1:].any()
    assert K[0, 0] == pytest.approx(
        1000 * np.var(rows[:, 0].astype(np.float32), dtype=float), rel=1e-9
    )


@FACTORS
def test_more_classes_than_features(factor):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 2, generator=generator)
    y = torch.arange(90) % 9
    found = icd.record(nn.Sequential(nn.Identity()), [(x, y)], "0", factor=factor, cross="labels")
    wanted = ic.linear.alignment(x.numpy(), y.numpy())
    got = found.alignment("0")
    assert got.rho == pytest.approx(wanted.rho, rel=1e-6)
    assert got.explained == pytest.approx(wanted.explained, rel=1e-6)


def test_targets_by_a_function():
    def first_two(batch):
        return batch[0].flatten(1)[:, :2].double()

    found = recorded(modules="block2.0", cross=first_two)
    Z, _ = rows_by_hand()
    Y = first_two(data(70, 1)[:]).numpy()
    assert np.allclose(found.cross("block2.0"), Z.T @ Y, rtol=1e-4, atol=1e-5)
    assert found.energy("block2.0", center=False) == pytest.approx(np.sum(Y**2))
    # A sample's target is that of all its places.
    places = recorded(modules="stem", cross=first_two)
    assert places.energy("stem", center=False) == pytest.approx(36 * np.sum(Y**2))
    X = data(70, 1)[:][0].flatten(1).double().numpy()
    assert np.allclose(places.cross("stem"), X.sum(1) @ Y, rtol=1e-4, atol=1e-4)


def test_a_merge_that_overflows_changes_nothing_and_names_the_module():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2, dtype=torch.float64) * 1e153)
    x = torch.tensor([[1.2, 0.0], [0.0, 0.1]], dtype=torch.float64)
    found = icd.record(model, [x * 8], "*")
    before = found.kappa("0")
    with pytest.raises(OverflowError, match=r"^1: the sum of squares"):
        found.merge(icd.record(model, [x * 8], "*"))
    assert found.count("0") == found.count("1") == 2
    assert found.kappa("0") == before == found.pairs("0").condition_number


def test_copies_are_apart():
    found = recorded()
    copied = copy.copy(found)
    copied.merge(recorded())
    assert copied.count("head") == 2 * found.count("head")


@FACTORS
def test_recordings_merge(factor):
    x, y = data(70, 1)[:]
    parts = [recorded(loader=[(x[a:b], y[a:b])], factor=factor) for a, b in ((0, 33), (33, 70))]
    both = recorded(loader=[(x[:33], y[:33]), (x[33:], y[33:])], factor=factor)
    kappas = [part.kappa("head") for part in parts]
    merged = parts[0].merge(parts[1])
    assert merged is parts[0]
    for name in NAMES:
        assert merged.count(name) == both.count(name)
        assert np.allclose(merged.gram(name), both.gram(name), rtol=1e-12)
        assert np.allclose(merged.cross(name), both.cross(name), rtol=1e-12)
        assert merged.alignment(name).rho == pytest.approx(both.alignment(name).rho, rel=1e-9)
    assert merged.kappa("head") not in kappas  # what was found before the merge is not kept
    # One part may know fewer classes.
    few = recorded(loader=[(x[y < 2], y[y < 2])], factor=factor)
    assert few.cross("head").shape[1] == 2
    assert few.merge(parts[1]).cross("head").shape[1] == 3


@FACTORS
def test_recordings_of_something_else_do_not_merge(factor):
    found = recorded(factor=factor)
    before = recorded(factor=factor)
    other = net()
    with torch.no_grad():
        other.stem.bias[0] += 1e-3
    for wrong, told in (
        (recorded(other, factor=factor), "model is"),
        (recorded(modules="head", factor=factor), "modules is"),
        (recorded(of="output", factor=factor), "of is"),
        (recorded(cross=None, factor=factor), "cross is"),
        (recorded(factor={"gram": "r", "r": "gram"}[factor]), "factor is"),
    ):
        with pytest.raises(ValueError, match=f"recording is that of another run: .*{told}"):
            found.merge(wrong)
    with pytest.raises(TypeError, match="other must be a Recording, and is a dict"):
        found.merge({})
    model = nn.Sequential(nn.Identity())
    two, three = (icd.record(model, [torch.ones(4, m)], "0", factor=factor) for m in (2, 3))
    with pytest.raises(ValueError, match="'0' has 3 features there and 2 here"):
        two.merge(three)
    assert_same(found, before)


def test_a_network_is_told_by_every_bit_of_its_weights():
    model = net()
    model.register_buffer("flags", torch.ones(3, dtype=torch.bool))
    wide = nn.Linear(200, 300)
    model.wide = wide
    seen = {identity(model)}

    def changed(values, to):
        before = values.clone()
        values.copy_(to)
        found = identity(model)
        values.copy_(before)
        assert found not in seen
        seen.add(found)

    with torch.no_grad():
        for at in ((0, 0), (299, 199), (150, 7)):
            one = wide.weight.clone()
            one[at] = torch.nextafter(one[at], torch.tensor(9.0))
            changed(wide.weight, one)
        changed(wide.weight, wide.weight.flip(0))  # the same numbers elsewhere
        changed(wide.weight, wide.weight.roll(1, 1))
        changed(model.flags, torch.tensor([True, False, True]))
        changed(model.norm.running_mean, torch.full((4,), 0.5))
        assert identity(model) in seen
    assert identity(net()) == identity(net())
    assert identity(net().double()) not in seen


def test_labels_of_large_numbers_take_no_square_of_them():
    x, y = (
        torch.randn(6, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2] * 2),
    )
    y[y == 2] = 400_000
    found = icd.record(nn.Sequential(nn.Linear(2, 3)), [(x, y)], "0", cross="labels").cross("0")
    assert found.shape == (2, 400_001)
    assert np.allclose(found[:, 400_000], x[y == 400_000].double().sum(0), rtol=1e-13)
    assert np.count_nonzero(found.any(0)) == 3


def test_a_column_of_whole_numbers_names_classes():
    x, y = data(70, 1)[:]
    row, column = (icd.record(net(), [(x, of)], "head", cross="labels") for of in (y, y[:, None]))
    assert_same(column, row)
    assert row.cross("head").shape[1] == 3


@FACTORS
def test_files_and_pickles_go_on_to_the_same_bits(factor, tmp_path):
    path = tmp_path / "one.safetensors"
    found = recorded(factor=factor)
    found.to_safetensors(path)
    for again in (icd.Recording.from_safetensors(path), pickle.loads(pickle.dumps(found))):
        assert_same(again, found)
        assert again.passes == found.passes
        assert repr(again) == repr(found)
        assert_same(again.merge(found), recorded(factor=factor).merge(found))


def test_files_that_hold_no_recording(tmp_path):
    save_file = pytest.importorskip(
        "safetensors.numpy", reason="the extra deep is not installed"
    ).save_file
    (tmp_path / "text").write_bytes(b"no")
    ic.GramAccumulator(2).update([[1.0, 2.0]]).to_safetensors(tmp_path / "gram")
    recorded().to_safetensors(tmp_path / "whole")
    from safetensors import safe_open

    with safe_open(tmp_path / "whole", framework="np") as file:
        about = file.metadata()
        assert about["recording"].count('"count": ') == 4
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wrong = {
        "missing": {k: x for k, x in arrays.items() if k != "0.sums"},
        "shape": arrays | {"0.sums": np.zeros(7)},
        "nan": arrays | {"1.cross": arrays["1.cross"] * np.nan},
    }
    for kind, held in wrong.items():
        save_file(held, tmp_path / kind, about)
    told = {"recording": re.sub('"count": ', '"count": -', about["recording"])}
    save_file(arrays, tmp_path / "negative", about | told)
    for kind, other in (("wide", '"width": 1000000'), ("endless", '"count": Infinity')):
        name = other.split(":")[0]
        told = {"recording": re.sub(f"{name}: [0-9]+", other, about["recording"])}
        save_file(arrays, tmp_path / kind, about | told)
    for kind in ("text", "gram", "negative", "wide", "endless", *wrong):
        with pytest.raises(ValueError, match=r"holds no Recording|must hold|must be finite"):
            icd.Recording.from_safetensors(tmp_path / kind)
    with pytest.raises(FileNotFoundError):
        icd.Recording.from_safetensors(tmp_path / "absent")
