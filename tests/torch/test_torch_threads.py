"""CPU tensors go to the core as they lie, without the GIL, on as many threads as PyTorch has."""

import threading

import numpy as np
import pytest
from gil import lets_another_thread_run
from torch_cases import tensor, torch

import immucond as ic
import immucond.torch as ict
from immucond import _core


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("strided", [False, True])
def test_no_copy(monkeypatch, dtype, strided):
    Z = tensor((8, 6), 6).to(dtype)
    Z = Z[::2, 1:].mT if strided else Z
    places = []
    kernels = {
        name: getattr(_core, name) for name in ("evaluate_features", "feature_extreme_pairs")
    }
    for name in kernels:

        def recording(Z, *, name=name, **options):
            places.append((Z.ctypes.data, Z.strides))
            return kernels[name](Z, **options)

        monkeypatch.setattr(_core, name, recording)
    ict.r_ill(features=Z)
    ict.extreme_pairs(features=Z)
    strides = tuple(s * Z.element_size() for s in Z.stride())
    assert places == [(Z.data_ptr(), strides)] * 2


def test_threads_of_the_blas_follow_pytorch(monkeypatch):
    get, set_ = _core.blas_threads, _core.set_blas_threads
    before, torch_before = get(), torch.get_num_threads()
    kernel, seen = _core.evaluate_features, []
    monkeypatch.setattr(
        _core,
        "evaluate_features",
        lambda Z, **rest: seen.append(get()) or kernel(Z, **rest),
    )
    try:
        for blas, allowed in ((2, 1), (2, 2), (1, 2)):
            set_(blas)
            torch.set_num_threads(allowed)
            ict.r_ill(features=tensor((4, 3)))
            assert get() == blas
        set_(2)
        torch.set_num_threads(1)
        with pytest.raises(ValueError, match="rank 0"):
            ict.r_ill(features=torch.zeros(3, 2))
        assert get() == 2
    finally:
        set_(before)
        torch.set_num_threads(torch_before)
    assert seen == [1, 2, 1, 1]


def test_the_gil_is_released():
    Z = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 100)))
    assert lets_another_thread_run(lambda: ict.r_ill(features=Z))


def test_many_threads_get_what_one_gets():
    inputs = [tensor((n, m), seed=n) for n, m in ((9, 4), (4, 9), (30, 12))]

    def gradient(Z):
        Z = Z.clone().requires_grad_()
        ict.r_ill(features=Z).backward()
        return Z.grad

    expected = [gradient(Z) for Z in inputs]
    wrong = []

    def work():
        for _ in range(20):
            wrong.extend(
                1 for Z, g in zip(inputs, expected, strict=True) if not torch.equal(gradient(Z), g)
            )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert np.isclose(ict.r_ill(features=inputs[0]).item(), ic.r_ill(ic.gram(inputs[0].numpy())))
