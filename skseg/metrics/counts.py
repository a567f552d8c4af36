"""All that is counted of a prediction, and the scores that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

from skseg.metrics.boundary import BAND_RATIO, TOLERANCE_RATIO, count_bands, count_contours
from skseg.metrics.calibration import calibration_error, count_confidence, reliability
from skseg.metrics.confusion import by_name, evaluation_record, plain
from skseg.metrics.objects import BIN_NAMES, count_objects
from skseg.types import VOID


@dataclass(frozen=True)
class Counts:
    """Counts of one image, or sums of many: integers, so their sum has no order.

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
        """Return [K, 3]: hits, pixels of truth and of prediction; all that mIoU needs."""
        return by_class(self.confusion)


def by_class(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return [K, 3] of a confusion matrix [K, K]: hits, pixels of truth and of prediction."""
    return np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)], axis=1)


def count_pixels(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> NDArray[np.int64]:
    """Count the confusion matrix [K, K] of one image, truth by row, prediction by column.

    Args:
        truth: [H, W] class indices, `VOID` where nothing counts.
        prediction: [H, W] class indices.
        num_classes: K.
    """
    matrix = multiclass_confusion_matrix(
        torch.from_numpy(prediction).long(),
        torch.from_numpy(truth).long(),
        num_classes,
        ignore_index=VOID,
        validate_args=False,
    )
    return np.asarray(matrix.numpy())


def count_image(
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    confidence: NDArray[np.float32],
    num_classes: int,
) -> Counts:
    """Count one image.

    Args:
        truth: [H, W] class indices, `VOID` where nothing counts.
        prediction: [H, W] class indices.
        confidence: [H, W] probability of the predicted class.
        num_classes: K.
    """
    known = truth != VOID
    seen = np.where(known, prediction, np.uint8(VOID))
    return Counts(
        count_pixels(truth, prediction, num_classes),
        count_bands(truth, seen, num_classes),
        count_contours(truth, seen, num_classes),
        count_objects(truth, seen, num_classes),
        count_confidence((truth == seen)[known], confidence[known]),
    )


def full_record(
    counts: Counts, class_names: Sequence[str], categories: Sequence[str] | None = None
) -> dict[str, Any]:
    """Turn counts into the plain values of `evaluation.json`.

    Args:
        counts: summed over the set.
        class_names: K names.
        categories: the category of each class, where the data set has such.

    Returns:
        `skseg.metrics.evaluation_record`, and `boundary_iou` and `boundary_f` by class,
        `boundary_miou`, `boundary_mean_f`, `calibration_error` with the bins it comes from, and
        `objects` by bin of size; fractions from 0 to 1, None where undefined.
    """
    both, truth, predicted = torch.from_numpy(counts.bands).double().T
    band_iou = both / (truth + predicted - both)
    met, all_predicted, found, all_truth = torch.from_numpy(counts.contours).double().T
    # 2PR / (P + R), which is 0 / 0 where nothing is met, and undefined without any contour.
    precision, recall = met / all_predicted, found / all_truth
    boundary_f = (2 * precision * recall / (precision + recall)).nan_to_num(0)
    boundary_f[all_predicted + all_truth == 0] = torch.nan
    return {
        **evaluation_record(torch.from_numpy(counts.confusion), class_names, categories),
        "boundary_miou": plain(band_iou.nanmean()),
        "boundary_mean_f": plain(boundary_f.nanmean()),
        "boundary_iou": by_name(class_names, band_iou),
        "boundary_f": by_name(class_names, boundary_f),
        "boundary_ratios": {"iou_band": BAND_RATIO, "f_tolerance": TOLERANCE_RATIO},
        "calibration_error": calibration_error(counts.confidence),
        "calibration": reliability(counts.confidence),
        "objects": _objects_record(counts.objects, class_names),
    }


def _objects_record(objects: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Return for each bin the number of objects, IoU and recall by class, and their means.

    Means are over the classes that have objects of that size: else an object of another class that
    is predicted at that size would take points off the mean that its pixels are not worth.
    """
    record = {}
    for i, name in enumerate(BIN_NAMES):
        hits, truth, false, number = torch.from_numpy(objects[:, i]).double().T
        iou, recall = hits / (truth + false), hits / truth
        record[name] = {
            "objects": int(number.sum()),
            "miou": plain(iou[truth > 0].mean()),
            "mean_recall": plain(recall[truth > 0].mean()),
            "iou": by_name(class_names, iou),
            "recall": by_name(class_names, recall),
        }
    return record
