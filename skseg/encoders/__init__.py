"""Encoders, registered in timm and segmentation-models-pytorch when this package is imported."""

from skseg.encoders.settings import SKSettings
from skseg.encoders.sknet import (
    NETWORKS,
    TRUNKS,
    SKBottleneck,
    SKNetEncoder,
    build_sk_encoder,
    has_sk_units,
)


def list_encoders() -> list[str]:
    """Return the names of this package's encoders, valid in timm and in smp."""
    return sorted(NETWORKS)


__all__ = [
    "NETWORKS",
    "TRUNKS",
    "SKBottleneck",
    "SKNetEncoder",
    "SKSettings",
    "build_sk_encoder",
    "has_sk_units",
    "list_encoders",
]
