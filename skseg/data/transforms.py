"""The two presets of augmentation: training and evaluation."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from skseg.types import VOID

# Importing albumentations looks for a newer version on the network otherwise.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
from albumentations.core.type_definitions import Targets
from albumentations.pytorch import ToTensorV2

from skseg.data.files import ImageArray, IndexMask
from skseg.errors import UserError

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
    augmentation: Transform | None = None,
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
        augmentation: One's own, from `load_augmentation`, between the colours and the
            normalisation.

    Returns:
        Takes `image` uint8 `[H, W, 3]` and `mask` uint8 `[H, W]`; gives float32 `[3, h, w]` and
        uint8 `[h, w]` tensors.
    """
    height, width = crop_size
    jitter = A.ColorJitter(color_jitter, color_jitter, color_jitter, color_jitter / 5, p=1.0)
    return A.Compose(
        [
            RandomScaleCrop(crop_size, scale),
            A.HorizontalFlip(p=flip),
            *([jitter] if color_jitter else []),
            *([augmentation] if augmentation else []),
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


def load_augmentation(path: str | Path, crop_size: tuple[int, int]) -> Transform:
    """Reads what albumentations' `A.save` wrote, and tries it on a crop.

    Args:
        path: A `.json` or `.yaml` file.
        crop_size: Height and width of the crops that it is for.

    Returns:
        Takes and gives `image` uint8 `[H, W, 3]` and `mask` uint8 `[H, W]`.

    Raises:
        UserError: There is no such file, it is none of albumentations', it fills masks with
            another value than void, or it makes anything else of a crop than a crop like it.
    """
    kind: Literal["json", "yaml"] = "json" if Path(path).suffix == ".json" else "yaml"
    try:
        loaded = A.load(path, data_format=kind)
    except OSError as error:
        raise UserError(f"data.augmentation: {path}: {error.strerror}") from None
    except Exception as error:  # whatever a file of something else makes it raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"data.augmentation: {path} is not what albumentations' A.save writes ({reason})"
        ) from error
    transform = A.Compose([loaded])
    for step in _steps(transform):
        if _fills_masks(step) and step.fill_mask != VOID:
            raise UserError(
                f"data.augmentation: {path}: {type(step).__name__} fills masks with "
                f"{step.fill_mask}, a class; give it fill_mask={VOID}, which is void"
            )
    image, mask = np.zeros((*crop_size, 3), np.uint8), np.zeros(crop_size, np.uint8)
    try:
        out = transform(image=image, mask=mask)
    except Exception as error:  # whatever a transform of the user's raises
        raise UserError(f"data.augmentation: {path}: fails on a crop ({error})") from error
    for name, given in (("image", image), ("mask", mask)):
        made = out[name]
        if not isinstance(made, np.ndarray) or (made.shape, made.dtype) != (given.shape, "uint8"):
            raise UserError(
                f"data.augmentation: {path}: makes of an {name} uint8 {list(given.shape)} "
                f"{getattr(made, 'dtype', type(made).__name__)} {list(made.shape)}; leave the "
                "size, the normalisation and tensors to skseg"
            )
    return transform


def _steps(transform: A.BaseCompose) -> Iterator[Any]:
    for step in transform.transforms:
        yield from _steps(step) if isinstance(step, A.BaseCompose) else [step]


def _fills_masks(step: Any) -> bool:
    return (
        getattr(step, "fill_mask", None) is not None
        and getattr(step, "border_mode", cv2.BORDER_CONSTANT) == cv2.BORDER_CONSTANT
        and getattr(step, "pad_if_needed", True)
    )


def reseed(transform: Transform, seed: int) -> None:
    """Makes the next call of a transform depend on its input and `seed` alone."""
    # `set_random_seed` would give each step a generator of its own from the same seed, which ties
    # their draws together: the more a picture was enlarged, the brighter it would become.
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))


class RandomScaleCrop(A.DualTransform):
    """Scales a picture by a random factor and takes a random crop of it.

    It cuts first and then scales the cutting alone, which draws from the same crops as scaling all
    of a large picture and costs a fraction. The crop is drawn again, up to 10 times, while all of
    its mask is void: that has no loss. Of a side that is shorter than the crop it takes all.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, crop_size: tuple[int, int], scale: tuple[float, float]):
        """Takes the height and width of the crop, and the range of the factor."""
        super().__init__(p=1.0)
        self.crop_size = crop_size
        self.scale = scale

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draws the window of the picture and its size after scaling; called by albumentations."""
        height, width = params["shape"][:2]
        factor = self.py_random.uniform(*self.scale)
        new_height = min(self.crop_size[0], max(1, round(height * factor)))
        new_width = min(self.crop_size[1], max(1, round(width * factor)))
        old_height = min(height, max(1, round(new_height / factor)))
        old_width = min(width, max(1, round(new_width / factor)))
        for _ in range(_CROP_ATTEMPTS):
            top = self.py_random.randint(0, height - old_height)
            left = self.py_random.randint(0, width - old_width)
            window = (slice(top, top + old_height), slice(left, left + old_width))
            if (data["mask"][window] != VOID).any():
                break
        return {"window": window, "size": (new_width, new_height)}

    def apply(
        self, img: ImageArray, window: tuple[slice, slice], size: tuple[int, int], **params: Any
    ) -> ImageArray:
        """Gives the scaled crop of an image; called by albumentations."""
        smaller = size[0] < window[1].stop - window[1].start
        # The mean over a pixel's area where pixels are lost, else fine textures would alias.
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        scaled = cv2.resize(img[window], size, interpolation=method)
        return scaled.astype(np.uint8, copy=False)  # no-op, for the type checker

    def apply_to_mask(
        self, mask: IndexMask, window: tuple[slice, slice], size: tuple[int, int], **params: Any
    ) -> IndexMask:
        """Gives the scaled crop of a mask; called by albumentations."""
        scaled = cv2.resize(mask[window], size, interpolation=cv2.INTER_NEAREST_EXACT)
        return scaled.astype(np.uint8, copy=False)
