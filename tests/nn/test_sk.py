import math
import warnings
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norms import randomize_norms
from timm.layers import SelectiveKernel
from torch import nn

from skseg.errors import UserError
from skseg.nn import (
    TOY_BRANCHES,
    Branch,
    FuseNorm,
    SKConv2d,
    fix_attention,
    record_attention,
)
from skseg.nn.attention import FuseRunningNorm


def load_timm(ours: SKConv2d, theirs: SelectiveKernel) -> None:
    """timm's linear layers are 1x1 convolutions; all else has the same name and shape."""
    state = theirs.state_dict()
    for key in ("attn.fc_reduce.weight", "attn.fc_select.weight"):
        state[key] = state[key].flatten(1)
    ours.load_state_dict(state)


# Arguments of SKConv2d, and of timm's SelectiveKernel for the same unit.
PAIRS = {
    "paper": ({"groups": 8}, {"groups": 8, "split_input": False}),
    "stride": ({"groups": 8, "stride": 2}, {"groups": 8, "stride": 2, "split_input": False}),
    "dilation": ({"groups": 8, "dilation": 3}, {"groups": 8, "dilation": 3, "split_input": False}),
    "widening": ({"out_channels": 96}, {"out_channels": 96, "split_input": False}),
    "split": ({"split_input": True}, {"split_input": True}),
    "three": (
        {"groups": 4, "branches": [(3, 1), (3, 2), (3, 3)]},
        {"groups": 4, "kernel_size": [3, 5, 7], "split_input": False},
    ),
    "true kernels": (
        {"branches": [(3, 1), (5, 1)]},
        {"kernel_size": [3, 5], "keep_3x3": False, "split_input": False},
    ),
    "wide attention": (
        {"reduction": 2, "min_attention_width": 16},
        {"rd_ratio": 1 / 2, "rd_divisor": 16, "split_input": False},
    ),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", PAIRS)
def test_equals_timm_in_float64(case: str, training: bool) -> None:
    torch.manual_seed(0)
    our_args, timm_args = PAIRS[case]
    theirs = SelectiveKernel(64, **{"rd_ratio": 1 / 16, "rd_divisor": 32, **timm_args}).double()
    ours = SKConv2d(64, **our_args).double()
    randomize_norms(theirs, spread=1.0)
    load_timm(ours, theirs)
    x = torch.randn(3, 64, 13, 10, dtype=torch.float64)
    results = []
    for module in (ours, theirs):
        module.train(training)
        leaf = x.clone().requires_grad_()
        out = module(leaf)
        out.square().mean().backward()
        results.append((out, leaf.grad, *[p.grad.flatten() for p in module.parameters()]))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
    # running statistics moved alike
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def toy_unit(ours: SKConv2d, x: torch.Tensor) -> torch.Tensor:
    """Compute what the toy implementation does, step by step, with the weights of a unit."""
    feas = []
    for i in range(len(ours.paths)):
        conv, norm = ours.paths[i].conv, ours.paths[i].bn
        fea = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1 + i, groups=conv.groups)
        mean, var = fea.mean((0, 2, 3)), fea.var((0, 2, 3), unbiased=False)
        fea = (fea - mean[:, None, None]) / torch.sqrt(var + norm.eps)[:, None, None]
        fea = fea * norm.weight[:, None, None] + norm.bias[:, None, None]
        feas.append(fea.clamp(min=0))
    pooled = sum(feas).mean(-1).mean(-1)
    squeezed = pooled @ ours.attn.fc_reduce.weight.T + ours.attn.fc_reduce.bias
    vectors = squeezed @ ours.attn.fc_select.weight.T + ours.attn.fc_select.bias
    channels = ours.out_channels
    powers = [vectors[:, i * channels : (i + 1) * channels].exp() for i in range(len(feas))]
    weights = [p / sum(powers) for p in powers]
    return sum(f * w[:, :, None, None] for f, w in zip(feas, weights, strict=True))


