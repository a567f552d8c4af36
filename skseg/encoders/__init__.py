"""Encoders, registered in timm and segmentation-models-pytorch when this package is imported."""

from skseg.encoders import shufflenet
from skseg.encoders.efficientnet_lite import LITE_ENCODERS, LITE_NORMALIZATION, load_lite_weights
from skseg.encoders.normalization import Normalization, registered_normalization
from skseg.encoders.settings import SKSettings
from skseg.encoders.sknet import (
    NETWORKS,
    TRUNKS,
    SKBottleneck,
    SKNetEncoder,
    has_sk_units,
    name_with_settings,
)
from skseg.encoders.stages import encoder_stages
from skseg.encoders.weights import HUB_IDS, has_converted_units, is_path, load_weights


def list_encoders() -> list[str]:
    """List the names of this package's SK networks and their twins.

    smp accepts all of them, timm all but the ShuffleNets.

    Example:
        >>> names = list_encoders()
        >>> len(names), "sknet50" in names, "sknet50_plain" in names
        (30, True, True)
    """
    return sorted([*NETWORKS, *shufflenet.NETWORKS])


def weights_normalization(encoder_name: str, weights: str) -> Normalization | None:
    """Return the normalization of the images that pretrained weights were trained on.

    Args:
        encoder_name: An encoder of this package, of smp, or "tu-NAME" for timm's NAME.
        weights: Name of the weights, or the path of a file of them.

    Returns:
        Mean and standard deviation; None where they are unknown, as those of a file are.

    Example:
        >>> weights_normalization("sknet50", "imagenet").mean
        (0.485, 0.456, 0.406)
    """
    if is_path(weights):
        return None
    if encoder_name in LITE_ENCODERS and weights == "imagenet":
        return LITE_NORMALIZATION
    return registered_normalization(encoder_name, weights)


__all__ = [
    "HUB_IDS",
    "LITE_ENCODERS",
    "LITE_NORMALIZATION",
    "NETWORKS",
    "TRUNKS",
    "Normalization",
    "SKBottleneck",
    "SKNetEncoder",
    "SKSettings",
    "encoder_stages",
    "has_converted_units",
    "has_sk_units",
    "is_path",
    "list_encoders",
    "load_lite_weights",
    "load_weights",
    "name_with_settings",
    "weights_normalization",
]
