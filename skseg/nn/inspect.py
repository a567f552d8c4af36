"""Facts about a network: its SK units, how far their kernels reach, and what it costs."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skseg.nn.sk import SKConv2d


class Unit(NamedTuple):
    """An SK unit with attention.

    Attributes:
        name: Its name in the network.
        stage: The stage that it belongs to: its name up to the first part with a digit.
        spans: The side, in pixels of the unit's input, that each branch's kernel spans:
            (kernel size - 1) * dilation + 1.
        channels: The number of output channels.
    """

    name: str
    stage: str
    spans: tuple[int, ...]
    channels: int

    @property
    def largest(self) -> int:
        """The index of the branch with the largest kernel."""
        return int(np.argmax(self.spans))


def attention_units(model: nn.Module) -> list[Unit]:
    """List a model's SK units that have attention, in the order of its modules.

    Args:
        model: Any module, with :class:`skseg.nn.SKConv2d` inside.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), SKConv2d(8))
        >>> attention_units(model)
        [Unit(name='1', stage='1', spans=(3, 5), channels=8)]
    """
    units = []
    for name, module in model.named_modules():
        if isinstance(module, SKConv2d) and module.attn is not None:
            spans = tuple(_span(path.get_submodule("conv")) for path in module.paths)
            units.append(Unit(name, _stage(name), spans, module.out_channels))
    return units


def multiply_adds(model: nn.Module, channels: int = 3, side: int = 224) -> int:
    """Count the multiply-add operations of a forward pass for one image.

    Args:
        model: A network of images; it is not run, and not changed.
        channels: Of the image.
        side: Height and width of the image, in pixels.

    Example:
        >>> multiply_adds(nn.Conv2d(3, 8, kernel_size=1), side=10)  # 3 * 8 for each pixel
        2400
    """
    copied = copy.deepcopy(model).to("meta", torch.float32).eval()
    with FlopCounterMode(display=False) as counter:
        copied(torch.empty(1, channels, side, side, device="meta"))
    return int(counter.get_total_flops()) // 2


def _span(conv: nn.Module) -> int:
    # The convolution of a converted unit may be a sum of several.
    parts = [part for part in conv.modules() if isinstance(part, nn.Conv2d)]
    return max((part.kernel_size[0] - 1) * part.dilation[0] + 1 for part in parts)


def _stage(name: str) -> str:
    parts = name.split(".")
    numbered = (i for i, part in enumerate(parts) if any(c.isdigit() for c in part))
    return ".".join(parts[: next(numbered, len(parts)) + 1])
