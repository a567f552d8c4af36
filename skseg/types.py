"""The types that pass between the parts of the package, so that none needs to import another."""

from typing import TypeAlias, TypedDict

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
