"""Erasure that goes on from what another call made: its tolerance counts from the first network."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import immucond as ic
import immucond.deep as icd

Batches = list[tuple[Tensor, Tensor]]


def rows(seed: int, count: int = 600) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def batches(X: Tensor, y: Tensor) -> Batches:
    return list(zip(X.split(200), y.long().split(200), strict=True))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A network whose classes are told by the first three inputs, and whose units have them all."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))
    with torch.no_grad():
        net[4].weight.mul_(5.0)
    return net.eval()


@pytest.fixture(scope="module")
def given(net: nn.Module) -> dict[str, Any]:
    """Tasks; the harmful class is whether the last two inputs have one sign."""

    def primary(seed: int) -> Batches:
        with torch.no_grad():
            return batches(rows(seed), net(rows(seed)).argmax(1))

    def harmful(seed: int) -> Batches:
        return batches(rows(seed), rows(seed)[:, 4:].prod(1) + rows(seed)[:, 5] > 0)

    return {
        "primary": primary(1), "held_out": primary(2), "harmful": harmful(3),
        "harmful_held_out": harmful(4),
    }  # fmt: skip


@pytest.fixture(scope="module")
def begun(net: nn.Module, given: dict[str, Any]) -> icd.EraseResult:
    return icd.unlearn(net, method="leace", tol=0.1, **given)


def bits(model: nn.Module) -> list[bytes]:
    return [x.numpy().tobytes() for x in model.state_dict().values()]


def right(model: nn.Module, of: Batches) -> float:
    with torch.no_grad():
        hits = torch.cat([model(x).argmax(1) == y for x, y in of])
    return float(hits.double().mean())


def test_the_loss_counts_from_the_network_that_was_given(net, given, begun):
    before = bits(begun.model)
    done = icd.erase(net, tol=0.2, start=begun, **given)
    assert bits(begun.model) == before
    assert done.primary_before == right(net, given["held_out"]) == 1.0
    assert done.primary == right(done.model, given["held_out"]) >= 0.8
    ceilings = begun.leak_before.ceiling, begun.leak.ceiling, done.leak.ceiling
    assert [stage.ceiling for stage in done.curve] == list(ceilings)
    assert [stage.primary for stage in done.curve] == [1.0, begun.primary, done.primary]
    assert done.leak_before.as_dict() == begun.leak_before.as_dict()
    # Paired, row by row, beside the network that was given.
    x = torch.cat([x for x, _ in given["held_out"]])
    with torch.no_grad():
        wrong = (done.model(x).argmax(1) != net(x).argmax(1)).double()
    assert done.lost_error == pytest.approx(
        float(wrong.std(correction=0)) / len(x) ** 0.5, rel=1e-2
    )


def test_what_is_left_has_its_rank_and_what_was_gone_stays_gone(net, given, begun):
    done = icd.erase(net, tol=0.2, start=begun, **given)
    for name, (rank, width) in done.ranks.items():
        assert rank <= begun.ranks[name][0] < width
        layer = done.model.get_submodule(name)
        assert torch.linalg.matrix_rank(layer.weight.detach().double()) == rank


def test_with_all_layers_as_they_were_it_is_erasure_alone(net, given):
    """A start that changed nothing changes nothing; its path is that of its network."""
    nothing = dataclasses.replace(
        icd.erase(net, tol=0.1, **given), model=net, ranks={}, leak=None, leak_before=None
    )
    alone = icd.erase(net, tol=0.1, **given)
    path = icd.erasure_path(net, given["primary"], harmful=given["harmful"])
    for more in ({}, {"path": path}):
        again = icd.erase(net, tol=0.1, start=nothing, **more, **given)
        assert bits(again.model) == bits(alone.model)
        assert again.ranks == alone.ranks
        assert again.curve[2] == alone.curve[1]


def test_a_killed_run_goes_on_to_the_same_bits(net, given, begun, tmp_path: Path):
    settings: dict[str, Any] = {"tol": 0.3, "rounds": 2, "start": begun, **given}
    whole = icd.erase(net, **settings)

    def kill(_: int, record: Any) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt

    place = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        icd.erase(net, **settings, checkpoint=place, callback=kill)
    again = icd.erase(net, **settings, checkpoint=place)
    assert bits(again.model) == bits(whole.model)
    assert again.as_dict() == whole.as_dict()
    with pytest.raises(ValueError, match="model is"):
        icd.erase(net, **{**settings, "start": None}, checkpoint=place)


def test_what_is_refused(net, given, begun):
    with pytest.raises(TypeError, match="start must be an EraseResult or None, and is Sequential"):
        icd.erase(net, start=begun.model, **given)
    other = dataclasses.replace(begun, model=nn.Sequential(nn.Linear(6, 3)))
    with pytest.raises(ValueError, match="start must be what was made of model"):
        icd.erase(net, start=other, **given)
    lost = begun.lost
    assert lost > 0.0
    with pytest.raises(ic.ToleranceError, match=rf"start has lost {lost:.3g} of the primary acc"):
        icd.erase(net, start=begun, tol=lost / 2, **given)
    path = icd.erasure_path(net, given["primary"], harmful=given["harmful"])
    with pytest.raises(ValueError, match="path is that of another run: model is"):
        icd.erase(net, start=begun, tol=0.2, path=path, **given)


class Versioned(nn.Linear):
    """A layer whose state holds more than tensors."""

    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        assert state == {"version": 3}


def test_a_network_whose_state_holds_more_than_tensors(net, given, begun):
    torch.manual_seed(0)
    own = nn.Sequential(Versioned(6, 12), *net[1:]).eval()
    own[0].load_state_dict({**net[0].state_dict(), "_extra_state": {"version": 3}})
    settings = {"tol": 0.1, **given}
    got = icd.unlearn(own, method="leace", **settings)
    assert got.ranks == begun.ranks
    got = icd.erase(own, start=got, recover=4, **settings)
    assert got.ranks == icd.erase(net, start=begun, recover=4, **settings).ranks
    assert icd.unlearn(own, method="graddiff", steps=5, trials=1, **settings).lost <= 0.1
