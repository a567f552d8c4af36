"""Encoders, registered in timm and segmentation-models-pytorch when this package is imported."""

from skseg.encoders import shufflenet
from skseg.encoders.efficientnet_lite import LITE_ENCODERS, LITE_NORMALIZATION, load_lite_weights
from skseg.encoders.settings import SKSettings
from skseg.encoders.sknet import (
    NETWORKS,
    TRUNKS,
    SKBottleneck,
    SKNetEncoder,
    has_sk_units,
    with_settings,
)
from skseg.encoders.stages import encoder_stages
from skseg.encoders.weights import HUB_IDS, is_path, load_weights


def list_encoders() -> list[str]:
    """Return the names of this package's SK networks and their twins, valid in smp.

    In timm all but the ShuffleNets' are.
    """
    return sorted([*NETWORKS, *shufflenet.NETWORKS])


__all__ = [
    "HUB_IDS",
    "LITE_ENCODERS",
    "LITE_NORMALIZATION",
    "NETWORKS",
    "TRUNKS",
    "SKBottleneck",
    "SKNetEncoder",
    "SKSettings",
    "encoder_stages",
    "has_sk_units",
    "is_path",
    "list_encoders",
    "load_lite_weights",
    "load_weights",
    "with_settings",
]
