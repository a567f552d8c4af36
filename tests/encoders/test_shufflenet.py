"""The light network, on torchvision's trunk."""

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import skseg
from skseg.encoders.shufflenet import NETWORKS
from skseg.nn import SKConv2d

STRIDES = [1, 2, 4, 8, 16, 32]


def get_encoder(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return smp.encoders.get_encoder(name, weights=None, **kwargs)


def mflops(model: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, 224, 224))
    return counter.get_total_flops() / 2e6


def test_sk_costs_what_a_second_depthwise_kernel_costs() -> None:
    with torch.device("meta"):
        whole = torchvision.models.shufflenet_v2_x1_0()
        plain = get_encoder("sk_shufflenet_v2_x1_0_plain")
        sk = get_encoder("sk_shufflenet_v2_x1_0")
        classifier = 1.024
        assert mflops(plain) + classifier == pytest.approx(mflops(whole))
        assert mflops(plain) + classifier == pytest.approx(145, abs=0.5)
        assert mflops(sk) + classifier == pytest.approx(149, abs=0.5)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_train(name: str) -> None:
    encoder = get_encoder(name)
    features = encoder(torch.rand(2, 3, 64, 96))
    assert [64 // f.shape[2] for f in features] == STRIDES
    assert [f.shape[1] for f in features] == encoder.out_channels
    features[-1].mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_depth_and_input_channels(depth: int) -> None:
    encoder = get_encoder("sk_shufflenet_v2_x0_5", depth=depth, in_channels=4).eval()
    features = encoder(torch.rand(1, 4, 64, 64))
    assert [64 // f.shape[2] for f in features] == STRIDES[: depth + 1]
    assert [f.shape[1] for f in features] == encoder.out_channels
    with pytest.raises(ValueError, match=r"range \[1, 5\]"):
        get_encoder("sk_shufflenet_v2_x0_5", depth=6)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated(output_stride: int) -> None:
    encoder = get_encoder("sk_shufflenet_v2_x0_5", output_stride=output_stride).eval()
    features = encoder(torch.rand(1, 3, 64, 64))
    assert [64 // f.shape[2] for f in features] == [min(s, output_stride) for s in STRIDES]
    last = [m for m in encoder.stage4.modules() if isinstance(m, SKConv2d)]
    assert len(last) == 5  # two in the unit that has the stride
    rates = [[path.conv.dilation[0] for path in unit.paths] for unit in last]
    rate = 32 // output_stride
    assert rates == [[rate // 2, rate]] * 2 + [[rate, 2 * rate]] * 3


def test_sk_takes_the_place_of_the_depthwise_convolutions_alone() -> None:
    plain, sk = (get_encoder(f"sk_shufflenet_v2_x0_5{twin}") for twin in ("_plain", ""))
    units = {n: m for n, m in sk.named_modules() if isinstance(m, SKConv2d)}
    depthwise = {n for n, m in plain.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert set(units) == depthwise
    for unit in units.values():
        assert all(path.conv.groups == unit.out_channels for path in unit.paths)
        assert all(isinstance(path.act, nn.Identity) for path in unit.paths)


@pytest.mark.parametrize("name", ["sk_shufflenet_v2_x0_5", "sk_shufflenet_v2_x0_5_se"])
def test_compile_export_and_optimize(name: str) -> None:
    encoder = get_encoder(name).eval()
    x = torch.rand(1, 3, 64, 64)
    expected = encoder(x)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend="eager")
    exported = torch.export.export(encoder, (x,), strict=True).module()
    optimized = skseg.optimize_for_inference(encoder)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in optimized.modules())
    for other in (compiled, exported, optimized):
        for mine, theirs in zip(expected, other(x), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
