"""On a CUDA device: one call beside PyTorch's own on the same card, until the device is done.

Wall time, launches and the wait included; `scripts/gpu_speed.py` measures the device's alone.
"""

from functools import cache

import pytest
import torch
from cuda_contests import DSYRK, PROBLEMS

from immucond.cuda import CudaUnavailableError
from immucond.cuda._device import module

CONTESTS = [(problem, name) for problem in PROBLEMS for name in problem.contestants]


@pytest.fixture(autouse=True)
def device():
    try:
        module()
    except CudaUnavailableError as error:
        pytest.skip(str(error))


class OnHost:
    """A tensor that is copied where it is looked at: not within the time."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __array__(self, dtype=None, copy=None):
        return self._tensor.cpu().numpy()


@cache
def given(make):
    return make()


@pytest.mark.parametrize(
    ("problem", "name"), CONTESTS, ids=[f"{problem.name}, {name}" for problem, name in CONTESTS]
)
def test_cuda_kernels_outrun_torch(contest, problem, name):
    X = given(problem.make)

    def run(contestant):
        results = tuple(map(OnHost, problem.contestants[contestant](X)))
        torch.cuda.synchronize()
        return results

    def expected():
        results = problem.contestants["immucond"](X)
        return tuple(OnHost(x.triu() if name == DSYRK else x) for x in results)

    contest(
        problem.name, name, lambda: run(name), like=expected, rtol=problem.rtol, goals=problem.goals
    )
