"""`immucond limit` on a file larger than memory needs 64 MiB and some d x d matrices."""

import subprocess
import sys

import numpy as np
import pytest

ROWS, COLUMNS = 1_000_000, 512
MATRICES = 10  # d x d, of the linear algebra at the end
ALLOWED_MIB = 64 + MATRICES * COLUMNS**2 * 8 / 2**20

# What the command imports is not its working memory: that is loaded before.
MEASURE = """
import sys
import matplotlib.figure, matplotlib.backends.backend_agg, rich.console, rich.progress
from immucond._cli import main
from immucond import limit

def mib(key):
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith(key))) / 1024

before = mib("VmRSS")
assert main(["limit", *sys.argv[1:]]) == 0
print(mib("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, request):
    smoke = request.config.getoption("--smoke")
    rows, columns = (2000, 16) if smoke else (ROWS, COLUMNS)
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    block = rng.standard_normal((min(rows, 20_000), columns))
    with open(folder / "primary.npy", "wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, rows, len(block)):
            stream.write((block[: rows - start] * (1 + start / rows)).tobytes())
    np.save(folder / "harmful.npy", block * np.geomspace(1, 10, columns))
    yield folder / "primary.npy", folder / "harmful.npy"
    (folder / "primary.npy").unlink()  # gigabytes


@pytest.mark.large
@pytest.mark.parametrize("through", ["gram", "qr"])
def test_a_report_streams_its_files(record_memory, files, tmp_path, through):
    words = [*map(str, files), "--out", str(tmp_path / "out"), "--through", through]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    group = f"immucond limit, {ROWS} x {COLUMNS} .npy"
    grown = float(run.stdout.splitlines()[-1])
    record_memory(group, f"immucond --through {through}", grown, ALLOWED_MIB)
