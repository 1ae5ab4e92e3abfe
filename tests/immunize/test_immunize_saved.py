"""Results and runs on disk: whole, without pickle, and the same to the bit."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import immucond as ic

# Settings here are for what is tested, and do not immunize.
pytestmark = pytest.mark.filterwarnings("ignore:the harmful task got easier")

STEP = {"lr": 0.01, "steps": 60}
ALGORITHM_1 = {"lambda_P": 0.01, "lambda_H": 100.0} | STEP


def tasks(seed=0, rows=40, d=5):
    rng = np.random.default_rng(seed)
    X_P, X_H = rng.normal(size=(rows, d)) * np.arange(d, 0, -1), rng.normal(size=(rows, d))
    return X_P, X_P @ rng.normal(size=d), X_H


def adapting(X_P, y_P, X_H, **keywords):
    return ic.immunize.imma(X_P, y_P, X_H, X_H[:, 0], **keywords)


def aligning(X_P, y_P, X_H, **keywords):
    return ic.immunize.alignment(X_P, y_P, X_H, X_H[:, 0] > 0, **keywords)


RUNS = {
    "algorithm1": (ic.immunize.algorithm1, ALGORITHM_1),
    "batches": (ic.immunize.algorithm1, ALGORITHM_1 | {"batch_size": 7, "hessian": "batch"}),
    "monotone": (ic.immunize.algorithm1, ALGORITHM_1 | {"monotone": True}),
    "balanced": (
        ic.immunize.algorithm1,
        STEP | {"lambda_P": 0.1, "lambda_H": 0.1, "balance": "gradient-norm"},
    ),
    "r_ill_only": (ic.immunize.r_ill_only, STEP | {"lambda_H": 10.0}),
    "opt_kappa": (ic.immunize.opt_kappa, STEP | {"lambda_P": 1e-3, "lambda_H": 1e-3}),
    "adam": (ic.immunize.algorithm1, ALGORITHM_1 | {"optimizer": "adam"}),
    "imma": (adapting, STEP | {"lr": 1e-3}),
    "alignment": (aligning, STEP | {"lr": 1e-3}),
    "published": (ic.immunize.published, {"batch_size": 8, "epochs": 12}),
}


def same(one, other):
    np.testing.assert_array_equal(one.theta, other.theta)
    np.testing.assert_array_equal(one.omega, other.omega)
    assert one.history.keys() == other.history.keys()
    for name, values in one.history.items():
        np.testing.assert_array_equal(values, other.history[name], err_msg=name)
    assert one.report == other.report
    assert one.method == other.method
    assert one.parameters == other.parameters
    for name in ("bias", "classes"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None)
        assert left is None or np.array_equal(left, right)


def interrupt(at):
    def callback(step, record):
        if step == at:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_goes_on_to_the_same_bits(name, tmp_path):
    method, keywords = RUNS[name]
    data, path = tasks(), tmp_path / "run.npz"
    whole = method(*data, **keywords)
    for at in (7, 7, 31):  # the second does nothing but stop again
        with pytest.raises(KeyboardInterrupt):
            method(*data, checkpoint=path, callback=interrupt(at), **keywords)
    seen = []
    resumed = method(
        *data, checkpoint=path, callback=lambda step, record: seen.append(step), **keywords
    )
    same(resumed, whole)
    assert seen[0] == 31
    same(method(*data, checkpoint=path, **keywords), whole)  # finished: nothing left to do
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


SCRIPT = """
import sys, time
import numpy as np
import immucond as ic

rng = np.random.default_rng(0)
X_P, X_H = rng.normal(size=(40, 5)) * np.arange(5, 0, -1), rng.normal(size=(40, 5))
ic.immunize.algorithm1(
    X_P, X_P @ rng.normal(size=5), X_H, lambda_P=0.01, lambda_H=100.0, lr=0.01, steps=60,
    checkpoint=sys.argv[1], checkpoint_every=3, callback=lambda step, record: time.sleep(0.02),
)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    path = tmp_path / "run.npz"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    reached = []
    resumed = ic.immunize.algorithm1(
        *tasks(), checkpoint=path, callback=lambda step, _: reached.append(step), **ALGORITHM_1
    )
    assert 3 <= reached[0] < 60
    assert reached[0] % 3 == 0
    same(resumed, ic.immunize.algorithm1(*tasks(), **ALGORITHM_1))


