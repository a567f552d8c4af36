"""An SK unit that starts as the convolution that it replaces."""

import copy
import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn

from skseg.convert.trace import Chain
from skseg.encoders.settings import SKSettings
from skseg.nn import Branch, SKConv2d
from skseg.nn.blocks import paths_of

TRUE_KERNELS = ([3, 1], [5, 1])
"""The default branches for a 3x3 convolution; for a k x k one the kernels are k - 3 larger."""

_TOLERANCE = 1e-9  # of the largest output, in float64


class WidenedConv2d(nn.Module):
    """A convolution and, added to it, a larger depthwise one that starts at zero.

    It spans as many pixels as one larger kernel, with many fewer parameters.

    Args:
        conv: The convolution.
        kernel_size: Side of the depthwise kernel, larger than that of `conv` by an even number.
    """

    def __init__(self, conv: nn.Conv2d, kernel_size: int) -> None:
        super().__init__()
        self.conv = conv
        self.wide = _grow(conv, Branch(kernel_size))
        self.wide.groups = math.gcd(conv.in_channels, conv.out_channels)
        shape = (conv.out_channels, conv.in_channels // self.wide.groups, kernel_size, kernel_size)
        self.wide.weight = nn.Parameter(
            conv.weight.new_zeros(shape), requires_grad=conv.weight.requires_grad
        )
        self.wide.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H', W'], as `conv` does at first."""
        out: Tensor = self.conv(x) + self.wide(x)
        return out


def branches_of(settings: SKSettings) -> Sequence[Sequence[int]]:
    """Return the branches for a 3x3 convolution: [kernel size, dilation], the last optional."""
    if settings.branches is None:
        return TRUE_KERNELS
    return settings.branches


def make_unit(encoder: nn.Module, chain: Chain, settings: SKSettings) -> SKConv2d:
    """Build the unit of a chain, with the chain's weights, norm statistics, mode and device."""
    conv = encoder.get_submodule(chain.conv)
    assert isinstance(conv, nn.Conv2d)
    norm: nn.Module = nn.Identity()
    act: nn.Module = nn.Identity()
    if chain.norm is not None:
        norm, act = _split(encoder.get_submodule(chain.norm))
    if chain.act is not None:
        act = encoder.get_submodule(chain.act)
    own = conv.kernel_size[0]
    branches = [Branch(*branch) for branch in branches_of(settings)]
    branches = [b._replace(kernel_size=own + b.kernel_size - 3) for b in branches]
    options = {"fuse_norm": "layer", **settings.unit_arguments(), "branches": branches}
    unit = SKConv2d(
        conv.in_channels,
        conv.out_channels,
        stride=conv.stride[0],
        groups=conv.groups,
        norm_layer=lambda channels: copy.deepcopy(norm),
        act_layer=partial(copy.deepcopy, act),
        **options,
    )
    for branch, path in zip(branches, paths_of(unit), strict=True):
        if settings.depthwise and branch.kernel_size > own and conv.groups < conv.out_channels:
            widened = WidenedConv2d(_grow(conv, Branch(own, branch.dilation)), branch.kernel_size)
            path.set_submodule("conv", widened)
        else:
            path.conv = _grow(conv, branch)
    if unit.attn is not None:
        unit.attn.to(conv.weight.device, conv.weight.dtype)
    return unit.train(conv.training)


def place_unit(encoder: nn.Module, chain: Chain, unit: SKConv2d) -> None:
    """Put a unit in the place of a chain's convolution, norm and activation, in place."""
    for name in (chain.norm, chain.act):
        if name is not None:
            encoder.set_submodule(name, nn.Identity())
    encoder.set_submodule(chain.conv, unit)


def _split(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the norm and the activation of a timm norm that has both; leave other norms alone."""
    if not isinstance(norm, BatchNormAct2d):
        return norm, nn.Identity()
    plain = nn.BatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    plain.load_state_dict(norm.state_dict(), assign=True)
    for mine, other in zip(plain.parameters(), norm.parameters(), strict=True):
        mine.requires_grad_(other.requires_grad)
    return plain.train(norm.training), norm.act


def _grow(conv: nn.Conv2d, branch: Branch) -> nn.Conv2d:
    """Copy a convolution with a larger kernel: the old one surrounded by zeros, same center."""
    grown = copy.deepcopy(conv)
    old = conv.kernel_size[0]
    border = (branch.kernel_size - old) // 2
    grown.weight = nn.Parameter(
        F.pad(conv.weight.detach(), [border] * 4), requires_grad=conv.weight.requires_grad
    )
    grown.kernel_size = (branch.kernel_size, branch.kernel_size)
    grown.dilation = (conv.dilation[0] * branch.dilation, conv.dilation[1] * branch.dilation)
    given = (0, 0) if conv.padding == "valid" else conv.padding
    if not isinstance(conv, Conv2dSame) and not isinstance(given, str):  # those pad by themselves
        vertical, horizontal = (
            padding + branch.kernel_size // 2 * new - old // 2 * dilation
            for padding, new, dilation in zip(given, grown.dilation, conv.dilation, strict=True)
        )
        grown.padding = (vertical, horizontal)
    return grown


@torch.no_grad()
def convolves_alike(conv: nn.Module, unit: SKConv2d, settings: SKSettings) -> bool:
    """Whether the undilated branches convolve as before, and all outputs have the old size.

    Tried on even and odd sizes, on which TensorFlow's padding depends, and perhaps that of a kind
    of convolution unknown here. Other kinds standardize their weights.
    """
    assert isinstance(conv, nn.Conv2d)
    old = copy.deepcopy(conv).double()
    generator = torch.Generator().manual_seed(0)
    for height, width in ((32, 33), (34, 35)):
        x = torch.randn(1, conv.in_channels, height, width, generator=generator).to(
            conv.weight.device, torch.float64
        )
        expected = old(x)
        for branch, path in zip(branches_of(settings), paths_of(unit), strict=True):
            got = copy.deepcopy(path.conv).double()(x)
            if got.shape != expected.shape:
                return False
            same = (got - expected).abs().max() <= _TOLERANCE * expected.abs().max()
            if Branch(*branch).dilation == 1 and not same:
                return False
    return True
