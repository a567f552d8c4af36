"""Encoders, registered in timm and segmentation-models-pytorch when this package is imported."""

from skseg.encoders.convert import Conversion, convert_to_sk
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


def list_encoders() -> list[str]:
    """Return the names of this package's SK networks and their twins, valid in timm and in smp."""
    return sorted(NETWORKS)


__all__ = [
    "LITE_ENCODERS",
    "LITE_NORMALIZATION",
    "NETWORKS",
    "TRUNKS",
    "Conversion",
    "SKBottleneck",
    "SKNetEncoder",
    "SKSettings",
    "convert_to_sk",
    "encoder_stages",
    "has_sk_units",
    "list_encoders",
    "load_lite_weights",
    "with_settings",
]
