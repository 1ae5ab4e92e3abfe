"""A process may fork while threads are inside kernels: neither it nor the child waits for good."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, threading, warnings
import numpy as np
from scipy.sparse.linalg import LinearOperator
import immucond as ic

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads at a fork
rng = np.random.default_rng(0)
stack = rng.normal(size=(48, 24, 16))
d = np.linspace(1.0, 2.0, 16)  # no product that NumPy's BLAS would do
own = ic.SpectralRegularizer("own", 1, lambda s: (s.sigma_max, 1.0, 0.0, 0.0))
jobs = {
    "built-in": lambda: [r.value_and_grad_features(stack) for r in (ic.r_well, ic.log_kappa)],
    "own": lambda: own.value_and_grad_features(stack),
    "own, by matrix": lambda: own(stack),
    "own, one at a time": lambda: own(stack[0]),
    "operator": lambda: ic.psd_extreme_pairs(
        LinearOperator((16, 16), matvec=lambda x: d * x.reshape(-1), dtype=float)
    ),
}
job = jobs[sys.argv[1]]
running, done = threading.Event(), threading.Event()

def work():
    while not done.is_set():
        job()
        running.set()

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
running.wait()
for forked in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        if forked < 20:
            job()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
done.set()
for thread in threads:
    thread.join()
print("done")
"""


@pytest.mark.parametrize(
    ("job", "threads"),
    [("built-in", "1"), *((job, "2") for job in ("built-in", "own", "own, by matrix",
                                                 "own, one at a time", "operator"))],
)  # fmt: skip
def test_a_fork_beside_a_thread_that_evaluates(job, threads, pytestconfig):
    forks = 230 if pytestconfig.getoption("--thorough") else 60
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, job, str(forks)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        timeout=300,  # a minute is far more than it takes, and a hang has no end
        check=False,
    )
    assert ran.stdout == "done\n", ran.stderr
