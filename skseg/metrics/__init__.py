"""Scores of class indices against truth, from counts that are summed over the whole set.

Validation needs the confusion matrix alone; evaluation counts everything, image by image.
"""

from skseg.metrics.bootstrap import Difference, Interval, compare_miou, miou, miou_interval
from skseg.metrics.confusion import confusion_matrix, evaluation_record, scores
from skseg.metrics.counts import Counts, by_class, count_image, count_pixels, full_record

__all__ = [
    "Counts",
    "Difference",
    "Interval",
    "by_class",
    "compare_miou",
    "confusion_matrix",
    "count_image",
    "count_pixels",
    "evaluation_record",
    "full_record",
    "miou",
    "miou_interval",
    "scores",
]