def test_equals_the_toy_implementation_in_float64() -> None:
    torch.manual_seed(0)
    ours = SKConv2d(
        24,
        groups=2,
        reduction=2,
        branches=TOY_BRANCHES,
        bias=True,
        fuse_bias=True,
        fuse_norm="none",
        fuse_act=False,
    ).double()
    assert [p.conv.kernel_size for p in ours.paths] == [(3, 3), (5, 5)]
    assert ours.attn.fc_reduce.out_features == 32  # max(24 / 2, 32)
    randomize_norms(ours, spread=1.0)
    x = torch.randn(4, 24, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(ours(x), toy_unit(ours, x), rtol=1e-10, atol=1e-12)


def test_layer_norm_in_fuse_is_over_one_image() -> None:
    torch.manual_seed(0)
    unit = SKConv2d(32, groups=4, fuse_norm="layer").double()
    unit.paths.eval()  # so that only Fuse could mix images
    x = torch.randn(5, 32, 8, 8, dtype=torch.float64)
    alone = torch.cat([unit(image[None]) for image in x])
    torch.testing.assert_close(unit(x), alone, rtol=1e-12, atol=1e-12)
    pooled = sum(path(x) for path in unit.paths).mean((2, 3))
    z = pooled @ unit.attn.fc_reduce.weight.T
    z = (z - z.mean(1, keepdim=True)) / torch.sqrt(z.var(1, unbiased=False, keepdim=True) + 1e-5)
    logits = z.clamp(min=0) @ unit.attn.fc_select.weight.T
    expected = torch.stack(logits.chunk(2, dim=1), dim=1).softmax(1)
    torch.testing.assert_close(unit.attn(pooled), expected, rtol=1e-10, atol=1e-12)


@given(batches=st.integers(1, 10), images=st.integers(1, 5), offset=st.floats(-100, 100))
def test_running_norm_in_fuse_has_the_statistics_of_all_images_so_far(
    batches: int, images: int, offset: float
) -> None:
    norm = FuseRunningNorm(6).double()
    x = offset + torch.randn(batches, images, 6, dtype=torch.float64)
    for batch in x:
        out = norm(batch)
    seen = x.flatten(0, 1)
    torch.testing.assert_close(norm.running_mean, seen.mean(0))
    torch.testing.assert_close(norm.running_var, seen.var(0, correction=0))
    torch.testing.assert_close(norm.eval()(batch), out, rtol=0, atol=0)  # trains as it is used
    torch_norm = nn.BatchNorm1d(6).double().eval()
    torch_norm.load_state_dict(norm.state_dict())
    torch.testing.assert_close(torch_norm(batch), out)


def test_attention_follows_images_where_the_norm_takes_away_what_they_share() -> None:
    """Means of maps after a ReLU have much in common, and a layer norm keeps it."""
    torch.manual_seed(0)
    pooled = torch.rand(32) + 0.05 * torch.rand(64, 32)
    deviation = {}
    for norm in get_args(FuseNorm):
        torch.manual_seed(1)
        attn = SKConv2d(32, groups=4, fuse_norm=norm).attn
        with torch.no_grad():
            deviation[norm] = float(attn(pooled).std(0).mean())
    assert deviation["running"] == pytest.approx(deviation["batch"])  # of a first batch
    assert deviation["running"] > 5 * deviation["layer"] > 5 * deviation["none"]


def test_running_norm_in_fuse_follows_images_that_change() -> None:
    torch.manual_seed(0)
    norm = FuseRunningNorm(3)
    for _ in range(20):
        norm(torch.randn(4, 3))
    far = norm(torch.full((4, 3), 1e4))
    bound = (1 / norm.momentum - 1) ** 0.5
    torch.testing.assert_close(far, torch.full((4, 3), bound), rtol=1e-3, atol=0)
    for _ in range(150):
        norm(5 + 2 * torch.randn(4, 3))
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 5.0), rtol=0.3, atol=0)
    torch.testing.assert_close(norm.running_var, torch.full((3,), 4.0), rtol=0.5, atol=0)


def test_gradients_pass_the_running_norm_whatever_the_batch() -> None:
    unit = SKConv2d(16, groups=4, fuse_norm="running")
    unit(torch.randn(1, 16, 8, 8))
    out = unit(torch.randn(1, 16, 8, 8)) + unit(torch.randn(1, 16, 8, 8))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in unit.attn.parameters())


