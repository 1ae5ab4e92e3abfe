"""The scikit-learn estimator: scikit-learn's own checks, then what it promises beyond them."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import immucond as ic
import immucond.sklearn
from immucond.sklearn import ConditionImmunizer

EASIER = pytest.mark.filterwarnings("ignore:the harmful task got easier")
ALGORITHM1 = {"lambda_P": 0.05, "lambda_H": 1e4, "lr": 0.01, "steps": 20, "random_state": 0}


class Against(ConditionImmunizer):
    """Makes its own harmful inputs: scikit-learn's checks pass none."""

    def fit(self, X, y=None):
        return super().fit(X, y, X_harmful=harmful_beside(X))


def harmful_beside(X):
    shape = X.shape if scipy.sparse.issparse(X) else np.asarray(X).shape
    if len(shape) != 2 or 0 in shape:
        return X  # refused before this is looked at
    d = shape[1]
    rows = np.random.default_rng(0).normal(size=(30, d)) * np.geomspace(1.0, 5.0, d)
    return pd.DataFrame(rows, columns=X.columns) if hasattr(X, "columns") else rows


def tasks(seed=0, rows=50, d=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, d)) * np.arange(d, 0, -1)
    return X, X @ rng.normal(size=d), rng.normal(size=(rows + 3, d))


def digit_tasks():
    images, digits = load_digits(return_X_y=True)
    return images[digits == 3] / 16, images[digits == 7] / 16


CHECKED = [
    ConditionImmunizer(),
    Against(kappa_P=2.0),
    Against("algorithm1", loss="squared", lambda_P=1e-9, lambda_H=1e-9, lr=1e-6, steps=2),
    Against("r_ill_only", loss="squared", lambda_H=1e-9, lr=1e-6, steps=2),
    Against("opt_kappa", loss="squared", lambda_P=1e-12, lambda_H=1e-12, lr=1e-6, steps=2),
]


def expected_failures(estimator):
    infinite = "R_ill of one feature is infinite: the error says so, not '1 feature(s)'"
    reasons = {
        "closed_form": "one feature has condition number 1: the error says that kappa_P = 2 is not",
        "algorithm1": infinite,
        "r_ill_only": infinite,
    }
    if type(estimator) is ConditionImmunizer or estimator.method not in reasons:
        return {}
    return {"check_fit2d_1feature": reasons[estimator.method]}


