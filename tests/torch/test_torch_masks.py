"""Features (B, T, m) with a mask: one matrix of the tokens that it keeps."""

from functools import partial

import numpy as np
import pytest
from torch_cases import assert_close, tensor, torch

import immucond as ic
import immucond.torch as ict

B, T, M = 3, 5, 4
OWN = ic.SpectralRegularizer(
    "mean", 1, lambda s: (s.sigma_max + s.sigma_min, 1.0, 1.0, 0.0 * s.sigma_min)
)
LEFT = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
MASKS = {"left": LEFT, "right": LEFT.flip(1), "all": torch.ones(B, T, dtype=torch.int64)}
MASKS["holes"] = torch.tensor([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]])
LABELS = torch.tensor([[0, 1, 2, 0, 1], [2, 1, 0, 0, 1], [1, 2, 2, 0, 1]])


def pairs(Z, **options):
    found = ict.extreme_pairs(features=Z, **options)
    return found.sigma_max / found.sigma_min + found.v_max[0] + found.v_min[1]


def at(operator, Z, **options):
    return operator(features=Z, **options)


OPERATORS = {
    name: partial(at, operator)
    for name, operator in {
        "r_well": ict.r_well,
        "r_well of the rank": partial(ict.r_well, p="rank"),
        "r_ill": ict.r_ill,
        "log_kappa": ict.log_kappa,
        "kappa": ict.condition_number,
        "kappa with a ridge": partial(ict.condition_number, ridge=0.1),
        "own": partial(ict.evaluate, OWN),
    }.items()
} | {
    "extreme_pairs": pairs,
    "gram": lambda Z, **options: (ict.gram(Z, **options) ** 2).sum(),
    "RWell": lambda Z, **options: ict.RWell()(Z, **options),
    "RIll": lambda Z, **options: ict.RIll(rtol=1e-9)(Z, **options),
}
EACH = pytest.mark.parametrize("name", OPERATORS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def tokens(seed=0, dtype=torch.float64):
    return tensor((B * T, M), seed=seed).reshape(B, T, M).to(dtype)


def with_padding(Z, mask, filling=torch.nan):
    return torch.where(mask.bool()[..., None], Z, filling)


def value_and_grad(f, Z):
    leaf = Z.detach().clone().requires_grad_()
    value = f(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@EACH
@DTYPES
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("of", [torch.bool, torch.int64, torch.uint8, torch.float32])
def test_it_is_the_matrix_of_the_rows_that_are_kept_to_the_bit(name, dtype, kind, of):
    mask, operator = MASKS[kind], OPERATORS[name]
    kept = mask.bool()
    Z = with_padding(tokens(dtype=dtype), mask)
    expected, by_rows = value_and_grad(operator, Z[kept])
    value, by_tokens = value_and_grad(partial(operator, mask=mask.to(of)), Z)
    assert value.dtype == expected.dtype
    assert torch.equal(value, expected)
    assert torch.equal(by_tokens[kept], by_rows)
    assert (by_tokens[~kept] == 0.0).all()


def test_without_a_mask_it_is_a_stack():
    Z = tokens()
    assert ict.r_ill(features=Z).shape == (B,)
    assert ict.r_ill(features=Z, mask=torch.ones(B, T)) == ict.r_ill(features=Z.reshape(-1, M))


def test_one_token_and_fewer_tokens_than_features():
    for rows in (1, 3):
        mask = torch.zeros(B, T)
        mask[0, 1 : 1 + rows] = 1
        Z = with_padding(tokens(), mask, torch.inf)
        assert ict.r_well(features=Z, mask=mask) == ict.r_well(features=Z[0, 1 : 1 + rows])
        assert ict.extreme_pairs(features=Z, mask=mask).rank == rows


def test_memory_of_any_kind():
    wide = torch.randn(M, 2 * T, B, dtype=torch.float64, generator=torch.manual_seed(0))
    Z, mask = wide.permute(2, 1, 0)[:, ::2], MASKS["left"].T.contiguous().T
    assert not Z.is_contiguous()
    assert not mask.is_contiguous()
    assert ict.r_ill(features=Z, mask=mask) == ict.r_ill(features=Z[mask.bool()])
    parameter = torch.nn.Parameter(Z)
    ict.r_ill(features=parameter, mask=mask).backward()
    assert (parameter.grad[mask == 0] == 0.0).all()
    with torch.inference_mode():
        assert ict.r_ill(features=Z, mask=mask) == ict.r_ill(features=Z[mask.bool()])


# ---- labels ----


def targets(kind):
    """Targets as given, and one row a token."""
    rng = np.random.default_rng(3)
    if kind == "labels":
        return LABELS, LABELS
    if kind == "labels of samples":
        y = torch.tensor([2, 0, 1])
        return y, y[:, None].expand(B, T)
    if kind == "targets":
        Y = torch.from_numpy(rng.normal(size=(B, T, 2)))
        return Y, Y
    Y = torch.from_numpy(rng.normal(size=(B, 2)))
    return Y, Y[:, None].expand(B, T, 2)


KINDS = pytest.mark.parametrize(
    "kind", ["labels", "labels of samples", "targets", "targets of samples"]
)
CENTER = pytest.mark.parametrize("center", [True, False])


@KINDS
@CENTER
@DTYPES
@pytest.mark.parametrize("of", ["left", "right", "all"])
def test_alignment_is_that_of_the_rows_that_are_kept_to_the_bit(kind, center, dtype, of):
    mask = MASKS[of]
    Y, by_token = targets(kind)
    Z = with_padding(tokens(dtype=dtype), mask)
    kept = mask.bool()
    expected, by_rows = value_and_grad(
        lambda Z: ict.r_align(Z, by_token[kept], center=center), Z[kept]
    )
    value, by_tokens = value_and_grad(lambda Z: ict.r_align(Z, Y, mask=mask, center=center), Z)
    assert torch.equal(value, expected)
    assert torch.equal(by_tokens[kept], by_rows)
    assert (by_tokens[~kept] == 0.0).all()
    assert ict.RAlign(center=center, log=False)(Z, Y, mask=mask) == value


@CENTER
def test_labels_that_do_not_count(center):
    mask = MASKS["right"]
    counted = mask.bool() & (LABELS != 1)
    expected = ict.r_align(tokens()[counted], LABELS[counted], center=center)
    Z = with_padding(tokens(), counted)
    labels = torch.where(LABELS == 1, -100, LABELS)
    assert ict.r_align(Z, labels, mask=mask, center=center) == expected
    anything = torch.where(mask.bool(), labels, -7)
    assert ict.r_align(Z, anything, mask=mask, center=center) == expected
    of_samples = torch.tensor([0, -100, 1])
    kept = mask.bool()[[0, 2]]
    expected = ict.r_align(
        tokens()[[0, 2]][kept], of_samples[[0, 2], None].expand(2, T)[kept], center=center
    )
    assert ict.r_align(tokens(), of_samples, mask=mask, center=center) == expected
    # In uint8 -100 would be 156.
    classes = torch.where(LABELS == 1, 156, LABELS)
    expected = ict.r_align(tokens()[mask.bool()], classes[mask.bool()], center=center)
    assert ict.r_align(tokens(), classes.to(torch.uint8), mask=mask, center=center) == expected


def test_targets_in_the_padding_may_be_nan_and_have_no_gradient():
    mask = MASKS["left"]
    Y = with_padding(targets("targets")[0], mask).requires_grad_()
    value = ict.r_align(with_padding(tokens(), mask), Y, mask=mask)
    (gradient,) = torch.autograd.grad(value, Y)
    assert gradient.isfinite().all()
    assert (gradient[mask == 0] == 0.0).all()
    assert gradient.abs().sum() > 0


# ---- the rest of PyTorch ----


# What is compiled is the same in either precision: one operator shows float32.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float64) for name in OPERATORS), ("r_ill", torch.float32)],
)
def test_compiled(name, dtype):
    operator = OPERATORS[name]
    compiled = torch.compile(
        lambda Z, mask: operator(Z, mask=mask), fullgraph=True, backend="aot_eager"
    )
    for kind in ("left", "holes"):
        mask = MASKS[kind]
        Z = with_padding(tokens(dtype=dtype), mask)
        value, gradient = value_and_grad(lambda Z, mask=mask: compiled(Z, mask), Z)
        expected, by_tokens = value_and_grad(partial(operator, mask=mask), Z)
        tight = 1e-12 if dtype == torch.float64 else 1e-5
        assert_close(value, expected, tight)
        assert_close(gradient, by_tokens, 10 * tight)
        assert (gradient[mask == 0] == 0.0).all()
    with pytest.raises(ValueError, match="mask must hold 0 for padding and 1 for tokens"):
        compiled(Z, 2 * mask)
    with pytest.raises(ValueError, match="mask must keep at least one token, and keeps none"):
        compiled(Z, 0 * mask)
    torch.compiler.reset()


@KINDS
@CENTER
def test_alignment_compiled_and_under_vmap(kind, center):
    Y, _ = targets(kind)
    Y = torch.where(Y == 1, -100, Y) if kind == "labels" else Y
    operator = partial(ict.r_align, center=center, classes=3)
    compiled = torch.compile(
        lambda Z, Y, mask: operator(Z, Y, mask=mask), fullgraph=True, backend="aot_eager"
    )
    Zs = torch.stack([with_padding(tokens(seed=i), MASKS[k]) for i, k in enumerate(MASKS)])
    masks = torch.stack(list(MASKS.values()))
    Ys = torch.stack([Y] * len(masks))
    together = torch.vmap(torch.func.grad_and_value(lambda Z, Y, mask: operator(Z, Y, mask=mask)))
    gradients, values = together(Zs, Ys, masks)
    for i, mask in enumerate(masks):
        expected, by_tokens = value_and_grad(lambda Z, mask=mask: operator(Z, Y, mask=mask), Zs[i])
        value, gradient = value_and_grad(lambda Z, mask=mask: compiled(Z, Y, mask), Zs[i])
        for got, by in ((value, gradient), (values[i], gradients[i])):
            assert_close(got, expected, 1e-12)
            assert_close(by, by_tokens, 1e-10)
            assert (by[mask == 0] == 0.0).all()
    torch.compiler.reset()


@EACH
def test_vmap_has_one_matrix_for_each_mask(name):
    operator = OPERATORS[name]
    masks = torch.stack([MASKS[kind] for kind in ("left", "right", "holes")])
    Zs = torch.stack([with_padding(tokens(seed=i), mask) for i, mask in enumerate(masks)])
    together = torch.vmap(lambda Z, mask: operator(Z, mask=mask))(Zs, masks)
    expected = torch.stack([operator(Z, mask=m) for Z, m in zip(Zs, masks, strict=True)])
    assert_close(together, expected, 1e-11)
    shared = torch.vmap(lambda Z: operator(Z, mask=masks[0]))(tokens()[None])
    assert_close(shared, operator(tokens(), mask=masks[0])[None], 1e-11)
    with pytest.raises(ValueError, match="mask must keep at least one token"):
        torch.vmap(lambda Z, mask: operator(Z, mask=mask))(Zs, masks * (masks != masks[0]) * 0)


@pytest.mark.parametrize("name", [name for name in OPERATORS if "ridge" not in name])
def test_second_derivatives(name):
    mask = MASKS["right"][:2]  # differences take as many products as there are numbers, squared
    Z = with_padding(tokens()[:2], mask, 7.0).requires_grad_()
    operator = partial(OPERATORS[name], mask=mask)
    assert torch.autograd.gradcheck(operator, Z, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(operator, Z)


@pytest.mark.parametrize("name", ["r_ill", "extreme_pairs"])
def test_transforms_of_torch_func(name):
    mask, rows = MASKS["right"], MASKS["right"].bool()
    Z, operator = with_padding(tokens(), mask), partial(OPERATORS[name], mask=mask)
    hessian = torch.func.hessian(operator)(Z)
    expected = torch.func.hessian(OPERATORS[name])(Z[rows])
    assert_close(hessian[rows][:, :, rows], expected, 1e-8)
    assert (hessian[~rows] == 0.0).all()
    assert (hessian[:, :, :, ~rows] == 0.0).all() if hessian.ndim == 5 else True
    along = torch.ones_like(Z)
    change = torch.func.jvp(operator, (Z,), (along,))[1]
    by_rows = torch.func.jvp(OPERATORS[name], (Z[rows],), (along[rows],))[1]
    assert_close(change, by_rows, 1e-10)


@DTYPES
def test_opcheck(dtype):
    for mask in (MASKS["left"].to(dtype), MASKS["left"].bool(), MASKS["left"].T):
        torch.library.opcheck(torch.ops.immucond.kept_tokens.default, (mask, "mask", True))


def test_traced_programs_and_devices_without_numbers():
    from torch.fx.experimental.proxy_tensor import make_fx

    Z, mask = tokens(), MASKS["left"]
    graph = make_fx(lambda Z, mask: ict.r_well(features=Z, mask=mask))(Z, mask)
    other = MASKS["right"]
    assert_close(graph(Z, other), ict.r_well(features=Z, mask=other), 1e-13)
    meta = ict.r_ill(features=Z.to("meta"), mask=mask.to("meta"))
    assert (meta.device.type, meta.shape) == ("meta", ())
    exported = torch.export.export(Masked(), (Z, mask))
    assert_close(exported.module()(Z, other), ict.r_well(features=Z, mask=other), 1e-13)


class Masked(torch.nn.Module):
    def forward(self, Z, mask):
        return ict.r_well(features=Z, mask=mask)


@DTYPES
def test_the_rule_of_the_rank_in_traced_programs(dtype):
    # The tolerance does not depend on how many rows there are, so rows of zeros change no rank.
    mask = torch.zeros(B, T)
    mask[0, :3] = 1
    Z = tokens(dtype=dtype)
    kept = Z[mask.bool()]
    Z[0, 2] = kept[2] = kept[0] + kept[1]  # exact in float64 only: noise must not count

    def rank(Z):
        return ict.extreme_pairs(features=Z, mask=mask, computed_in="float32").rank

    assert rank(Z) == ict.extreme_pairs(features=kept, computed_in="float32").rank
    assert torch.vmap(rank)(Z[None]).item() == rank(Z)


def test_half_precision_in_traced_programs():
    # Where fewer than m tokens are kept, it is said to cut off what never was there.
    mask = torch.zeros(B, T)
    mask[0, :3] = 1
    Z = tokens(dtype=torch.bfloat16)

    def rank(Z):
        return ict.extreme_pairs(features=Z, mask=mask).rank

    with pytest.warns(ic.AccuracyWarning, match="rank of"):
        assert torch.vmap(rank)(Z[None]).item() == rank(Z) == 3


def test_ranks_gather_their_own_tokens():
    distributed, mask = torch.distributed, MASKS["left"]
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        options = {"group": distributed.group.WORLD}
        Z = with_padding(tokens(), mask)
        for operator in (ict.r_ill, ict.condition_number):
            expected, by_rows = value_and_grad(partial(at, operator, **options), Z[mask.bool()])
            value, grad = value_and_grad(partial(at, operator, mask=mask, **options), Z)
            assert value == expected
            assert torch.equal(grad[mask.bool()], by_rows)
            assert (grad[mask == 0] == 0.0).all()
        assert (ict.gram(Z, mask=0 * mask, **options) == 0.0).all()  # other ranks may have some
    finally:
        distributed.destroy_process_group()


def test_a_known_rank_in_traced_programs():
    # 3 x 4 is 15 x 4 there: a rank of 4 is refused once the numbers tell.
    mask = torch.zeros(B, T)
    mask[0, :3] = 1
    Z = tokens()
    with pytest.raises(ValueError, match="rank must be between 1 and 3 for shape"):
        ict.r_well(features=Z, mask=mask, rank=4)
    with pytest.raises(ValueError, match="rank = 4"):
        torch.vmap(lambda Z: ict.r_ill(features=Z, mask=mask, rank=4))(Z[None])


def test_modules_of_two_tasks():
    P, H, mask = tokens(1), tokens(2), MASKS["left"]
    loss = ict.ImmunizationLoss(0.5, 3.0)
    both = loss(P, H, mask_P=mask, mask_H=1 - mask)
    expected = loss(P[mask.bool()], H[~mask.bool()])
    assert both == expected
    assert loss(P, H[0], mask_P=mask) == loss(P[mask.bool()], H[0])


# ---- misuse ----


@EACH
@pytest.mark.parametrize(
    ("mask", "error", "match"),
    [
        (
            torch.ones(B, 1),
            ValueError,
            r"samples, tokens\), with 3 rows of 5, and has shape \(3, 1\)",
        ),
        (torch.ones(T), ValueError, r"with 3 rows of 5, and has shape \(5,\)"),
        (torch.ones(T, B), ValueError, r"with 3 rows of 5, and has shape \(5, 3\)"),
        (torch.ones(B, T, 1), ValueError, r"with 3 rows of 5, and has shape \(3, 5, 1\)"),
        (torch.ones(()), ValueError, r"has shape \(\)"),
        (torch.full((B, T), 0.5), ValueError, "mask must hold 0 for padding and 1 for tokens"),
        (torch.full((B, T), torch.nan), ValueError, "mask must hold 0 for padding and 1"),
        (-torch.ones(B, T, dtype=torch.int8), ValueError, "mask must hold 0 for padding and 1"),
        (torch.zeros(B, T), ValueError, "mask must keep at least one token, and keeps none"),
        (torch.ones(B, T, requires_grad=True), TypeError, "mask requires a gradient"),
        (torch.ones(B, T).to_sparse(), TypeError, "mask must be a plain dense tensor, and is spar"),
        (
            torch.nested.nested_tensor([torch.ones(T)] * B, layout=torch.jagged),
            TypeError,
            "mask must be a plain dense tensor, and is nested",
        ),
        (torch.ones(B, T, device="meta"), ValueError, "mask must be on the device of .*, cpu, and"),
        (np.ones((B, T)), TypeError, "mask must be a tensor, and is a ndarray"),
        (True, TypeError, "mask must be a tensor, and is a bool"),
    ],
    ids=range(15),
)
def test_masks_that_are_refused(name, mask, error, match):
    with pytest.raises(error, match=match):
        OPERATORS[name](tokens(), mask=mask)
    with pytest.raises(error, match=match):
        ict.r_align(tokens(), LABELS, mask=mask)


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "gram"])
def test_features_that_are_refused(name):
    mask = MASKS["left"]
    operator = OPERATORS[name]
    with pytest.raises(ValueError, match="must be finite"):
        operator(with_padding(tokens(), 1 - mask), mask=mask)
    with pytest.raises(ValueError, match="must have 3 dimensions with a mask"):
        operator(tokens()[0], mask=mask)
    for shape in ((0, T, M), (B, 0, M), (B, T, 0)):
        with pytest.raises(ValueError, match="at least one entry"):
            operator(torch.ones(shape), mask=torch.ones(shape[:2]))
    if name == "kappa with a ridge":
        assert operator(torch.zeros(B, T, M), mask=mask) == 1.0
        return
    with pytest.raises(ValueError, match="rank 0"):
        operator(torch.zeros(B, T, M), mask=mask)


