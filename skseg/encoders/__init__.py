"""Encoders, registered in timm and segmentation-models-pytorch when this package is imported."""

from skseg.encoders import shufflenet
from skseg.encoders.settings import SKSettings
from skseg.encoders.sknet import NETWORKS, TRUNKS, SKBottleneck, SKNetEncoder, with_settings
from skseg.encoders.weights import HUB_IDS, is_path, load_weights


def list_encoders() -> list[str]:
    """Return the names of this package's encoders, valid in smp; all but ShuffleNets' in timm."""
    return sorted([*NETWORKS, *shufflenet.NETWORKS])


__all__ = [
    "HUB_IDS",
    "NETWORKS",
    "TRUNKS",
    "SKBottleneck",
    "SKNetEncoder",
    "SKSettings",
    "is_path",
    "list_encoders",
    "load_weights",
    "with_settings",
]
