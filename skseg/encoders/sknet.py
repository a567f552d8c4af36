"""SKNet and its plain and SE twins as timm networks and smp encoders.

Every network is timm's ResNet with another block, so stems, output strides, ``features_only``,
weights and hubs work as timm's do. Twins of a trunk differ in the block only:

    NAME        SK[2, G, 16] in place of the 3x3 convolution
    NAME_plain  the 3x3 convolution
    NAME_se     the 3x3 convolution, and squeeze-and-excitation (ratio 16) on the block's output
    NAME_sum    the branches of NAME, added without attention
    NAME_wide   the 3x3 convolution, of so many more channels that the network has NAME's parameters
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SEModule
from timm.models import generate_default_cfgs, register_model
from timm.models._builder import build_model_with_cfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from skseg.encoders.base import Encoder
from skseg.encoders.settings import OF_CONVERSION, SKSettings
from skseg.encoders.weights import HUB_IDS, LoadsAnyLayout, rename, smp_settings
from skseg.errors import UserError
from skseg.nn import SKConv2d


def _sk_unit(conv: nn.Module, block: dict[str, Any], sk_kwargs: dict[str, Any] | None) -> SKConv2d:
    """Build the SK unit for a block's 3x3 convolution, norm and ReLU."""
    assert isinstance(conv, nn.Conv2d)
    return SKConv2d(
        conv.in_channels,
        conv.out_channels,
        stride=conv.stride[0],
        dilation=conv.dilation[0],
        groups=conv.groups,
        norm_layer=block.get("norm_layer", nn.BatchNorm2d),
        act_layer=partial(block.get("act_layer", nn.ReLU), inplace=True),
        **(sk_kwargs or {}),
    )


