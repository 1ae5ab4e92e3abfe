"""Recordings over processes: those of all rows at once, and errors that all of them hear."""

import numpy as np
import pytest
import record_ranks
from record_ranks import NAMES, by_hand, data, fade_of, fold, net
from torch_cases import on_ranks, torch

import immucond as ic
import immucond.deep as icd


def check(found, name, factor):
    Z, Y = by_hand(slice(None), name)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(found["gram"], Z.T @ Z, **close)
    centred = Z - Z.mean(axis=0)
    np.testing.assert_allclose(found["cross"], centred.T @ (Y - Y.mean(axis=0)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["mean"], Z.mean(axis=0), rtol=0, atol=1e-14)
    assert found["energy"] == pytest.approx(np.sum((Y - Y.mean(axis=0)) ** 2))
    assert found["count"] == len(Z)
    assert found["rho"] == pytest.approx(
        ic.linear.alignment(Z, Y, rank=found["rank"]).rho, rel=1e-5
    )
    # The last column differs from another by 1e-10: a triangle tells, a Gram matrix cannot.
    assert found["rank"] == Z.shape[1] - (name == "0" and factor == "gram")
    if factor == "r":
        R = np.linalg.qr(Z, mode="r")
        R *= np.sign(R.diagonal())[:, None]
        np.testing.assert_allclose(found["R"], R, rtol=0, atol=1e-12)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_against_one_process(world, tmp_path):
    results = on_ranks(record_ranks.work, world, tmp_path)
    for result in results:
        for factor in ("gram", "r"):
            for name in NAMES:
                check(result[factor][name], name, factor)
        for kind in ("gram", "r", "wrapped"):
            for name in NAMES:
                for key, value in result[kind][name].items():
                    assert np.array_equal(value, results[0][kind][name][key]), (kind, name, key)
        check_errors(result, result is results[0])
        assert set(result["sharded"]["placements"]) == {"DTensor"}
    check_sharded(results, tmp_path)


def check_errors(result, broken):
    nan = "ValueError: what enters '0' must be finite, and holds NaN or infinity (batch 1)"
    assert result["nan"] == (nan if broken else f"RuntimeError: rank 0 failed: {nan}")
    same = "ValueError: all ranks must record one network in one way, and ranks 0 and 1 differ in: "
    assert result["of"] == f"{same}of"
    assert result["network"] == f"{same}model"
    assert "modules that never ran" in result["empty"]
    mixed = "all ranks must record '2' in one dtype, and did in bfloat16 (rank 0), float32 (rank "
    assert mixed in result["mixed"]
    assert "must return the weight's shape (5, 8), and returned (8, 5)" in result["sharded"]["odd"]
    assert "finite in torch.float64" in result["sharded"]["bad"]


def check_sharded(results, folder):
    """The same fold in one process, and the parts that were saved as a whole network."""
    import torch.distributed.checkpoint as dcp

    world = len(results)
    X, y = data()
    mine = [(X[rank::world][:25], y[rank::world][:25]) for rank in range(world)]
    model, before = net(), net()
    fold(model, fade_of(icd.record(model, mine, NAMES, cross="labels")))
    with torch.no_grad():
        assert (model[:2](X) - before[:2](X)).norm() > 1e-2 * before[:2](X).norm()
        assert torch.allclose(model(X), before(X), rtol=1e-9, atol=1e-9)
    loaded = {"model": net().state_dict()}
    with pytest.warns(UserWarning, match="load in a single process"):
        dcp.load(loaded, checkpoint_id=str(folder / "parts"), no_dist=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded["model"][key], value, rtol=1e-9, atol=1e-10)
        for result in results:
            assert torch.equal(result["sharded"]["whole"][key], loaded["model"][key])


def test_a_rank_that_dies_ends_the_others_with_an_error(tmp_path):
    told, dead = on_ranks(record_ranks.dies, 2, tmp_path)
    assert told
    assert dead is None
    assert not list(tmp_path.glob("*.safetensors*"))


def test_a_weight_is_as_it_was_where_its_edit_is_refused():
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    for edit, error, what in (
        (lambda W: W.numpy(), TypeError, "must return a tensor, and returned a ndarray"),
        (lambda W: W[:1], ValueError, r"shape \(2, 3\), and returned \(1, 3\)"),
        (lambda W: W.double() * 1e300, ValueError, r"finite in torch.float32"),
        (lambda W: W.mul_(torch.nan), ValueError, "finite"),
    ):
        with pytest.raises(error, match=what):
            icd.edit_weight(layer.weight, edit)
        assert torch.equal(layer.weight, before)
    tied = torch.nn.Linear(3, 2)
    tied.weight = layer.weight
    icd.edit_weight(tied.weight, lambda W: 2.0 * W)
    assert torch.equal(layer.weight, 2.0 * before)
    assert layer.weight is tied.weight
    assert layer.weight.requires_grad