@pytest.mark.parametrize(
    "call",
    [
        lambda S, mask: ict.r_well(S, mask=mask),
        lambda S, mask: ict.condition_number(S, ridge=1.0, mask=mask),
        lambda S, mask: ict.extreme_pairs(S, mask=mask),
        lambda S, mask: ict.RIll(input="matrix")(S, mask=mask),
    ],
)
def test_a_matrix_has_no_tokens(call):
    with pytest.raises(ValueError, match=r"mask goes with features, .* and none are given"):
        call(tokens(), MASKS["left"])


@pytest.mark.parametrize(
    ("Y", "match"),
    [
        (
            torch.ones(B, T + 1, dtype=int),
            r"one row a token, shape \(3, 5\), or one a sample, \(3,\)",
        ),
        (torch.ones(B + 1, dtype=int), r"Y must have one row a token, .* has shape \(4,\)"),
        (torch.ones(1, T, 2), r"shape \(3, 5, 'c'\), or one a sample, \(3, 'c'\)"),
        (torch.ones(T, 2), r"Y must have one row a token, .* has shape \(5, 2\)"),
        (torch.ones(B), r"Y must have one row a token, .* has shape \(3,\)"),
        (torch.full((B, T), -100), "mask, less the labels -100 of Y, must keep at least one token"),
        (torch.full((B, T, 2), torch.nan), "Y must be finite"),
        (torch.ones(B, T, 2), "Y is constant"),
    ],
)
def test_labels_that_are_refused(Y, match):
    with pytest.raises(ValueError, match=match):
        ict.r_align(tokens(), Y, mask=MASKS["left"])
    with pytest.raises(ValueError, match="must have 3 dimensions with a mask"):
        ict.r_align(tokens()[0], Y, mask=MASKS["left"])