def test_warm_starts_go_on_to_the_same_bits(tmp_path):
    # At this size the pairs of one step are what the next one's search starts from.
    rng = np.random.default_rng(1)
    data = rng.normal(size=(540, 520)), rng.normal(size=540), rng.normal(size=(530, 520))
    keywords = {"lambda_P": 1e-9, "lambda_H": 1.0, "lr": 1e-3, "steps": 4}
    whole = ic.immunize.algorithm1(*data, **keywords)
    with pytest.raises(KeyboardInterrupt):
        ic.immunize.algorithm1(
            *data, checkpoint=tmp_path / "a.npz", callback=interrupt(2), **keywords
        )
    same(ic.immunize.algorithm1(*data, checkpoint=tmp_path / "a.npz", **keywords), whole)


def test_more_steps_go_on_from_fewer(tmp_path):
    data, path = tasks(), tmp_path / "run.npz"
    ic.immunize.algorithm1(*data, checkpoint=path, **ALGORITHM_1 | {"steps": 20})
    longer = ic.immunize.algorithm1(*data, checkpoint=path, **ALGORITHM_1)
    same(longer, ic.immunize.algorithm1(*data, **ALGORITHM_1))
    with pytest.raises(ValueError, match=r"steps must be at least 60.*is 20"):
        ic.immunize.algorithm1(*data, checkpoint=path, **ALGORITHM_1 | {"steps": 20})


