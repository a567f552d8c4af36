"""Dilated encoders: strides traded for dilation, each kernel's own dilation kept."""

from collections.abc import Mapping, Sequence

from torch import nn


def dilate_stages(stages: Mapping[int, Sequence[nn.Module]], output_stride: int) -> None:
    """Trade the strides beyond `output_stride` for dilation, in place.

    A kernel's own dilation is multiplied, so an SK unit's branches stay different, where smp sets
    all to the same. The strided convolutions of a stage see the stage before and take its
    dilation, as in timm's dilated networks.

    Args:
        stages: the parts of the encoder by their stride.
        output_stride: 8 or 16.

    Raises:
        ValueError: another output stride.
    """
    if output_stride not in (8, 16):
        raise ValueError(f"Output stride should be 16 or 8, got {output_stride}.")
    for stride, modules in stages.items():
        rate = stride // output_stride
        if rate > 1:
            for stage in modules:
                for conv in stage.modules():
                    if isinstance(conv, nn.Conv2d):
                        _dilate(conv, rate if conv.stride == (1, 1) else rate // 2)


def _dilate(conv: nn.Conv2d, rate: int) -> None:
    conv.stride = (1, 1)
    conv.dilation = (conv.dilation[0] * rate, conv.dilation[1] * rate)
    half = conv.kernel_size[0] // 2
    conv.padding = (half * conv.dilation[0], half * conv.dilation[1])
