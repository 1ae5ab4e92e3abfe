"""The mix-in over two processes: one step on all rows, and harmful samples that differ."""

import pytest
from torch_cases import assert_close, on_ranks, torch

import immucond.torch as ict

import torch_trainer_ranks as ranks  # isort: skip  # transformers, after torch, may be absent


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return on_ranks(ranks.work, 2, tmp_path_factory.mktemp("ranks"))


def features(net, x):
    return torch.tanh(net.body(x))


def by_hand(results, name, weights):
    """The same steps in one process, on the rows of both; the weights by the terms' rule."""
    net, used = ranks.Net(), [result[name]["used"] for result in results]
    logs, chosen = [], None
    labels = {tuple(row["x"].tolist()): row["labels"] for row in ranks.rows(1)}
    for step in range(ranks.STEPS):
        P = torch.cat([each[2 * step] for each in used])
        H = torch.cat([each[2 * step + 1] for each in used])
        y = torch.tensor([labels[tuple(x.tolist())] for x in P])
        Z_P, Z_H = features(net, P), features(net, H)
        loss = torch.nn.functional.cross_entropy(net.head(Z_P), y)
        terms = ict.r_well(features=Z_P), ict.r_ill(features=Z_H)
        chosen = weights(loss, terms, (Z_P, Z_H), chosen)
        total = loss + sum(w * t for w, t in zip(chosen, terms, strict=True))
        net.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
        logs.append(
            (float(loss.detach()), *(float(t.detach()) for t in terms), *map(float, chosen))
        )
    return net.state_dict(), logs


def fixed(loss, terms, sides, before):
    return 1e-2, 1e-3


def sized(loss, terms, sides, before):
    return before or tuple(w / float(t.detach()) for w, t in zip((1.0, 10.0), terms, strict=True))


def balance(loss, terms, sides, before):
    def norm(term, Z):
        return float(torch.autograd.grad(term, Z, retain_graph=True)[0].norm())

    of_loss = norm(loss, sides[0])
    return tuple(of_loss / norm(term, Z) for term, Z in zip(terms, sides, strict=True))


@pytest.mark.parametrize(
    ("name", "weights"), [("fixed", fixed), ("terms", sized), ("balance", balance)]
)
def test_steps_over_two_processes_are_those_on_all_rows(results, name, weights):
    expected, logs = by_hand(results, name, weights)
    for result in results:
        for key, value in expected.items():
            assert_close(result[name]["state"][key], value, 1e-6)
    keys = ("primary_loss", "well", "ill", "lambda_P", "lambda_H")
    for entry, values in zip(results[0][name]["logs"], logs, strict=True):
        for key, value in zip(keys, values, strict=True):
            assert entry[key] == pytest.approx(value, rel=1e-6), key


def test_processes_read_different_harmful_samples(results):
    for name in ("fixed", "balance", "terms", "imma"):
        seen = [
            {tuple(x.tolist()) for batch in result[name]["used"][1::2] for x in batch}
            for result in results
        ]
        assert all(len(rows) == ranks.BATCH * ranks.STEPS for rows in seen)
        assert not seen[0] & seen[1]


def test_local_terms_have_one_weight_too(results):
    for key in ("lambda_P", "lambda_H"):
        assert len({result["imma"]["logs"][0][key] for result in results}) == 1
    first, second = (result["imma"]["state"] for result in results)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["alignment", "balanced alignment"])
def test_a_process_without_a_term_has_the_weight_of_the_others(results, name):
    first, second = (result[name]["state"] for result in results)
    assert all(torch.equal(first[key], second[key]) for key in first)
    for step in range(ranks.STEPS):
        weights = {result[name]["logs"][step]["lambda_H"] for result in results}
        assert len(weights) == 1
        assert weights.pop() > 0.0
    if name == "alignment":
        batch, net = ranks.first_of_one_class()[1], ranks.Net()
        size = abs(float(ict.r_align(features(net, batch["x"]), batch["labels"]).log().detach()))
        assert results[0][name]["logs"][0]["lambda_H"] == pytest.approx(0.3 / size, rel=1e-6)


def test_dtensors_sharded_by_rows_stand_for_all_rows_and_others_are_refused(results):
    for result in results:
        assert_close(result["sharded"], result["whole"], 1e-12)
        for of_all, whole in (result["grams"], result["modules"]):
            assert_close(of_all, whole, 1e-12)
        for told in result["dtensor"]:
            assert "must be a plain tensor, and is a DTensor: give" in told
            assert ".full_tensor()" in told
            assert "group=" in told
        assert_close(result["full"], result["whole"], 1e-12)
        assert_close(result["local"], result["whole"], 1e-9)


def test_a_group_is_left_out_of_a_compiled_graph_or_refused_by_name(results):
    for result in results:
        assert_close(result["compiled"], 2 * result["whole"], 1e-9)
        assert "group= cannot be part of a compiled graph" in result["fullgraph"]


def test_a_batch_without_a_label_on_one_process_ends_all(results):
    first, second = (result["without labels"] for result in results)
    assert second.startswith("ValueError: no token of a batch counts")
    assert first.startswith("RuntimeError: rank 1 failed: ValueError: no token of a batch counts")
