"""`ConditionImmunizer`: what it refuses by name rather than hand to NumPy or return."""

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the extra sklearn is not installed")

from immucond.sklearn import ConditionImmunizer

RNG = np.random.default_rng(0)
X, H = RNG.normal(size=(30, 4)) * [4.0, 2.0, 1.0, 0.5], RNG.normal(size=(20, 4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_beyond_the_range_are_an_overflow_error(dtype):
    fitted = ConditionImmunizer().fit(X, X_harmful=H)
    largest = np.finfo(dtype).max
    row = np.full((1, 4), largest / 2, dtype=dtype)

    def exact(row):
        return [sum(Fraction(x) * Fraction(t) for x, t in zip(row.tolist()[0], column, strict=True))
                for column in fitted.theta_.T.tolist()]  # fmt: skip

    assert max(map(abs, exact(row))) > Fraction(float(largest))
    with pytest.raises(OverflowError, match=f"a feature is not representable in {dtype.__name__}"):
        fitted.transform(row)
    small = row / 16
    expected = [float(x) for x in exact(small)]
    np.testing.assert_allclose(fitted.transform(small)[0], expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("given", ["tau", ["tau"], 3])
def test_parameters_of_the_method_are_a_dictionary(given):
    with pytest.raises(TypeError, match="method_params must be a dictionary, and is"):
        ConditionImmunizer(method_params=given).fit(X, X_harmful=H)


def test_a_condition_number_is_one_number_without_harmful_inputs_too():
    with pytest.raises(TypeError, match="kappa_P must be a real number"):
        ConditionImmunizer(kappa_P=np.array([1.0, 2.0])).fit(X)
    with pytest.raises(ValueError, match=r"kappa_P must be 1 without X_harmful, and is 2\.0"):
        ConditionImmunizer(kappa_P=2.0).fit(X)
