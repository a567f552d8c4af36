"""The branch of an SK unit: convolution, norm and activation."""

import torch
from torch import Tensor, nn

from skseg.nn import dispatch


class ConvNormAct(nn.Module):
    """Convolution, norm and activation, one after the other.

    Args:
        conv: The convolution.
        norm: Its norm.
        act: The activation that follows the norm.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = norm  # named as in timm, whose weights load by these names
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H', W']."""
        if not torch.jit.is_scripting():
            return self._norm_and_act(dispatch.convolve(self.conv, x))
        return self._norm_and_act(self.conv(x))

    def _norm_and_act(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        x = self.act(x)
        return x


def paths_of(unit: nn.Module) -> list[ConvNormAct]:
    """Return the branches of an SK unit, typed."""
    return [*unit.paths]  # type: ignore[misc]
