"""SKNet and its plain and SE twins as timm networks and smp encoders.

Every network is timm's ResNet with another block, so stems, output strides, ``features_only``,
weights and hubs work as timm's do. Within a trunk only the block differs:

    NAME        SK[2, G, 16] in place of the 3x3 convolution
    NAME_plain  the 3x3 convolution
    NAME_se     the 3x3 convolution, and squeeze-and-excitation (ratio 16) on the block's output
    NAME_sum    the branches of NAME, added without attention
    NAME_wide   the 3x3 convolution, of so many more channels that the network has NAME's parameters
"""

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
        sk_kwargs: further arguments of :class:`skseg.nn.SKConv2d`.
        **kwargs: those of timm's Bottleneck.
    """

    def __init__(self, *args: Any, sk_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv2 = _sk_unit(self.get_submodule("conv2"), kwargs, sk_kwargs)
        self.bn2 = nn.Identity()
        self.act2 = nn.Identity()


class SKBasicBlock(BasicBlock):
    """timm's basic block with an SK unit in place of its first convolution, norm and ReLU.

    Args:
        sk_kwargs: further arguments of :class:`skseg.nn.SKConv2d`.
        **kwargs: those of timm's BasicBlock.
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


# What the paper calls ResNeXt 32x4d (table 1), by depth.
_RESNEXT = {"cardinality": 32, "base_width": 4}
# For CPUs and small data: 3x3s of 32 to 256 channels in 8 groups behind a stem of 32. Its Fuse has
# a layer norm: small data comes in small batches, too small for a batch norm over pooled vectors.
_TINY = {
    "layers": (2, 2, 2, 2),
    "cardinality": 8,
    "base_width": 8,
    "channels": (32, 64, 128, 256),
    "stem_type": "deep",
    "stem_width": 16,
}
TRUNKS: dict[str, dict[str, Any]] = {
    "sknet26": {"layers": (2, 2, 2, 2), **_RESNEXT},
    "sknet50": {"layers": (3, 4, 6, 3), **_RESNEXT},
    "sknet101": {"layers": (3, 4, 23, 3), **_RESNEXT},
    "sknet_tiny": _TINY,
}
# base_width of NAME_wide: parameters within 1.5 % of NAME's, of sknet_tiny's within 0.1 %.
_WIDE = {"sknet26": 4.5, "sknet50": 4.5, "sknet101": 4.5, "sknet_tiny": 10.25}
# Networks of others, whose plain twins are resnet18, 34, 50 and 101.
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
        tiny = name == "sknet_tiny"
        plain = NarrowBottleneck if tiny else Bottleneck
        sk = NarrowSKBottleneck if tiny else SKBottleneck
        sk_kwargs = {"fuse_norm": "layer"} if tiny else {}
        # As timm's SK networks, none starts with zeros in the last norm of a block.
        trunk = {**trunk, "zero_init_last": False}
        networks[name] = {**trunk, "block": sk, "block_args": {"sk_kwargs": sk_kwargs}}
        networks[f"{name}_plain"] = {**trunk, "block": plain}
        networks[f"{name}_se"] = {**trunk, "block": plain, "block_args": _SE}
        networks[f"{name}_sum"] = {
            **trunk,
            "block": sk,
            "block_args": {"sk_kwargs": {"select": "sum"}},
        }
        networks[f"{name}_wide"] = {**trunk, "block": plain, "base_width": _WIDE[name]}
    return networks | _OTHERS


NETWORKS = _networks()
TIMMS_OWN = ("skresnet18", "skresnet34")
"""Networks that timm has by the same names: they are new to smp alone."""


class SKNetEncoder(LoadsAnyLayout, Encoder, ResNet):
    """A network of this module as an smp encoder.

    Features are those of smp's ResNets: the input itself, then strides 2 to 32, `depth` of them.

    Args:
        out_channels: channels of the features, the input's first.
        depth: number of features after the input, 1 to 5.
        output_stride: stride of the last feature, 8, 16 or 32; smp calls :meth:`make_dilated`.
        **network: arguments of timm's ResNet.
    """

    def __init__(
        self, out_channels: list[int], depth: int = 5, output_stride: int = 32, **network: Any
    ) -> None:
        ResNet.__init__(self, **network)
        self._settle(out_channels, depth, output_stride)
        del self.fc
        del self.global_pool

    def get_stages(self) -> dict[int, list[nn.Module]]:
        """Return the stages that can be dilated, by their stride."""
        return {16: [self.layer3], 32: [self.layer4]}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of a [B, C, H, W] image, sides divisible by the output stride."""
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
    """Teach smp a name that it does not have, and timm too unless it has that network."""
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


def with_settings(name: str, settings: SKSettings) -> str:
    """Return the name, in smp, of a network of this module with other settings of its SK units.

    smp builds encoders by name alone, so each such network gets a name of its own there.

    Args:
        name: an encoder of this module that `has_sk_units`.
        settings: the settings.

    Raises:
        UserError: settings of a conversion.
    """
    for key in sorted(OF_CONVERSION):
        if getattr(settings, key) is not None:
            raise UserError(
                f"model.sk.{key} is for encoders that are converted; {name} has SK units of its own"
            )
    network = NETWORKS[name]
    own = network["block_args"]["sk_kwargs"]
    changed = settings.unit_arguments()
    full_name = f"{name}({', '.join(f'{k}={v}' for k, v in changed.items())})"
    block_args = {"sk_kwargs": {**own, **changed}}
    smp.encoders.encoders[full_name] = _smp_entry({**network, "block_args": block_args})
    return full_name


def has_sk_units(name: str) -> bool:
    """Whether a name is a network of this module that has SK units."""
    return "sk_kwargs" in NETWORKS.get(name, {}).get("block_args", {})


for _name, _network in NETWORKS.items():
    _register(_name, _network)