@EASIER
@parametrize_with_checks(CHECKED, expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # a check of NumPy arrays is skipped without
    check(estimator)


@EASIER
# They give frames to one call and arrays to another, which scikit-learn warns of.
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")
@pytest.mark.parametrize("estimator", CHECKED, ids=str)
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_get_feature_names_out_error,
        estimator_checks.check_global_output_transform_pandas,
        estimator_checks.check_inplace_ensure_writeable,
        estimator_checks.check_set_output_transform,
        estimator_checks.check_set_output_transform_pandas,
        estimator_checks.check_transformer_get_feature_names_out,
        estimator_checks.check_transformer_get_feature_names_out_pandas,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learn_checks_of_its_own_transformers(estimator, check):
    check(type(estimator).__name__, estimator)


def test_without_harmful_inputs_the_primary_features_are_white():
    X, _, _ = tasks()
    immunizer = ConditionImmunizer().fit(X)
    Z = immunizer.transform(X)
    np.testing.assert_allclose(Z.T @ Z, np.trace(Z.T @ Z) / 4 * np.eye(4), atol=1e-10)
    assert immunizer.report_ is immunizer.omega_ is immunizer.classes_ is None
    assert immunizer.history_ == {}
    assert immunizer.delta_ == (0.0, 0.0)


@pytest.mark.parametrize("kappa_P", [1.0, 3.0])
def test_with_harmful_inputs_it_attains_the_limit(kappa_P):
    X, _, X_harmful = tasks()
    immunizer = ConditionImmunizer(kappa_P=kappa_P).fit(X, X_harmful=X_harmful)
    kappa = {
        name: np.linalg.cond(immunizer.transform(rows)) ** 2
        for name, rows in (("P", X), ("H", X_harmful))
    }
    pencil = np.linalg.eigvals(np.linalg.solve(X.T @ X, X_harmful.T @ X_harmful)).real
    assert kappa["P"] == pytest.approx(kappa_P)
    assert kappa["H"] == pytest.approx(kappa_P * pencil.max() / pencil.min())
    assert immunizer.report_.kappa_H == pytest.approx(kappa["H"])
    assert immunizer.delta_ == (0.0, 0.0)


@EASIER
def test_automatic_delta_makes_an_infinite_supremum_finite():
    X, X_harmful = digit_tasks()
    rank = np.linalg.matrix_rank(X)
    immunizer = ConditionImmunizer(kappa_P=1.0).fit(X, X_harmful=X_harmful)
    smallest = np.linalg.svd(X, compute_uv=False)[rank - 1] ** 2
    assert rank < 64
    assert immunizer.delta_ == (pytest.approx(smallest), 0.0)
    assert immunizer.report_.limit.case == "unbounded"
    assert immunizer.report_.condition_c
    # Each eigenvalue of K_P + delta I is at most twice that of K_P, so whitened within a factor 2.
    Z = np.linalg.svd(immunizer.transform(X), compute_uv=False)
    assert (Z[0] / Z[rank - 1]) ** 2 == pytest.approx(2.0, rel=0.01)
    with pytest.raises(ValueError, match="supremum, which is infinite"):
        ConditionImmunizer(delta=0).fit(X, X_harmful=X_harmful)


@EASIER
@pytest.mark.parametrize("delta", [0.3, (0.3, 0.3), (0.3, 0.0)])
def test_delta_is_added_to_the_gram_matrices(delta):
    X, X_harmful = digit_tasks()
    immunizer = ConditionImmunizer(kappa_P=1, delta=delta).fit(X, X_harmful=X_harmful)
    H = immunizer.theta_.T @ (X.T @ X + 0.3 * np.eye(64)) @ immunizer.theta_
    np.testing.assert_allclose(H, H[0, 0] * np.eye(64), atol=1e-9 * H[0, 0])
    assert immunizer.delta_ == (0.3, 0.3 if delta == 0.3 else delta[1])


def test_the_closed_form_leaves_the_primary_condition_number_as_it_is():
    X, _, X_harmful = tasks()
    shared = np.linalg.cond(X) ** 2, np.linalg.cond(X_harmful) ** 2
    found = ConditionImmunizer().fit(X, X_harmful=X_harmful)
    after = [np.linalg.cond(found.transform(x)) ** 2 for x in (X, X_harmful)]
    assert after[0] == pytest.approx(shared[0], rel=1e-9)
    assert after[1] > shared[1]
    assert found.report_.i == pytest.approx(after[1] / shared[1], rel=1e-9)
    X, X_harmful = digit_tasks()
    assert ConditionImmunizer().fit(X, X_harmful=X_harmful).report_.i > 10.0


@pytest.mark.parametrize("method", ["closed_form", "algorithm1"])
def test_a_harmful_task_that_got_easier_is_told(method):
    X, y, _ = tasks()
    settings = {"kappa_P": 1.0}
    if method != "closed_form":
        settings = ALGORITHM1 | {"loss": "squared", "lambda_H": 1e-9, "lr": 1e-3}
    found = ConditionImmunizer(method, **settings)
    with pytest.warns(ic.ImmunityWarning, match=r"harmful task got easier.*\(i\)") as told:
        found.fit_transform(X, y, X_harmful=2.0 * X[::-1] + 0.1)
    assert [warning.filename for warning in told] == [__file__]  # not a line of scikit-learn's
    assert found.report_.i < 1.0


def test_fewer_rows_than_features():
    X, _, X_harmful = tasks(rows=3, d=6)
    for immunizer in (
        ConditionImmunizer().fit(X),
        ConditionImmunizer().fit(X, X_harmful=X_harmful),
        ConditionImmunizer().fit(X, X_harmful=X),
    ):
        assert np.linalg.matrix_rank(immunizer.theta_) == 6
        assert np.isfinite(immunizer.transform(X_harmful)).all()


def test_algorithm1_is_the_function_of_that_name():
    X, y, X_harmful = tasks()
    immunizer = ConditionImmunizer(
        "algorithm1", **ALGORITHM1, method_params={"batch_size": 20}
    ).fit(X, y, X_harmful=X_harmful)
    keywords = ALGORITHM1 | {"seed": 0, "batch_size": 20}
    del keywords["random_state"]
    result = ic.immunize.algorithm1(X, y, X_harmful, **keywords)
    np.testing.assert_array_equal(immunizer.theta_, result.theta)
    np.testing.assert_array_equal(immunizer.omega_, result.omega)
    np.testing.assert_array_equal(immunizer.history_["loss"], result.history["loss"])
    assert immunizer.report_ == result.report
    assert immunizer.classes_ is None


def test_without_targets_an_iterative_method_has_no_primary_loss():
    X, _, X_harmful = tasks()
    immunizer = ConditionImmunizer("algorithm1", **ALGORITHM1).fit(X, X_harmful=X_harmful)
    assert not immunizer.history_["loss"].any()
    assert not immunizer.history_["grad_loss"].any()
    assert immunizer.omega_ is None
    theta, step = np.eye(4), ALGORITHM1["lr"]
    for _ in range(ALGORITHM1["steps"]):
        parts = [
            weight * r.value_and_grad_theta(theta, rows.T @ rows, preconditioned=True)[1]
            for r, rows, weight in ((ic.r_well, X, 0.05), (ic.r_ill, X_harmful, 1e4))
        ]
        theta = theta - step * sum(parts)
    np.testing.assert_allclose(immunizer.theta_, theta, rtol=1e-6, atol=1e-8)


@EASIER
def test_other_methods_are_the_functions_of_these_names():
    X, y, X_harmful = tasks()
    labels, y_harmful = np.where(y > 0, "yes", "no"), np.arange(len(X_harmful)) % 3
    given, own = {"lambda_H": 1e-3, "lr": 0.01, "steps": 3}, {"seed": 0}
    binary, three = (y > 0).astype(int), np.eye(3)[y_harmful]
    for method, keywords, arguments in (
        ("r_ill_only", given, ()),
        ("opt_kappa", given | {"lambda_P": 1e-3}, ()),
        ("imma", given, (three,)),
    ):
        found = ConditionImmunizer(method, **keywords, random_state=0).fit(
            X, labels, X_harmful=X_harmful, y_harmful=y_harmful
        )
        function = getattr(ic.immunize, method)
        result = function(X, binary, X_harmful, *arguments, **keywords, **own, loss="logistic")
        np.testing.assert_array_equal(found.theta_, result.theta)
        np.testing.assert_array_equal(found.omega_, result.omega)
        assert found.classes_.tolist() == ["no", "yes"]
        assert found.bias_ is None


def test_softmax_head_has_a_column_a_class():
    X, y, X_harmful = tasks()
    labels = np.digitize(y, [-1.0, 1.0]) + 5
    found = ConditionImmunizer("algorithm1", **ALGORITHM1).fit(X, labels, X_harmful=X_harmful)
    assert found.omega_.shape == (4, 3)
    assert found.classes_.tolist() == [5, 6, 7]


def test_published_has_a_bias():
    X, y, X_harmful = tasks()
    params = {"epochs": 2, "batch_size": 10}
    found = ConditionImmunizer("published", method_params=params, random_state=0).fit(
        X, y, X_harmful=X_harmful
    )
    result = ic.immunize.published(X, y, X_harmful, **params, seed=0)
    np.testing.assert_array_equal(found.transform(X), result.features(X))
    assert found.bias_.any()
    assert found.transform(X.astype(np.float32)).dtype == np.float32


def test_nearest_optimum():
    X, _, X_harmful = tasks()
    near = np.random.default_rng(2).normal(size=(4, 6))
    found = ConditionImmunizer(method_params={"nearest_to": near}).fit(X, X_harmful=X_harmful)
    expected = ic.linear.nearest_extractor(near, X_P=X, X_H=X_harmful, kappa_P=None)
    np.testing.assert_allclose(found.theta_, expected, rtol=1e-12)
    assert found.transform(X).shape == (50, 6)
    assert len(found.get_feature_names_out()) == 6


class Recorder:
    """Stands in for a method, and keeps what it is called with."""

    def __call__(self, X_P, y_P, X_H, *, loss="squared", omega=None, seed=0):
        self.y_P, self.loss, self.seed = y_P, loss, seed
        report = ic.linear.immunity(np.eye(X_P.shape[1]), X_P, X_H)
        return ic.immunize.ImmunizationResult(np.eye(X_P.shape[1]), np.zeros(1), {}, report)


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(immucond.sklearn._METHODS, "recorder", recorder)
    return recorder


@pytest.mark.parametrize(
    ("y", "loss", "targets", "classes"),
    [
        (["b", "a", "b", "a"], "logistic", [1, 0, 1, 0], ["a", "b"]),
        ([7, 1, 1, 7], "logistic", [1, 0, 0, 1], [1, 7]),
        (["c", "a", "b", "c"], "softmax", [2, 0, 1, 2], ["a", "b", "c"]),
        ([True, False, True, True], "logistic", [1, 0, 1, 1], [False, True]),
        ([[1], [0], [1], [1]], "logistic", [1, 0, 1, 1], [0, 1]),
        ([[1, 0], [0, 1], [1, 1], [0, 0]], "logistic", [[1, 0], [0, 1], [1, 1], [0, 0]], None),
        ([0.5, 1.5, 2.5, 0.1], "squared", [0.5, 1.5, 2.5, 0.1], None),
        ([[0.5, 1], [1.5, 2], [2.5, 3], [0.1, 4]], "squared",
         [[0.5, 1], [1.5, 2], [2.5, 3], [0.1, 4]], None),
    ],
)  # fmt: skip
def test_targets_choose_the_loss(recorder, y, loss, targets, classes):
    X = np.arange(8.0).reshape(4, 2)
    immunizer = ConditionImmunizer("recorder", random_state=3).fit(X, y, X_harmful=X[::-1])
    assert recorder.loss == loss
    assert recorder.seed == 3
    np.testing.assert_array_equal(recorder.y_P, targets)
    if classes is None:
        assert immunizer.classes_ is None
    else:
        assert immunizer.classes_.tolist() == classes


def test_loss_can_be_told(recorder):
    X = np.arange(8.0).reshape(4, 2)
    y = [1, 2, 3, 2]
    ConditionImmunizer("recorder", loss="squared").fit(X, y, X_harmful=X)
    np.testing.assert_array_equal(recorder.y_P, y)
    ConditionImmunizer("recorder", loss="logistic").fit(X, y, X_harmful=X)
    np.testing.assert_array_equal(recorder.y_P, np.eye(3)[[0, 1, 2, 1]])


def test_random_states(recorder):
    X = np.arange(8.0).reshape(4, 2)
    seeds = []
    for state in (np.random.RandomState(0), np.random.RandomState(0), None, None):
        ConditionImmunizer("recorder", random_state=state).fit(X, X_harmful=X)
        seeds.append(recorder.seed)
    assert seeds[0] == seeds[1]
    assert seeds[2] != seeds[3]


def test_refitting_leaves_nothing_behind():
    X, _, X_harmful = tasks()
    y = X[:, 0] > 0
    immunizer = ConditionImmunizer("algorithm1", **ALGORITHM1).fit(X, y, X_harmful=X_harmful)
    assert immunizer.classes_.tolist() == [False, True]
    immunizer.set_params(method="closed_form").fit(X[:, :3])
    assert immunizer.classes_ is immunizer.omega_ is immunizer.report_ is None
    assert immunizer.history_ == {}
    assert immunizer.transform(X[:, :3]).shape == (50, 3)


def test_float32_is_transformed_in_float64_and_returned_as_it_was():
    X, _, X_harmful = (part.astype(np.float32) for part in tasks())
    immunizer = ConditionImmunizer().fit(X, X_harmful=X_harmful)
    assert immunizer.theta_.dtype == np.float64
    Z = immunizer.transform(X)
    assert Z.dtype == np.float32
    np.testing.assert_array_equal(Z, (X.astype(float) @ immunizer.theta_).astype(np.float32))
    assert immunizer.transform(X.astype(np.float16)).dtype == np.float64
    assert immunizer.transform(X.astype(int)).dtype == np.float64


def test_rank_is_decided_by_the_precision_of_the_inputs():
    X, _, X_harmful = tasks()
    X[:, 3] = X[:, 2] * (1.0 + 1e-9)
    X[0, 3] += 1e-5
    double = ConditionImmunizer().fit(X, X_harmful=X_harmful)
    single = ConditionImmunizer().fit(X.astype(np.float32), X_harmful=X_harmful)
    assert (double.report_.rank_P, single.report_.rank_P) == (4, 3)
    assert double.delta_[0] == 0.0 < single.delta_[0]


def test_names_and_frames():
    X, _, X_harmful = tasks()
    frame = pd.DataFrame(X, columns=list("abcd"), index=range(100, 150))
    other = pd.DataFrame(X_harmful, columns=list("abcd"))
    immunizer = ConditionImmunizer().set_output(transform="pandas").fit(frame, X_harmful=other)
    assert immunizer.feature_names_in_.tolist() == list("abcd")
    Z = immunizer.transform(frame)
    assert Z.columns.tolist() == immunizer.get_feature_names_out().tolist()
    assert Z.columns[3] == "conditionimmunizer3"
    assert Z.index.equals(frame.index)
    with pytest.raises(ValueError, match="feature names should match"):
        ConditionImmunizer().fit(frame, X_harmful=other.rename(columns={"d": "e"}))
    with pytest.raises(ValueError, match="feature names"):
        ConditionImmunizer().fit(frame, X_harmful=other[list("abdc")])


def test_copies_and_pickles():
    X, _, X_harmful = tasks()
    immunizer = ConditionImmunizer(kappa_P=2.0, delta=(1.0, 2.0)).fit(X, X_harmful=X_harmful)
    copied = clone(immunizer)
    assert copied.get_params() == immunizer.get_params()
    assert not hasattr(copied, "theta_")
    assert copied.set_params(kappa_P=3.0).kappa_P == 3.0
    restored = pickle.loads(pickle.dumps(immunizer))
    np.testing.assert_array_equal(restored.transform(X), immunizer.transform(X))
    assert restored.report_ == immunizer.report_


def test_metadata_is_routed_through_a_pipeline():
    X, y, X_harmful = tasks()
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            StandardScaler(),
            ConditionImmunizer(kappa_P=2.0).set_fit_request(X_harmful=True),
            LinearRegression(),
            transform_input=["X_harmful"],
        )
        pipeline.fit(X, y, X_harmful=X_harmful)
        scaler = StandardScaler().fit(X)
        alone = ConditionImmunizer(kappa_P=2.0).fit(
            scaler.transform(X), X_harmful=scaler.transform(X_harmful)
        )
        np.testing.assert_array_equal(pipeline[1].theta_, alone.theta_)
        assert pipeline.score(X, y) == pytest.approx(1.0)
        unasked = make_pipeline(ConditionImmunizer(), LinearRegression())
        with pytest.raises(ValueError, match="X_harmful"):
            unasked.fit(X, y, X_harmful=X_harmful)


