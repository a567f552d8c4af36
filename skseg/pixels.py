"""From the pixels of an image to the input of a network, and back; the colors of class indices."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skseg.types import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(
    image: Image,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Normalize an image: (image / 255 - mean) / std.

    Validation, evaluation and prediction all call this. Training crops are normalized by
    albumentations, in a pipeline with their other transforms, to the same bits.

    Args:
        image: [H, W, 3] uint8 RGB.
        mean: Mean of each channel, as a fraction of the full range.
        std: Standard deviation of each channel, likewise.
        device: Device to compute on.

    Returns:
        [3, H, W] float32 on the device, in the memory order of the image (channels last).

    Example:
        >>> black = np.zeros((4, 6, 3), np.uint8)
        >>> pixels = normalize(black, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> pixels.shape, pixels.unique().tolist()
        (torch.Size([3, 4, 6]), [-2.0])
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    scale = torch.tensor(std, dtype=torch.float32).mul(255).reciprocal()
    shift = torch.tensor(mean, dtype=torch.float32).mul(255)
    out = pixels.permute(2, 0, 1).float()
    return out.sub_(_by_channel(shift, out)).mul_(_by_channel(scale, out))


def denormalize(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image:
    """Undo `normalize`, rounding to whole numbers.

    Args:
        image: [3, H, W] float.
        mean: Mean of each channel, as a fraction of the full range.
        std: Standard deviation of each channel, likewise.

    Returns:
        [H, W, 3] uint8 RGB.

    Example:
        >>> image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        >>> mean, std = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)
        >>> bool((denormalize(normalize(image, mean, std), mean, std) == image).all())
        True
    """
    pixels = image.detach().float().cpu().permute(1, 2, 0).numpy()
    pixels = (pixels * np.asarray(std) + np.asarray(mean)) * 255
    return np.asarray(pixels.round().clip(0, 255), dtype=np.uint8)


def _by_channel(values: Tensor, pixels: Tensor) -> Tensor:
    return values.to(pixels.device)[:, None, None]


def voc_color(index: int) -> tuple[int, int, int]:
    """Return the RGB color of a class index in the palette of the Pascal VOC development kit.

    Args:
        index: The class index, 0 to 255.

    Example:
        >>> voc_color(1), voc_color(15)
        ((128, 0, 0), (192, 128, 128))
    """
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return color[0], color[1], color[2]
