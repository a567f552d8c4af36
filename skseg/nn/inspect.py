"""The SK units of a network: where they are, and how far their kernels reach."""

from typing import NamedTuple

import numpy as np
from torch import nn

from skseg.nn.sk import SKConv2d


class Unit(NamedTuple):
    """An SK unit with attention.

    Attributes:
        name: in the network.
        stage: the stage it belongs to: its name up to the first part with a digit.
        spans: side in pixels of the unit's input that each branch's kernel reaches over,
            (kernel size - 1) * dilation + 1.
        channels: how many it has.
    """

    name: str
    stage: str
    spans: tuple[int, ...]
    channels: int

    @property
    def largest(self) -> int:
        """The branch with the largest kernel."""
        return int(np.argmax(self.spans))


def attention_units(model: nn.Module) -> list[Unit]:
    """List a model's SK units that have attention, in the order of its modules."""
    units = []
    for name, module in model.named_modules():
        if isinstance(module, SKConv2d) and module.attn is not None:
            spans = tuple(_span(path.get_submodule("conv")) for path in module.paths)
            units.append(Unit(name, _stage(name), spans, module.out_channels))
    return units


def _span(conv: nn.Module) -> int:
    # A converted unit's may be several, added.
    parts = [part for part in conv.modules() if isinstance(part, nn.Conv2d)]
    return max((part.kernel_size[0] - 1) * part.dilation[0] + 1 for part in parts)


def _stage(name: str) -> str:
    parts = name.split(".")
    numbered = (i for i, part in enumerate(parts) if any(c.isdigit() for c in part))
    return ".".join(parts[: next(numbered, len(parts)) + 1])
