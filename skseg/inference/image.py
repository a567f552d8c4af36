"""Class probabilities and class indices of a whole image, band by band."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skseg.errors import UserError
from skseg.inference.logits import Network
from skseg.inference.settings import InferenceSettings
from skseg.inference.views import View
from skseg.types import Image, Mask

_BAND = 64
"""Rows of probabilities in memory at a time."""


class Prediction(NamedTuple):
    """The class of every pixel of an image.

    Attributes:
        indices: Class indices, uint8 [H, W].
        confidence: Probability of that class, float32 [H, W].
    """

    indices: Mask
    confidence: NDArray[np.float32]


@torch.inference_mode()
def predict(
    network: Network,
    image: Image,
    settings: InferenceSettings = InferenceSettings(),  # noqa: B008  frozen
) -> Prediction:
    """Segment one image.

    Args:
        network: A trained model in eval mode, see `skseg.load_model`.
        image: [H, W, 3] uint8 RGB.
        settings: How the image goes through the network.

    Returns:
        Class and confidence of every pixel. Of classes that tie, the first.

    Raises:
        UserError: The image is not uint8 RGB.

    Example:
        >>> class Red:  # a network of two classes: is a pixel red?
        ...     mean, std, device = (0, 0, 0), (1, 1, 1), torch.device("cpu")
        ...     def __call__(self, image):
        ...         return torch.stack([0.5 - image[:, 0], image[:, 0] - 0.5], dim=1)
        >>> image = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
        >>> predict(Red(), image).indices.tolist()
        [[1, 0]]
    """
    _check_image(image)
    height, width = image.shape[:2]
    indices = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.float32)
    for top, probabilities in predict_bands(network, image, settings):
        rows = slice(top, top + probabilities.shape[1])
        best = probabilities.max(0)
        indices[rows] = best.indices.to(torch.uint8).cpu().numpy()
        confidence[rows] = best.values.cpu().numpy()
    return Prediction(indices, confidence)


@torch.inference_mode()
def predict_probabilities(
    network: Network, image: Image, settings: InferenceSettings
) -> tuple[Mask, NDArray[np.float16]]:
    """Segment one image in one pass, and keep the probabilities of all classes.

    Args:
        network: A trained model in eval mode, see `skseg.load_model`.
        image: [H, W, 3] uint8 RGB.
        settings: How the image goes through the network.

    Returns:
        The class indices of `predict`, uint8 [H, W], and the probabilities, float16 [K, H, W].

    Raises:
        UserError: The image is not uint8 RGB.
    """
    indices, bands = [], []
    for _, probabilities in predict_bands(network, image, settings):
        indices.append(probabilities.max(0).indices.to(torch.uint8).cpu().numpy())
        bands.append(probabilities.half().cpu().numpy())
    return np.concatenate(indices), np.concatenate(bands, axis=1)


def predict_bands(
    network: Network, image: Image, settings: InferenceSettings
) -> Iterator[tuple[int, Tensor]]:
    """Yield the class probabilities of an image band by band, from top to bottom.

    Args:
        network: A trained model in eval mode, see `skseg.load_model`.
        image: [H, W, 3] uint8 RGB.
        settings: How the image goes through the network.

    Yields:
        The first row of a band and its probabilities [K, rows, W], float32 on the network's device.

    Raises:
        UserError: The image is not uint8 RGB.
    """
    _check_image(image)
    height = image.shape[0]
    views = [
        View(network, image, scale, mirrored, settings)
        for scale in settings.scales
        for mirrored in ((False, True) if settings.flip else (False,))
    ]
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        total = views[0].logits(top, bottom).softmax(0)
        for view in views[1:]:
            total += view.logits(top, bottom).softmax(0)
        yield top, total.div_(len(views))


def _check_image(image: Image) -> None:
    """Raise UserError for pixels that would be normalized as if they were 0 to 255."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = getattr(image, "dtype", type(image).__name__)
        raise UserError(
            f"`image` must be a numpy array of uint8 RGB values from 0 to 255, got {found}; pass "
            "the pixels as an image file has them, neither scaled to 0..1 nor normalized"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"`image` must have the shape [H, W, 3], got {list(image.shape)}")
