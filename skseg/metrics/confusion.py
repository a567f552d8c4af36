"""The confusion matrix over a whole set, and the scores that follow from it."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from skseg.metrics.records import PixelRecord, score, scores_by_class
from skseg.types import VOID, Mask


class Scores(TypedDict):
    """The scores of a confusion matrix as float64 tensors, from 0 to 1, NaN where undefined.

    Attributes:
        iou: [K] tp / (tp + fp + fn).
        precision: [K] tp / (tp + fp).
        recall: [K] tp / (tp + fn), also called class accuracy.
        f1: [K] 2 tp / (2 tp + fp + fn).
        miou: Mean IoU over the classes where it is defined.
        mean_accuracy: Mean recall, likewise.
        pixel_accuracy: Share of the pixels that are right.
        frequency_weighted_iou: Mean of IoU weighted by pixels of truth (Long et al., CVPR 2015).
            Recall weighted like this is pixel accuracy.
    """

    iou: Tensor
    precision: Tensor
    recall: Tensor
    f1: Tensor
    miou: Tensor
    mean_accuracy: Tensor
    pixel_accuracy: Tensor
    frequency_weighted_iou: Tensor


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """Return torchmetrics' confusion matrix [truth, prediction] that ignores void.

    It sums counts over batches and processes, so a score never depends on their number.

    Example:
        >>> matrix = confusion_matrix(2)
        >>> matrix.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 255]]))
        >>> matrix.compute().tolist()
        [[1, 1], [0, 0]]
    """
    return MulticlassConfusionMatrix(num_classes, ignore_index=VOID, validate_args=False)


def count_pixels(truth: Mask, prediction: Mask, num_classes: int) -> NDArray[np.int64]:
    """Count the confusion matrix of one image, as validation does.

    Args:
        truth: [H, W] class indices, `VOID` where nothing counts.
        prediction: [H, W] class indices.
        num_classes: Number of classes, K.

    Returns:
        [K, K] int64 counts, truth by row, prediction by column.

    Example:
        >>> truth = np.array([[0, 0, VOID]], np.uint8)
        >>> count_pixels(truth, np.array([[0, 1, 1]], np.uint8), 2).tolist()
        [[1, 1], [0, 0]]
    """
    matrix = confusion_matrix(num_classes)
    matrix.update(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    return np.asarray(matrix.compute().numpy())


def count_by_class(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reduce a confusion matrix [K, K] to what IoU needs.

    Returns:
        [K, 3]: hits, pixels of truth and pixels of prediction.

    Example:
        >>> count_by_class(np.array([[5, 1], [2, 4]])).tolist()
        [[5, 6, 7], [4, 6, 5]]
    """
    return np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)], axis=1)


def class_iou(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the IoU of each class, hits / (truth + prediction - hits).

    Args:
        counts: [..., K, 3] hits, pixels of truth and pixels of prediction.

    Returns:
        [..., K] float64, NaN where a class is in neither truth nor prediction.

    Example:
        >>> class_iou(np.array([[5, 6, 7], [0, 0, 0]])).tolist()
        [0.625, nan]
    """
    hits, truth, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = truth + predicted - hits
    return np.asarray(np.divide(hits, union, out=np.full_like(union, np.nan), where=union > 0))


def miou(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute mean IoU over the classes where it is defined.

    Args:
        counts: [..., K, 3] hits, pixels of truth and pixels of prediction.

    Returns:
        [...] float64, NaN where no class is defined.

    Example:
        >>> float(miou(np.array([[5, 6, 7], [3, 4, 5], [0, 0, 0]])))
        0.5625
    """
    iou = class_iou(counts)
    defined = ~np.isnan(iou)
    total = np.where(defined, iou, 0).sum(-1)
    number = defined.sum(-1)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))


def scores(confusion: Tensor) -> Scores:
    """Compute the benchmark's scores from a confusion matrix.

    As in cityscapesScripts, IoU is computed over all pixels of the set, and a class that is in
    neither truth nor prediction is left out of the means.

    Args:
        confusion: [K, K] counts, truth by row, prediction by column.

    Returns:
        Scores by class [K] and their means, on the CPU.

    Example:
        >>> found = scores(torch.tensor([[8, 2], [0, 0]]))
        >>> found["iou"].tolist(), round(float(found["miou"]), 6)
        ([0.8, 0.0], 0.4)
    """
    counts = confusion.cpu().double()  # some devices have no float64
    hits = counts.diagonal()
    truth = counts.sum(1)
    predicted = counts.sum(0)
    iou = torch.from_numpy(class_iou(torch.stack([hits, truth, predicted], dim=1).numpy()))
    recall = hits / truth
    return {
        "iou": iou,
        "precision": hits / predicted,
        "recall": recall,
        "f1": 2 * hits / (truth + predicted),
        # Not `miou`: torch and numpy add up in another order, so the last digit may differ, and
        # published scores of whole sets are torch's, those of resamples and images numpy's.
        "miou": iou.nanmean(),
        "mean_accuracy": recall.nanmean(),
        "pixel_accuracy": hits.sum() / counts.sum(),
        "frequency_weighted_iou": (truth * iou).nansum() / counts.sum(),
    }


def merge_classes(confusion: Tensor, categories: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Add up the rows and columns of a confusion matrix by category.

    Args:
        confusion: [K, K] counts.
        categories: The category of each class.

    Returns:
        [C, C] counts and the C categories, in the order of their first class. A pixel of one class
        predicted as another of the same category is a hit, as in cityscapesScripts.

    Example:
        >>> merged, names = merge_classes(torch.tensor([[5, 1, 2], [3, 0, 1], [0, 4, 7]]), "xyx")
        >>> merged.tolist(), names
        ([[14, 5], [4, 0]], ['x', 'y'])
    """
    names = list(dict.fromkeys(categories))
    index = torch.tensor([names.index(category) for category in categories])
    merged = confusion.new_zeros(len(names), len(confusion)).index_add(0, index, confusion)
    return merged.new_zeros(len(names), len(names)).index_add(1, index, merged), names


def pixel_record(
    confusion: Tensor, class_names: Sequence[str], categories: Sequence[str] | None = None
) -> PixelRecord:
    """Turn a confusion matrix into a record of plain values.

    Args:
        confusion: [K, K] counts, truth by row, prediction by column.
        class_names: K names.
        categories: The category of each class, where the data set has categories.

    Returns:
        All of `scores`, and the confusion matrix itself; with categories also `category_miou` and
        `category_iou`.

    Example:
        >>> record = pixel_record(torch.tensor([[8, 2], [0, 0]]), ["road", "sky"])
        >>> record["iou"], record["recall"]
        ({'road': 0.8, 'sky': 0.0}, {'road': 0.8, 'sky': None})
    """
    found = scores(confusion)
    record: PixelRecord = {
        "iou": scores_by_class(class_names, found["iou"].tolist()),
        "precision": scores_by_class(class_names, found["precision"].tolist()),
        "recall": scores_by_class(class_names, found["recall"].tolist()),
        "f1": scores_by_class(class_names, found["f1"].tolist()),
        "miou": score(found["miou"].item()),
        "mean_accuracy": score(found["mean_accuracy"].item()),
        "pixel_accuracy": score(found["pixel_accuracy"].item()),
        "frequency_weighted_iou": score(found["frequency_weighted_iou"].item()),
        "confusion": confusion.long().tolist(),
    }
    if categories is not None:
        merged, names = merge_classes(confusion, categories)
        of_categories = scores(merged)
        record["category_miou"] = score(of_categories["miou"].item())
        record["category_iou"] = scores_by_class(names, of_categories["iou"].tolist())
    return record
