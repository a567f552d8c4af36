"""The base of this package's encoders: smp's interface, and strides traded for dilation."""

from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import nn


class Encoder(EncoderMixin):
    """An smp encoder that keeps the ratio of its kernels' dilations when it is dilated.

    A network inherits from it and from its trunk and defines `get_stages`. It maps images
    [B, C, H, W] to a list of features: the images themselves, then strides 2 to 32.
    """

    def _set_features(self, out_channels: list[int], depth: int, output_stride: int) -> None:
        """Set the attributes that smp reads; call it after the trunk is built.

        Args:
            out_channels: Channels of the features, the input's first.
            depth: Number of features after the input, 1 to 5.
            output_stride: Stride of the last feature; smp calls `make_dilated` if it is not 32.

        Raises:
            ValueError: The depth is not 1 to 5.
        """
        if not 1 <= depth <= 5:
            raise ValueError(f"depth should be in range [1, 5], got {depth}")
        self._depth = depth
        self._in_channels = 3
        self._out_channels = out_channels
        self._output_stride = output_stride

    def make_dilated(self, output_stride: int) -> None:
        """Trade the strides beyond `output_stride` for dilation, in place.

        Each kernel's own dilation is multiplied, so the branches of an SK unit stay different; smp
        would set all dilations to the same value. The strided convolutions of a stage read the
        stage before and get its dilation, as in timm's dilated networks.

        Args:
            output_stride: Stride of the last feature, 8 or 16.

        Raises:
            ValueError: The output stride is neither 8 nor 16.
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
