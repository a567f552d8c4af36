"""The normalization of the images that pretrained weights were trained on."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import try_to_load_from_cache

_TOLERANCE = 0.02  # ImageNet's figures exist in several roundings; the others differ by more


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, as fractions of the full range."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def agrees(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Whether other values are equal to these, except for rounding.

        Example:
            >>> Normalization((0.5,) * 3, (0.25,) * 3).agrees((0.499,) * 3, (0.251,) * 3)
            True
        """
        return all(
            math.isclose(own, other, abs_tol=_TOLERANCE)
            for own, other in zip((*self.mean, *self.std), (*mean, *std), strict=True)
        )


def registered_normalization(encoder_name: str, weights: str) -> Normalization | None:
    """Return the normalization that smp or timm records for pretrained weights.

    Reads nothing from a network. Most of smp's own encoders record it in a file beside their
    weights, so it is known once the weights have been downloaded.

    Args:
        encoder_name: An encoder of smp, or "tu-NAME" for timm's NAME.
        weights: Name of the weights, such as "imagenet".

    Returns:
        The normalization; None where it is unknown, or where the weights expect something other
        than RGB channels in the range 0 to 1.

    Example:
        >>> registered_normalization("tu-tf_efficientnetv2_b0.in1k", "imagenet")
        Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """
    if encoder_name.startswith("tu-"):
        record = vars(timm.get_pretrained_cfg(encoder_name.removeprefix("tu-")))
    else:
        record = smp.encoders.encoders[encoder_name]["pretrained_settings"].get(weights, {})
        if "mean" not in record and "repo_id" in record:
            path = try_to_load_from_cache(
                record["repo_id"], "config.json", revision=record["revision"]
            )
            record = (
                json.loads(Path(path).read_text(encoding="utf-8")) if isinstance(path, str) else {}
            )
    if not record.get("mean") or not record.get("std"):
        return None
    is_rgb = record.get("input_space", "RGB") == "RGB"
    if not is_rgb or list(record.get("input_range", [0, 1])) != [0, 1]:
        return None
    return Normalization(tuple(record["mean"]), tuple(record["std"]))
