"""What smp and timm ask of their own encoders, and what is special about SK."""

import subprocess
import sys
import warnings

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import skseg
from skseg.nn import SKConv2d

NAMES = skseg.list_encoders()
TINY = [f"sknet_tiny{twin}" for twin in ("", "_plain", "_se", "_sum", "_wide")]
STRIDES = [1, 2, 4, 8, 16, 32]


def get_encoder(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return smp.encoders.get_encoder(name, weights=None, **kwargs)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sknet26", 14_697_408),
        ("sknet50", 25_430_784),
        ("sknet101", 46_687_040),
        ("sknet_tiny", 1_286_704),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(get_encoder(name)) == count


def test_sknet50_has_the_parameters_of_the_authors_file() -> None:
    with torch.device("meta"):
        assert parameters(timm.create_model("sknet50")) == 27_479_784


def test_twins_are_timms_resnext_and_seresnext() -> None:
    """The same trunk means that timm's weights for it would load as they are."""
    with torch.device("meta"):
        for name, known in (("plain", "resnext50_32x4d"), ("se", "seresnext50_32x4d")):
            ours = timm.create_model(f"sknet50_{name}").state_dict()
            theirs = timm.create_model(known).state_dict()
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_twins_differ_in_the_3x3_alone() -> None:
    sk, plain, se = (get_encoder(name).state_dict() for name in TINY[:3])

    def rest(state: dict) -> dict:
        skipped = (".conv2.", ".bn2.", ".se.")
        return {k: v.shape for k, v in state.items() if not any(s in k for s in skipped)}

    assert rest(sk) == rest(plain) == rest(se)
    assert any(".conv2.paths.1." in k for k in sk)
    # squeeze-and-excitation of ratio 16 on the block's output
    assert se["layer4.0.se.fc1.weight"].shape[:2] == (512 // 16, 512)


@pytest.mark.parametrize("name", skseg.encoders.TRUNKS)
def test_wide_twins_have_the_parameters_of_the_sk_network(name: str) -> None:
    with torch.device("meta"):
        sk, plain, wide = (get_encoder(name + twin) for twin in ("", "_plain", "_wide"))
    assert parameters(wide) == pytest.approx(parameters(sk), rel=0.016)
    assert parameters(plain) < 0.92 * parameters(sk)
    assert wide.out_channels == sk.out_channels


def test_sum_twins_are_the_sk_network_without_attention() -> None:
    sk, added = get_encoder("sknet_tiny"), get_encoder("sknet_tiny_sum")
    kept = {k: v.shape for k, v in sk.state_dict().items() if ".attn." not in k}
    assert kept == {k: v.shape for k, v in added.state_dict().items()}
    assert {m.select for m in added.modules() if isinstance(m, SKConv2d)} == {"sum"}


def test_equals_timms_sk_network() -> None:
    """The same weights give timm's features, through every stage."""
    torch.manual_seed(0)
    theirs = timm.create_model("skresnext50_32x4d", features_only=True).eval()
    ours = timm.create_model("sknet50", features_only=True).eval()
    state = {}
    for key, value in theirs.state_dict().items():
        for part in ("conv1", "conv3"):
            key = key.replace(f".{part}.conv.", f".{part}.").replace(
                f".{part}.bn.", f".bn{part[-1]}."
            )
        state[key] = value.flatten(1) if ".attn.fc_" in key else value
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for mine, other in zip(ours(x), theirs(x), strict=True):
            assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("name", [*TINY, "sknet26"])
def test_forward_backward(name: str) -> None:
    encoder = get_encoder(name)
    features = encoder(torch.rand(2, 3, 64, 64))
    assert len(features) == 6
    features[-1].mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", [*TINY, "sknet26"])
def test_in_channels(name: str, in_channels: int) -> None:
    encoder = get_encoder(name, in_channels=in_channels).eval()
    features = encoder(torch.rand(1, in_channels, 64, 64))
    assert features[0].shape[1] == encoder.out_channels[0] == in_channels


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("name", [*TINY, "sknet26"])
def test_depth(name: str, depth: int) -> None:
    encoder = get_encoder(name, depth=depth).eval()
    features = encoder(torch.rand(1, 3, 64, 96))
    assert [64 // f.shape[2] for f in features] == STRIDES[: depth + 1]
    assert [96 // f.shape[3] for f in features] == STRIDES[: depth + 1]
    assert [f.shape[1] for f in features] == encoder.out_channels
    assert encoder.output_stride == STRIDES[depth]


@pytest.mark.parametrize("depth", [0, 6])
def test_invalid_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=r"range \[1, 5\]"):
        get_encoder("sknet_tiny", depth=depth)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", [*TINY, "sknet26"])
def test_dilated(name: str, output_stride: int) -> None:
    """Strides stop at the output stride, and weights mean what they mean in timm's own network."""
    encoder = get_encoder(name, output_stride=output_stride).eval()
    x = torch.rand(1, 3, 64, 64)
    features = encoder(x)
    assert [64 // f.shape[2] for f in features] == [min(s, output_stride) for s in STRIDES]
    assert encoder.output_stride == output_stride
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    theirs.load_state_dict(encoder.state_dict())
    for mine, other in zip(features[1:], theirs(x), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_branches_stay_different_when_dilated(output_stride: int) -> None:
    encoder = get_encoder("sknet26", output_stride=output_stride)
    units = [m for m in encoder.modules() if isinstance(m, SKConv2d)]
    assert len(units) == 8
    for unit in units:
        near, far = (path.conv for path in unit.paths)
        assert far.dilation[0] == 2 * near.dilation[0]
    expected = {8: [2, 4], 16: [1, 2], 32: [1, 1]}[output_stride]
    assert [units[i].paths[0].conv.dilation[0] for i in (5, 7)] == expected


def test_invalid_output_stride() -> None:
    with pytest.raises(ValueError, match="16 or 8, got 4"):
        get_encoder("sknet_tiny", output_stride=4)


@pytest.mark.parametrize("name", TINY)
def test_compile_export_and_script(name: str) -> None:
    encoder = get_encoder(name).eval()
    x = torch.rand(1, 3, 64, 64)
    expected = encoder(x)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend="eager")
    exported = torch.export.export(encoder, (x,), strict=True).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(encoder)
    for other in (compiled, exported, scripted):
        for mine, theirs in zip(expected, other(x), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_timm_features_only(name: str) -> None:
    model = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    features = model(torch.rand(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == model.feature_info.channels()


def test_timm_classifier_trains() -> None:
    model = timm.create_model("sknet_tiny", num_classes=7, drop_path_rate=0.1)
    out = model(torch.rand(2, 3, 64, 64))
    assert out.shape == (2, 7)
    out.mean().backward()
    assert model.pretrained_cfg["first_conv"] in dict(model.named_modules())
    assert model.get_classifier() is model.fc


def test_a_classifiers_weights_load_without_its_head() -> None:
    torch.manual_seed(0)
    classifier = timm.create_model("sknet_tiny").eval()
    encoder = get_encoder("sknet_tiny").eval()
    state = classifier.state_dict()
    encoder.load_state_dict(state)
    assert "fc.weight" in state  # the caller's dict is left alone
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(x)[-1], classifier.forward_features(x))


def test_no_name_is_overwritten() -> None:
    """In a process of its own: what timm and smp had before the import they have after it."""
    code = """
import timm, segmentation_models_pytorch as smp
theirs = {n: timm.model_entrypoint(n) for n in timm.list_models()}
encoders = dict(smp.encoders.encoders)
import skseg
assert not set(skseg.list_encoders()) & (set(theirs) | set(encoders))
assert all(timm.model_entrypoint(n) is f for n, f in theirs.items())
assert all(smp.encoders.encoders[n] is e for n, e in encoders.items())
assert set(skseg.list_encoders()) <= set(timm.list_models()) & set(smp.encoders.encoders)
from skseg.encoders.sknet import NETWORKS, _register
try:
    _register("resnet18", NETWORKS["sknet26"])
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "already has an encoder 'resnet18'" in done.stdout


@pytest.mark.parametrize("name", ["sknet_tiny", "sknet26"])
def test_state_dict_round_trip_and_seed(name: str) -> None:
    first, second = get_encoder(name), get_encoder(name)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
