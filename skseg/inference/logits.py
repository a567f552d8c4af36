"""One forward pass: from an image of any size to logits of that size."""

from collections.abc import Sequence
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skseg.models import InputRule


def padded_side(side: int, rule: InputRule) -> int:
    """Return the smallest side that a network accepts for an image's side.

    Args:
        side: Side of the image, in pixels.
        rule: The sides that the network accepts; see `skseg.models.input_rule`.

    Example:
        >>> padded_side(500, InputRule(multiple=32, minimum=64)), padded_side(9, InputRule(32, 64))
        (512, 64)
    """
    return max(-(-side // rule.multiple) * rule.multiple, rule.minimum)


def predict_logits(model: nn.Module, image: Tensor, rule: InputRule) -> Tensor:
    """Run a model on whole images of any size.

    The normalized image is padded on the right and at the bottom with zeros, to a size that the
    model accepts, and the logits are cropped back.

    Args:
        model: Maps [B, C, H, W] to logits [B, K, H, W] for sides that `rule` allows.
        image: [B, C, H, W] float, normalized.
        rule: The sides that the model accepts.

    Returns:
        [B, K, H, W] logits.

    Example:
        >>> model = nn.Conv2d(3, 19, 3, stride=1, padding=1)
        >>> predict_logits(model, torch.zeros(1, 3, 30, 50), InputRule(32, 32)).shape
        torch.Size([1, 19, 30, 50])
    """
    height, width = image.shape[-2:]
    bottom = padded_side(height, rule) - height
    right = padded_side(width, rule) - width
    logits: Tensor = model(F.pad(image, (0, right, 0, bottom)))
    return logits[..., :height, :width]


class Network(Protocol):
    """The interface of a trained model for inference; `SegmentationTask` implements it.

    Called on normalized images [B, 3, H, W] of any size it returns logits [B, K, H, W].

    Attributes:
        mean: Mean of each channel, as a fraction of the full range.
        std: Standard deviation of each channel, likewise.
        colors: An RGB color for each class, 0 to 255.
        device: The device of its weights.
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