@pytest.mark.parametrize(
    ("changed", "data", "message"),
    [
        ({"lr": 0.02}, 0, "lr is 0.01 there and 0.02 here"),
        ({"preconditioner": None}, 0, "preconditioner is 'right' there and None here"),
        ({"theta": 2 * np.eye(5)}, 0, "theta is None there and 'array of shape"),
        ({}, 1, "X_P is 'array.*; X_H is 'array"),
        ({"seed": 4}, 0, "seed is 0 there and 4 here"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(changed, data, message, tmp_path):
    path = tmp_path / "run.npz"
    ic.immunize.algorithm1(*tasks(), checkpoint=path, **ALGORITHM_1 | {"steps": 3})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"run.npz is that of another run.*{message}"):
        ic.immunize.algorithm1(*tasks(data), checkpoint=path, **ALGORITHM_1 | changed)
    with pytest.raises(ValueError, match="method is 'algorithm1' there and 'r_ill_only' here"):
        ic.immunize.r_ill_only(*tasks(), checkpoint=path, **STEP)
    assert path.read_bytes() == before


def test_runs_without_a_seed_are_runs_of_their_own(tmp_path):
    keywords = ALGORITHM_1 | {"seed": None, "steps": 3}
    one = ic.immunize.algorithm1(*tasks(), **keywords)
    other = ic.immunize.algorithm1(*tasks(), **keywords)
    assert one.parameters["seed"] != other.parameters["seed"]
    again = ic.immunize.algorithm1(*tasks(), **keywords | {"seed": one.parameters["seed"]})
    same(again, one)


@pytest.mark.parametrize("name", [*RUNS, "closed_form", "softmax"])
def test_results_come_back_as_they_were(name, tmp_path):
    X_P, y_P, X_H = tasks()
    if name == "closed_form":
        X_P[:, 0] = 0.0  # the limit is infinite
        result = ic.immunize.closed_form(X_P, y_P, X_H, delta=0.1)
        assert result.report.limit.rir == np.inf
    elif name == "softmax":
        labels = np.array(["low", "high"])[(y_P > 0).astype(int)]
        result = ic.immunize.algorithm1(X_P, labels, X_H, loss="softmax", **ALGORITHM_1)
    else:
        method, keywords = RUNS[name]
        result = method(X_P, y_P, X_H, **keywords)
    assert result.method
    result.save(tmp_path / "result.npz")
    loaded = ic.immunize.ImmunizationResult.load(tmp_path / "result.npz")
    same(loaded, result)
    with np.load(tmp_path / "result.npz", allow_pickle=False) as archive:
        assert all(archive[key].dtype != object for key in archive.files)


def test_a_result_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.npz"
    result = ic.immunize.closed_form(*tasks())
    result.save(path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        result.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["result.npz"]


def test_what_is_no_result_is_refused(tmp_path):
    load = ic.immunize.ImmunizationResult.load
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.npz")
    text = tmp_path / "text.npz"
    text.write_text("theta")
    single = tmp_path / "single.npy"
    np.save(single, np.eye(2))
    other = tmp_path / "other.npz"
    np.savez(other, theta=np.eye(2))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, description=np.array({"immucond": "result"}, dtype=object))
    result = tmp_path / "result.npz"
    ic.immunize.closed_form(*tasks()).save(result)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(result.read_bytes()[:-200])
    method = tmp_path / "method.npz"  # of compression, that no zip has
    method.write_bytes(result.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x02\xff\xff\xff\xff"))
    number = tmp_path / "number.npz"
    np.savez(number, description=np.array(3))
    for path in (text, single, other, pickled, cut, method, number):
        with pytest.raises(ValueError, match=f"{path.name} is not a result of immucond"):
            load(path)
    with pytest.raises(ValueError, match=r"must hold a checkpoint.*holds a result"):
        ic.immunize.algorithm1(*tasks(), checkpoint=result, **ALGORITHM_1)


def without(path, name):
    """Leave an array out of a file, or what stands under a name in its description."""
    with np.load(path) as archive:
        arrays = dict(archive)
    description = json.loads(str(arrays["description"]))
    if arrays.pop(name, None) is None:
        *within, last = name.split("/")
        del functools.reduce(dict.__getitem__, within, description)[last]
        arrays["description"] = np.array(json.dumps(description))
    np.savez(path, **arrays)


@pytest.mark.parametrize("name", ["theta", "omega", "report", "report/ridge", "report/limit/delta"])
def test_a_result_of_another_version_is_refused_by_name(name, tmp_path):
    path = tmp_path / "result.npz"
    ic.immunize.closed_form(*tasks()).save(path)
    without(path, name)
    told = rf"result.npz is not a result of immucond: .*'{name.split('/')[-1]}'"
    with pytest.raises(ValueError, match=told):
        ic.immunize.ImmunizationResult.load(path)


@pytest.mark.parametrize("name", ["theta", "run", "step", "start0/neighbour_max"])
def test_a_checkpoint_of_another_version_is_refused_by_name(name, tmp_path):
    path = tmp_path / "run.npz"
    ic.immunize.algorithm1(*tasks(), checkpoint=path, **ALGORITHM_1)
    without(path, name)
    told = rf"run.npz is not a checkpoint of immucond: .*'{name.split('/')[-1]}'"
    with pytest.raises(ValueError, match=told):
        ic.immunize.algorithm1(*tasks(), checkpoint=path, **ALGORITHM_1)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.array])
def test_numbers_of_any_kind_are_those_of_python(kind, tmp_path):
    """A run goes on, whichever kind its numbers are of; 0.5 and 64 are exact in all of them."""
    plain = {"lr": 0.0078125, "lambda_P": 0.015625, "lambda_H": 64.0, "seed": 3, "batch_size": 7}
    given = {name: kind(value) for name, value in plain.items() if isinstance(value, float)}
    given |= {"seed": np.int64(3), "batch_size": np.int32(7), "steps": np.uint8(20)}
    options = {"checkpoint": tmp_path / "run.npz", "computed_in": np.float64}
    first = ic.immunize.algorithm1(*tasks(), **given, **options)
    options["computed_in"] = "float64"
    again = ic.immunize.algorithm1(*tasks(), **plain, steps=30, **options)
    straight = ic.immunize.algorithm1(*tasks(), **plain, steps=30, computed_in="float64")
    same(again, straight)
    assert first.parameters["lambda_H"] == 64.0
    first.save(tmp_path / "result.npz")
    same(ic.immunize.ImmunizationResult.load(tmp_path / "result.npz"), first)


@pytest.mark.parametrize("checkpoint", [3, True, b"run.npz", ["run.npz"]])
def test_a_checkpoint_that_is_no_path_is_told(checkpoint):
    with pytest.raises(TypeError, match="checkpoint must be a path, and is"):
        ic.immunize.algorithm1(*tasks(), checkpoint=checkpoint, **ALGORITHM_1)
