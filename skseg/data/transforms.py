"""The transforms of training crops and of evaluation images."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import torch

# Otherwise albumentations looks for a newer version on the network when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
from albumentations.core.type_definitions import Targets
from albumentations.pytorch import ToTensorV2

from skseg.errors import UserError
from skseg.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize
from skseg.types import VOID, Image, Mask


class Tensors(TypedDict):
    """The result of a transform.

    Attributes:
        image: Normalized RGB image, float32 [3, H, W].
        mask: Class indices, uint8 [H, W].
    """

    image: torch.Tensor
    mask: torch.Tensor


Transform: TypeAlias = Callable[..., Tensors]
"""Called with `image` uint8 [H, W, 3] and `mask` uint8 [H, W]."""

_CROP_ATTEMPTS = 10


def train_transform(
    crop_size: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    color_jitter: float = 0.3,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    augmentation: A.Compose | None = None,
) -> Transform:
    """Return the transform of training: random scale, crop, flip and colors, then normalization.

    Args:
        crop_size: Height and width of the result, in pixels. A smaller image is padded on the right
            and at the bottom, as in evaluation: with zeros, and void in the mask.
        scale: Range of the factor on both sides of the image.
        flip: Probability of mirroring the image.
        color_jitter: Largest relative change of brightness, contrast and saturation, from 0 (off)
            to 1. Hue changes by up to a fifth of it, as a fraction of the color circle.
        mean: RGB mean, as fractions of the full range.
        std: RGB standard deviation, as fractions of the full range.
        augmentation: A transform from `load_augmentation`, to run after the colors and before
            the normalization.

    Returns:
        A transform to tensors of the size of the crop.

    Example:
        >>> transform = train_transform(crop_size=(32, 48))
        >>> image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
        >>> out = transform(image=image, mask=mask)
        >>> out["image"].shape, out["mask"].shape, out["image"].dtype
        (torch.Size([3, 32, 48]), torch.Size([32, 48]), torch.float32)
    """
    height, width = crop_size
    jitter = A.ColorJitter(color_jitter, color_jitter, color_jitter, color_jitter / 5, p=1.0)
    transform: Transform = A.Compose(
        [
            RandomScaleCrop(crop_size, scale),
            A.HorizontalFlip(p=flip),
            *([jitter] if color_jitter else []),
            *([augmentation] if augmentation else []),
            # The bits of `normalize`, in albumentations' own pipeline.
            A.Normalize(mean, std),
            # Last, so that the padding is exactly zero and no time is spent on augmenting it.
            A.PadIfNeeded(height, width, position="top_left", fill=0, fill_mask=VOID),
            ToTensorV2(),
        ]
    )
    return transform


def eval_transform(
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Transform:
    """Return the transform of validation: normalization of the whole image, as in inference.

    Args:
        mean: RGB mean, as fractions of the full range.
        std: RGB standard deviation, as fractions of the full range.

    Returns:
        A transform to tensors of the size of the image.

    Example:
        >>> transform = eval_transform(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> white, mask = np.full((64, 48, 3), 255, np.uint8), np.zeros((64, 48), np.uint8)
        >>> out = transform(image=white, mask=mask)
        >>> out["image"].shape, out["image"].unique().tolist()
        (torch.Size([3, 64, 48]), [2.0])
    """
    return partial(_to_tensors, mean=mean, std=std)


def _to_tensors(image: Image, mask: Mask, mean: Sequence[float], std: Sequence[float]) -> Tensors:
    return {"image": normalize(image, mean, std), "mask": torch.from_numpy(mask)}


def load_augmentation(path: str | Path, crop_size: tuple[int, int]) -> A.Compose:
    """Load a transform that albumentations' `A.save` wrote, and try it on a crop.

    Args:
        path: A `.json` or `.yaml` file.
        crop_size: Height and width of the training crops, in pixels.

    Returns:
        A transform that maps `image` uint8 [H, W, 3] and `mask` uint8 [H, W] to the same sizes and
        types.

    Raises:
        UserError: There is no such file, albumentations did not write it, it fills masks with
            a value other than void, or it changes the size or type of a crop.
    """
    kind: Literal["json", "yaml"] = "json" if Path(path).suffix == ".json" else "yaml"
    try:
        loaded = A.load(path, data_format=kind)
    except OSError as error:
        raise UserError(f"`augmentation` {path}: {error.strerror}") from None
    except Exception as error:  # other files raise errors of many kinds
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"`augmentation` {path} was not written by albumentations' A.save ({reason})"
        ) from error
    transform = A.Compose([loaded])
    for step in _steps(transform):
        if _fills_masks(step) and step.fill_mask != VOID:
            raise UserError(
                f"`augmentation` {path}: {type(step).__name__} fills masks with class "
                f"{step.fill_mask}; its fill_mask must be {VOID}, which is void"
            )
    image, mask = np.zeros((*crop_size, 3), np.uint8), np.zeros(crop_size, np.uint8)
    try:
        out = transform(image=image, mask=mask)
    except Exception as error:  # a user's transform may raise anything
        raise UserError(f"`augmentation` {path}: fails on a crop ({error})") from error
    for name, given in (("image", image), ("mask", mask)):
        made = out[name]
        if not isinstance(made, np.ndarray) or (made.shape, made.dtype) != (given.shape, "uint8"):
            raise UserError(
                f"`augmentation` {path}: turns an {name} uint8 {list(given.shape)} into "
                f"{getattr(made, 'dtype', type(made).__name__)} {list(made.shape)}; it must not "
                "resize, normalize or convert to tensors, which skseg does"
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
    """Make the next call of a transform depend on its input and `seed` only."""
    if not isinstance(transform, A.Compose):
        return  # that of evaluation, which is not random
    # `set_random_seed` would give each step its own generator with the same seed, which correlates
    # their draws: the more an image is enlarged, the brighter it would become.
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))


class RandomScaleCrop(A.DualTransform):
    """Scale an image by a random factor and cut a random crop.

    It cuts a window first and scales only that, which gives the same distribution of crops as
    scaling the whole image, at a fraction of the cost. It draws up to 10 windows until one has a
    pixel that is not void, because an all-void crop has no loss. A side that is shorter than the
    crop is kept whole.

    Args:
        crop_size: Height and width of the crop, in pixels.
        scale: Range of the factor.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, crop_size: tuple[int, int], scale: tuple[float, float]):
        super().__init__(p=1.0)
        self.crop_size = crop_size
        self.scale = scale

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the window and its size after scaling; called by albumentations."""
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
        self, img: Image, window: tuple[slice, slice], size: tuple[int, int], **params: Any
    ) -> Image:
        """Return the scaled crop of an image; called by albumentations."""
        smaller = size[0] < window[1].stop - window[1].start
        # Averages over areas where pixels are lost; otherwise fine textures would alias.
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        scaled = cv2.resize(img[window], size, interpolation=method)
        return scaled.astype(np.uint8, copy=False)  # no-op, for the type checker

    def apply_to_mask(
        self, mask: Mask, window: tuple[slice, slice], size: tuple[int, int], **params: Any
    ) -> Mask:
        """Return the scaled crop of a mask; called by albumentations."""
        scaled = cv2.resize(mask[window], size, interpolation=cv2.INTER_NEAREST_EXACT)
        return scaled.astype(np.uint8, copy=False)
