"""The types that pass between the parts of the package, so that none needs to import another."""

from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

VOID = 255
"""The class index of pixels that count neither in the loss nor in any score."""

Image: TypeAlias = NDArray[np.uint8]
"""An RGB image, uint8 [H, W, 3]."""

Mask: TypeAlias = NDArray[np.uint8]
"""Class indices, uint8 [H, W]; `VOID` where there is no class."""


class Batch(TypedDict):
    """One batch, as every loader yields it.

    Attributes:
        image: Normalized RGB images, float32 [B, 3, H, W].
        mask: Class indices, int64 [B, H, W]; `VOID` where there is no class.
        name: B names, each unique in its split and usable as a relative file stem.
    """

    image: Tensor
    mask: Tensor
    name: list[str]


def as_batch(batch: Any) -> Batch:
    """Return a batch of any loader as the `Batch` that this package's loaders yield.

    Args:
        batch: A dictionary; images [B, 3, H, W]; or a tuple of images and masks [B, H, W].

    Example:
        >>> import torch
        >>> images, masks = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
        >>> as_batch((images, masks))["name"]
        ['image 0 of the batch', 'image 1 of the batch']
    """
    if isinstance(batch, Mapping):
        return cast(Batch, batch)
    parts = [batch] if isinstance(batch, Tensor) else list(batch)
    named: dict[str, Any] = dict(zip(("image", "mask"), parts, strict=False))
    named["name"] = [f"image {index} of the batch" for index in range(len(parts[0]))]
    return cast(Batch, named)
