"""
In a pipeline of scikit-learn, with a search
============================================

`ConditionImmunizer` is a transformer, so pipelines and searches take it. Digits 3 and 8 are to be
told apart, by a ridge classifier behind it; 7s and 1s are harmful. How strong may the map be
before the primary task notices?
"""

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import immucond as ic
from immucond.sklearn import ConditionImmunizer

images, digit = load_digits(return_X_y=True)
primary, harmful = np.isin(digit, (3, 8)), np.isin(digit, (7, 1))
X, y = images[primary], digit[primary]
X_harmful, y_harmful = images[harmful], digit[harmful]

# %%
# The harmful rows travel as metadata; `transform_input` sends them through the steps before. The
# penalty of the head is searched along with the strength, because it is measured in the features
# that the map makes.

strengths = [1.0, 10.0, 100.0, 1e4]
with sklearn.config_context(enable_metadata_routing=True):
    immunizer = ConditionImmunizer("fade", delta=1.0).set_fit_request(
        X_harmful=True, y_harmful=True
    )
    pipeline = make_pipeline(
        MinMaxScaler(),
        immunizer,
        RidgeClassifier(),
        transform_input=["X_harmful"],
    )
    search = GridSearchCV(
        pipeline,
        {"conditionimmunizer__tau": strengths, "ridgeclassifier__alpha": [1e-2, 1.0]},
        cv=3,
    )
    # Half of the harmful rows make the maps, the others are the attacker's.
    search.fit(X, y, X_harmful=X_harmful[::2], y_harmful=y_harmful[::2])

# %%
# By strength: the best primary accuracy over the penalties, and the alignment of the harmful
# labels of other rows, which bounds how fast plain descent can learn them.

found = search.cv_results_
scaled = MinMaxScaler().fit(X)
scores, alignments = [], []
for tau in strengths:
    of = np.array(found["param_conditionimmunizer__tau"], dtype=float) == tau
    scores.append(found["mean_test_score"][of].max())
    fitted = ConditionImmunizer("fade", tau=tau, delta=1.0).fit(
        scaled.transform(X), y, X_harmful=scaled.transform(X_harmful[::2]),
        y_harmful=y_harmful[::2],
    )  # fmt: skip
    Z = fitted.transform(scaled.transform(X_harmful[1::2]))
    alignments.append(ic.linear.alignment(Z, y_harmful[1::2]).rho)
    print(f"tau {tau:g}: primary accuracy {scores[-1]:.3f}, harmful rho {alignments[-1]:.3g}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.0))
left.semilogx(strengths, scores, marker="o")
left.set(xlabel="tau", ylabel="cross-validated accuracy", title="primary task", ylim=(0.9, 1.0))
right.loglog(strengths, alignments, marker="s", color="#D55E00", ls="--")
right.set(xlabel="tau", ylabel="label alignment, other rows", title="harmful task")
plt.show()

# %%
# What undoes it is a step of the same library: whoever whitens the features has them back.

print(ic.probing.compare(
    scaled.transform(X_harmful[1::2]), Z, np.where(y_harmful[1::2] == 7, 1.0, -1.0),
    methods=["gd", "whitening"], steps=500,
))  # fmt: skip

# %%
# What one sees: the primary task hardly notices, at any strength, as long as its penalty is chosen
# anew; the harmful alignment falls to what sampling leaves, a floor that more harmful rows would
# lower and a larger tau does not. What follows: choose tau by the attacker's rows, never by the
# rows that made the map.
