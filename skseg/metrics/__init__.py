"""Scores of predicted class indices against the truth, from counts summed over the whole set.

Validation counts the confusion matrix; evaluation counts everything, image by image. Records hold
the scores as plain values: `pixel_record` those of a confusion matrix, `full_record` all of them.
"""

from skseg.metrics.bootstrap import Difference, Interval, compare_miou, miou_interval
from skseg.metrics.confusion import (
    class_iou,
    confusion_matrix,
    count_by_class,
    count_pixels,
    miou,
    pixel_record,
    scores,
)
from skseg.metrics.counts import Counts, count_image, full_record
from skseg.metrics.records import (
    ComparisonRecord,
    EvaluationRecord,
    FullRecord,
    PixelRecord,
)

__all__ = [
    "ComparisonRecord",
    "Counts",
    "Difference",
    "EvaluationRecord",
    "FullRecord",
    "Interval",
    "PixelRecord",
    "class_iou",
    "compare_miou",
    "confusion_matrix",
    "count_by_class",
    "count_image",
    "count_pixels",
    "full_record",
    "miou",
    "miou_interval",
    "pixel_record",
    "scores",
]
