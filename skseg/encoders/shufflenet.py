"""ShuffleNetV2 with SK units and its twins: the light network of the SK paper.

Ma et al. 2018, "ShuffleNet V2"; Li et al. 2019, section 4.1. The trunk is torchvision's, whose
weights fit the plain twin. The branches of an SK unit are depthwise, like the 3x3 convolution that
they replace, and like it they have a norm and no activation. The paper does not say how wide the
attention of this network is; here it has the default of `SKConv2d`, r = 16 with L = 32.
"""

from typing import Any

import segmentation_models_pytorch as smp
from timm.layers import SEModule
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import InvertedResidual, ShuffleNetV2

from skseg.encoders.base import Encoder
from skseg.encoders.weights import LoadsAnyLayout
from skseg.nn import SKConv2d

_WIDTHS = {
    "sk_shufflenet_v2_x0_5": (24, 48, 96, 192, 1024),
    "sk_shufflenet_v2_x1_0": (24, 116, 232, 464, 1024),
}


class SKInvertedResidual(InvertedResidual):
    """torchvision's unit with SK units in place of its depthwise convolutions and their norms."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__(inp, oup, stride)
        for branch in (self.branch1, self.branch2):
            children = list(branch.children())
            for i, conv in enumerate(children):
                if isinstance(conv, nn.Conv2d) and conv.groups > 1:
                    branch[i] = SKConv2d(
                        conv.in_channels,
                        stride=conv.stride[0],
                        groups=conv.groups,
                        act_layer=nn.Identity,
                    )
                    branch[i + 1] = nn.Identity()


class SEInvertedResidual(InvertedResidual):
    """torchvision's unit with squeeze-and-excitation (ratio 16) at the end of its residual."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__(inp, oup, stride)
        self.branch2.append(SEModule(oup // 2, rd_ratio=1 / 16))


BLOCKS = {"": SKInvertedResidual, "_plain": InvertedResidual, "_se": SEInvertedResidual}
NETWORKS: dict[str, dict[str, Any]] = {
    name + twin: {
        "stages_repeats": [4, 8, 4],
        "stages_out_channels": list(widths),
        "inverted_residual": block,
    }
    for name, widths in _WIDTHS.items()
    for twin, block in BLOCKS.items()
}


class ShuffleNetEncoder(LoadsAnyLayout, Encoder, ShuffleNetV2):
    """A network of this module as an smp encoder.

    Features are the input itself, then `depth` features of strides 2 to 32; the fifth is the output
    of the network's final 1x1 convolution.

    Args:
        out_channels: Channels of the features, the input's first.
        depth: Number of features after the input, 1 to 5.
        output_stride: Stride of the last feature, 8, 16 or 32; smp calls `make_dilated`.
        **network: Arguments of torchvision's ShuffleNetV2.
    """

    def __init__(
        self, out_channels: list[int], depth: int = 5, output_stride: int = 32, **network: Any
    ) -> None:
        ShuffleNetV2.__init__(self, **network)
        self._set_features(out_channels, depth, output_stride)
        del self.fc

    def get_stages(self) -> dict[int, list[nn.Module]]:
        """Return the stages that can be dilated, by their stride."""
        return {16: [self.stage3], 32: [self.stage4]}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features of images [B, C, H, W] with sides divisible by the output stride."""
        features = [x]
        stages = (self.conv1, self.maxpool, self.stage2, self.stage3, self.stage4)
        for stage in stages[: self._depth]:
            x = stage(x)
            features.append(x)
        if self._depth == 5:
            features[-1] = self.conv5(x)
        return features


def _register() -> None:
    for name, network in NETWORKS.items():
        stem, *widths = network["stages_out_channels"]
        smp.encoders.encoders[name] = {
            "encoder": ShuffleNetEncoder,
            "pretrained_settings": {},
            "params": {"out_channels": [3, stem, stem, *widths[:2], widths[-1]], **network},
        }


_register()
