"""Measuring in training: the numbers are right, reach every log, and training does not notice."""

import math
from functools import partial

import numpy as np
import pytest
from test_deep_trainer import network, sentences, trainer
from torch_cases import torch

import immucond as ic
import immucond.deep as icd

import transformers  # isort: skip  # after torch, which may be absent


def loaders():
    one, two = (sentences(40, seed) for seed in (5, 6))
    return [torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True) for rows in (one, two)]


def monitor(**options):
    return icd.Monitor(*loaders(), split="classifier", **options)


def features(model, seed):
    """What enters the head of BERT: the pooled output, in evaluation mode."""
    batch = torch.utils.data.default_collate(sentences(40, seed))
    labels = batch.pop("labels").numpy()
    with torch.no_grad():
        return model.eval().bert(**batch).pooler_output.double().numpy(), labels


def plain_net(*more):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 3)
    )


def batches(seed, count=30):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(count, 5, generator=generator), torch.arange(count) % 3)]


def test_a_measurement_is_that_of_the_features_of_all_rows():
    model = network()
    found = monitor().measure(model)
    for task, seed in (("P", 5), ("H", 6)):
        s = np.linalg.svd(features(model, seed)[0], compute_uv=False)
        assert found[f"rank_{task}"] == s.size  # 12 features of 40 rows
        assert found[f"kappa_{task}"] == pytest.approx((s[0] / s[-1]) ** 2, rel=1e-3)
    Z, labels = features(model, 6)
    Z, Y = Z - Z.mean(0), np.eye(3)[labels] - np.eye(3)[labels].mean(0)
    Q, _ = np.linalg.qr(Z)
    energy = np.linalg.norm(Q.T @ Y) ** 2 * np.linalg.norm(Z, 2) ** 2
    assert found["rho"] == pytest.approx(np.linalg.norm(Z.T @ Y) ** 2 / energy, rel=1e-3)
    assert (found["i"], found["ii"], found["rir"]) == (1.0, 1.0, 1.0)


def test_ratios_are_of_the_reference():
    before, after = plain_net(), plain_net()
    with torch.no_grad():
        after[0].weight[0] *= 30.0
    tasks = batches(1), batches(2)
    found = icd.Monitor(*tasks, split="3", reference=before).measure(after)
    first = icd.Monitor(*tasks, split="3").measure(before)
    assert found["i"] == pytest.approx(found["kappa_H"] / first["kappa_H"], rel=1e-12)
    assert found["rir"] == pytest.approx(found["i"] / found["ii"], rel=1e-12)
    report = icd.immunity_report(after, before, *tasks, split="3")
    assert found["rir"] == pytest.approx(report.rir, rel=1e-12)
    assert found["i"] > 2.0


def test_it_leaves_modes_statistics_gradients_and_generators_alone():
    model = plain_net()
    model[1].eval()  # frozen statistics, in a network that trains
    modes = [module.training for module in model.modules()]
    model(batches(3)[0][0]).sum().backward()
    kept = {name: x.clone() for name, x in model.state_dict().items()}
    slopes = [p.grad.clone() for p in model.parameters()]
    shuffled = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*batches(1)[0]), 8, shuffle=True
    )
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    icd.Monitor(shuffled, batches(2), split="3").measure(model)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(x, kept[name]) for name, x in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), slopes, strict=True))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_trainer_ends_in_the_same_bits_and_logs_all(tmp_path, accumulated):
    runs = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = network()
        model.bert.embeddings.dropout.p = 0.3  # what draws from torch's own generator
        kind = partial(transformers.Trainer, eval_dataset=sentences(8, 9))
        run = trainer(
            kind, tmp_path, model, eval_strategy="steps", eval_steps=3,
            gradient_accumulation_steps=accumulated, per_device_train_batch_size=8 // accumulated,
        )  # fmt: skip
        if watched:
            seen = monitor()
            seen.attach(run, every=2)
        run.train()
        runs.append(run)
    without, with_it = (run.model.state_dict() for run in runs)
    assert all(torch.equal(x, with_it[name]) for name, x in without.items())
    assert [entry["step"] for entry in seen.history] == [0, 2, 3, 4, 6, 8]
    losses = [[e["loss"] for e in run.state.log_history if "loss" in e] for run in runs]
    assert losses[0] == losses[1]
    assert len(losses[1]) == 8  # each step's is still told
    told = [e for e in runs[1].state.log_history if "kappa_H" in e]
    assert [{k: v for k, v in e.items() if k != "epoch"} for e in told] == seen.history
    assert told[0]["rir"] == 1.0
    assert told[-1]["rir"] != 1.0
    assert seen.history[-1]["kappa_H"] == monitor().measure(runs[1].model)["kappa_H"]


def test_a_callback_is_one_of_transformers_and_measures_at_evaluations(tmp_path):
    run = trainer(transformers.Trainer, tmp_path)
    run.eval_dataset, seen = sentences(8, 9), monitor()
    seen.attach(run)
    assert isinstance(run.callback_handler.callbacks[-1], transformers.TrainerCallback)
    run.evaluate()
    assert [entry["step"] for entry in seen.history] == [0]
    assert "kappa_P" in run.state.log_history[-1]


class Scalars:
    def __init__(self):
        self.told = {}

    def add_scalar(self, name, value, step):
        self.told[name, step] = value


class Both(Scalars):
    def log(self, *_, **__):
        raise AssertionError("one way is enough")


class Logged:
    def __init__(self):
        self.told = []

    def log(self, numbers, *, step):
        self.told.append((numbers, step))


def test_writers_of_both_kinds_get_every_number():
    model, seen = plain_net(), icd.Monitor(batches(1), batches(2), split="3")
    for kind in (Scalars, Both):
        writer = kind()
        found = seen.log(model, writer, 7)
        assert writer.told == {(f"immunity/{name}", 7): x for name, x in found.items()}
    writer = Logged()
    found = seen.log(model, writer, step=8, prefix="")
    assert writer.told == [(found, 8)]
    seen.log(model, None, 9)
    assert seen.to_pandas()["step"].tolist() == [7, 7, 8, 9]
    assert all(math.isfinite(x) for x in seen.to_pandas().to_numpy().ravel())
    with pytest.raises(TypeError, match=r"writer must have add_scalar.*and is a object"):
        seen.log(model, object(), 1)


def test_what_cannot_be_measured_is_told_and_training_goes_on():
    model, seen, writer = plain_net(), icd.Monitor(batches(1), batches(2), split="3"), Logged()
    with torch.no_grad():
        model[0].weight[0] = torch.nan
    with pytest.warns(ic.ImmunityWarning, match="step 4: the features of primary must be finite"):
        assert seen.log(model, writer, 4) == {}
    assert (writer.told, seen.history) == ([], [])
    with pytest.raises(ValueError, match="must be finite"):
        seen.measure(model)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="primary must be iterable any number of times"):
        icd.Monitor(iter(batches(1)), batches(2), split="3")
    with pytest.raises(ValueError, match="split must name a module"):
        icd.Monitor(batches(1), batches(2), split="4").measure(plain_net())
    spread = plain_net()
    spread[0].weight.full_tensor = None
    with pytest.raises(ValueError, match=r"the weight '0\.weight' is spread over processes"):
        icd.Monitor(batches(1), batches(2), split="3").measure(spread)