class SKBottleneck(Bottleneck):
    """timm's bottleneck block with an SK unit in place of its 3x3 convolution, norm and ReLU.

    Args:
        *args: Arguments of timm's Bottleneck.
        sk_kwargs: Further arguments of `skseg.nn.SKConv2d`.
        **kwargs: Further arguments of timm's Bottleneck.
    """

    def __init__(self, *args: Any, sk_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv2 = _sk_unit(self.get_submodule("conv2"), kwargs, sk_kwargs)
        self.bn2 = nn.Identity()
        self.act2 = nn.Identity()


class SKBasicBlock(BasicBlock):
    """timm's basic block with an SK unit in place of its first convolution, norm and ReLU.

    Args:
        *args: Arguments of timm's BasicBlock.
        sk_kwargs: Further arguments of `skseg.nn.SKConv2d`.
        **kwargs: Further arguments of timm's BasicBlock.
    """

    def __init__(self, *args: Any, sk_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv1 = _sk_unit(self.get_submodule("conv1"), kwargs, sk_kwargs)
        self.bn1 = nn.Identity()
        self.act1 = nn.Identity()


class NarrowBottleneck(Bottleneck):
    """A bottleneck that widens its output 2 times instead of 4."""

    expansion = 2


class NarrowSKBottleneck(SKBottleneck):
    """An SK bottleneck that widens its output 2 times instead of 4."""

    expansion = 2


@dataclass(frozen=True)
class Trunk:
    """What the twins of a name share.

    Attributes:
        resnet: Arguments of timm's ResNet.
        wide: `base_width` of NAME_wide, whose parameters are within 1.5 % of NAME's.
        plain_block: Block of the twins without SK units.
        sk_block: Block of the twins with SK units.
        sk_kwargs: Arguments of NAME's SK units.
    """

    resnet: dict[str, Any]
    wide: float
    plain_block: type[Bottleneck] = Bottleneck
    sk_block: type[SKBottleneck] = SKBottleneck
    sk_kwargs: dict[str, Any] = field(default_factory=dict)


# What the paper calls ResNeXt 32x4d (table 1), by depth.
_RESNEXT = {"cardinality": 32, "base_width": 4}
# For CPUs and small data: 3x3s of 32 to 256 channels in 8 groups after a stem of 32 channels. Its
# Fuse has a layer norm: small data comes in small batches, and a batch norm over a few pooled
# vectors is too noisy.
_TINY = Trunk(
    resnet={
        "layers": (2, 2, 2, 2),
        "cardinality": 8,
        "base_width": 8,
        "channels": (32, 64, 128, 256),
        "stem_type": "deep",
        "stem_width": 16,
    },
    wide=10.25,  # parameters within 0.1 %
    plain_block=NarrowBottleneck,
    sk_block=NarrowSKBottleneck,
    sk_kwargs={"fuse_norm": "layer"},
)
TRUNKS = {
    "sknet26": Trunk({"layers": (2, 2, 2, 2), **_RESNEXT}, wide=4.5),
    "sknet50": Trunk({"layers": (3, 4, 6, 3), **_RESNEXT}, wide=4.5),
    "sknet101": Trunk({"layers": (3, 4, 23, 3), **_RESNEXT}, wide=4.5),
    "sknet_tiny": _TINY,
}
# SK networks that others published; their plain twins are resnet18, 34, 50 and 101.
_TIMM = {
    "block": SKBasicBlock,
    "block_args": {"sk_kwargs": {"split_input": True, "reduction": 8, "min_attention_width": 16}},
    "zero_init_last": False,
}
# PytorchInsight's branches differ in groups, not in size.
_INSIGHT = {
    "block": SKBottleneck,
    "block_args": {"sk_kwargs": {"branches": ((3, 1, 1), (3, 1, 32)), "min_attention_width": 1}},
    "zero_init_last": False,
}
_OTHERS: dict[str, dict[str, Any]] = {
    "skresnet18": {"layers": (2, 2, 2, 2), **_TIMM},
    "skresnet34": {"layers": (3, 4, 6, 3), **_TIMM},
    "sk_resnet50": {"layers": (3, 4, 6, 3), **_INSIGHT},
    "sk_resnet101": {"layers": (3, 4, 23, 3), **_INSIGHT},
}
_SE = {"attn_layer": partial(SEModule, rd_ratio=1 / 16)}


def _networks() -> dict[str, dict[str, Any]]:
    """Arguments of timm's ResNet for every network name."""
    networks: dict[str, dict[str, Any]] = {}
    for name, trunk in TRUNKS.items():
        # Like timm's SK networks, none starts with zeros in the last norm of a block.
        shared = {**trunk.resnet, "zero_init_last": False}
        plain = {**shared, "block": trunk.plain_block}
        sk = {**shared, "block": trunk.sk_block}
        networks[name] = {**sk, "block_args": {"sk_kwargs": trunk.sk_kwargs}}
        networks[f"{name}_plain"] = plain
        networks[f"{name}_se"] = {**plain, "block_args": _SE}
        networks[f"{name}_sum"] = {**sk, "block_args": {"sk_kwargs": {"select": "sum"}}}
        networks[f"{name}_wide"] = {**plain, "base_width": trunk.wide}
    return networks | _OTHERS


NETWORKS = _networks()
TIMMS_OWN = ("skresnet18", "skresnet34")
"""Networks that timm has under the same names; only smp gets them from here."""


class SKNetEncoder(LoadsAnyLayout, Encoder, ResNet):
    """A network of this module as an smp encoder.

    Features are those of smp's ResNets: the input itself, then `depth` features of strides 2 to 32.

    Args:
        out_channels: Channels of the features, the input's first.
        depth: Number of features after the input, 1 to 5.
        output_stride: Stride of the last feature, 8, 16 or 32; smp calls `make_dilated`.
        **network: Arguments of timm's ResNet.
    """

    def __init__(
        self, out_channels: list[int], depth: int = 5, output_stride: int = 32, **network: Any
    ) -> None:
        ResNet.__init__(self, **network)
        self._set_features(out_channels, depth, output_stride)
        del self.fc
        del self.global_pool

    def get_stages(self) -> dict[int, list[nn.Module]]:
        """Return the stages that can be dilated, by their stride."""
        return {16: [self.layer3], 32: [self.layer4]}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features of images [B, C, H, W] with sides divisible by the output stride."""
        features = [x]
        x = self.act1(self.bn1(self.conv1(x)))
        features.append(x)
        if self._depth >= 2:
            x = self.layer1(self.maxpool(x))
            features.append(x)
        if self._depth >= 3:
            x = self.layer2(x)
            features.append(x)
        if self._depth >= 4:
            x = self.layer3(x)
            features.append(x)
        if self._depth >= 5:
            x = self.layer4(x)
            features.append(x)
        return features


def _smp_entry(network: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    stem = 2 * network["stem_width"] if "stem_width" in network else 64
    planes = network.get("channels", (64, 128, 256, 512))
    expansion = network["block"].expansion
    return {
        "encoder": SKNetEncoder,
        "pretrained_settings": smp_settings(name),
        "params": {"out_channels": [3, stem, *(p * expansion for p in planes)], **network},
    }


def _timm_cfg(name: str, network: dict[str, Any]) -> dict[str, Any]:
    return {
        "hf_hub_id": HUB_IDS.get(name),
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1.0" if "stem_type" in network else "conv1",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs({name: _timm_cfg(name, net) for name, net in NETWORKS.items()})


def _register(name: str, network: dict[str, Any]) -> None:
    """Add a network to smp, and to timm unless timm has it."""
    if name in smp.encoders.encoders:
        raise RuntimeError(f"smp already has an encoder {name!r}; it is not overwritten")
    smp.encoders.encoders[name] = _smp_entry(network, name)
    if name in TIMMS_OWN:
        return
    if timm.is_model(name):
        raise RuntimeError(f"timm already has a model {name!r}; it is not overwritten")

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model: nn.Module = build_model_with_cfg(
            ResNet,
            name,
            pretrained,
            pretrained_filter_fn=rename,
            **{**network, **kwargs},
        )
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"Build {name} as a timm model."
    register_model(entrypoint)


@contextmanager
def name_with_settings(name: str, settings: SKSettings | None) -> Iterator[str]:
    """Name an encoder in smp whose SK units have other settings, while the block runs.

    smp's models build their encoder from a name. smp passes arguments on to timm's encoders only,
    and replacing `model.encoder` afterwards would change what the decoder's random weights are. So
    the encoder is registered for as long as it takes to build the model.

    Args:
        name: An encoder of smp; one that `has_sk_units` if there are settings.
        settings: Settings of the SK units; None yields `name` itself.

    Yields:
        The name to pass to smp.

    Raises:
        UserError: The settings are those of a conversion.
    """
    if settings is None:
        yield name
        return
    for key in sorted(OF_CONVERSION):
        if getattr(settings, key) is not None:
            raise UserError(
                f"`sk.{key}` is for encoders that are converted; {name} has its own SK units"
            )
    network = NETWORKS[name]
    changed = settings.unit_arguments()
    block_args = {"sk_kwargs": {**network["block_args"]["sk_kwargs"], **changed}}
    full_name = f"{name}({', '.join(f'{k}={v}' for k, v in changed.items())})"
    smp.encoders.encoders[full_name] = _smp_entry({**network, "block_args": block_args})
    try:
        yield full_name
    finally:
        smp.encoders.encoders.pop(full_name, None)


def has_sk_units(name: str) -> bool:
    """Whether a name is a network of this module that has SK units."""
    return "sk_kwargs" in NETWORKS.get(name, {}).get("block_args", {})


for _name, _network in NETWORKS.items():
    _register(_name, _network)
