"""All 90 pairs of MNIST digits are immunized in minutes, measured and drawn as well.

Wall time of the command, two processes at a time. The published code takes about a quarter of an
hour for one pair.
"""

import gzip
import json
import os
import subprocess
import sys
import time

import pytest

PAIRS = [f"{i}-{j}" for i in range(10) for j in range(10) if i != j]
SOME = ["0-1", "8-3", "4-9", "5-0", "7-2", "1-6"]
# Name, arguments, pairs, seconds allowed.
RUNS = {
    "immucond mnist, Algorithm 1, 30 full-batch steps": (
        ["--methods", "algorithm1"], PAIRS, 360.0,
    ),
    "immucond mnist, closed form": (["--methods", "closed-form"], PAIRS, 120.0),
    "immucond mnist, Algorithm 1, 30 epochs of batches of 64, 6 pairs of 90": (
        ["--methods", "algorithm1", "--protocol", "mini-batch"], SOME, 2400.0 * len(SOME) / 90,
    ),
}  # fmt: skip


def write_first(source, target, count):
    """Write so many of the images of a part and their labels."""
    target.mkdir(parents=True)
    for path in source.glob("*-ubyte.gz"):
        header, item = (16, 784) if "images" in path.name else (8, 1)
        told = gzip.decompress(path.read_bytes())
        some = told[:4] + count.to_bytes(4, "big") + told[8 : header + count * item]
        (target / path.name).write_bytes(gzip.compress(some))


@pytest.mark.large
@pytest.mark.parametrize("name", RUNS)
def test_mnist_takes_minutes(record_seconds, request, size, data_dir, tmp_path, name):
    arguments, pairs, allowed = RUNS[name]
    smoke = request.config.getoption("--smoke")
    if smoke:
        pairs = pairs[:1]
    if smoke and "mini-batch" in arguments:  # its steps are as many as the images
        write_first(data_dir / "mnist", tmp_path / "few" / "mnist", size(64000))
        data_dir = tmp_path / "few"
    command = [
        sys.executable, "-m", "immucond", "mnist", "--data-dir", str(data_dir), *arguments,
        "--pairs", *pairs, "--seeds", "1", "--jobs", "2", "--probe-steps", "1",
        "--out", str(tmp_path / "mnist"),
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    results = json.loads((tmp_path / "mnist" / "results.json").read_text())
    (method,) = results["methods"].values()
    failures = [u["failure"] for units in method["pairs"].values() for u in units if "failure" in u]
    assert not failures, failures[0]
    if not smoke:
        record_seconds("MNIST, pairs of digits", name, time.perf_counter() - begin, allowed)
