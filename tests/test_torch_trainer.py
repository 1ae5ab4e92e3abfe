"""The mix-in in Hugging Face's own Trainer."""

import pytest
from torch_cases import torch

import immucond.torch as ict
from immucond.torch._split import SplitModel

import transformers  # isort: skip  # after torch, which may be absent


class ImmunizingTrainer(ict.TrainerMixin, transformers.Trainer):
    pass


def network():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def sentences(count, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in range(count):
        length = 3 + label % 5
        mask = (torch.arange(8) < length).long()
        ids = torch.randint(1, 30, (8,), generator=generator) * mask
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": label % 3})
    return rows


def harmful(size=16):
    return torch.utils.data.DataLoader(sentences(32, 2), batch_size=size)


def trainer(kind, folder, model=None, count=32, **changes):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        "dataloader_pin_memory": False,
    } | changes
    arguments = transformers.TrainingArguments(**options)
    model = network() if model is None else model
    return kind(model, arguments, train_dataset=sentences(count, 1))


def states_near(a, b, **tolerance):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.allclose(a[key], b[key], **tolerance) for key in a)


def test_without_weight_it_is_the_plain_trainer(tmp_path):
    plain = trainer(transformers.Trainer, tmp_path)
    ours = trainer(ImmunizingTrainer, tmp_path)
    ours.immunize_against(harmful(), split="classifier", lambdas=(0.0, 0.0))
    for each in (plain, ours):
        each.train()
    assert states_near(plain.model, ours.model, rtol=0, atol=0)
    assert not states_near(network(), ours.model, rtol=0, atol=0)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_descends_on_loss_plus_terms(tmp_path, accumulated):
    lambdas, lr = (1e-3, 2e-5), 1e-2
    model = network().eval()
    ours = trainer(
        ImmunizingTrainer,
        tmp_path,
        max_steps=1,
        gradient_accumulation_steps=accumulated,
        train_sampling_strategy="sequential",
    )
    ours.immunize_against(harmful(), split="classifier", lambdas=lambdas)
    ours.train()
    collate = torch.utils.data.default_collate
    total = 0.0
    for start in range(0, 16 * accumulated, 16):
        P, H = (collate(sentences(32, seed)[start : start + 16]) for seed in (1, 2))
        loss = model(**P).loss
        Z_P, Z_H = (
            SplitModel(model, "classifier")({k: x for k, x in batch.items() if k != "labels"})[0]
            for batch in (P, H)
        )
        total = total + (loss + ict.ImmunizationLoss(*lambdas)(Z_P, Z_H)) / accumulated
    total.backward()
    before = network()
    for name, parameter in ours.model.named_parameters():
        gradient = dict(model.named_parameters())[name].grad
        if gradient is not None:
            moved = parameter - before.get_parameter(name)
            assert torch.allclose(moved, -lr * gradient, rtol=1e-3, atol=1e-6), name


def test_it_immunizes_and_logs(tmp_path):
    ours = trainer(ImmunizingTrainer, tmp_path, num_train_epochs=10, learning_rate=0.03)
    ours.immunize_against(harmful(), split="classifier", lambdas=(0.0, 0.01))
    ours.train()
    assert kappa(ours.model) > 3 * kappa(network())
    logged = [entry for entry in ours.state.log_history if "loss" in entry]
    assert len(logged) == 20
    for entry in logged:
        assert (entry["lambda_P"], entry["lambda_H"]) == (0.0, 0.01)
        assert {"primary_term", "harmful_term"} <= entry.keys()
    assert logged[-1]["harmful_term"] < logged[0]["harmful_term"] / 2
    assert ours.evaluate(sentences(16, 4))["eval_loss"] > 0


def kappa(model):
    batch = torch.utils.data.default_collate(sentences(32, 2))
    batch.pop("labels")
    with torch.no_grad():
        return ict.condition_number(features=SplitModel(model.eval(), "classifier")(batch)[0])
