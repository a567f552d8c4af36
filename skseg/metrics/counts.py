"""Everything that evaluation counts of a prediction, and the scores that follow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from skseg.metrics.boundary import BAND_RATIO, TOLERANCE_RATIO, count_bands, count_contours
from skseg.metrics.calibration import calibration_error, count_confidence, reliability
from skseg.metrics.confusion import count_by_class, count_pixels, pixel_record
from skseg.metrics.objects import BIN_NAMES, count_objects
from skseg.metrics.records import FullRecord, ObjectsRecord, score, scores_by_class
from skseg.types import VOID, Mask


@dataclass(frozen=True)
class Counts:
    """Counts of one image, or sums of many: integers, so the order of a sum does not matter.

    Attributes:
        confusion: [K, K], truth by row, prediction by column.
        bands: [K, 3], see `skseg.metrics.boundary.count_bands`.
        contours: [K, 4], see `skseg.metrics.boundary.count_contours`.
        objects: [K, bins, 4], see `skseg.metrics.objects.count_objects`.
        confidence: [16, 3], see `skseg.metrics.calibration.count_confidence`.
    """

    confusion: NDArray[np.int64]
    bands: NDArray[np.int64]
    contours: NDArray[np.int64]
    objects: NDArray[np.int64]
    confidence: NDArray[np.int64]

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    def by_class(self) -> NDArray[np.int64]:
        """Return [K, 3]: hits, pixels of truth and of prediction, which is all that mIoU needs."""
        return count_by_class(self.confusion)


def count_image(
    truth: Mask,
    prediction: Mask,
    confidence: NDArray[np.float32],
    num_classes: int,
) -> Counts:
    """Count one image.

    Args:
        truth: [H, W] class indices, `VOID` where nothing counts.
        prediction: [H, W] class indices.
        confidence: [H, W] probability of the predicted class.
        num_classes: Number of classes, K.

    Example:
        >>> truth = np.array([[0, 0, 1, VOID]], np.uint8)
        >>> prediction = np.array([[0, 1, 1, 1]], np.uint8)
        >>> confidence = np.full(truth.shape, 0.9, np.float32)
        >>> counts = count_image(truth, prediction, confidence, num_classes=2)
        >>> counts.confusion.tolist()
        [[1, 1], [0, 1]]
        >>> (counts + counts).by_class().tolist()
        [[2, 4, 2], [2, 2, 4]]
    """
    labeled = truth != VOID
    seen = np.where(labeled, prediction, np.uint8(VOID))
    return Counts(
        count_pixels(truth, prediction, num_classes),
        count_bands(truth, seen, num_classes),
        count_contours(truth, seen, num_classes),
        count_objects(truth, seen, num_classes),
        count_confidence((truth == seen)[labeled], confidence[labeled]),
    )


def full_record(
    counts: Counts, class_names: Sequence[str], categories: Sequence[str] | None = None
) -> FullRecord:
    """Turn counts into a record of plain values, which is most of `evaluation.json`.

    Args:
        counts: Sums over the set.
        class_names: K names.
        categories: The category of each class, where the data set has categories.

    Returns:
        The values of `skseg.metrics.pixel_record`, and the scores of boundaries, calibration and
        objects.

    Example:
        >>> truth = np.zeros((8, 8), np.uint8)
        >>> sure = np.ones((8, 8), np.float32)
        >>> record = full_record(count_image(truth, truth, sure, num_classes=2), ["road", "sky"])
        >>> record["miou"], record["boundary_iou"], record["calibration_error"]
        (1.0, {'road': 1.0, 'sky': None}, 0.0)
    """
    both, truth, predicted = torch.from_numpy(counts.bands).double().T
    band_iou = both / (truth + predicted - both)
    met, all_predicted, found, all_truth = torch.from_numpy(counts.contours).double().T
    # 2PR / (P + R), which is 0 / 0 where nothing is met, and undefined without any contour.
    precision, recall = met / all_predicted, found / all_truth
    boundary_f = (2 * precision * recall / (precision + recall)).nan_to_num(0)
    boundary_f[all_predicted + all_truth == 0] = torch.nan
    return {
        **pixel_record(torch.from_numpy(counts.confusion), class_names, categories),
        "boundary_miou": score(band_iou.nanmean().item()),
        "boundary_mean_f": score(boundary_f.nanmean().item()),
        "boundary_iou": scores_by_class(class_names, band_iou.tolist()),
        "boundary_f": scores_by_class(class_names, boundary_f.tolist()),
        "boundary_ratios": {"iou_band": BAND_RATIO, "f_tolerance": TOLERANCE_RATIO},
        "calibration_error": calibration_error(counts.confidence),
        "calibration": reliability(counts.confidence),
        "objects": {
            name: _objects_record(counts.objects[:, i], class_names)
            for i, name in enumerate(BIN_NAMES)
        },
    }


def _objects_record(objects: NDArray[np.int64], class_names: Sequence[str]) -> ObjectsRecord:
    """Turn the counts [K, 4] of one bin of size into a record.

    Means are over the classes that have objects of this size. Otherwise an object of another class
    that is predicted at this size would lower the mean by more than its pixels are worth.
    """
    hits, truth, false, number = torch.from_numpy(objects).double().T
    iou, recall = hits / (truth + false), hits / truth
    return {
        "objects": int(number.sum()),
        "miou": score(iou[truth > 0].mean().item()),
        "mean_recall": score(recall[truth > 0].mean().item()),
        "iou": scores_by_class(class_names, iou.tolist()),
        "recall": scores_by_class(class_names, recall.tolist()),
    }
