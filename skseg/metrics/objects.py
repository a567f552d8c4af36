"""Scores by the size of objects."""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from skseg.types import VOID, Mask

SIDES = (16, 32, 64, 128, 256)
"""Sides, in pixels, of the squares whose areas separate the bins of size, one octave each.

COCO's "small" ends at 32 (two bins here) and its "medium" at 96.
"""

BIN_NAMES = tuple(
    [f"below {SIDES[0]}²"]
    + [f"{low}² to {high}²" for low, high in pairwise(SIDES)]
    + [f"{SIDES[-1]}² and more"]
)
"""A name for each bin: areas in pixels, the lower bound included."""


def count_objects(truth: Mask, prediction: Mask, num_classes: int) -> NDArray[np.int64]:
    """Count hits and misses by class and by the size of the object they lie in.

    An object is a connected component (8 neighbors) of one class, and its size is its area in
    pixels of the original image. A pixel of truth counts in the bin of its object in the truth;
    the share of hits among them is the recall of the bin. A false positive counts in the bin of the
    *predicted* object that it belongs to. The IoU of a bin is hits / (truth + false positives).

    Args:
        truth: [H, W] class indices, `VOID` where nothing counts.
        prediction: [H, W] class indices, `VOID` where truth is void.
        num_classes: Number of classes, K.

    Returns:
        [K, bins, 4]: hits, pixels of truth, false positives, and the number of truth's objects.
    """
    counts = np.zeros((num_classes, len(BIN_NAMES), 4), np.int64)
    truth_bins, counts[..., 3] = _size_bins(truth, num_classes)
    predicted_bins, _ = _size_bins(prediction, num_classes)
    hit, known = truth == prediction, truth != VOID
    for i, (pixels, indices, bins) in enumerate(
        [
            (hit & known, truth, truth_bins),
            (known, truth, truth_bins),
            (~hit, prediction, predicted_bins),
        ]
    ):
        cells = indices[pixels].astype(np.intp) * len(BIN_NAMES) + bins[pixels]
        counted = np.bincount(cells, minlength=num_classes * len(BIN_NAMES))
        counts[..., i] = counted.reshape(num_classes, -1)
    return counts


def _size_bins(indices: Mask, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bin of each pixel's object, uint8 [H, W], and the number of objects [K, bins]."""
    bins = np.zeros_like(indices)
    number = np.zeros((num_classes, len(BIN_NAMES)), np.int64)
    limits = np.square(SIDES)
    for index in np.unique(indices[indices != VOID]):
        mask = (indices == index).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        box = np.s_[top : top + height, left : left + width]
        _, objects = cv2.connectedComponents(mask[box], connectivity=8)
        areas = np.bincount(objects.ravel())
        of_object = np.digitize(areas, limits).astype(np.uint8)
        of_object[0] = 0  # the background
        bins[box] += of_object[objects]
        number[index] = np.bincount(np.digitize(areas[1:], limits), minlength=len(BIN_NAMES))
    return bins, number
