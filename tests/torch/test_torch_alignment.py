"""Label alignment in torch: values and gradients as in NumPy, and all that autograd asks."""

import numpy as np
import pytest
import torch

import immucond as ic
import immucond.torch as ict


def data(*stack, rows=9, m=4, c=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return torch.randn(*stack, rows, m, **options) + 1.0, torch.randn(*stack, rows, c, **options)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("rows", [3, 9])
@pytest.mark.parametrize("scale", [1.0, 1e150, 1e-150])
def test_values_and_gradients_are_those_of_numpy(center, rows, scale):
    Z, Y = data(rows=rows)
    Z = (Z * scale).requires_grad_()
    value = ict.r_align(Z, Y, center=center)
    value.backward()
    expected, grad = ic.r_align.value_and_grad_features(
        Z.detach().numpy(), Y.numpy(), center=center
    )
    assert value.item() == pytest.approx(expected, rel=1e-11)
    np.testing.assert_allclose(Z.grad.numpy() * scale, grad * scale, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("center", [True, False])
def test_first_and_second_derivatives_by_features_and_targets(center):
    Z, Y = (x.requires_grad_() for x in data(rows=6, m=3, c=2))

    def value(Z, Y):
        return ict.r_align(Z, Y, center=center)

    assert torch.autograd.gradcheck(value, (Z, Y), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(value, (Z, Y))


def test_stacks_and_vmap_are_one_after_the_other():
    Z, Y = data(5)
    each = torch.stack([ict.r_align(z, y) for z, y in zip(Z, Y, strict=True)])
    torch.testing.assert_close(ict.r_align(Z, Y), each, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.func.vmap(ict.r_align)(Z, Y), each, rtol=1e-12, atol=0)
    by_func = torch.func.vmap(torch.func.grad(ict.r_align))(Z, Y)
    for z, y, grad in zip(Z, Y, by_func, strict=True):
        (expected,) = torch.autograd.grad(ict.r_align(z.requires_grad_(), y), z)
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-14)


def test_classes_are_their_one_hot_columns():
    Z, _ = data()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    one_hot = torch.eye(3, dtype=torch.float64)[y]
    expected = ict.r_align(Z, one_hot)
    torch.testing.assert_close(ict.r_align(Z, y), expected)
    torch.testing.assert_close(ict.r_align(Z, y.to(torch.uint8), classes=7), expected)
    torch.testing.assert_close(ict.r_align(Z, y.to(torch.uint16)), expected)
    with pytest.raises(ValueError, match=r"Y must name classes from 0 to \d, and holds -9\d"):
        ict.r_align(Z, y - 99)
    torch.testing.assert_close(ict.RAlign(classes=3, log=False)(Z, y), expected)
    torch.testing.assert_close(ict.RAlign()(Z, y), expected.log())
    assert expected.item() == pytest.approx(ic.r_align(Z.numpy(), one_hot.numpy()), rel=1e-11)


def test_classes_far_apart_take_no_more_columns_than_there_are():
    Z, _ = data()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    expected = ic.r_align(Z.numpy(), np.eye(3)[y])
    assert ict.r_align(Z, y * 10**12).item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.bool]
)
def test_classes_of_tokens_are_integers_of_every_kind(dtype):
    Z, _ = data(2, rows=3)
    y, kept = torch.tensor([[0, 1, 0], [1, 1, 0]]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    expected = ic.r_align(Z[kept].numpy(), np.eye(2)[y[kept]])
    found = ict.r_align(Z, y.to(dtype), mask=kept)
    assert found.item() == pytest.approx(expected, rel=1e-11)
    of_samples = ict.r_align(Z, torch.tensor([0, 1]).to(dtype), mask=kept)
    expected = ic.r_align(Z[kept].numpy(), np.eye(2)[[0, 0, 1, 1, 1]])
    assert of_samples.item() == pytest.approx(expected, rel=1e-11)


def test_what_labels_need_is_said_by_their_name():
    Z, Y = data(2)
    y = torch.arange(18).reshape(2, 9) % 3
    with pytest.raises(ValueError, match="classes must be given where the numbers of Y are not at"):
        torch.func.vmap(ict.r_align)(Z, y)
    with pytest.raises(ValueError, match="classes must be given"):
        torch.func.vmap(torch.func.grad(ict.r_align))(Z, y)
    each = torch.stack([ict.r_align(z, y[0]) for z in Z])
    by_Z = torch.func.vmap(lambda z: ict.r_align(z, y[0]))(Z)  # these numbers are at hand
    torch.testing.assert_close(by_Z, each)
    for sparse in (Y[0].to_sparse(), y[0].to_sparse()):
        with pytest.raises(TypeError, match=r"Y must be a dense tensor, .*: give Y.to_dense\(\)"):
            ict.r_align(Z[0], sparse)
    for elsewhere in (Y.to("meta"), y.to("meta")):
        with pytest.raises(ValueError, match="Y must be on the device of Z, cpu, and is on meta"):
            ict.r_align(Z, elsewhere)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_of_its_entries(dtype):
    Z, Y = data(rows=30)
    low = Z.to(dtype).requires_grad_()
    value = ict.r_align(low, Y)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(ict.r_align(low.detach().double(), Y).item(), rel=1e-6)
    value.backward()
    assert low.grad.dtype == dtype
    assert torch.isfinite(low.grad).all()


def test_it_compiles():
    Z, _ = data()
    y = torch.tensor([0, 1, 2] * 3)

    def step(Z):
        return torch.log(ict.r_align(Z, y, classes=3))

    Z.requires_grad_()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    (expected,) = torch.autograd.grad(step(Z), Z)
    (found,) = torch.autograd.grad(compiled(Z), Z)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_descent_makes_labels_slow():
    Z, Y = data(rows=40)
    W = torch.eye(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([W], lr=0.05)
    before = ic.linear.alignment(Z.numpy(), Y.numpy()).rho
    for _ in range(200):
        optimizer.zero_grad()
        ict.RAlign()(Z @ W, Y).backward()
        optimizer.step()
    after = ic.linear.alignment((Z @ W).detach().numpy(), Y.numpy()).rho
    assert after < 0.1 * before


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_the_scale_of_targets_does_not_matter(scale):
    Z, Y = (x.double() for x in data())
    given = (Y * scale).requires_grad_()
    value = ict.r_align(Z, given)
    assert value.item() == pytest.approx(ict.r_align(Z, Y).item(), rel=1e-12)
    (expected,) = torch.autograd.grad(ict.r_align(Z, Y.requires_grad_()), Y)
    if scale > 1e-200:  # else the gradient is beyond the range
        (found,) = torch.autograd.grad(value, given)
        torch.testing.assert_close(found * scale, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"Z": torch.full((9, 4), torch.nan)}, ValueError, "NaN|nan|finite"),
        ({"Z": np.ones((9, 4))}, TypeError, "Z must be a torch.Tensor, and is ndarray"),
        ({"Z": torch.ones(9, 4)}, ValueError, "zero|rank 0"),
        ({"Y": torch.full((9, 3), torch.inf)}, ValueError, "Y must be finite"),
        ({"Y": torch.ones(9, 3)}, ValueError, "Y is constant"),
        ({"Y": torch.full((9, 3), 0.1)}, ValueError, "Y is constant"),
        ({"Z": torch.full((9, 4), 0.1)}, ValueError, "rank 0"),
        ({"Y": torch.arange(9), "classes": 7}, ValueError, "classes from 0 to 6, and holds 7"),
        ({"Y": torch.arange(9) - 1}, ValueError, "classes from 0 to 7, and holds -1"),
        ({"Y": torch.ones(8, 3)}, ValueError, r"Y must have one row a sample, shape \(9, 'c'\)"),
        ({"Y": torch.ones(9, dtype=int)[:8]}, ValueError, "one class a row, of shape"),
        ({"Y": [1, 2]}, TypeError, "Y must be a torch.Tensor, and is list"),
        ({"Y": torch.ones(9, dtype=int), "classes": 1}, ValueError, "classes must be at least 2"),
    ],
)
def test_bad_input(change, error, match):
    Z, Y = data()
    with pytest.raises(error, match=match):
        ict.r_align(**{"Z": Z, "Y": Y, **change})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_logarithm_of_labels_that_nothing_aligns_with_ends_no_training(dtype):
    Z = torch.tensor([[1.0], [-1.0], [0.0], [0.0]], dtype=dtype, requires_grad=True)
    value = ict.RAlign()(Z, torch.tensor([[0.0], [0.0], [1.0], [-1.0]]))
    value.backward()
    assert value.isfinite()
    assert value < -80.0
    torch.testing.assert_close(Z.grad, torch.zeros_like(Z))


@pytest.mark.parametrize(("bad", "told"), [(torch.nan, "NaN"), (torch.inf, "infinity")])
@pytest.mark.parametrize("center", [True, False])
def test_a_number_that_is_not_finite_is_told_in_its_place(bad, told, center):
    Z, Y = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3
    Z[5, 2] = bad
    with pytest.raises(ValueError, match=f"Z must be finite, and holds {told} at row 5, column 2"):
        ict.r_align(Z, Y, center=center)
    with pytest.raises(ValueError, match=f"Z must be finite, and holds {told} at row 5, column 2"):
        ict.r_align(Z[None], Y[None], center=center, mask=torch.ones(1, 8))


def test_a_module_has_two_classes_at_least():
    with pytest.raises(ValueError, match="classes must be at least 2, and is -3"):
        ict.RAlign(classes=-3)
