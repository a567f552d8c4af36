"""Helpers of the tests of conversion."""

import copy

import segmentation_models_pytorch as smp
import torch
from norms import randomize_norms
from torch import nn

import skseg
from skseg.convert import Conversion
from skseg.nn import SKConv2d


def units_of(network: nn.Module) -> list[SKConv2d]:
    return [m for m in network.modules() if isinstance(m, SKConv2d)]


def get_encoder(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return randomize_norms(smp.encoders.get_encoder(name, weights=None, **kwargs))


def convert(network: nn.Module, **options: object) -> tuple[nn.Module, Conversion]:
    converted = skseg.convert_to_sk(network, **options)
    return converted, converted.conversion


def features(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(0)  # for stochastic depth
    out = network(x)
    return [f for f in (out if isinstance(out, list | tuple) else [out]) if f.numel()]


@torch.no_grad()
def difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    assert len(a) == len(b)
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(a, b, strict=True))


def check_equal(before: nn.Module, after: nn.Module, x: torch.Tensor) -> None:
    """In eval and train mode in float64, with the same statistics afterwards, and in float32."""
    with torch.no_grad():
        assert difference(features(before.eval(), x), features(after.eval(), x)) <= 1e-4
        first, second = copy.deepcopy(before).double(), copy.deepcopy(after).double()
        x = x.double()
        assert difference(features(first.eval(), x), features(second.eval(), x)) <= 1e-9
        assert difference(features(first.train(), x), features(second.train(), x)) <= 1e-9
        # Training has moved the statistics of all branches alike.
        assert difference(features(first.eval(), x), features(second.eval(), x)) <= 1e-9
