"""Expected calibration error: how far confidence is from the share of right pixels."""

import numpy as np
import torch
from numpy.typing import NDArray

from skseg.metrics.records import ReliabilityBin

NUM_BINS = 15

_UNIT = 2.0**-24  # unit of summed confidence: a sum of integers does not depend on its order


def count_confidence(hit: NDArray[np.bool_], confidence: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count pixels by confidence, as torchmetrics' `MulticlassCalibrationError` does.

    Bin i of 15 holds confidences from i / 15 to below (i + 1) / 15; a confidence of exactly 1 has a
    bin of its own.

    Args:
        hit: [N] whether the class of a pixel is right, without void pixels.
        confidence: [N] float32 probability of the class, from 0 to 1.

    Returns:
        [16, 3]: pixels, hits, and summed confidence in units of 2^-24.
    """
    edges = torch.linspace(0, 1, NUM_BINS + 1)
    bins = torch.bucketize(torch.from_numpy(confidence), edges, right=True).numpy() - 1
    units = np.rint(confidence / np.float32(_UNIT))
    summed = [
        np.bincount(bins, minlength=NUM_BINS + 1),
        np.bincount(bins, weights=hit, minlength=NUM_BINS + 1),
        np.bincount(bins, weights=units, minlength=NUM_BINS + 1),  # exact up to 2^53
    ]
    return np.stack(summed, axis=1).astype(np.int64)


def calibration_error(counts: NDArray[np.int64]) -> float | None:
    """Compute the expected calibration error (Guo et al., ICML 2017).

    Args:
        counts: [16, 3] sums of `count_confidence` over images.

    Returns:
        The mean over pixels of |accuracy - mean confidence| of their bin, from 0 to 1; None
        without pixels.
    """
    pixels, hits, units = counts.astype(np.float64).T
    if not pixels.sum():
        return None
    return float(np.abs(hits - units * _UNIT).sum() / pixels.sum())


def reliability(counts: NDArray[np.int64]) -> list[ReliabilityBin]:
    """Return the bins that have pixels.

    Args:
        counts: [16, 3] sums of `count_confidence` over images.
    """
    total = counts[:, 0].sum()
    return [
        {
            "share": float(pixels / total),
            "accuracy": float(hits / pixels),
            "confidence": float(units * _UNIT / pixels),
        }
        for pixels, hits, units in counts
        if pixels
    ]
