"""One forward pass: from a picture of any size to logits of that size."""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from skseg.models import InputRule


def padded_side(side: int, rule: InputRule) -> int:
    """Return the smallest side, at least `side` (pixels), that the rule allows."""
    return max(-(-side // rule.multiple) * rule.multiple, rule.minimum)


def predict_logits(model: nn.Module, image: Tensor, rule: InputRule) -> Tensor:
    """Run a model on whole images of any size.

    The image is padded right and bottom with zeros, after normalisation, to a size the model
    takes, and the logits are cropped back.

    Args:
        model: maps [B, C, H, W] to logits [B, K, H, W] for sides that `rule` allows.
        image: [B, C, H, W] float, normalised.
        rule: sides the model takes.

    Returns:
        [B, K, H, W] logits.
    """
    height, width = image.shape[-2:]
    bottom = padded_side(height, rule) - height
    right = padded_side(width, rule) - width
    logits: Tensor = model(F.pad(image, (0, right, 0, bottom)))
    return logits[..., :height, :width]


class Network(Protocol):
    """What inference needs of a trained model; `SegmentationTask` is one.

    Called on normalised images [B, 3, H, W] of any size it returns logits [B, K, H, W].

    Attributes:
        mean: of each channel, as fractions of the full range.
        std: of each channel, likewise.
        colors: an RGB color for each class, 0 to 255.
        device: where it is.
    """

    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def mean(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def std(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def colors(self) -> Sequence[Sequence[int]]: ...  # noqa: D102
    def to(self, device: torch.device) -> Self: ...  # noqa: D102
    def eval(self) -> Self: ...  # noqa: D102
    def __call__(self, image: Tensor, /) -> Tensor: ...  # noqa: D102


def normalize(
    picture: NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Turn [H, W, 3] uint8 RGB into a network's input [1, 3, H, W], float32.

    The arithmetic is that of `skseg.data.eval_transform`, to the last bit.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(device)
    scale = torch.tensor(std, dtype=torch.float32).mul(255).reciprocal()
    shift = torch.tensor(mean, dtype=torch.float32).mul(255)
    # [H, W, 3] memory seen as [1, 3, H, W] is channels_last, which the models are in.
    return pixels.permute(2, 0, 1)[None].float().sub_(_as(shift, pixels)).mul_(_as(scale, pixels))


def _as(channel: Tensor, pixels: Tensor) -> Tensor:
    return channel.to(pixels.device)[:, None, None]
