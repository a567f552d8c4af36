"""Encoders of smp and timm with SK units compute what they did, and then learn to select."""

import copy
import io

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from converting import check_equal, convert, difference, features, get_encoder, units_of
from norms import randomize_norms
from running import run_script
from timm.layers import BatchNormAct2d
from torch import nn

import skseg
from skseg.convert import optimize_for_inference
from skseg.encoders import SKSettings
from skseg.errors import UserError
from skseg.models import build_model
from skseg.nn import SKConv2d, record_attention

# How many units each gets: its spatial convolutions behind the first feature, without shortcuts.
UNITS = {
    "resnet18": 16,  # basic blocks, one ReLU for all
    "resnext50_32x4d": 16,
    "se_resnext50_32x4d": 16,
    "tu-resnet10t": 4 * 2,  # a deep stem, pooled shortcuts
    "tu-regnety_002": 13,
    "efficientnet-b0": 16,  # padded for 224 pixels
    "tu-tf_efficientnet_lite0": 15,  # TensorFlow's padding
    "tu-tf_efficientnetv2_b0": 1 + 19,  # dense and depthwise
    "mobilenet_v2": 16,
    "tu-mobilenetv3_small_100": 11,
    "tu-convnext_atto": 12,  # biases, no norms
    "densenet121": 58,
    "sknet_tiny_plain": 8,
}
SLOW = [
    "efficientnet-b0",
    *("resnext50_32x4d", "se_resnext50_32x4d", "tu-resnet10t", "tu-regnety_002"),
    *("tu-tf_efficientnetv2_b0", "mobilenet_v2", "densenet121"),
]
FAST = ["resnet18", "tu-mobilenetv3_small_100", "tu-convnext_atto", "sknet_tiny_plain"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in UNITS]
)
def test_computes_what_it_did(name: str) -> None:
    encoder = get_encoder(name)
    state = copy.deepcopy(encoder.state_dict())
    converted, report = convert(encoder)
    assert type(converted) is type(encoder)
    assert len(units_of(converted)) == len(report.converted) == UNITS[name]
    check_equal(encoder, converted, torch.randn(2, 3, 96, 64))
    assert not units_of(encoder)  # the one given is left alone, training and all
    assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items() if "num_" not in k)


@pytest.mark.parametrize("name", ["sknet_tiny_plain", "mobilenet_v2", "tu-convnext_atto"])
def test_attention_learns_from_the_second_step_on(name: str) -> None:
    """Equal branches give it no gradient; the border of the larger kernel makes them differ."""
    encoder = convert(get_encoder(name))[0].double().train()
    x = torch.randn(2, 3, 160, 160, dtype=torch.float64)  # 5x5 at last, or 9x9 kernels see padding
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    largest = []
    for _ in range(2):
        optimizer.zero_grad()
        sum(f.square().mean() for f in features(encoder, x)[1:]).backward()
        grads = [unit.attn.fc_select.weight.grad.abs().max() for unit in units_of(encoder)]
        largest.append(torch.stack(grads))
        for unit in units_of(encoder):
            grad = unit.paths[1].conv.weight.grad.clone()
            grad[..., 1:-1, 1:-1] = 0
            assert grad.any()
        optimizer.step()
    assert (largest[1] > 0).all()
    assert largest[0].max() < 1e-6 * largest[1].max()


@pytest.mark.parametrize("name", ["sknet_tiny_plain", "tu-tf_efficientnet_lite0"])
def test_any_attention_gives_the_old_output(name: str) -> None:
    encoder = get_encoder(name).double()
    converted, _ = convert(encoder)
    for unit in units_of(converted):
        nn.init.normal_(unit.attn.fc_select.weight, std=3)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad(), record_attention(converted) as attention:
        assert difference(features(encoder.eval(), x), features(converted.eval(), x)) <= 1e-9
    assert any(float((a - 0.5).abs().max()) > 0.4 for a in attention.values())


