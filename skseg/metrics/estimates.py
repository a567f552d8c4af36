"""Values with intervals: over the images of one network, or over several networks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skseg.metrics.bootstrap import Values, bootstrap

RESAMPLES = 2_000

FEWEST_IMAGES = 10
"""Fewest images for which one network gets an interval: with fewer a bootstrap is too narrow."""

_TAIL = 0.025  # beyond each end of a 95 % interval


class EstimateRecord(TypedDict):
    """An estimate as plain values: numbers, or nested lists of numbers.

    Attributes:
        value: The value.
        low: Lower end of the 95 % interval; None where there are too few data.
        high: Upper end, likewise.
    """

    value: Any
    low: Any
    high: Any


class Estimate(NamedTuple):
    """A value, or an array of values, with its 95 % interval.

    Attributes:
        value: [...] float64.
        low: Lower end of the interval, of the same shape; None where there are too few data.
        high: Upper end, likewise.
    """

    value: Values
    low: Values | None
    high: Values | None

    def plain(self) -> EstimateRecord:
        """Return the same as plain values, for a JSON file."""
        return {
            "value": self.value.tolist(),
            "low": None if self.low is None else self.low.tolist(),
            "high": None if self.high is None else self.high.tolist(),
        }


def estimate(
    samples: Sequence[NDArray[np.floating[Any]]],
    seed: int = 0,
    statistic: Callable[[Values], Values] = lambda means: means,
) -> Estimate:
    """Estimate a statistic of the means over images.

    The interval for one network says how the statistic would vary over other images like these
    (percentile bootstrap over images). That for several says how it would vary over other networks
    trained like these: their mean with Student's t interval. Networks are the repetitions then,
    and the images of each are averaged.

    Args:
        samples: For each network [I, ...], one row per image.
        seed: Seed of the resamples.
        statistic: Maps means [R, ...] to [R, ...].

    Example:
        >>> images = np.arange(20.0)
        >>> found = estimate([images])
        >>> float(found.value), bool(found.low < 9.5 < found.high)
        (9.5, True)
        >>> estimate([images[:9]]).low is None
        True
    """
    flat = [np.asarray(s, np.float64).reshape(len(s), -1) for s in samples]
    shape = samples[0].shape[1:]

    def of(means: Values) -> Values:
        return statistic(means.reshape(len(means), *shape))

    if len(samples) > 1:
        values = np.concatenate([of(f.mean(0, keepdims=True)) for f in flat])
        half = stats.t.ppf(1 - _TAIL, len(values) - 1) * stats.sem(values)
        mean = values.mean(0)
        return Estimate(mean, mean - half, mean + half)
    (images,) = flat
    value = of(images.mean(0, keepdims=True))[0]
    count = len(images)
    if count < FEWEST_IMAGES:
        return Estimate(value, None, None)
    resampled = bootstrap(images, lambda sums: of(sums / count), RESAMPLES, seed)
    low, high = np.quantile(resampled, (_TAIL, 1 - _TAIL), axis=0)
    return Estimate(value, low, high)


def interval_words(estimate: EstimateRecord, factor: float, form: str) -> str:
    """Format the interval of a single number as " (LOW to HIGH)"; empty without an interval.

    Args:
        estimate: A number's `Estimate.plain`.
        factor: Factor on both ends, such as 100 for percent.
        form: Format of both, such as "+.2f".

    Example:
        >>> interval_words({"value": 0.5, "low": 0.4, "high": 0.7}, 100, ".1f")
        ' (40.0 to 70.0)'
    """
    if estimate["low"] is None:
        return ""
    return f" ({factor * estimate['low']:{form}} to {factor * estimate['high']:{form}})"
