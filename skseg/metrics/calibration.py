"""Expected calibration error: whether confidence is the share of pixels that are right."""

import numpy as np
import torch
from numpy.typing import NDArray

from skseg.metrics.records import ReliabilityBin

NUM_BINS = 15

_UNIT = 2.0**-24  # of summed confidence: integers add up the same in any order


def count_confidence(hit: NDArray[np.bool_], confidence: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count pixels by confidence, as torchmetrics' `MulticlassCalibrationError`.

    Bin i of 15 holds confidences from i / 15 to below (i + 1) / 15, and exact ones are a bin of
    their own.

    Args:
        hit: [N] whether a pixel's class is right; void pixels left out.
        confidence: [N] probability of its class, from 0 to 1.

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
        counts: [16, 3] sums of `count_confidence`.

    Returns:
        The mean over pixels of |accuracy - mean confidence| of their bin, from 0 to 1; None
        without pixels.
    """
    pixels, hits, units = counts.astype(np.float64).T
    if not pixels.sum():
        return None
    return float(np.abs(hits - units * _UNIT).sum() / pixels.sum())


def reliability(counts: NDArray[np.int64]) -> list[ReliabilityBin]:
    """Return share of pixels, accuracy and mean confidence of each bin that has pixels."""
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
