"""Class probabilities and class indices of a whole picture, band by band."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skseg.inference.logits import Network
from skseg.inference.settings import InferenceSettings
from skseg.inference.views import View

_BAND = 64
"""Rows of probabilities that are held at a time."""


class Prediction(NamedTuple):
    """The class of every pixel of a picture.

    Attributes:
        indices: [H, W] uint8 class indices.
        confidence: [H, W] float32, the probability of that class.
    """

    indices: NDArray[np.uint8]
    confidence: NDArray[np.float32]


@torch.inference_mode()
def predict(
    network: Network, picture: NDArray[np.uint8], settings: InferenceSettings
) -> Prediction:
    """Segment one picture.

    Args:
        network: in eval mode.
        picture: [H, W, 3] uint8 RGB.
        settings: how.

    Returns:
        Class and confidence of every pixel. Of classes that tie, the first.
    """
    height, width = picture.shape[:2]
    indices = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.float32)
    for top, probabilities in predict_bands(network, picture, settings):
        rows = slice(top, top + probabilities.shape[1])
        best = probabilities.max(0)
        indices[rows] = best.indices.to(torch.uint8).cpu().numpy()
        confidence[rows] = best.values.cpu().numpy()
    return Prediction(indices, confidence)


def predict_bands(
    network: Network, picture: NDArray[np.uint8], settings: InferenceSettings
) -> Iterator[tuple[int, Tensor]]:
    """Yield a picture's class probabilities band by band, from top to bottom.

    Args:
        network: in eval mode.
        picture: [H, W, 3] uint8 RGB.
        settings: how.

    Yields:
        The first row of a band and its probabilities [K, rows, W], float32 on the network's device.
    """
    height = picture.shape[0]
    views = [
        View(network, picture, scale, mirrored, settings)
        for scale in settings.scales
        for mirrored in ((False, True) if settings.flip else (False,))
    ]
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        total = views[0].logits(top, bottom).softmax(0)
        for view in views[1:]:
            total += view.logits(top, bottom).softmax(0)
        yield top, total.div_(len(views))
