"""Entries that were rounded once to bfloat16 or float16: rank, kappa, and what is said of them."""

import warnings

import numpy as np
import pytest
from emulated_cuda import EmulatedCuda, install
from hypothesis import given
from hypothesis import strategies as st
from matrices import generators, quiet, with_singular_values
from torch_cases import torch

import immucond as ic
import immucond.cuda as icc
import immucond.deep as icd
import immucond.torch as ict
from immucond._rank import default_rtol, epsilon, rank_rule
from immucond.torch._kernels import CPU, FALLBACK

HALF = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def name_of(half):
    return str(half).removeprefix("torch.")


def rounded(Z, half):
    """Float64 features rounded once to half precision."""
    return torch.from_numpy(Z).to(half)


def features(rows, m, smallest=0.02, seed=0):
    """A large mean, as activations have it, and a spectrum that decays below it."""
    rng = np.random.default_rng(seed)
    return with_singular_values(rng, rows, m, np.append(1.0, np.geomspace(0.1, smallest, m - 1)))


def rank(Z, half):
    return quiet(ic.feature_extreme_pairs, Z.double().numpy(), computed_in=name_of(half)).rank


@HALF
@pytest.mark.parametrize("m", [128, 256, 512, 1024])
def test_features_with_a_mean_keep_their_rank_and_kappa(half, m):
    Z = features(2 * m, m)
    truth = ic.condition_number(features=Z)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ic.AccuracyWarning)
        pairs = quiet_ties(ict.extreme_pairs, features=rounded(Z, half))
        kappa = ict.condition_number(features=rounded(Z, half))
        value = quiet_ties(ict.r_ill, features=rounded(Z, half))
    assert int(pairs.rank) == m
    assert np.isclose(float(kappa), truth, rtol=32 * epsilon(half))
    assert np.isclose(float(value), ic.r_ill.value_and_grad_features(Z)[0], rtol=4 * epsilon(half))


def quiet_ties(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ic.DegenerateSpectrumWarning)
        return function(*args, **options)


def adversary(n, u):
    """[A, B] with B = (1 + a hair) A: rounded, A and B differ by about u in every entry."""
    H = np.array([[1.0]])
    while len(H) < 2 * n:
        H = np.block([[H, H], [H, -H]])
    H = H[:, :n] * np.random.default_rng(0).choice([-1.0, 1.0], 2 * n)[:, None]
    between = np.where(H > 0, 1 + u, -(1 - u / 2))  # half-way from one number to the next
    return np.hstack([between * (1 - u / 1024), between * (1 + u / 1024)])


@HALF
@pytest.mark.parametrize("n", [8, 64, 128])
def test_rounding_that_conspires_adds_no_rank(half, n):
    u = epsilon(half) / 2
    Z = adversary(n, u)
    exact = np.linalg.matrix_rank(Z)
    assert exact == n
    sigma = np.linalg.svd(rounded(Z, half).double().numpy(), compute_uv=False)
    # The noise that a rule for independent rounding would take for rank.
    assert sigma[n] > 0.1 * u * np.sqrt(n) * sigma[0]
    assert rank(rounded(Z, half), half) <= n


@HALF
@given(
    rng=generators,
    shape=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    k=st.integers(1, 12),
    mean=st.sampled_from([0.0, 1.0, 30.0]),
    grading=st.sampled_from([0.0, 1.0, 3.0]),
    positive=st.booleans(),
)
def test_no_rank_comes_of_rounding(half, rng, shape, k, mean, grading, positive):
    N, m = shape
    k = min(k, N, m)
    left, right = rng.normal(size=(N, k)) + mean, rng.normal(size=(k, m))
    Z = (np.abs(left) @ np.abs(right) if positive else left @ right) * 10.0 ** (
        -grading * np.arange(m) / m
    )
    assert rank(rounded(Z, half), half) <= k
    S = rounded(Z, half).double().numpy()
    assert quiet(ic.extreme_pairs, S, computed_in=name_of(half)).rank <= k


@HALF
def test_duplicates_and_constants_in_features_of_a_network(half):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 48)
    x = torch.randn(300, 64)
    with torch.no_grad():
        layer.weight[24:] = layer.weight[:24] * torch.linspace(0.3, 3.0, 24)[:, None]
        layer.bias.zero_()
        Z = layer(x).to(half)  # products in float32, rounded once
    assert rank(Z, half) <= 24


