import copy
import warnings

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from norms import randomize_norms
from torch import nn

import skseg
from skseg.convert.fold import FoldedSKConv2d
from skseg.errors import UserError
from skseg.models import ARCHS
from skseg.nn import SKConv2d, record_attention
from skseg.nn.kernels import library


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return randomize_norms(model, spread=0.2).eval()


def count(module: nn.Module, kind: type) -> int:
    return sum(isinstance(m, kind) for m in module.modules())


@torch.inference_mode()
def assert_equal(model: nn.Module, optimized: nn.Module, x: torch.Tensor) -> None:
    for fast in (True, False):
        if fast:
            mine = optimized(x)
        else:
            with library.disabled():
                mine = optimized(x)
        theirs = model(x)
        pairs = (
            [(mine, theirs)] if isinstance(mine, torch.Tensor) else zip(mine, theirs, strict=True)
        )
        for a, b in pairs:
            assert (a - b).abs().max() <= 2e-5 * b.abs().max()


# What is left: PSPNet's encoder ends before layer3, and Linknet's decoder has transposed
# convolutions.
LEFT = {"pspnet": 18, "linknet": 5}


@pytest.mark.parametrize("arch", ARCHS)
def test_networks_keep_their_outputs_without_norms(arch: str) -> None:
    model = randomized(skseg.build_model(arch, "sknet_tiny", classes=4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimized = skseg.optimize_for_inference(model)
    assert count(optimized, nn.BatchNorm2d) == LEFT.get(arch, 0)
    assert count(optimized, FoldedSKConv2d) == (4 if arch == "pspnet" else 8)
    assert len(optimized.folding.left) == LEFT.get(arch, 0)
    assert len(optimized.folding.units) == count(optimized, FoldedSKConv2d)
    assert not any(p.requires_grad for p in optimized.parameters())
    assert_equal(model, optimized, torch.randn(2, 3, 256, 256))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])  # the model is left as it was


@pytest.mark.parametrize("name", ["sknet26", "sknet_tiny_plain", "sknet_tiny_se"])
def test_encoders(name: str) -> None:
    encoder = randomized(smp.encoders.get_encoder(name, weights=None, output_stride=16))
    optimized = skseg.optimize_for_inference(encoder)
    assert count(optimized, nn.BatchNorm2d) == 0
    assert_equal(encoder, optimized, torch.randn(1, 3, 64, 96))


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 8},
        {"groups": 4},
        {"groups": 8, "stride": 2},
        {"groups": 8, "split_input": True},
        {"groups": 8, "pool_window": 5},
        {"groups": 8, "branches": [(3, 1), (3, 2), (5, 1)]},
        {"groups": 8, "bias": True, "act_layer": nn.SiLU},
        {"groups": 8, "fuse_norm": "layer"},
        {"groups": 8, "fuse_norm": "running"},
    ],
    ids=str,
)
def test_units(arguments: dict) -> None:
    unit = randomized(SKConv2d(32, **arguments))
    optimized = skseg.optimize_for_inference(unit)
    assert isinstance(optimized, FoldedSKConv2d)
    assert_equal(unit, optimized, torch.randn(2, 32, 15, 11))
    with record_attention(unit) as mine, record_attention(optimized) as theirs:
        x = torch.randn(2, 32, 9, 9)
        unit(x)
        optimized(x)
    torch.testing.assert_close(mine[""], theirs[""])


def test_units_without_attention_keep_their_class() -> None:
    unit = randomized(SKConv2d(32, groups=8, select="sum"))
    optimized = skseg.optimize_for_inference(unit)
    assert isinstance(optimized, SKConv2d)
    assert count(optimized, nn.BatchNorm2d) == 0
    assert_equal(unit, optimized, torch.randn(2, 32, 9, 9))