def test_attention_by_region_is_that_of_each_window_alone() -> None:
    """Windows of 4 over 9 x 6 pixels, the last ones cut off, each against a unit of its own."""
    torch.manual_seed(0)
    region = SKConv2d(8, branches=[(1,), (1,)], fuse_norm="layer", pool_window=4).double().eval()
    whole = SKConv2d(8, branches=[(1,), (1,)], fuse_norm="layer").double().eval()
    whole.load_state_dict(region.state_dict())
    x = torch.randn(2, 8, 9, 6, dtype=torch.float64)
    with record_attention(region) as recorded, record_attention(whole) as alone:
        out = region(x)
        attention = recorded[""]  # [2, M, 8, 3, 2]
        for i in range(3):
            for j in range(2):  # with kernels of one pixel, a window sees nothing beyond itself
                whole(x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4])
                torch.testing.assert_close(attention[..., i, j], alone[""])
    maps = [path(x) for path in region.paths]
    # Pixel (y, x)'s weight, bilinear between centres at 1.5, 5.5, 9.5, constant beyond the ends.
    for y, rows in ((0, {0: 1.0}), (2, {0: 0.875, 1: 0.125}), (8, {1: 0.375, 2: 0.625})):
        for x_, columns in ((1, {0: 1.0}), (5, {0: 0.125, 1: 0.875})):
            weights = sum(
                a * b * attention[..., i, j] for i, a in rows.items() for j, b in columns.items()
            )
            expected = sum(maps[m][:, :, y, x_] * weights[:, m] for m in range(2))
            torch.testing.assert_close(out[:, :, y, x_], expected)


def test_one_window_over_all_is_the_attention_of_the_image() -> None:
    torch.manual_seed(0)
    region, whole = SKConv2d(16, groups=4, pool_window=64), SKConv2d(16, groups=4)
    whole.load_state_dict(region.state_dict())
    x = torch.randn(3, 16, 10, 12)
    torch.testing.assert_close(region(x), whole(x))


@given(
    branches=st.lists(
        st.tuples(
            st.sampled_from([1, 3, 5]), st.integers(1, 3), st.sampled_from([None, 1, 2, 4, 8])
        ),
        min_size=1,
        max_size=4,
    ),
    stride=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    fuse_norm=st.sampled_from(get_args(FuseNorm)),
)
@settings(max_examples=40, deadline=None)
def test_output_is_a_convex_sum_of_branches(branches, stride, height, width, fuse_norm) -> None:
    torch.manual_seed(0)
    unit = SKConv2d(
        8, 16, stride=stride, branches=branches, fuse_norm=fuse_norm, min_attention_width=4
    ).double()
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    unit.eval()
    with record_attention(unit) as recorded:
        out = unit(x)
    attention = recorded[""]
    assert out.shape == (2, 16, math.ceil(height / stride), math.ceil(width / stride))
    assert attention.shape == (2, len(branches), 16)
    assert (attention > 0).all()
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 16, dtype=torch.float64))
    maps = torch.stack([path(x) for path in unit.paths])
    assert (out <= maps.amax(0) + 1e-12).all()
    assert (out >= maps.amin(0) - 1e-12).all()


def test_without_attention_branches_are_added_or_averaged() -> None:
    torch.manual_seed(0)
    units = [SKConv2d(16, groups=4, branches=[(3, 1), (3, 2), (3, 3)], select=s) for s in
             ("sum", "mean")]  # fmt: skip
    units[1].load_state_dict(units[0].state_dict())
    x = torch.randn(2, 16, 8, 8)
    expected = sum(path(x) for path in units[0].paths)
    torch.testing.assert_close(units[0](x), expected)
    torch.testing.assert_close(units[1](x), expected / 3)
    assert all(unit.attn is None for unit in units)
    with record_attention(units[0]) as recorded:
        units[0](x)
    assert recorded == {}


def test_module_dilation_multiplies_each_branch() -> None:
    unit = SKConv2d(8, dilation=4, branches=[(3, 1), (3, 2), (5, 1)])
    assert [p.conv.dilation for p in unit.paths] == [(4, 4), (8, 8), (4, 4)]
    assert [p.conv.padding for p in unit.paths] == [(4, 4), (8, 8), (8, 8)]


def test_branches_may_differ_in_groups() -> None:
    unit = SKConv2d(32, groups=4, branches=[Branch(3, 1, groups=1), Branch(3, 1, groups=32), (3,)])
    assert [p.conv.groups for p in unit.paths] == [1, 32, 4]


def test_attention_is_recorded_by_name_and_only_inside_the_context() -> None:
    model = nn.Sequential(SKConv2d(8), nn.ReLU(), SKConv2d(8)).eval()
    x = torch.randn(2, 8, 6, 6)
    before = model(x)
    with record_attention(model) as recorded:
        inside = model(x)
        assert set(recorded) == {"0", "2"}
        assert not recorded["0"].requires_grad
        first = recorded["0"]
        model(2 * x)
        assert not torch.equal(recorded["0"], first)  # the last one counts
    last = recorded["0"]
    model(x)
    assert recorded["0"] is last
    torch.testing.assert_close(before, inside, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="channels"), record_attention(model):
        model(torch.randn(2, 9, 6, 6))
    assert not any(m._forward_hooks for m in model.modules())


