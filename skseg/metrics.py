"""Segmentation metrics from one confusion matrix over the whole set."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from skseg.contract import VOID


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """Return torchmetrics' confusion matrix [truth, prediction] that ignores void.

    It sums counts over batches and processes, so a score never depends on their number.
    """
    return MulticlassConfusionMatrix(num_classes, ignore_index=VOID, validate_args=False)


def scores(confusion: Tensor) -> dict[str, Tensor]:
    """Compute the benchmark's scores from a confusion matrix.

    As in cityscapesScripts, IoU is tp / (tp + fp + fn) over all pixels of the set, and a class
    that is in neither truth nor prediction is left out of the means.

    Args:
        confusion: [K, K] counts, truth by row, prediction by column.

    Returns:
        float64 tensors: `iou` [K] and `accuracy` [K] (recall), NaN where undefined, and the
        scalars `miou`, `mean_accuracy` and `pixel_accuracy`; all from 0 to 1, NaN without pixels.
    """
    counts = confusion.cpu().double()  # some devices have no float64
    hits = counts.diagonal()
    truth = counts.sum(1)
    predicted = counts.sum(0)
    iou = hits / (truth + predicted - hits)
    accuracy = hits / truth
    return {
        "iou": iou,
        "accuracy": accuracy,
        "miou": iou.nanmean(),
        "mean_accuracy": accuracy.nanmean(),
        "pixel_accuracy": hits.sum() / counts.sum(),
    }


def evaluation_record(confusion: Tensor, class_names: list[str]) -> dict[str, Any]:
    """Turn a confusion matrix into the plain values of `evaluation.json`.

    Args:
        confusion: [K, K] counts, truth by row, prediction by column.
        class_names: K names.

    Returns:
        `miou`, `pixel_accuracy`, `mean_accuracy`, and `iou` and `accuracy` by class name, as
        fractions from 0 to 1 with None where undefined; `confusion` as nested lists of counts.
    """
    values = scores(confusion)
    by_class = {
        key: dict(zip(class_names, map(_plain, values[key]), strict=True))
        for key in ("iou", "accuracy")
    }
    means = {key: _plain(values[key]) for key in ("miou", "pixel_accuracy", "mean_accuracy")}
    return {**means, **by_class, "confusion": confusion.long().tolist()}


def _plain(value: Tensor) -> float | None:
    return None if torch.isnan(value) else float(value)
