"""The recipes of the guide, on Ray and Dask themselves: triangles of rows that others hold."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "guide" / "recipes"
STEPS = 2.0 ** -np.arange(0, 40, 5)  # kappa(H) = 2^70: a Gram matrix has none of its small end


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows():
    """Orthogonal columns of exact norms, 512 rows in blocks of unequal size."""
    X = scipy.linalg.hadamard(512)[:, : len(STEPS)] * STEPS
    return X, [50, 1, 200, 130, 131]


def check(found):
    assert found.count == 512
    np.testing.assert_allclose(found.R, np.diag(np.sqrt(512.0) * STEPS), rtol=1e-14, atol=1e-14)
    assert found.pairs().condition_number == pytest.approx(2.0**70, rel=1e-13)
    assert found.pairs().rank == len(STEPS)


@pytest.fixture
def ray(monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_ray(ray):
    X, sizes = rows()
    blocks = np.split(X, np.cumsum(sizes)[:-1])
    ray_triangles = recipe("ray_triangles")
    first = ray_triangles.triangle_of(blocks)
    check(first)
    again = ray_triangles.triangle_of([ray.put(block) for block in blocks])
    assert np.array_equal(first.R, again.R)


def test_dask():
    pytest.importorskip("dask", reason="Dask is not installed")
    import dask
    import dask.array as da

    X, sizes = rows()
    spread = da.from_array(X, chunks=(tuple(sizes), 3))
    found = []
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler):
            found.append(recipe("dask_triangles").triangle_of(spread))
        check(found[-1])
    assert np.array_equal(found[0].R, found[1].R)
