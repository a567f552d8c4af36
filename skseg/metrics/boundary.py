"""Scores of the outlines of classes: boundary IoU and boundary F.

Both are counted in pixels by class and image, and the counts are summed over the set.
"""

from math import hypot, isqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from skseg.types import VOID, Mask

BAND_RATIO = 0.02
"""Width of the band of boundary IoU, as a fraction of the image's diagonal.

The default `dilation_ratio` of the authors' code.
"""

TOLERANCE_RATIO = 0.0075
"""Tolerance of boundary F, as a fraction of the image's diagonal (Csurka et al. use 0.75 %)."""

_MAX_PLANES = 64


def pixels_of_diagonal(indices: Mask, ratio: float) -> int:
    """Return a fraction of the diagonal of [H, W] in whole pixels, at least 1."""
    return max(1, round(ratio * hypot(*indices.shape)))


def count_bands(truth: Mask, prediction: Mask, num_classes: int) -> NDArray[np.int64]:
    """Count boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562).

    The band of a class is the part of its region within d pixels of the region's outside, in the
    maximum norm (3x3 erosions), where d is 2 % of the diagonal, rounded, at least 1. Beyond the
    image's edge is outside, and so is void. Boundary IoU is the IoU of the bands of truth and
    prediction, with the counts of both summed over the set before the division.

    A pixel is in the band of its class if and only if the square of side 2d + 1 around it holds
    another value, so one minimum and one maximum filter serve all classes.

    Args:
        truth: [H, W] class indices, `VOID` where nothing counts.
        prediction: [H, W] class indices, `VOID` where truth is void.
        num_classes: Number of classes, K.

    Returns:
        [K, 3]: pixels in both bands, in truth's, in prediction's.
    """
    truth_band = _band(truth)
    prediction_band = _band(prediction)
    both = truth_band & prediction_band & (truth == prediction)
    counted = [truth[both], truth[truth_band], prediction[prediction_band]]
    return np.stack([np.bincount(part, minlength=num_classes) for part in counted], axis=1)


def _band(indices: Mask) -> NDArray[np.bool_]:
    side = 2 * pixels_of_diagonal(indices, BAND_RATIO) + 1
    kernel = np.ones((side, side), np.uint8)
    # Beyond the edge the minimum is 0 and the maximum 255: never the same.
    low = cv2.erode(indices, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    high = cv2.dilate(indices, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=255)
    return np.asarray((low != high) & (indices != VOID))


def count_contours(truth: Mask, prediction: Mask, num_classes: int) -> NDArray[np.int64]:
    """Count boundary F (the BF score of Csurka et al., BMVC 2013).

    The contour of a class is its pixels with another class among their eight neighbors; void and
    the image's edge make no contour. A pixel of one contour is matched if the contour of the same
    class in the other mask has a pixel within the tolerance, 0.75 % of the diagonal (Euclidean,
    rounded, at least 1 pixel). Precision is the matched share of the prediction's contour, recall
    that of the truth's, and F their harmonic mean. Csurka et al. average over images; here counts
    are summed over the set.

    Args:
        truth: [H, W] class indices, `VOID` where nothing counts.
        prediction: [H, W] class indices, `VOID` where truth is void.
        num_classes: Number of classes, K.

    Returns:
        [K, 4]: matched pixels of the prediction's contour, all of its pixels; the same of the
        truth's contour.
    """
    radius = pixels_of_diagonal(truth, TOLERANCE_RATIO)
    contours = [np.where(_on_contour(x), x, VOID) for x in (prediction, truth)]
    counts = np.zeros((num_classes, 4), np.int64)
    classes = np.unique(np.concatenate([x[x != VOID] for x in contours]))
    for start in range(0, len(classes), _MAX_PLANES):
        planes = [_to_planes(x, classes[start : start + _MAX_PLANES]) for x in contours]
        for i in range(2):
            near = dilate(planes[1 - i], radius) & planes[i]
            counts[:, 2 * i] += np.bincount(contours[i][near != 0], minlength=num_classes)
    for i in range(2):
        contour = contours[i]
        counts[:, 2 * i + 1] = np.bincount(contour[contour != VOID], minlength=num_classes)
    return counts


def _on_contour(indices: Mask) -> NDArray[np.bool_]:
    kernel = np.ones((3, 3), np.uint8)
    low = cv2.erode(indices, kernel)  # void is 255, the edge no less
    high = cv2.dilate(np.where(indices == VOID, np.uint8(0), indices), kernel)
    return np.asarray((low < high) & (indices != VOID))


def _to_planes(indices: Mask, classes: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Set bit i where the class is the i-th: one array to dilate for up to 64 classes."""
    kind = np.min_scalar_type(2 ** len(classes) - 1)
    table = np.zeros(256, kind)
    table[classes] = 1 << np.arange(len(classes), dtype=np.uint64)
    return np.asarray(table[indices])


def dilate(planes: NDArray[np.unsignedinteger], radius: int) -> NDArray[np.unsignedinteger]:
    """Dilate each bit of planes [H, W] by a disc of `radius` pixels.

    The disc is built up by its rows, from the shortest, at the top, to the longest.

    Example:
        >>> planes = np.zeros((3, 5), np.uint8)
        >>> planes[1, 2] = 1
        >>> dilate(planes, radius=1).tolist()
        [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0]]
    """
    rows, wide, half = planes.copy(), np.zeros_like(planes), 0
    for away in range(min(radius, len(planes) - 1), -1, -1):
        widest = min(isqrt(radius**2 - away**2), planes.shape[1] - 1)
        while half < widest:
            half += 1
            rows[:, half:] |= planes[:, :-half]
            rows[:, :-half] |= planes[:, half:]
        wide[away:] |= rows[: len(rows) - away]
        wide[: len(rows) - away] |= rows[away:]
    return wide
