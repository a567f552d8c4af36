"""The records of scores: plain values with the keys and the order of their JSON files.

Every score is a fraction from 0 to 1, and None where it is undefined.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NotRequired, TypedDict

Score = float | None

ByClass = dict[str, Score]
"""A score by class name, in the order of the class indices."""

PixelScore = Literal["iou", "precision", "recall", "f1"]
"""The keys of the scores by class that a confusion matrix gives."""


class PixelRecord(TypedDict):
    """The scores of a confusion matrix; see `skseg.metrics.scores`.

    Attributes:
        confusion: [K, K] counts, truth by row, prediction by column.
        category_miou: Mean IoU over categories, where the data set has categories.
        category_iou: IoU by category, where the data set has categories.
    """

    iou: ByClass
    precision: ByClass
    recall: ByClass
    f1: ByClass
    miou: Score
    mean_accuracy: Score
    pixel_accuracy: Score
    frequency_weighted_iou: Score
    confusion: list[list[int]]
    category_miou: NotRequired[Score]
    category_iou: NotRequired[ByClass]


class BoundaryRatios(TypedDict):
    """Widths of the boundary scores, as fractions of an image's diagonal."""

    iou_band: float
    f_tolerance: float


class ReliabilityBin(TypedDict):
    """One bin of confidence: its share of the pixels, its accuracy and its mean confidence."""

    share: float
    accuracy: float
    confidence: float


class ObjectsRecord(TypedDict):
    """The scores of objects of one size; see `skseg.metrics.objects`.

    Attributes:
        objects: Number of objects in the truth.
        miou: Mean IoU over the classes with objects of this size.
        mean_recall: Mean recall over the same classes.
        iou: IoU by class.
        recall: Recall by class.
    """

    objects: int
    miou: Score
    mean_recall: Score
    iou: ByClass
    recall: ByClass


class FullRecord(PixelRecord):
    """All scores of an evaluation.

    Attributes:
        boundary_miou: Mean boundary IoU.
        boundary_mean_f: Mean boundary F.
        boundary_iou: Boundary IoU by class.
        boundary_f: Boundary F by class.
        boundary_ratios: Widths that the boundary scores were counted with.
        calibration_error: Expected calibration error.
        calibration: The bins of confidence that it comes from.
        objects: Scores by the size of objects.
    """

    boundary_miou: Score
    boundary_mean_f: Score
    boundary_iou: ByClass
    boundary_f: ByClass
    boundary_ratios: BoundaryRatios
    calibration_error: Score
    calibration: list[ReliabilityBin]
    objects: dict[str, ObjectsRecord]


class EvaluationRecord(FullRecord):
    """The content of `evaluation.json`.

    Attributes:
        data: Name of the data set.
        split: Name of the split.
        images: Number of images.
        miou_interval: 95 % bootstrap interval of mIoU over images; None where undefined.
        inference: The fields of `skseg.inference.InferenceSettings`.
        seconds: Time spent on loading, in the network and on metrics.
        device: Name of the device.
        versions: Version of each package that numbers depend on.
        checkpoint: Path of the checkpoint, where the command was given one.
        root: Folder of the data set.
        weights: "trained" or "averaged", where the network was loaded from a checkpoint.
        epoch: Epoch of the checkpoint, counted from 0.
        step: Optimizer steps of the checkpoint.
    """

    data: str
    split: str
    images: int
    miou_interval: tuple[float, float] | None
    inference: dict[str, object]
    seconds: dict[str, float]
    device: str
    versions: dict[str, str]
    checkpoint: NotRequired[str]
    root: NotRequired[str]
    weights: NotRequired[str]
    epoch: NotRequired[int | None]
    step: NotRequired[int | None]


class WeightsRecord(TypedDict):
    """Which weights were compared; see `EvaluationRecord`."""

    weights: str | None
    epoch: int | None
    step: int | None


class ComparisonRecord(TypedDict):
    """The content of `comparison.json`: two models on the same images.

    Attributes:
        names: The checkpoints of both, where the command was given them.
        weights: Which of their weights were compared.
        miou: mIoU of both.
        difference: mIoU of the second minus that of the first.
        interval: 95 % paired bootstrap interval of the difference.
        p_value: Two-sided p-value of the difference.
        iou: IoU of both, by class.
    """

    names: NotRequired[tuple[str, str]]
    weights: NotRequired[tuple[WeightsRecord, WeightsRecord]]
    miou: tuple[Score, Score]
    difference: Score
    interval: tuple[float, float] | None
    p_value: Score
    iou: dict[str, tuple[Score, Score]]


def score(value: float) -> Score:
    """Return a score as a plain number, None where it is NaN.

    Example:
        >>> score(0.5), score(float("nan"))
        (0.5, None)
    """
    return None if math.isnan(value) else float(value)


def scores_by_class(names: Sequence[str], values: Iterable[float]) -> ByClass:
    """Return one score per class by its name, None where it is NaN.

    Example:
        >>> scores_by_class(["sky", "road"], [0.25, float("nan")])
        {'sky': 0.25, 'road': None}
    """
    return dict(zip(names, map(score, values), strict=True))
