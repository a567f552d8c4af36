"""The two presets of augmentation: training and evaluation."""

import os
import random
from typing import Any, TypeAlias

import numpy as np

from skseg.contract import VOID

# Importing albumentations looks for a newer version on the network otherwise.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
from albumentations.pytorch import ToTensorV2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Transform: TypeAlias = A.Compose

_CROP_ATTEMPTS = 10


def train_transform(
    crop_size: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    color_jitter: float = 0.3,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Transform:
    """Random scale, crop, flip and colours; then normalised, padded and to tensors.

    Args:
        crop_size: Height and width of the result. A smaller picture is padded to the right and
            at the bottom, as in evaluation: with zeros, and void in the mask.
        scale: The range of the factor on both sides of the picture.
        flip: Probability of a mirror image.
        color_jitter: Brightness, contrast and saturation change by up to this share, hue by up
            to a fifth of it in turns of the colour circle; 0 turns it off.
        mean: RGB, in fractions of the full range.
        std: RGB, in fractions of the full range.

    Returns:
        Takes `image` uint8 `[H, W, 3]` and `mask` uint8 `[H, W]`; gives float32 `[3, h, w]` and
        uint8 `[h, w]` tensors.
    """
    height, width = crop_size
    jitter = A.ColorJitter(color_jitter, color_jitter, color_jitter, color_jitter / 5, p=1.0)
    return A.Compose(
        [
            A.RandomScale((scale[0] - 1, scale[1] - 1), area_for_downscale="image", p=1.0),
            RandomCropNotVoid(height, width, p=1.0),
            A.HorizontalFlip(p=flip),
            *([jitter] if color_jitter else []),
            A.Normalize(mean, std),
            # After the normalisation, so that padding is exactly zero and costs no jitter.
            A.PadIfNeeded(height, width, position="top_left", fill=0, fill_mask=VOID),
            ToTensorV2(),
        ]
    )


def eval_transform(
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Transform:
    """Normalises and turns into tensors; the whole picture at its own size.

    Args:
        mean: RGB, in fractions of the full range.
        std: RGB, in fractions of the full range.

    Returns:
        As `train_transform`, with the size of the input.
    """
    return A.Compose([A.Normalize(mean, std), ToTensorV2()])


def reseed(transform: Transform, seed: int) -> None:
    """Makes the next call of a transform depend on its input and `seed` alone."""
    # `set_random_seed` would give each step a generator of its own from the same seed, which ties
    # their draws together: the more a picture was enlarged, the brighter it would become.
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))


class RandomCropNotVoid(A.RandomCrop):
    """A random crop, drawn again while all of its mask is void: that has no loss.

    Gives up after 10 draws. Takes all of a side that is shorter than the crop.
    """

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draws the corners of the crop; called by albumentations."""
        height, width = params["shape"][:2]
        crop_height, crop_width = min(self.height, height), min(self.width, width)
        for _ in range(_CROP_ATTEMPTS):
            top = self.py_random.randint(0, height - crop_height)
            left = self.py_random.randint(0, width - crop_width)
            bottom, right = top + crop_height, left + crop_width
            if (data["mask"][top:bottom, left:right] != VOID).any():
                break
        return {"crop_coords": (left, top, right, bottom), "pad_params": None}