def test_one_image_cannot_train_a_batch_norm_in_fuse() -> None:
    x = torch.randn(1, 8, 6, 6)
    with pytest.raises(UserError, match=r"single image.*fuse_norm='running'"):
        SKConv2d(8)(x)
    for norm in ("running", "layer", "none"):
        assert SKConv2d(8, fuse_norm=norm)(x).shape == x.shape
    assert SKConv2d(8).eval()(x).shape == x.shape
    frozen = SKConv2d(8)
    frozen.attn.bn.eval()
    assert frozen(x).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"branches": []}, "at least one branch"),
        ({"branches": [(4, 1)]}, "odd and positive, got 4"),
        ({"branches": [(3, 0)]}, "dilations must be at least 1, got 0"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"branches": [(3, 1, -1)]}, "groups must be at least 1, got -1"),
        ({"groups": 3}, "3 groups do not divide a branch's 8 input and 8 output channels"),
        ({"branches": [(3, 1, 5)]}, "5 groups do not divide"),
        ({"split_input": True, "branches": [(3,), (3,), (3,)]}, "split_input.*3 branches.*got 8"),
        ({"select": "max"}, "select.*attention, sum, mean, got 'max'"),
        ({"fuse_norm": "group"}, "fuse_norm.*batch, running, layer, none, got 'group'"),
        ({"reduction": 0}, "reduction must be at least 1, got 0"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"min_attention_width": -1}, "min_attention_width must be at least 1"),
        ({"pool_window": 0}, "pool_window must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SKConv2d(8, **arguments)


@pytest.mark.parametrize(
    "kwargs", [{}, {"select": "sum"}, {"split_input": True}, {"pool_window": 4}], ids=str
)
def test_compile_export_script_and_trace_agree_with_eager(kwargs: dict) -> None:
    torch.manual_seed(0)
    unit = SKConv2d(16, groups=4, **kwargs).eval()
    x = torch.randn(2, 16, 9, 7)
    expected = unit(x)
    compiled = torch.compile(unit, fullgraph=True, dynamic=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    side = torch.export.Dim("side", min=4, max=64)
    if "pool_window" in kwargs:
        side = torch.export.Dim.AUTO  # the number of windows is beyond what Dim's ranges can say
    exported = torch.export.export(unit, (x,), dynamic_shapes=({2: side},), strict=True)
    torch.testing.assert_close(exported.module()(x), expected)
    torch.testing.assert_close(exported.module()(x[:, :, :5]), unit(x[:, :, :5]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(unit)
        traced = torch.jit.trace(unit, x)
    torch.testing.assert_close(scripted(x), expected)
    torch.testing.assert_close(traced(x), expected)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("act", [torch.nn.ReLU, torch.nn.SiLU])  # on the kernels, and not
def test_fixed_attention_weighs_every_image_alike(act: type, window: int | None) -> None:
    torch.manual_seed(0)
    unit = SKConv2d(32, groups=4, act_layer=act, pool_window=window).eval()
    model = torch.nn.Sequential(unit)
    x = torch.randn(3, 32, 16, 16)
    weights = torch.rand(2, 32, dtype=torch.float64).softmax(0)
    with torch.inference_mode():
        before = model(x)
        with fix_attention(model, {"0": weights}):
            fixed = model(x)
        maps = [path(x) for path in unit.paths]
        expected = sum(w[:, None, None] * m for w, m in zip(weights.float(), maps, strict=True))
        torch.testing.assert_close(fixed, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(x), before)  # nothing is left behind
    with pytest.raises(UserError, match="no SK unit with attention is named 1"):
        fix_attention(model, {"1": weights}).__enter__()


def test_bf16_autocast_stays_near() -> None:
    torch.manual_seed(0)
    unit = SKConv2d(32, groups=4).eval()
    x = torch.randn(2, 32, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        low = unit(x)
    full = unit(x)
    assert low.dtype is torch.bfloat16
    assert (low - full).abs().max() < 0.02 * full.abs().max()


def test_a_kernel_size_by_position_is_refused() -> None:
    """Conv2d has the kernel size third, where this module once had the stride."""
    with pytest.raises(TypeError, match="positional"):
        SKConv2d(8, 16, 3)  # type: ignore[misc]