@HALF
@pytest.mark.parametrize("shape", [(60, 24), (24, 60), (24, 24)], ids=str)
@pytest.mark.parametrize("k", [10, 24])
def test_one_rule_on_every_way(monkeypatch, half, shape, k):
    rng = np.random.default_rng(1)
    sigma = np.append(1.0, np.geomspace(0.1, 2e-3, k - 1))
    Z = rounded(with_singular_values(rng, *shape, sigma), half)
    A = Z.double().numpy()
    expected = (np.linalg.svd(A, compute_uv=False) > epsilon(half) / 2 * np.linalg.norm(A)).sum()
    assert k > expected or half != torch.bfloat16  # something is cut
    ranks = {
        method: quiet(ic.feature_extreme_pairs, A, computed_in=name_of(half), method=method).rank
        for method in ("auto", "gram", "qr", "jacobi", "lanczos")
    }
    ranks |= {
        f"S {method}": quiet(ic.extreme_pairs, A, computed_in=name_of(half), method=method).rank
        for method in ("auto", "jacobi", "lanczos")
    }
    ranks["torch"] = quiet(ict.extreme_pairs, features=Z).rank
    rule = rank_rule(shape, half, rank=None, rtol=None, computed_in=None, given="features")
    for kernels in (CPU, FALLBACK):
        ranks[type(kernels).__name__] = kernels.pairs(Z, features=True, rule=rule).rank
    for most in (np.inf, 40, 0):
        cuda = EmulatedCuda()
        install(monkeypatch, cuda)
        cuda.most = most
        ranks["emulated", most] = quiet(icc.feature_extreme_pairs, Z).rank
        gram = (Z.double().T @ Z.double()) if shape[0] >= shape[1] else Z.double() @ Z.double().T
        S = gram.to(half)
        told = quiet(icc.psd_extreme_pairs, S).rank
        assert int(told) == quiet(ict.extreme_pairs, S).rank
    assert {name: int(found) for name, found in ranks.items()} == dict.fromkeys(ranks, expected)


@HALF
def test_truncation_is_told_with_rank_rule_and_remedy(half):
    Z = rounded(features(80, 40, smallest=1e-6), half)
    A, options = Z.double().numpy(), {"computed_in": name_of(half)}
    told = (
        rf"the rank of Z\^T Z is \d+ of 40: entries in {name_of(half)} were rounded by up to .* "
        r"share of the Frobenius norm count as zero. Give the rank .*\(rank=\)"
    )
    for call in (
        lambda: ic.feature_extreme_pairs(A, **options),
        lambda: ic.condition_number(features=A, **options),
        lambda: ic.log_kappa.value_and_grad_features(A, **options),
        lambda: ict.extreme_pairs(features=Z),
        lambda: ict.condition_number(features=Z),
        lambda: ict.r_ill(features=torch.stack([Z, Z])),
        lambda: ict.r_well(features=Z.clone().requires_grad_()),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ic.DegenerateSpectrumWarning)
            with pytest.warns(ic.AccuracyWarning, match=told):
                call()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ic.AccuracyWarning)
        quiet_ties(ict.r_ill, features=Z, rank=20)
        quiet_ties(ict.r_ill, features=Z, rtol=1e-2)


@HALF
def test_a_rank_of_no_use_names_the_rule(half):
    Z = np.outer(np.ones(30), np.ones(20))
    Z[0, 0] += 0.2 * epsilon(half) * 20
    told = rf"equal \(here 1, to rounding\).* Here entries in {name_of(half)} .*\(rank=\), .*rtol="
    for call in (
        lambda: ict.r_ill(features=rounded(Z, half)),
        lambda: ic.r_ill.value_and_grad_features(
            rounded(Z, half).double().numpy(), computed_in=name_of(half)
        ),
    ):
        with pytest.raises(ic.DegenerateSpectrumError, match=told):
            quiet(call)


@HALF
def test_no_default_is_half_of_the_largest(half):
    """At any width that features have."""
    for given_as in ("features", "matrix"):
        for m in (2, 256, 4096):
            rule = rank_rule(
                (2 * m, m), half, rank=None, rtol=None, computed_in=None, given=given_as
            )
            worst = default_rtol((2 * m, m), half, given_as)
            assert rule.rtol + np.sqrt(m) * rule.rounded < 0.5
            assert np.isclose(worst, np.sqrt(m) * rule.rounded)
            assert default_rtol((2 * m, m), half, "gram") < 0.1


def test_the_limit_at_features_in_half_precision():
    """`linear` has the same rule, of features and of their Gram matrix."""
    rng = np.random.default_rng(3)
    X_P, X_H = (
        rng.normal(size=(400, 12)) * np.geomspace(1, smallest, 12) for smallest in (0.3, 0.05)
    )
    exact = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
    halves = [X.astype(np.float16) for X in (X_P, X_H)]
    found = ic.linear.immunity_limit(X_P=halves[0], X_H=halves[1])
    assert (found.rank_P, found.rank_H) == (exact.rank_P, exact.rank_H) == (12, 12)
    assert np.isclose(found.rir, exact.rir, rtol=0.02)