class Shared(nn.Module):
    """A convolution whose output goes to a norm and past it, and one norm for two convolutions."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.twice = twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        z = self.norm(y)
        return self.norm(self.b(z)) if self.twice else z + y


@pytest.mark.parametrize(
    ("twice", "reason"),
    [(True, "runs 2 times"), (False, "not the output of one convolution that nothing else uses")],
)
def test_what_cannot_be_folded_is_left_with_a_reason_and_a_warning(
    twice: bool, reason: str
) -> None:
    model = randomized(Shared(twice))
    with pytest.warns(UserWarning, match=f"(?s)Shared.*norm.*{reason}"):
        optimized = skseg.optimize_for_inference(model)
    assert count(optimized, nn.BatchNorm2d) == 1
    assert not optimized.folding.folded
    assert reason in optimized.folding.left["norm"]
    assert_equal(model, optimized, torch.randn(1, 3, 8, 8))


class Scaled(nn.BatchNorm2d):
    """A norm that also does something of its own."""


def test_the_rest_is_folded_and_the_report_survives_copies() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), Shared(False))
    model[2].a = nn.Conv2d(8, 8, 1)
    model.append(nn.Sequential(nn.Conv2d(8, 8, 1), Scaled(8)))
    model.append(nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)))
    model = randomized(model[:3]).append(model[3]).append(model[4]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a part was folded: the report alone says what was not
        optimized = skseg.optimize_for_inference(model)
    folding = copy.deepcopy(optimized).folding
    assert folding.folded == {"1": "0"}
    assert set(folding.left) == {"2.norm", "3.1", "4.1"}
    assert folding.left["3.1"] == "is a Scaled"
    assert folding.left["4.1"] == "has no running statistics"
    assert folding.difference <= 1e-9
    assert not any("folding" in key for key in optimized.state_dict())
    assert_equal(model, optimized, torch.randn(2, 3, 8, 8))


class Reading(nn.Module):
    """A network that computes with the bias of its convolution, which folding changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) + self.conv.bias[:, None, None]


def test_nothing_is_folded_if_that_changes_the_outputs() -> None:
    model = randomized(Reading())
    with pytest.warns(UserWarning, match="changed the outputs"):
        optimized = skseg.optimize_for_inference(model)
    assert not optimized.folding.folded
    assert "changed the outputs" in optimized.folding.left["norm"]
    assert_equal(model, optimized, torch.randn(1, 3, 8, 8))


def test_a_network_of_timm_keeps_its_outputs() -> None:
    model = randomized(timm.create_model("mobilenetv3_small_050", features_only=True))
    assert_equal(model, skseg.optimize_for_inference(model), torch.randn(1, 3, 64, 64))


def test_a_network_of_other_sizes_needs_an_example() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 8 * 8, 2))
    with pytest.raises(UserError, match="3-channel images of 64 or 256"):
        skseg.optimize_for_inference(model)
    example = torch.randn(1, 3, 10, 10)
    assert skseg.optimize_for_inference(model, example)(example).shape == (1, 2)


def test_optimized_networks_compile_export_and_script() -> None:
    encoder = randomized(smp.encoders.get_encoder("sknet_tiny", weights=None))
    optimized = skseg.optimize_for_inference(encoder)
    x = torch.rand(1, 3, 64, 64)
    expected = encoder(x)
    compiled = torch.compile(optimized, fullgraph=True, dynamic=True, backend="eager")
    exported = torch.export.export(optimized, (x,), strict=True).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(optimized)
    for other in (compiled, exported, scripted):
        for a, b in zip(other(x), expected, strict=True):
            assert (a - b).abs().max() <= 2e-5 * b.abs().max()


@pytest.mark.skipif(library.LANES == 0, reason="no kernels for this CPU")
@pytest.mark.parametrize("lanes", [4, 0])
def test_a_unit_that_another_cpu_optimized_runs_here(
    lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its channels may not fill this CPU's longer vectors."""
    unit = randomized(SKConv2d(20))
    with monkeypatch.context() as other_cpu:
        other_cpu.setattr(library, "LANES", lanes)
        optimized = skseg.optimize_for_inference(unit)
    x = torch.randn(1, 20, 8, 8)
    torch.testing.assert_close(optimized(x), unit(x), rtol=1e-4, atol=1e-5)