def test_harmful_inputs_by_step_name_without_routing():
    X, y, X_harmful = tasks()
    pipeline = make_pipeline(ConditionImmunizer(), LinearRegression())
    pipeline.fit(X, y, conditionimmunizer__X_harmful=X_harmful)
    assert pipeline[0].report_.rir == pytest.approx(pipeline[0].report_.limit.rir)


@pytest.mark.parametrize(("rows", "seen"), [(60, 60), (50, 40)])
def test_searches_split_harmful_inputs_of_as_many_rows_as_x(monkeypatch, rows, seen):
    X, y, _ = tasks()
    X_harmful = np.random.default_rng(1).normal(size=(rows, 4))
    given = []
    fit = ConditionImmunizer.fit
    monkeypatch.setattr(
        ConditionImmunizer, "fit",
        lambda self, X, y=None, *, X_harmful=None, y_harmful=None: (
            given.append(len(X_harmful)), fit(self, X, y, X_harmful=X_harmful)
        )[1],
    )  # fmt: skip
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            ConditionImmunizer().set_fit_request(X_harmful=True), LogisticRegression()
        )
        search = GridSearchCV(
            pipeline, {"conditionimmunizer__kappa_P": [1.0, 4.0]}, cv=KFold(5), error_score="raise"
        ).fit(X, y > 0, X_harmful=X_harmful)
    assert set(given[:-1]) == {seen}
    assert given[-1] == rows  # the last fit has all rows
    assert search.best_estimator_[0].report_.kappa_P == pytest.approx(
        search.best_params_["conditionimmunizer__kappa_P"]
    )


