"""Which convolutions a conversion replaces, what it reports, and what it refuses."""

import copy
import math

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from converting import check_equal, convert, get_encoder, units_of
from norms import randomize_norms
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d
from torch import nn

import skseg
from skseg.errors import UserError


def test_named_convolutions_are_taken_and_no_others() -> None:
    encoder = get_encoder("resnet18")
    converted, report = convert(encoder, modules=["conv1", "layer2.0.downsample.0", "layer4.1.*"])
    names = ["conv1", "layer2.0.downsample.0", "layer4.1.conv1", "layer4.1.conv2"]
    assert [chain.conv for chain in report.converted] == names
    kernels = [[p.conv.kernel_size[0] for p in unit.paths] for unit in units_of(converted)]
    assert kernels == [[7, 9], [1, 3], [3, 5], [3, 5]]
    check_equal(encoder, converted, torch.randn(2, 3, 64, 64))


class Odd(nn.Module):
    """Ways in which outputs are used that look like convolution, norm and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for name in "abcdefgh":
            self.add_module(f"conv_{name}", nn.Conv2d(8, 8, 3, padding=1))
            self.add_module(f"bn_{name}", nn.BatchNorm2d(8))
            self.add_module(f"act_{name}", nn.ReLU(inplace=name != "c"))
        self.bn_d = BatchNormAct2d(8, act_layer=nn.SiLU)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.standardised = StdConv2d(8, 8, 3, padding=1)
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.same = Conv2dSame(8, 8, 3, stride=2)
        self.valid = nn.Conv2d(8, 8, 3, padding="valid")
        self.text = nn.Conv2d(8, 8, 3, padding="same", dilation=2)
        self.rectangle = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.even = nn.Conv2d(8, 8, 4, padding=1)
        self.unused = nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        x = self.act_a(self.bn_a(self.conv_a(x)))  # the usual
        y = self.conv_b(x)
        x = self.act_b(self.bn_b(y)) + y  # the convolution's output is used again
        y = self.bn_c(self.conv_c(x))
        x = self.act_c(y) + y  # the norm's is
        x = self.bn_d(self.conv_d(x))
        x = torch.sigmoid(self.bn_e(self.conv_e(x)))  # a function
        y = self.bn_f(self.conv_f(x))
        feature = y  # handed out before its activation
        x = self.act_f(y.clone())
        x = self.act_g(self.act_g(self.bn_g(self.conv_g(x))))  # shared
        x = self.act_h(self.conv_h(x))
        x = self.twice(self.twice(x))
        x = self.reflected(self.standardised(x))
        x = self.even(self.rectangle(self.text(self.valid(self.same(x)))))
        return [feature, x]


def test_what_belongs_to_a_convolution_is_seen_in_its_use() -> None:
    torch.manual_seed(0)
    network = randomize_norms(Odd())
    converted, report = convert(network, modules=["*"])
    taken = {c.conv: (c.norm, c.act) for c in report.converted}
    assert taken == {
        "stem": (None, None),
        "conv_a": ("bn_a", "act_a"),
        "conv_b": (None, None),
        "conv_c": ("bn_c", None),
        "conv_d": ("bn_d", None),
        "conv_e": ("bn_e", None),
        "conv_f": ("bn_f", None),
        "conv_g": ("bn_g", None),
        "conv_h": (None, "act_h"),
        "same": (None, None),
        "valid": (None, None),
        "text": (None, None),
    }
    assert report.left == {
        "twice": "runs 2 times",
        "standardised": "a larger kernel does not keep its output",
        "reflected": "a larger kernel does not keep its output",
        "rectangle": "the kernel is not square",
        "even": "the kernel is even",
        "unused": "never runs",
    }
    assert isinstance(converted.conv_d.paths[0].act, nn.SiLU)
    assert type(converted.conv_d.paths[1].bn) is nn.BatchNorm2d
    for size in ((64, 64), (63, 70)):
        check_equal(network, converted, torch.randn(2, 3, *size))


def test_the_report_counts_what_counts() -> None:
    """Parameters and multiply-adds of one unit, by hand."""
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32))
    _, report = convert(network, modules=["1"], min_attention_width=8)
    attention = 32 * 8 + 2 * 8 + 8 * 64  # r = 16 would give 2
    first, pixels = 3 * 32, 224 * 224
    assert report.parameters == (first + 32 + 32 * 10, first + 32 + 32 * (10 + 26) + attention)
    ops = 32 * 8 + 8 * 64
    assert report.multiply_adds.before == pixels * (first + 32 * 9)
    assert report.multiply_adds.after == pixels * (first + 32 * (9 + 25)) + ops
    text = str(report)
    assert "converted 1 convolutions" in text
    growth = 100 * (report.parameters.after / report.parameters.before - 1)
    assert f"({growth:+.1f} %)" in text
    assert math.isclose(report.difference["train"], 0, abs_tol=1e-12)


def test_the_report_is_an_attribute_and_nothing_is_printed(capsys: pytest.CaptureFixture) -> None:
    encoder = get_encoder("sknet_tiny_plain")
    converted = skseg.convert_to_sk(encoder)
    captured = capsys.readouterr()
    assert not captured.out
    assert not captured.err
    report = copy.deepcopy(converted).conversion
    assert len(report.converted) == 8
    assert report.left == dict.fromkeys(("conv1.0", "conv1.3", "conv1.6"), "stem")
    assert not any("conversion" in key for key in converted.state_dict())
    assert "conv1.0, conv1.3, conv1.6" in str(report)
    assert not hasattr(encoder, "conversion")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sknet_tiny_plain", {"stage": [3]}, "no option 'stage'.*stages"),
        ("sknet_tiny_plain", {"stages": [6]}, "no stage 6; there are 1, 2, 3, 4, 5"),
        ("resnet18", {"stages": [1]}, r"nothing to convert; left: conv1 \(stem\)"),
        ("sknet_tiny_plain", {"modules": ["layer9.*"]}, r"no convolution is called 'layer9\.\*'"),
        ("sknet_tiny_plain", {"modules": ["layer1.0.conv"]}, r"layer1\.0\.conv2"),
        ("sknet_tiny_plain", {"select": "sum"}, "sum.*mean"),
        ("sknet_tiny_plain", {"select": "max"}, "select.*attention, sum, mean"),
        ("sknet_tiny_plain", {"branches": [[1], [3]]}, "at least 3.*got 1"),
        ("sknet_tiny_plain", {"branches": [[4]]}, "odd and positive, got 4"),
        ("sknet_tiny_plain", {"branches": [[3, 1, 2]]}, "keeps the groups"),
        ("sknet_tiny_plain", {"branches": [[]]}, r"the last optional.*got \[\]"),
        ("sknet_tiny", {}, "SKNetEncoder has SK units already"),
    ],
)
def test_bad_input(name: str, options: dict, message: str) -> None:
    encoder = smp.encoders.get_encoder(name, weights=None)
    with pytest.raises(UserError, match=message):
        skseg.convert_to_sk(encoder, **options)


def test_selective_kernels_of_timm_stay() -> None:
    torch.manual_seed(0)
    network = timm.create_model("skresnet18", features_only=True)
    converted, report = convert(network, stages=[2])
    taken = [chain.conv for chain in report.converted]
    assert taken == ["layer1.0.conv2.conv", "layer1.1.conv2.conv"]
    assert report.left["layer1.0.conv1.paths.1.conv"] == "part of a selective kernel already"
    check_equal(network, converted, torch.randn(2, 3, 64, 64))


def test_networks_without_anything_to_convert() -> None:
    with pytest.raises(UserError, match="no spatial convolutions"):
        skseg.convert_to_sk(nn.Sequential(nn.Conv2d(3, 8, 1)))
    once = skseg.convert_to_sk(smp.encoders.get_encoder("sknet_tiny_plain", weights=None))
    with pytest.raises(UserError, match="has SK units already"):
        skseg.convert_to_sk(once)


def test_convolutions_that_feed_no_feature_are_left() -> None:
    """timm runs blocks after the last feature that a shallow smp encoder hands out."""
    encoder = smp.encoders.get_encoder("tu-lcnet_035", depth=3, weights=None)
    converted = skseg.convert_to_sk(encoder)
    reasons = converted.conversion.left
    assert reasons["model.blocks.3.0.conv_dw"] == "no feature depends on it"
    assert [chain.conv for chain in converted.conversion.converted]
