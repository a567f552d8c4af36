"""What passes between data and models, so that neither needs to know the other."""

from typing import TypedDict

from torch import Tensor

VOID = 255
"""The class index of pixels that count neither in the loss nor in any score."""


class Batch(TypedDict):
    """One batch, as every loader yields it.

    Attributes:
        image: [B, 3, H, W] float32, RGB, normalised.
        mask: [B, H, W] int64 class indices, `VOID` where there is no class.
        name: B names, each unique in its split and fit for a file's stem.
    """

    image: Tensor
    mask: Tensor
    name: list[str]
