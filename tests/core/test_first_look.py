"""What one sees first of the library: names, short reprs, messages that say what to pass."""

import builtins
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

import immucond as ic


def test_dir_shows_what_there_is_and_nothing_else():
    shown = {name for name in dir(ic) if not name.startswith("_")}
    assert {"linear", "immunize", "probing", "theorems", "torch", "sklearn"} <= shown
    assert not {"Any", "import_module", "TYPE_CHECKING"} & set(dir(ic))
    assert shown == set(ic.__all__) | {"cuda", "deep", "sklearn", "torch"}


def test_subpackages_load_on_first_use():
    program = (
        "import sys, immucond as ic\n"
        "heavy = [n for n in ('torch', 'sklearn', 'immucond.linear') if n in sys.modules]\n"
        "assert not heavy, heavy\n"
        "dir(ic)\n"
        "assert 'immucond.linear' not in sys.modules\n"
        "assert ic.linear.immunity_limit and ic.probing.probe and ic.torch.r_ill\n"
        "assert 'torch._dynamo' not in sys.modules  # the compiler takes as long as torch itself\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_an_extra_whoever_walks_dir_goes_on(monkeypatch):
    find = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    for name in [
        n for n in sys.modules if n == "immucond.torch" or n.startswith("immucond.torch.")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(ic, "torch", raising=False)
    assert not hasattr(ic, "torch")
    with pytest.raises(AttributeError, match=r"immucond\[torch\]"):
        ic.torch  # noqa: B018
    assert "gram" in dict(inspect.getmembers(ic))


def test_a_report_leads_with_what_it_is_for():
    K_P, K_H = np.diag([100.0, 1.0]), np.diag([2.0, 1.0])
    report = ic.linear.immunity(np.diag([0.1, 1.0]), K_P=K_P, K_H=K_H)
    assert repr(report).startswith("ImmunityReport(i=25, ii=0.01, rir=2500, ")
    for told in ("kappa_H=2 -> 50", "kappa_P=100 -> 1", "limit=2500", "convention='exact'"):
        assert told in repr(report)
    assert "easier" not in repr(report)
    assert "ridge=0.5" in repr(ic.linear.immunity(np.eye(2), K_P=K_P, K_H=K_H, ridge=0.5))


def test_a_report_says_where_the_harmful_task_got_easier():
    K_P, K_H = np.diag([1e4, 1.0]), np.diag([10.0, 1.0])
    report = ic.linear.immunity(np.diag([0.1, 1.0]), K_P=K_P, K_H=K_H)  # i = 1, ii = 0.01
    assert report.i == pytest.approx(1.0, abs=1e-12)
    assert "rir=100 (the harmful task got no harder)" in repr(report)
    eased = ic.linear.immunity(np.diag([0.2, 1.0]), K_P=K_P, K_H=K_H)  # kappa_H = 2.5
    assert eased.i < 0.5
    assert eased.rir > 1.0
    assert "(the harmful task got easier)" in repr(eased)
    identity = ic.linear.immunity(3.0 * np.eye(2), K_P=K_P, K_H=K_H)
    assert "easier" not in repr(identity)
    assert "harder" not in repr(identity)


@pytest.mark.filterwarnings("ignore:the harmful task got easier")
def test_a_result_is_short():
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(300, 60)), rng.normal(size=(300, 60))
    y_P = X_P @ rng.normal(size=60)
    result = ic.immunize.algorithm1(X_P, y_P, X_H, lambda_P=1e-3, lambda_H=1e-3, lr=1e-3, steps=3)
    told = repr(result)
    assert len(told) < 200
    assert "\n" not in told
    assert re.match(r"ImmunizationResult\(method='algorithm1', i=[\d.]+, ii=[\d.]+, rir=", told)
    assert "theta (60, 60)" in told
    assert "3 steps" in told
    assert "0 steps" in repr(ic.immunize.closed_form(X_P, y_P, X_H))


@pytest.mark.parametrize(
    "given", [{}, {"S": np.eye(2), "features": np.eye(2)}], ids=["none", "both"]
)
def test_condition_number_says_what_to_pass(given):
    with pytest.raises(ValueError, match=r"condition_number\(S\).*condition_number\(features=Z\)"):
        ic.condition_number(**given)


LIMITS = [
    ic.linear.immunity_limit,
    ic.linear.optimal_extractor,
    ic.linear.frontier,
    lambda K_P, K_H: ic.linear.noise_curve(K_P, K_H, rows=(50, 60)),
    lambda K_P, K_H: ic.linear.nearest_extractor(np.eye(4), K_P, K_H),
    lambda K_P, K_H: ic.linear.joint_extractor([K_P], K_H),
    lambda K_P, K_H: ic.linear.blind_extractor(K_P),
]


@pytest.mark.parametrize("function", LIMITS)
def test_inputs_where_gram_matrices_belong(function):
    rng = np.random.default_rng(0)
    X_P, X_H = rng.normal(size=(50, 4)), rng.normal(size=(60, 4))
    needed = r"K_P.* must be square, .* shape \(50, 4\): give inputs, one row a sample, as X_P"
    with pytest.raises(ValueError, match=needed):
        function(X_P, X_H)
    with pytest.raises(ValueError, match=needed):  # tall or wide, a list or an array
        function(X_P.tolist(), X_H.tolist())


def test_half_of_a_pair_says_which_are_inputs():
    with pytest.raises(TypeError, match=r"got K_P; .*inputs, one row a sample"):
        ic.linear.immunity_limit(np.eye(2))
    with pytest.raises(TypeError, match=r"got nothing; .*their Gram matrices"):
        ic.linear.immunity(np.eye(2))
    with pytest.raises(TypeError, match=r"give rows.*or inputs, one row a sample, as X_P and X_H"):
        ic.linear.noise_curve(np.eye(2), np.eye(2))
