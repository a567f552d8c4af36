"""How far mIoU might be off because the images are a sample: the bootstrap over images."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95

_CHUNK = 1_000  # resamples at a time, for memory


class Interval(NamedTuple):
    """An interval that holds 95 % of the resamples: percentiles 2.5 and 97.5."""

    low: float
    high: float


class Difference(NamedTuple):
    """The difference in mIoU of two models on the same images.

    Attributes:
        value: of the second over the first.
        interval: of the value over resamples.
        p_value: two-sided: twice the share of resamples on the rarer side of 0, at most 1. One
            resample is added to that side, so the smallest value is 0.0002.
    """

    value: float
    interval: Interval
    p_value: float


def miou(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute mIoU from counts [..., K, 3] of hits, truth, prediction; undefined classes left out.

    NaN where no class is defined.
    """
    hits, truth, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = truth + predicted - hits
    defined = union > 0
    total = np.divide(hits, union, out=np.zeros_like(union), where=defined).sum(-1)
    number = defined.sum(-1)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))


def miou_interval(counts: NDArray[np.int64], seed: int = 0) -> Interval | None:
    """Estimate how mIoU would vary over other images like these (Efron's percentile bootstrap).

    Args:
        counts: [N, K, 3] hits, pixels of truth and of prediction, by image and class.
        seed: of the resamples.

    Returns:
        The 95 % interval; None where mIoU is undefined.
    """
    resampled = _resampled_miou(counts[None], seed)[0]
    return None if np.isnan(miou(counts.sum(0))) else _interval(resampled)


def compare_miou(
    first: NDArray[np.int64], second: NDArray[np.int64], seed: int = 0
) -> Difference | None:
    """Compare two models on the same images by a paired bootstrap.

    Each resample draws the same images for both, so what is hard for both cancels.

    Args:
        first: [N, K, 3] counts of the first model.
        second: those of the second, of the same images in the same order.
        seed: of the resamples.

    Returns:
        The second's mIoU over the first's; None where one is undefined.
    """
    pair = np.stack([first, second])
    value = np.diff(miou(pair.sum(1)))[0]
    if np.isnan(value):
        return None
    a, b = _resampled_miou(pair, seed)
    rarer = min(np.sum(b - a >= 0), np.sum(b - a <= 0))
    p_value = min(1.0, 2 * float(rarer + 1) / (RESAMPLES + 1))
    return Difference(float(value), _interval(b - a), p_value)


def _resampled_miou(counts: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return mIoU [M, RESAMPLES] of models' counts [M, N, K, 3] over the same resamples."""
    models, images, classes, _ = counts.shape
    generator = np.random.default_rng(seed)
    flat = counts.reshape(models, images, -1).astype(np.float64)
    out = []
    for _ in range(0, RESAMPLES, _CHUNK):
        # How often each image is drawn; sums of integers below 2^53 are exact.
        draws = generator.multinomial(images, np.full(images, 1 / images), size=_CHUNK)
        sums = draws.astype(np.float64) @ flat
        out.append(miou(sums.reshape(models, _CHUNK, classes, 3)))
    return np.concatenate(out, axis=1)


def _interval(values: NDArray[np.float64]) -> Interval:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))
