"""The probe ceiling: by explicit formulas, and the same under every invertible map."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import immucond as ic

seeds = st.integers(0, 2**32 - 1)
RIDGES = [1e-3, 0.1, 10.0]


def rows(rng, N, m, classes=3, noise=0.5):
    """Features of classes with means of their own, mixed, about a mean that is not 0."""
    y = rng.permutation(np.arange(N) % classes)
    means = 1.5 * np.random.default_rng(m).standard_normal((classes, m))
    return means[y] + noise * rng.standard_normal((N, m)) @ np.diag(np.linspace(0.3, 3, m)) + 2.0, y


def task(seed, m=6, N=60, N_P=40, n=50, **options):
    rng = np.random.default_rng(seed)
    Z, y = rows(rng, N, m, **options)
    test, y_test = rows(rng, n, m, **options)
    return Z, y, rng.standard_normal((N_P, m)) * np.linspace(2, 0.2, m) - 1.0, (test, y_test)


def gauge(rng, m, kappa):
    Q, R = (np.linalg.qr(rng.standard_normal((m, m)))[0] for _ in range(2))
    return Q * np.geomspace(1.0, kappa, m) @ R


def mapped(given_task, A, dtype=np.float64):
    Z, y, Z_P, (test, y_test) = given_task
    return (Z @ A).astype(dtype), y, (Z_P @ A).astype(dtype), ((test @ A).astype(dtype), y_test)


def found(given_task, **options):
    Z, y, Z_P, held_out = given_task
    return ic.probing.ceiling(Z, y, Z_P, held_out=held_out, **options)


def explicit(Z, y, Z_P, test, ridge):
    """Scores of held-out rows by the formula as it is written."""
    Y = np.eye(y.max() + 1)[y]
    Zc, Yc, Pc = Z - Z.mean(0), Y - Y.mean(0), Z_P - Z_P.mean(0)
    w = np.linalg.solve(Zc.T @ Zc + ridge * Pc.T @ Pc, Zc.T @ Yc)
    return (test - Z.mean(0)) @ w + Y.mean(0)


@given(seeds, st.sampled_from(RIDGES))
def test_predictions_are_those_of_the_formula(seed, ridge):
    Z, y, Z_P, (test, y_test) = given_task = task(seed)
    wanted = explicit(Z, y, Z_P, test, ridge).argmax(1)
    one = found(given_task, ridges=[ridge])
    assert np.array_equal(one.predictions, wanted)
    assert one.accuracy == np.mean(wanted == y_test)
    assert one.ridge == ridge


def test_the_ridge_is_chosen_by_training_every_probe_but_for_one_row():
    Z, y, Z_P, (test, y_test) = given_task = task(0, noise=2.0)
    told = found(given_task, ridges=RIDGES)
    shares, errors = [], []
    for ridge in RIDGES:
        scores = np.concatenate(
            [
                explicit(np.delete(Z, i, 0), np.delete(y, i), Z_P, Z[i : i + 1], ridge)
                for i in range(len(Z))
            ]
        )
        shares.append(np.mean(scores.argmax(1) == y))
        errors.append(np.sum((scores - np.eye(3)[y]) ** 2))
    assert np.array_equal(told.left_out, shares)
    assert len(set(shares)) > 1
    best = max(range(len(RIDGES)), key=lambda i: (shares[i], -errors[i]))
    assert told.ridge == RIDGES[best]
    by_ridge = [np.mean(explicit(Z, y, Z_P, test, r).argmax(1) == y_test) for r in RIDGES]
    assert np.array_equal(told.held_out, by_ridge)
    assert told.accuracy == by_ridge[best]
    assert told.optimism == max(by_ridge) - by_ridge[best]


def test_the_default_grid_is_in_units_of_the_rows():
    told = found(task(0, N=60, N_P=30))
    assert told.ridges[[0, -1]] == pytest.approx([2e-8, 2e8], rel=1e-12)
    assert len(told.ridges) == len(ic.probing.RIDGES)
    # Twice the same primary rows are the same primary task.
    Z, y, Z_P, held_out = task(0, N=60, N_P=30)
    twice = found((Z, y, np.vstack([Z_P, Z_P]), held_out))
    assert twice.ridge == pytest.approx(told.ridge / 2, rel=1e-12)
    assert np.array_equal(twice.predictions, told.predictions)


@given(seeds, st.floats(0.0, 6.0))
def test_no_map_changes_a_prediction(seed, digits):
    given_task = task(seed, m=8, noise=1.5)
    A = gauge(np.random.default_rng(seed), 8, 10.0**digits)
    plain, locked = found(given_task), found(mapped(given_task, A))
    assert np.array_equal(plain.predictions, locked.predictions)
    assert locked.ridge == plain.ridge
    assert np.array_equal(plain.left_out, locked.left_out)
    assert (plain.rank, plain.rank_P) == (locked.rank, locked.rank_P)


@given(seeds)
def test_neither_does_one_of_features_in_float32(seed):
    given_task = task(seed, m=8, noise=1.5)
    A = gauge(np.random.default_rng(seed), 8, 1e2)
    plain, locked = (found(mapped(given_task, B, np.float32)) for B in (np.eye(8), A))
    assert np.mean(plain.predictions != locked.predictions) <= 0.02  # a tie to rounding
    assert plain.rank == locked.rank == 8


def test_a_plain_ridge_would_change():
    Z, y, _, (test, _) = given_task = task(3, m=8, n=300, noise=1.5)
    A = gauge(np.random.default_rng(3), 8, 1e4)
    locked = mapped(given_task, A)
    plain, changed = (
        explicit(X, y, np.vstack([np.eye(8), -np.eye(8)]), X_test, 50.0).argmax(1)
        for X, X_test in ((Z, test), (locked[0], locked[3][0]))
    )
    assert np.mean(plain != changed) > 0.02


@pytest.mark.parametrize(
    ("N", "m", "N_P", "of_P", "kappa"),
    [
        (12, 11, 2, 1.0, 1e6),  # one degree of freedom is left: scores left out are the same
        (6, 9, 35, 1.0, 1e6),  # least squares goes through every row
        (33, 11, 18, 0.0, 1e6),  # no primary row uses anything: every ridge is the same probe
        (4, 3, 15, 1.0, 1e9),  # a large ridge leaves the shares of the others, which are even
        (32, 7, 3, 1.0, 1e10),  # directions that no primary row uses
    ],
)
def test_ridges_that_tie_are_not_told_apart_by_rounding(N, m, N_P, of_P, kappa):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        Z, test = rng.standard_normal((N, m)), rng.standard_normal((50, m))
        y, y_test = np.arange(N) % 3, np.arange(50) % 3
        given_task = Z, y, 1.0 + of_P * rng.standard_normal((N_P, m)), (test, y_test)
        plain, locked = found(given_task), found(mapped(given_task, gauge(rng, m, kappa)))
        assert plain.outside == locked.outside == 0.0
        assert np.array_equal(plain.left_out, locked.left_out)
        assert plain.ridge == locked.ridge
        assert np.array_equal(plain.predictions, locked.predictions)


@pytest.mark.parametrize("m", [4, 6])
def test_rows_that_least_squares_goes_through_are_left_out_one_by_one(m):
    """In many digits; of 6 features the last row has one for itself, which no primary row uses."""
    rng = np.random.default_rng(m)
    Z, Z_P, y = rng.standard_normal((7, m)), rng.standard_normal((9, m)), np.arange(7) % 2
    Z = Z[:5] if m == 4 else Z
    y = y[: len(Z)]
    if m == 6:
        Z[:, -1], Z_P[:, -1] = np.arange(7) == 6, 0.0
    ridges, right, errors = [1e-8, 1e-4, 1.0, 1e4], [], []
    with mpmath.workdps(60):
        for ridge in ridges:
            here, error = 0, 0.0
            for i in range(len(Z) - (m == 6)):
                others = np.arange(len(Z)) != i
                H, P, Y = (
                    mpmath.matrix((X - X.mean(0)).tolist())
                    for X in (Z[others], Z_P, np.eye(2)[y[others]])
                )
                w = mpmath.inverse(H.T * H + ridge * P.T * P) * (H.T * Y)
                row = mpmath.matrix([(Z[i] - Z[others].mean(0)).tolist()])
                scores = np.array((row * w).tolist(), dtype=float)[0]
                scores += np.eye(2)[y[others]].mean(0)
                here += scores.argmax() == y[i]
                error += np.sum((scores - np.eye(2)[y[i]]) ** 2)
            right.append(here / len(Z))
            errors.append(error)
    told = found((Z, y, Z_P, (Z, y)), ridges=ridges)
    assert np.array_equal(told.left_out, right)
    best = max(range(len(ridges)), key=lambda k: (right[k], -errors[k]))
    assert told.ridge == ridges[best] > ridges[0]


@pytest.mark.parametrize("seed", range(3))
def test_an_ill_conditioned_map_in_many_digits(seed):
    Z, y, Z_P, (test, y_test) = task(seed, m=3, N=15, N_P=9, n=12)
    A = gauge(np.random.default_rng(seed), 3, 1e9)
    Z, Z_P, test = Z @ A, Z_P @ A, test @ A  # as they are rounded now, they are the task
    with mpmath.workdps(60):
        Y = mpmath.matrix((np.eye(3)[y] - np.eye(3)[y].mean(0)).tolist())
        mean = [mpmath.fsum(map(mpmath.mpf, column)) / len(Z) for column in Z.T]
        mean_P = [mpmath.fsum(map(mpmath.mpf, column)) / len(Z_P) for column in Z_P.T]
        H, P, T = (
            mpmath.matrix(
                [[mpmath.mpf(x) - c for x, c in zip(row, means, strict=True)] for row in X]
            )
            for X, means in ((Z, mean), (Z_P, mean_P), (test, mean))
        )
        w = mpmath.inverse(H.T * H + P.T * P / 10) * (H.T * Y)
        scores = np.array((T * w).tolist(), dtype=float) + np.eye(3)[y].mean(0)
    told = found((Z, y, Z_P, (test, y_test)), ridges=[0.1])
    assert np.array_equal(told.predictions, scores.argmax(1))


def test_directions_that_no_primary_row_uses_cost_nothing():
    Z, y, Z_P, (test, y_test) = task(1, m=6)
    Z_P[:, 2:] = 5.0  # of rank 2, centred
    told = found((Z, y, Z_P, (test, y_test)), ridges=[1e6])
    assert told.rank_P == 2
    assert np.array_equal(told.predictions, explicit(Z, y, Z_P, test, 1e6).argmax(1))
    # The other two are as good as gone: least squares on the four.
    four = explicit(Z[:, 2:], y, np.zeros((2, 4)), test[:, 2:], 0.0)
    assert np.mean(told.predictions == four.argmax(1)) > 0.95


def test_directions_that_no_harmful_row_uses_have_no_weight():
    Z, y, Z_P, (test, y_test) = task(1, m=6)
    Z[:, 4:] = 1.0
    told = found((Z, y, Z_P, (test, y_test)), ridges=[0.1])
    assert (told.rank, told.rank_P) == (4, 6)
    # Moving held-out rows along them changes nothing, but for what the primary metric relates.
    w = explicit(Z, y, Z_P, test, 0.1)
    assert np.array_equal(told.predictions, w.argmax(1))


def test_columns_that_repeat_or_are_constant_change_nothing():
    Z, y, Z_P, (test, y_test) = given_task = task(2)
    plain = found(given_task)
    B = np.random.default_rng(0).standard_normal((6, 9))  # 9 features of rank 6

    def wide(X):
        return np.hstack([X @ B, np.full((len(X), 1), 0.1), np.zeros((len(X), 1))])

    told = found((wide(Z), y, wide(Z_P), (wide(test), y_test)))
    assert told.rank == plain.rank == 6
    assert np.array_equal(told.predictions, plain.predictions)


def test_units_of_single_features_do_not_matter():
    given_task = task(4)
    units = np.diag(10.0 ** np.array([-150, 100, 0, -7, 30, 140.0]))
    plain, scaled = found(given_task), found(mapped(given_task, units))
    assert np.array_equal(plain.predictions, scaled.predictions)
    assert scaled.rank == 6


def test_the_order_of_rows_does_not_matter():
    Z, y, Z_P, (test, y_test) = given_task = task(5, noise=1.5)
    plain = found(given_task)
    rng = np.random.default_rng(0)
    a, b, c = (rng.permutation(len(X)) for X in (Z, Z_P, test))
    told = found((Z[a], y[a], Z_P[b], (test[c], y_test[c])))
    assert np.array_equal(told.predictions, plain.predictions[c])
    assert told.accuracy == plain.accuracy


def test_noise_as_labels_is_read_as_the_majority():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=2400, p=[0.6, 0.2, 0.2])
    Z = rng.standard_normal((2400, 20))
    told = ic.probing.ceiling(
        Z[:1200], labels[:1200], rng.standard_normal((500, 20)), held_out=(Z[1200:], labels[1200:])
    )
    assert told.majority == np.mean(labels[1200:] == 0)
    assert abs(told.accuracy - told.majority) < 3 * told.standard_error


def test_it_falls_as_noise_grows_and_to_nothing_where_labels_are_erased():
    rng = np.random.default_rng(0)
    Z, y = rows(rng, 1500, 10)
    test, y_test = rows(rng, 1500, 10)
    Z_P = rng.standard_normal((800, 10))
    seen = []
    for size in (0.0, 2.0, 5.0, 20.0, 100.0):
        noisy = [X + size * rng.standard_normal(X.shape) for X in (Z, Z_P, test)]
        seen.append(found((noisy[0], y, noisy[1], (noisy[2], y_test))).accuracy)
    assert np.all(np.diff(seen) < 0)
    assert seen[0] > 0.8
    assert seen[-1] < 0.42
    erase = np.asarray(ic.linear.fade(Z_P, Z, y, tau=np.inf).theta)
    gone = found(mapped((Z, y, Z_P, (test, y_test)), erase))
    assert gone.rank == 8
    assert gone.accuracy < 0.45
    faded = np.asarray(ic.linear.fade(Z_P, Z, y, tau=1e6).theta)  # a lock: nothing is hidden
    lock = found(mapped((Z, y, Z_P, (test, y_test)), faded))
    assert lock.accuracy == seen[0]
    assert lock.rho < 1e-3


def test_fewer_rows_than_features():
    rng = np.random.default_rng(0)
    Z, y = rows(rng, 30, 80)
    test, y_test = rows(rng, 200, 80)
    told = found((Z, y, rng.standard_normal((500, 80)), (test, y_test)))
    assert told.rank == 29
    assert told.accuracy > 0.8
    # Where the primary task uses nothing either, no row is left to choose by: not a certainty.
    few = found((Z, y, np.ones((5, 80)), (test, y_test)))
    assert few.left_out.max() == 0.0
    assert few.rank_P == 0


@given(seeds, st.integers(0, 20))
def test_a_map_moves_no_more_than_the_rows_that_leave_the_span(seed, lost):
    """Neither task uses the last columns; `lost` held-out rows do, some by 1e-8 of their size."""
    rng = np.random.default_rng(seed)
    Z, y, Z_P, (test, y_test) = task(seed, m=10, noise=1.5)
    Z[:, 7:], Z_P[:, 7:], test[:, 7:] = 1.0, -1.0, 1.0
    left = rng.permutation(len(test))[:lost]
    test[left, 7:] += rng.standard_normal((lost, 3)) * 10.0 ** rng.uniform(-8, 1, (lost, 1))
    given_task = Z, y, Z_P, (test, y_test)
    plain = found(given_task)
    assert plain.outside == lost / len(test)
    assert ("outside the span" in str(plain)) == (lost > 0) == plain.told.endswith(" !")
    locked = found(mapped(given_task, gauge(rng, 10, 1e3)))
    stayed = np.setdiff1d(np.arange(len(test)), left)
    assert np.array_equal(plain.predictions[stayed], locked.predictions[stayed])
    assert abs(plain.accuracy - locked.accuracy) <= plain.outside + 1e-12  # both are rounded


def test_all_rows_leave_the_span_of_fewer_rows_than_features():
    rng = np.random.default_rng(0)
    Z, y = rows(rng, 30, 80)
    test, y_test = rows(rng, 200, 80)
    Z_P = rng.standard_normal((500, 80))
    assert found((Z, y, Z_P[:40], (test, y_test))).outside == 1.0
    assert found((Z, y, Z_P, (test, y_test))).outside == 0.0
    half = (Z.astype(np.float16), y, Z_P.astype(np.float16), (test.astype(np.float16), y_test))
    assert found(half).outside == 0.0


def test_kappa_and_rho_are_those_of_the_centred_features():
    Z, y, *_ = given_task = task(6)
    told = found(given_task)
    centred = Z - Z.mean(0)
    assert told.kappa == pytest.approx(np.linalg.cond(centred) ** 2, rel=1e-9)
    assert told.rho == pytest.approx(ic.linear.alignment(Z, y).rho, rel=1e-9)
    assert told.as_dict()["kappa"] == told.kappa
    assert f"ceiling {told.accuracy:.1%}" in str(told)


@pytest.mark.parametrize("names", [["b", "a", "c"], [True, False], [7, -1, 40]])
def test_classes_of_any_name(names):
    names = np.array(names)
    Z, y, Z_P, (test, y_test) = task(0, classes=len(names))
    numbered = found((Z, y, Z_P, (test, y_test)))
    told = found((Z.tolist(), names[y], Z_P, (test, names[y_test])))
    assert told.accuracy == pytest.approx(numbered.accuracy, abs=0.021)  # ties go by order
    assert set(told.predictions) <= set(names)


def test_half_precision_says_how_much_of_the_rank_is_left():
    given_task = task(0, m=8, N=300, N_P=300)
    given_task[0][:, 0] = given_task[2][:, 0] = 1.0
    for X in (given_task[0], given_task[2]):
        X[:, 0] += 1e-4 * X[:, 1] ** 2
    full, half = found(given_task), found(given_task, computed_in="float16")
    assert (full.rank, half.rank) == (8, 7)
    assert found(given_task, computed_in="float16", rank=8).rank_P == 7


def changed(**parts):
    Z, y, Z_P, (test, y_test) = task(0)
    named = {"Z": Z, "y": y, "Z_P": Z_P, "test": test, "y_test": y_test}
    named |= {name: change(named[name].copy()) for name, change in parts.items()}
    return named["Z"], named["y"], named["Z_P"], (named["test"], named["y_test"])


def with_nan(X):
    X[3, 2] = np.nan
    return X


@pytest.mark.parametrize(
    ("given_task", "options", "error", "message"),
    [
        (changed(Z=with_nan), {}, ValueError, "Z must be finite, and holds nan"),
        (changed(Z_P=with_nan), {}, ValueError, "Z_P must be finite"),
        (changed(test=with_nan), {}, ValueError, r"held_out\[0\] must be finite"),
        (changed(y=lambda y: 0 * y), {}, ValueError, "two classes at least, and all labels are 0"),
        (changed(y=lambda y: np.arange(60)), {}, ValueError, "60 classes on 60 rows"),
        (changed(y_test=lambda y: y % 2), {}, ValueError, "held_out has no row of class 2"),
        (changed(y=lambda y: y % 2), {}, ValueError, "held_out has, and y lacks, class 2"),
        (changed(y=lambda y: y + 0.5), {}, TypeError, "y must hold classes"),
        (changed(y=lambda y: y[1:]), {}, ValueError, "y must have 60 labels"),
        (changed(Z_P=lambda X: X[:, 1:]), {}, ValueError, "Z_P must have 6 columns, as Z"),
        (changed(test=lambda X: X[:, 1:]), {}, ValueError, "must have 6 columns, as Z"),
        (changed(Z_P=lambda X: X[:1]), {}, ValueError, "Z_P must have two rows at least"),
        (changed(Z=lambda X: 0 * X + 0.1), {}, ValueError, "Z is constant"),
        (changed(), {"ridges": [0.0, 1.0]}, ValueError, "ridges must be positive, and hold 0"),
        (changed(), {"ridges": [np.inf]}, ValueError, "ridges must be finite"),
        (changed(), {"rank": 7}, ValueError, "rank must be between 1 and 6"),
        (changed(), {"computed_in": "int128"}, TypeError, "computed_in must be a dtype"),
    ],
)  # fmt: skip
def test_what_is_refused(given_task, options, error, message):
    with pytest.raises(error, match=message):
        found(given_task, **options)


def test_held_out_rows_are_a_pair():
    Z, y, Z_P, (test, _) = task(0)
    with pytest.raises(TypeError, match="held_out must be a pair"):
        ic.probing.ceiling(Z, y, Z_P, held_out=test)
