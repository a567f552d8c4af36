"""Scores that follow from one confusion matrix over the whole set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from skseg.types import VOID


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
        float64 tensors. By class [K], NaN where undefined: `iou`, `precision` tp / (tp + fp),
        `recall` tp / (tp + fn), also called class accuracy, and `f1` 2 tp / (2 tp + fp + fn).
        Scalars: `miou`, `mean_accuracy` (mean recall), `pixel_accuracy`, and
        `frequency_weighted_iou`, the mean of IoU weighted by pixels of truth (Long et al.,
        CVPR 2015; recall weighted like this is pixel accuracy). All are from 0 to 1, and NaN
        without pixels.
    """
    counts = confusion.cpu().double()  # some devices have no float64
    hits = counts.diagonal()
    truth = counts.sum(1)
    predicted = counts.sum(0)
    iou = hits / (truth + predicted - hits)
    recall = hits / truth
    return {
        "iou": iou,
        "precision": hits / predicted,
        "recall": recall,
        "f1": 2 * hits / (truth + predicted),
        "miou": iou.nanmean(),
        "mean_accuracy": recall.nanmean(),
        "pixel_accuracy": hits.sum() / counts.sum(),
        "frequency_weighted_iou": (truth * iou).nansum() / counts.sum(),
    }


def merge_classes(confusion: Tensor, categories: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Add up the rows and columns of a confusion matrix by category.

    Args:
        confusion: [K, K] counts.
        categories: the category of each class.

    Returns:
        [C, C] counts and the C categories, in the order of their first class. Classes of a
        category that are mistaken for each other are hits, as in cityscapesScripts.
    """
    names = list(dict.fromkeys(categories))
    index = torch.tensor([names.index(category) for category in categories])
    merged = confusion.new_zeros(len(names), len(confusion)).index_add(0, index, confusion)
    return merged.new_zeros(len(names), len(names)).index_add(1, index, merged), names


def evaluation_record(
    confusion: Tensor, class_names: Sequence[str], categories: Sequence[str] | None = None
) -> dict[str, Any]:
    """Turn a confusion matrix into the plain values of `evaluation.json`.

    Args:
        confusion: [K, K] counts, truth by row, prediction by column.
        class_names: K names.
        categories: the category of each class, where the data set has such.

    Returns:
        All of `scores`, by class name or a number, as fractions from 0 to 1 with None where
        undefined; `confusion` as nested lists of counts; with categories also `category_miou` and
        `category_iou` by category.
    """
    record: dict[str, Any] = {
        key: plain(value) if value.ndim == 0 else by_name(class_names, value)
        for key, value in scores(confusion).items()
    }
    record["confusion"] = confusion.long().tolist()
    if categories is not None:
        merged, names = merge_classes(confusion, categories)
        values = scores(merged)
        record["category_miou"] = plain(values["miou"])
        record["category_iou"] = by_name(names, values["iou"])
    return record


def by_name(names: Sequence[str], values: Tensor) -> dict[str, float | None]:
    """Return values [K] by name, None where NaN."""
    return dict(zip(names, map(plain, values), strict=True))


def plain(value: Tensor) -> float | None:
    """Return a scalar as a number, None where NaN."""
    return None if torch.isnan(value) else float(value)