def cut_off():
    """Features of which float16 keeps a part of the rank, and how much."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(100, 8)) * np.geomspace(1, 1e-5, 8)).astype(np.float16)
    sigma = np.linalg.svd(X.astype(float), compute_uv=False)
    kept = int((sigma > 2.0**-11 * np.linalg.norm(X.astype(float))).sum())
    assert sigma[kept - 1] > 2 * sigma[kept]
    assert kept < 8
    return X, kept


CUT = {
    "immunity": lambda X: ic.linear.immunity(np.eye(8), X, X[:, ::-1]),
    "limit": lambda X: ic.linear.immunity_limit(X_P=X, X_H=X[:, ::-1]),
    "extractor": lambda X: ic.linear.optimal_extractor(X_P=X, X_H=X[:, ::-1], delta=1.0),
    "blind": lambda X: ic.linear.blind_extractor(X_P=X),
    "closed form": lambda X: ic.immunize.closed_form(X, X[:, 0], X[:, ::-1], delta=1.0),
    "algorithm1": lambda X: ic.immunize.algorithm1(
        X, X[:, 0], X[:, ::-1], lambda_P=1e-3, lambda_H=1e-3, lr=1e-3, steps=1
    ),
}


@pytest.mark.filterwarnings("ignore:the harmful task got easier")
@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
@pytest.mark.parametrize("name", CUT)
def test_what_linear_theory_cuts_off_is_told(name):
    X, kept = cut_off()
    told = f"the rank of X_P is {kept} of 8: entries in float16 were rounded"
    with pytest.warns(ic.AccuracyWarning) as found:
        CUT[name](X)
    assert str(found[0].message).startswith(told)
    assert found[0].filename == __file__


@pytest.fixture
def one_process(tmp_path):
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_what_a_group_of_processes_cuts_off_is_told(one_process):
    X, kept = cut_off()
    Z, told = torch.from_numpy(X), f"the rank of Z.T Z is {kept} of 8: entries in float16"
    values = []
    for group in (None, one_process):
        with pytest.warns(ic.AccuracyWarning, match=told):
            values.append(float(ict.r_ill(features=Z, group=group)))
    assert values[0] == pytest.approx(values[1], rel=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ic.AccuracyWarning)
        ict.r_ill(features=Z, group=one_process, rank=kept)
    tied = torch.eye(4).repeat(5, 1).half()
    for group in (None, one_process):
        with pytest.raises(ic.DegenerateSpectrumError, match=r"Here entries in float16.*rtol"):
            ict.r_ill(features=tied, group=group)


def a_task(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(96, 24, generator=generator) + 2.0
    return x, torch.arange(96) % 3


class Autocast(torch.nn.Module):
    """Computed under autocast, as a trainer does it."""

    def __init__(self, model, half):
        super().__init__()
        self.model, self.half = model, half

    def forward(self, x):
        with torch.autocast("cpu", dtype=self.half):
            return self.model(x)


def classifier():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.Softplus(), torch.nn.Linear(48, 3))


@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
@pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")
@pytest.mark.filterwarnings("ignore::immucond.ImmunityWarning")
@HALF
@pytest.mark.parametrize("autocast", [True, False])
def test_networks_in_half_precision_are_immunized_and_measured(half, autocast):
    (x, y), (x_H, y_H) = a_task(1), a_task(2)
    model, split = classifier(), "2"
    if autocast:
        model, split = Autocast(model, half), "model.2"
    else:
        model, x, x_H = model.to(half), x.to(half), x_H.to(half)
    options = {"split": split, "primary": [(x, y)], "harmful": [(x_H, y_H)]}
    Z = torch.nn.Sequential(*(model.model if autocast else model)[:2])
    with torch.no_grad(), torch.autocast("cpu", dtype=half, enabled=autocast):
        Z_H = Z(x_H)
    assert Z_H.dtype == half
    for computed_in in (None, "float32"):
        done = icd.immunize(model, lambdas=(0.0, 1.0), lr=0.0, computed_in=computed_in, **options)
        expected = float(ict.r_ill(features=Z_H, computed_in=computed_in))
        assert done.history["ill"][0] == expected
    trained = icd.immunize(model, epochs=3, **options)
    assert np.isfinite(trained.history["ill"]).all()
    measured = icd.rir(trained.model, model, [(x, y)], [(x_H, y_H)], split=split, groups=2, size=80)
    assert np.isfinite(measured.rir).all()
    again = icd.rir(
        trained.model, model, [(x, y)], [(x_H, y_H)], split=split, groups=2, size=80,
        computed_in="float32",
    )  # fmt: skip
    assert (again.kappa_H >= measured.kappa_H * (1 - 1e-9)).all()