@pytest.mark.parametrize(
    "options",
    [
        {"select": "mean"},
        {"branches": [[3], [5], [7]]},
        {"branches": [[3]], "select": "mean"},
        {"fuse_norm": "batch", "reduction": 2, "min_attention_width": 4},
        {"fuse_norm": "none", "pool_window": 2},
        {"stages": [3, 5]},
        {"depthwise": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "name", ["sknet_tiny_plain", pytest.param("mobilenet_v2", marks=pytest.mark.slow)]
)
def test_options_keep_what_is_computed(name: str, options: dict) -> None:
    encoder = get_encoder(name)
    converted, report = convert(encoder, **options)
    check_equal(encoder, converted, torch.randn(2, 3, 64, 96))
    for unit in units_of(converted):
        own = unit.paths[0].conv.kernel_size[0]
        grown = [b[0] + own - 3 for b in options.get("branches", [[3], [5]])]
        if "depthwise" not in options:
            assert [p.conv.kernel_size[0] for p in unit.paths] == grown
        if options.get("select") == "mean":
            assert unit.attn is None
        else:
            norms = {"batch": nn.BatchNorm1d, "none": nn.Identity}
            expected = norms.get(options.get("fuse_norm"), nn.LayerNorm)
            assert isinstance(unit.attn.bn, expected)
            width = max(
                unit.out_channels // options.get("reduction", 16),
                options.get("min_attention_width", 32),
            )
            assert unit.attn.fc_reduce.out_features == width
    if "stages" in options:
        kept = {name for name, reason in report.left.items() if reason == "not in stages"}
        assert kept
        assert 0 < len(units_of(converted)) < UNITS[name]


def test_depthwise_larger_kernels_cost_less() -> None:
    encoder = get_encoder("sknet_tiny_plain")
    _, full = convert(encoder)
    converted, small = convert(encoder, depthwise=True)
    assert small.parameters.before == full.parameters.before
    growth = small.parameters.after - small.parameters.before
    assert growth < 0.9 * (full.parameters.after - full.parameters.before)
    x = torch.randn(2, 3, 64, 64)
    sum(f.square().mean() for f in features(converted, x)[1:]).backward()
    for unit in units_of(converted):
        assert unit.paths[1].conv.wide.weight.grad.any()


def test_dilated_branches_start_from_the_old_weights_and_the_difference_is_told() -> None:
    encoder = get_encoder("sknet_tiny_plain")
    converted, report = convert(encoder, branches=[[3], [3, 2]])
    near, far = units_of(converted)[3].paths
    assert torch.equal(near.conv.weight, far.conv.weight)
    assert [near.conv.dilation, far.conv.dilation] == [(1, 1), (2, 2)]
    assert report.difference["eval"] > 1e-3
    assert f"{report.difference['eval']:.1e} in eval" in str(report)
    far.conv.dilation, far.conv.padding = (1, 1), (1, 1)  # the rest is as it was
    unit = units_of(converted)[3]
    x = torch.randn(2, unit.in_channels, 9, 9)
    old = encoder.layer2[1]
    expected = old.act2(old.bn2(old.conv2(x)))
    torch.testing.assert_close(unit(x), expected)


@pytest.mark.parametrize("output_stride", [8, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "tu-mobilenetv3_small_100"])
def test_dilated_encoders(name: str, output_stride: int) -> None:
    encoder = get_encoder(name, output_stride=output_stride)
    converted, _ = convert(encoder)
    check_equal(encoder, converted, torch.randn(2, 3, 64, 64))
    deepest = features(converted.eval(), torch.randn(1, 3, 64, 64))[-1]
    assert deepest.shape[-1] == 64 // output_stride
    # stages are told apart although their strides are the same
    _, report = convert(encoder, stages=[5])
    assert 0 < len(report.converted) < len(units_of(converted))


@pytest.mark.parametrize("name", ["sknet_tiny_plain", "tu-tf_efficientnet_lite0"])
def test_export_and_compile(name: str) -> None:
    encoder = convert(get_encoder(name))[0].eval()
    x = torch.rand(1, 3, 64, 64)
    expected = encoder(x)
    exported = torch.export.export(encoder, (x,), strict=True).module()
    assert difference(expected, exported(x)) <= 1e-5
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    assert difference(expected, compiled(x)) <= 1e-5


@pytest.mark.parametrize("name", [*FAST, "tu-tf_efficientnet_lite0"])
def test_optimize_for_inference(name: str) -> None:
    encoder = convert(get_encoder(name))[0].eval()
    for unit in units_of(encoder):  # branches that differ, as after training
        nn.init.normal_(unit.paths[1].conv.weight, std=0.1)
    fast = optimize_for_inference(encoder)
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert difference(features(encoder, x), features(fast, x)) <= 1e-4
    if name != "tu-convnext_atto":
        folded = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(folded) < len([m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)])


def test_whole_models_and_classifiers() -> None:
    model = randomize_norms(smp.Unet("resnet18", encoder_weights=None, classes=3)).eval()
    converted, _ = convert(model)
    assert type(converted) is smp.Unet
    assert all(
        name.startswith("encoder.")
        for name, m in converted.named_modules()
        if isinstance(m, SKConv2d)
    )
    assert (
        difference([model(torch.ones(1, 3, 64, 64))], [converted(torch.ones(1, 3, 64, 64))]) < 1e-4
    )
    classifier = randomize_norms(timm.create_model("resnet10t", num_classes=7)).eval()
    converted, _ = convert(classifier, stages=[5])  # by stride
    assert {n[:6] for n, m in converted.named_modules() if isinstance(m, SKConv2d)} == {"layer4"}
    check_equal(classifier, converted, torch.randn(2, 3, 64, 64))


def test_device_type_mode_and_frozen_parameters_are_kept() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), BatchNormAct2d(4)).double()
    network[1].requires_grad_(False)
    network[2].requires_grad_(False).eval()
    unit = convert(network.train(), stages=[1])[0][1]
    assert {p.dtype for p in unit.parameters()} == {torch.float64}
    assert unit.training
    for path in unit.paths:
        assert not any(p.requires_grad for p in path.parameters())
        assert not path.bn.training or network[2].training
    assert all(p.requires_grad for p in unit.attn.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder_name": "tu-sknet_tiny"}, "requires the encoder sknet_tiny, not tu-sknet_tiny"),
        ({"encoder_name": "sknet_tiny", "sk": SKSettings(stages=[3])}, "stages. is for encoders"),
        ({"encoder_name": "resnet18", "sk": SKSettings(stages=[9])}, "with resnet18: .*no stage 9"),
    ],
)
def test_bad_settings_of_a_model(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=r"^`sk.*" + message):
        build_model("fpn", **{"sk": SKSettings(), **arguments})


@pytest.mark.parametrize("arch", ["deeplabv3plus", "unet"])
def test_models_are_built_with_units(arch: str) -> None:
    torch.manual_seed(0)
    plain = build_model(arch, "resnet18", classes=3).eval()
    torch.manual_seed(0)
    converted = build_model(arch, "resnet18", classes=3, sk=SKSettings())
    assert len(converted.conversion.converted) == 16
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert difference([plain(x)], [converted.eval()(x)]) <= 1e-4


def test_a_state_dict_goes_through_a_file() -> None:
    encoder = convert(get_encoder("mobilenet_v2"))[0]
    file = io.BytesIO()
    torch.save(encoder.state_dict(), file)
    file.seek(0)
    other = skseg.convert_to_sk(smp.encoders.get_encoder("mobilenet_v2", weights=None))
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.rand(1, 3, 64, 64)
    assert difference(features(encoder.eval(), x), features(other.eval(), x)) == 0


def test_the_table_of_the_documentation() -> None:
    done = run_script("conversions", "sknet_tiny_plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("| `sknet_tiny_plain` | 8 | 1.00 -> 1.63 |")
