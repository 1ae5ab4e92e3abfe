"""Rows spread over processes: the value at all rows, and each rank's part of the one gradient."""

import pytest
from torch_cases import FUNCTIONS, assert_close, tensor, torch

import immucond as ic
import immucond.torch as ict

dist = pytest.importorskip("torch.distributed", reason="the extra torch is not installed")

WIDTH = 5
# Rows on each rank: more than features in all, fewer, and with a rank that has none.
SPLITS = {
    2: {"more": (7, 4), "fewer": (3, 1), "empty": (0, 8), "few and none": (3, 0)},
    4: {"more": (3, 4, 2, 2), "fewer": (1, 1, 1, 1), "empty": (0, 6, 0, 1)},
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def rows_of(split, dtype):
    return tensor((sum(split), WIDTH), seed=1).to(dtype)


def losses():
    yield from ((name, {}) for name in FUNCTIONS)
    yield "r_well", {"p": "rank"}
    yield "log_kappa", {"rank": 2}


def work(rank, world, folder):
    """One process: every case, its results to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    group = dist.group.WORLD
    results = {}
    for kind, split in SPLITS[world].items():
        for dtype_name, dtype in DTYPES.items():
            mine = rows_of(split, dtype).split(split)[rank]
            for number, (name, options) in enumerate(losses()):
                Z = mine.clone().requires_grad_()
                value = FUNCTIONS[name](features=Z, group=group, **options)
                (3.0 * value).backward()
                results[kind, dtype_name, number] = value.detach(), Z.grad
            Z = mine.clone().requires_grad_()
            H = ict.gram(Z, group=group)
            (H * torch.arange(WIDTH**2).reshape(WIDTH, WIDTH)).sum().backward()
            results[kind, dtype_name, "gram"] = H.detach(), Z.grad
    Z = mine.double().requires_grad_()
    loss = ict.ImmunizationLoss(0.1, 2.0, group=group)
    results["loss"] = loss(Z, 2 * Z).detach(), None
    errors = []
    wrong = [
        lambda: ict.r_ill(features=torch.ones(2, 3 + rank), group=group),
        lambda: ict.r_ill(features=torch.eye(5)[rank : rank + 1] * float("nan"), group=group),
        lambda: torch.autograd.grad(
            torch.autograd.grad(ict.gram(Z, group=group).square().sum(), Z, create_graph=True)[
                0
            ].sum(),
            Z,
        ),
        lambda: ict.r_ill(features=torch.ones(2, 3, 4), group=group),
    ]
    for call in wrong:
        try:
            call()
            errors.append("none")
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    results["errors"] = errors
    torch.save(results, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4], ids=["two processes", "four processes"])
def run(request, tmp_path_factory):
    world = request.param
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, args=(world, str(folder)), nprocs=world)
    return world, [torch.load(folder / str(rank)) for rank in range(world)]


def whole(kind, world, dtype_name, f):
    """What one process finds on the whole batch, cut into the ranks' rows."""
    split = SPLITS[world][kind]
    Z = rows_of(split, DTYPES[dtype_name]).requires_grad_()
    value = f(Z)
    return value.detach(), torch.autograd.grad(value if value.ndim == 0 else value.sum(), Z)[
        0
    ].split(split)


@pytest.mark.parametrize("dtype_name", DTYPES)
@pytest.mark.parametrize("kind", ["more", "fewer", "empty", "few and none"])
def test_regularizers(run, kind, dtype_name):
    world, results = run
    if kind not in SPLITS[world]:
        kind = "fewer"
    eps = torch.finfo(DTYPES[dtype_name]).eps
    for number, (name, options) in enumerate(losses()):

        def f(Z, name=name, options=options):
            return FUNCTIONS[name](features=Z, **options)

        value, gradients = whole(kind, world, dtype_name, f)
        largest = max(g.abs().max() for g in gradients if len(g))
        for result, gradient in zip(results, gradients, strict=True):
            found, by_rows = result[kind, dtype_name, number]
            assert found.dtype == value.dtype
            assert_close(found, value, max(1e-9, 4 * torch.finfo(found.dtype).eps))
            assert by_rows.shape == gradient.shape
            assert by_rows.dtype == gradient.dtype
            difference = (by_rows - 3.0 * gradient).abs()
            assert not len(gradient) or difference.max() <= (1e-9 + 8 * eps) * 3 * largest


def test_every_rank_has_the_same_value_to_the_bit(run):
    _, results = run
    for key in results[0]:
        if key != "errors":
            assert all(torch.equal(result[key][0], results[0][key][0]) for result in results)


@pytest.mark.parametrize("kind", ["more", "fewer"])
def test_gram(run, kind):
    world, results = run
    weights = torch.arange(WIDTH**2).reshape(WIDTH, WIDTH)
    split = SPLITS[world][kind]
    Z = rows_of(split, torch.float64)
    for result, rows in zip(results, Z.split(split), strict=True):
        H, by_rows = result[kind, "float64", "gram"]
        assert torch.equal(H, H.T)
        assert_close(H, Z.T @ Z, 1e-13)
        assert_close(by_rows, rows @ (weights + weights.T).double(), 1e-13)


def test_the_loss(run):
    world, results = run
    kind = list(SPLITS[world])[-1]
    Z = rows_of(SPLITS[world][kind], torch.bfloat16).double()
    assert_close(results[0]["loss"][0], ict.ImmunizationLoss(0.1, 2.0)(Z, 2 * Z), 1e-9)


def test_errors_reach_every_rank(run):
    _, results = run
    for result in results:
        widths, nan, second, stack = result["errors"]
        assert "ValueError: features must have one width and dtype on all ranks" in widths
        assert "ValueError" in nan
        assert "must be finite" in nan
        assert "once_differentiable" in second
        assert "2 dimensions with group, got shape (2, 3, 4)" in stack


def test_gram_of_one_process():
    Z = tensor((6, 3)).requires_grad_()
    assert torch.autograd.gradcheck(ict.gram, Z)
    assert torch.autograd.gradgradcheck(ict.gram, Z)
    assert_close(ict.gram(Z.float()), ic.gram(Z.detach().float().numpy()), 1e-15)
    with pytest.raises(ValueError, match="Z must have 2 dimensions"):
        ict.gram(torch.ones(2, 3, 4))