BAD = np.full((5, 4), np.nan)


@pytest.mark.parametrize(
    ("parameters", "arguments", "error", "message"),
    [
        ({"method": "magic"}, {}, ValueError, "method must be one of 'closed_form'"),
        ({"method": "algorithm1"}, {"X_harmful": None}, ValueError, "X_harmful is needed for met"),
        ({"method": "algorithm1", "lr": 1.0}, {}, ValueError, "needs lambda_P, lambda_H, steps"),
        ({"kappa_P": 2.0}, {"X_harmful": None}, ValueError, "kappa_P must be 1 without X_harmful"),
        ({"kappa_P": 0.5}, {}, ValueError, "kappa_P must be in"),
        ({"delta": -1.0}, {}, ValueError, "delta must be a number"),
        ({"delta": "some"}, {}, ValueError, "delta must be one of 'auto'"),
        ({"method_params": {"magic": 1}}, {}, ValueError, "may hold nearest_to, .*, got 'magic'"),
        ({"method_params": {"kappa_P": 1}}, {}, ValueError, "got 'kappa_P'"),
        ({"method": "imma", "lr": 1.0, "steps": 1}, {"y": np.arange(50.0) / 3}, ValueError,
         "y_harmful is needed for method='imma'"),
        ({"method": "imma", "lr": 1.0, "steps": 1}, {}, ValueError, "y is needed for method"),
        ({"method": "imma", "lr": 1.0, "steps": 1},
         {"y": np.arange(50) % 2, "y_harmful": np.ones(53)}, ValueError, "y_harmful holds one cl"),
        ({"method": "published"}, {}, ValueError, "y is needed for method='published'"),
        ({}, {"X_harmful": BAD}, ValueError, "Input X_harmful contains NaN"),
        ({}, {"X_harmful": np.ones((5, 3))}, ValueError, "X_harmful must have 4 features"),
        ({}, {"X_harmful": np.ones(4)}, ValueError, "Expected 2D array"),
        ({}, {"X_harmful": scipy.sparse.eye_array(4)}, TypeError, "Sparse data was passed for X_h"),
        ({}, {"X": scipy.sparse.eye_array(4)}, TypeError, "Sparse data was passed for X,"),
        ({}, {"X_harmful": np.zeros((5, 4))}, ValueError, "X_harmful is zero"),
        ({}, {"X": np.zeros((5, 4))}, ValueError, "X is zero"),
        ({}, {"X_harmful": None, "y_harmful": [1]}, ValueError, "without X_harmful"),
        (ALGORITHM1, {"y": np.full(50, np.nan)}, ValueError, "Input y contains NaN"),
        (ALGORITHM1, {"y": np.ones(49)}, ValueError, "inconsistent numbers of samples"),
        (ALGORITHM1, {"y": np.ones(50)}, ValueError, r"y holds one class \(1.0\), and two are"),
        (ALGORITHM1, {"y": np.full(50, "a", object)}, ValueError, r"y holds one class \('a'\)"),
        (ALGORITHM1 | {"loss": "logistic"}, {"y": np.linspace(0, 1, 50)}, ValueError,
         "needs class labels, and y is continuous"),
        (ALGORITHM1 | {"loss": "magic"}, {"y": np.arange(50) % 2}, ValueError, "loss must be one"),
        (ALGORITHM1 | {"loss": "squared"}, {"y": ["a", "b"] * 25}, TypeError, "y_P must hold"),
        (ALGORITHM1, {"y": np.arange(100).reshape(50, 2) // 2}, ValueError, "no loss"),
    ],
)  # fmt: skip
def test_bad_input(parameters, arguments, error, message):
    X, _, X_harmful = tasks()
    if parameters.keys() >= ALGORITHM1.keys():
        parameters = parameters | {"method": "algorithm1"}
    with pytest.raises(error, match=message):
        ConditionImmunizer(**parameters).fit(**({"X": X, "X_harmful": X_harmful} | arguments))


def test_scikit_learn_is_an_extra():
    script = """
import sys
sys.modules["sklearn"] = None
import immucond, immucond.immunize, immucond.linear
try:
    import immucond.sklearn
except ImportError as error:
    assert "immucond[sklearn]" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
