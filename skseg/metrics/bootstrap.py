"""How much a score might be off because the images are a sample: the bootstrap over images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skseg.metrics.confusion import miou

Values = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95

_CHUNK = 100  # resamples at a time, which bounds the memory


class Interval(NamedTuple):
    """The ends of a 95 % interval: percentiles 2.5 and 97.5 of the resamples."""

    low: float
    high: float


class Difference(NamedTuple):
    """The difference in mIoU of two models on the same images.

    Attributes:
        value: mIoU of the second minus that of the first.
        interval: Interval of the value over resamples.
        p_value: Two-sided p-value: twice the share of resamples on the rarer side of 0, at most 1.
            One resample is added to that side, so the smallest value is 0.0002.
    """

    value: float
    interval: Interval
    p_value: float


def bootstrap(
    images: Values, statistic: Callable[[Values], Values], resamples: int, seed: int
) -> Values:
    """Compute a statistic of sums over images on bootstrap resamples (Efron, 1979).

    Args:
        images: [N, D] float64, one row per image.
        statistic: Maps sums over N images [R, D] to [R, ...].
        resamples: Number of resamples, a multiple of 100.
        seed: Seed of the resamples.

    Returns:
        [resamples, ...] values of the statistic.

    Example:
        >>> rows = np.arange(10.0)[:, None]
        >>> means = bootstrap(rows, lambda sums: sums[:, 0] / 10, resamples=1000, seed=0)
        >>> means.shape, bool(abs(means.mean() - 4.5) < 0.1)
        ((1000,), True)
    """
    count = len(images)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(0, resamples, _CHUNK):
        # How often each image is drawn.
        draws = generator.multinomial(count, np.full(count, 1 / count), size=_CHUNK)
        values.append(statistic(draws.astype(np.float64) @ images))
    return np.concatenate(values)


def miou_interval(counts: NDArray[np.int64], seed: int = 0) -> Interval | None:
    """Estimate how mIoU would vary over other images like these (percentile bootstrap).

    Args:
        counts: [N, K, 3] hits, pixels of truth and of prediction, by image and class.
        seed: Seed of the resamples.

    Returns:
        The 95 % interval; None where mIoU is undefined.

    Example:
        >>> counts = np.array([[[60, 80, 90]], [[30, 50, 40]], [[80, 90, 85]]])
        >>> low, high = miou_interval(counts)
        >>> bool(low < miou(counts.sum(0)) < high)
        True
    """
    if np.isnan(miou(counts.sum(0))):
        return None
    return _interval(_resampled_miou(counts[None], seed)[0])


def compare_miou(
    first: NDArray[np.int64], second: NDArray[np.int64], seed: int = 0
) -> Difference | None:
    """Compare two models on the same images by a paired bootstrap.

    Each resample draws the same images for both models, so the difficulty of an image cancels.

    Args:
        first: [N, K, 3] counts of the first model.
        second: [N, K, 3] counts of the second, of the same images in the same order.
        seed: Seed of the resamples.

    Returns:
        mIoU of the second minus that of the first; None where one is undefined.

    Example:
        >>> counts = np.array([[[60, 80, 90]], [[30, 50, 40]], [[80, 90, 85]]])
        >>> compare_miou(counts, counts)
        Difference(value=0.0, interval=Interval(low=0.0, high=0.0), p_value=1.0)
    """
    pair = np.stack([first, second])
    value = np.diff(miou(pair.sum(1)))[0]
    if np.isnan(value):
        return None
    a, b = _resampled_miou(pair, seed)
    rarer = min(np.sum(b - a >= 0), np.sum(b - a <= 0))
    p_value = min(1.0, 2 * float(rarer + 1) / (RESAMPLES + 1))
    return Difference(float(value), _interval(b - a), p_value)


def _resampled_miou(counts: NDArray[np.int64], seed: int) -> Values:
    """Return mIoU [M, RESAMPLES] of M models' counts [M, N, K, 3] over the same resamples."""
    models, images, classes, _ = counts.shape
    by_image = counts.swapaxes(0, 1).reshape(images, -1).astype(np.float64)

    def statistic(sums: Values) -> Values:  # of integers below 2^53, so they are exact
        return miou(sums.reshape(-1, models, classes, 3))

    return bootstrap(by_image, statistic, RESAMPLES, seed).T


def _interval(values: Values) -> Interval:
    # A resample in which no class is defined is NaN.
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))
