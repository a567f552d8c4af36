"""What this package's encoders share: smp's interface, and strides traded for dilation."""

from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import nn


class Encoder(EncoderMixin):
    """An smp encoder that keeps each kernel's own dilation when it is dilated.

    A network inherits from it and from its trunk, gives `get_stages`, and maps [B, C, H, W] to a
    list of features: the image itself, then strides 2 to 32.
    """

    def _settle(self, out_channels: list[int], depth: int, output_stride: int) -> None:
        """Take what smp asks of an encoder; called after the trunk is built.

        Args:
            out_channels: channels of the features, the input's first.
            depth: number of features after the input, 1 to 5.
            output_stride: stride of the last feature; smp calls `make_dilated` if it is not 32.

        Raises:
            ValueError: another depth.
        """
        if not 1 <= depth <= 5:
            raise ValueError(f"depth should be in range [1, 5], got {depth}")
        self._depth = depth
        self._in_channels = 3
        self._out_channels = out_channels
        self._output_stride = output_stride

    def make_dilated(self, output_stride: int) -> None:
        """Trade the strides beyond `output_stride` for dilation, in place.

        A kernel's own dilation is multiplied, so an SK unit's branches stay different, where smp
        sets all to the same. The strided convolutions of a stage see the stage before and take its
        dilation, as in timm's dilated networks.

        Args:
            output_stride: 8 or 16.

        Raises:
            ValueError: another output stride.
        """
        if output_stride not in (8, 16):
            raise ValueError(f"Output stride should be 16 or 8, got {output_stride}.")
        for stride, stages in self.get_stages().items():
            rate = stride // output_stride
            if rate > 1:
                for conv in (m for stage in stages for m in stage.modules()):
                    if isinstance(conv, nn.Conv2d):
                        _dilate(conv, rate if conv.stride == (1, 1) else rate // 2)
        self._output_stride = output_stride


def _dilate(conv: nn.Conv2d, rate: int) -> None:
    conv.stride = (1, 1)
    conv.dilation = (conv.dilation[0] * rate, conv.dilation[1] * rate)
    half = conv.kernel_size[0] // 2
    conv.padding = (half * conv.dilation[0], half * conv.dilation[1])
